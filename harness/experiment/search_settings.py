"""The search of an experiment, and what a run knows of the search that it belongs to. Frozen models, strict types."""

from typing import Annotated, Literal

from pydantic import Field

from harness.experiment.recipe import Positive, PositiveInt, Spec

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""As wide as the row's column."""


class Search(Spec):
    """How the hyper-parameters of every method, and its learning rate, are looked for before the final runs."""

    trials: PositiveInt
    """Of each method and pair, the plain student too."""
    lr: tuple[Positive, Positive]
    """Lowest and highest learning rate, the same range for every method; log-uniform."""
    steps: PositiveInt | None = None
    """Training steps of a trial; train.steps when not given."""
    seed: Seed = 1000
    """Points are drawn from it, and every trial is a run with this seed; none of `seeds`."""
    algorithm: Literal["random", "asha", "hyperband", "tpe"] | None = None
    """Only `searched`: `tpe` learns from earlier trials, the others draw points at random; `asha` and `hyperband` end
    trials early."""
    minutes: Positive | None = None
    """Only `searched`: worker minutes after which the search of a method on a pair ends, however many trials it had."""
    grace: PositiveInt | None = None
    """Only `asha`: no trial is ended before this step; train.eval_every when not given."""
    reduction: Annotated[float, Field(gt=1)] | None = None
    """Only `asha` and `hyperband`: of so many trials one goes on; 3 when not given."""


BY_ALGORITHM = {"grace": ("asha",), "reduction": ("asha", "hyperband")}
"""Keys of `Search` that only some algorithms know."""
ONLY_SEARCHED = ("algorithm", "minutes", *BY_ALGORITHM)
LOOKS_AT_CURVES = ("asha", "hyperband")
"""Algorithms that decide by evaluations before the last one."""


class Trial(Spec):
    """Marks a run as a trial: it never sees val, and nobody needs its weights.

    Attributes:
        method: the method's label in the experiment.
        number: from 0, of the method's trials on the pair.
        algorithm: who proposed it; `sobol` in the ruleset `tuned`.
        changes: always empty; run_ids of trials have been hashed with it.
    """

    method: str
    number: int
    algorithm: str
    changes: tuple[()] = ()


class Source(Spec):
    """Marks a final run as one with the best point of a search.

    Attributes:
        trials: how many the method had on this pair, ended early and failed ones included.
        seconds: what they took, in training and evaluation.
        sha256: of the trials' run_ids.
    """

    trials: int
    seconds: float
    sha256: str
