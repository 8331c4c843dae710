"""What the lines of a table are called: a method, the parameters that tell it from others, or a control."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.experiment.budget import CONTROLS, control_label

REFERENCES = ("none", "kd")
"""The controls that every method is compared with: the student without distillation, and plain distillation."""


@dataclass(frozen=True)
class Label:
    """The name of a line.

    Attributes:
        method: of the METHODS table, or `package.module:Name`.
        parameters: e.g. ("tau=4.0",); only those that are named.
        control: what a control with another number of steps is equal in, e.g. "equal seconds"; None for a method.
    """

    method: str
    parameters: tuple[str, ...] = ()
    control: str | None = None

    @classmethod
    def read(cls, text: str) -> "Label":
        """From the name that an experiment gives, e.g. "cwd(tau=4.0)" or "none at equal seconds"."""
        for control in CONTROLS:
            if text.endswith(ending := control_label("", control)):
                return cls(text.removesuffix(ending), control=control)
        method, _, named = text.partition("(")
        # A comma within a value, as in levels=[3, 4], is not followed by a name and its sign.
        parts = re.split(r", (?=\w+=)", named.removesuffix(")"))
        return cls(method, tuple(filter(None, parts)))

    def __str__(self) -> str:
        """As `read` takes it."""
        if self.control is not None:
            return control_label(self.method, self.control)
        return f"{self.method}({', '.join(self.parameters)})" if self.parameters else self.method


def references(labels: Iterable[Label]) -> dict[str, Label]:
    """The first label of each of `REFERENCES`, where there is one."""
    found: dict[str, Label] = {}
    for label in labels:
        if label.control is None and label.method in REFERENCES:
            found.setdefault(label.method, label)
    return found


def ordered(labels: Iterable[Label], listed: Sequence[Label]) -> list[Label]:
    """The order of a table's lines: references, their controls, then methods as the experiment lists them."""
    places = {label: i for i, label in enumerate(listed)}

    def place(label: Label) -> tuple[int, int]:
        first = len(REFERENCES) + 1
        if label.control is not None:
            first = len(REFERENCES)
        elif label.method in REFERENCES:
            first = REFERENCES.index(label.method)
        return first, places.get(label, places.get(Label(label.method), len(places)))

    return sorted(labels, key=place)
