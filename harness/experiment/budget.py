"""What all methods of a comparison have equal, and the controls whose number of steps follows from it."""

from typing import Literal, get_args

from harness.experiment.recipe import Positive, Spec


class Budget(Spec):
    """What all methods have equal."""

    unit: Literal["steps", "seconds"] = "steps"
    """`steps`: every method trains for train.steps. `seconds`: for equal seconds, by step times measured first."""
    seconds: Positive | None = None
    """Only with `unit: seconds`: training seconds per run; those of the baseline for train.steps when not given."""
    longer: bool | None = None
    """Only with `unit: steps`: an additional control, the baseline trained for the seconds of the slowest method. By
    default it is there if the experiment's `controls` are."""


Control = Literal["equal seconds", "equal steps"]
"""What an additional student without distillation, with another number of steps, has equal to the methods."""
CONTROLS: tuple[Control, ...] = get_args(Control)


def control_label(plain: str, control: str) -> str:
    """Label of a control: "none at equal seconds"."""
    return f"{plain} at {control}"


class StepTime(Spec):
    """Measured time of a training step of a method: the median over repeats.

    Attributes:
        ms: milliseconds.
        repeats: medians after warm-up, milliseconds, of the timing runs.
    """

    ms: float
    repeats: tuple[float, ...]
