"""The section `search` of an experiment, and the marks of trials and final runs. Frozen models, strict types."""

from typing import Annotated, Literal

from pydantic import Field

from harness.experiment.recipe import Positive, Spec, Steps

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Fits the row's int64 column."""


class Search(Spec):
    """Search for every method's hyper-parameters and learning rate, before the final runs."""

    trials: Annotated[int, Field(gt=0, le=10_000)]
    """Trials per method and pair, also for the student without distillation."""
    lr: tuple[Positive, Positive]
    """Lowest and highest learning rate, the same range for every method; log-uniform."""
    steps: Steps | None = None
    """Training steps of a trial; train.steps when not given."""
    seed: Seed = 1000
    """Seed of the points and of every trial; must not be one of `seeds`."""
    algorithm: Literal["random", "asha", "hyperband", "tpe"] | None = None
    """Only `searched`: `tpe` learns from earlier trials, the others draw points at random; `asha` and `hyperband` end
    trials early."""
    minutes: Positive | None = None
    """Only `searched`: worker minutes after which the search of a method on a pair ends, even with fewer trials."""
    grace: Steps | None = None
    """Only `asha`: no trial is ended before this step; train.eval_every when not given."""
    reduction: Annotated[float, Field(gt=1, le=1000)] | None = None
    """Only `asha` and `hyperband`: one in so many trials is continued; 3 when not given."""


BY_ALGORITHM = {"grace": ("asha",), "reduction": ("asha", "hyperband")}
"""Keys of `Search` that only some algorithms have."""
ONLY_SEARCHED = ("algorithm", "minutes", *BY_ALGORITHM)
LOOKS_AT_CURVES = ("asha", "hyperband")
"""Algorithms that use evaluations during a trial."""


class Trial(Spec):
    """Marks a run as a trial: it is not evaluated on val, and its weights are not kept.

    Attributes:
        method: the method's label in the experiment.
        number: from 0, of the method's trials on the pair.
        algorithm: that proposed it; `sobol` in the ruleset `tuned`.
        changes: always empty; run_ids of trials have been hashed with it.
    """

    method: str
    number: int
    algorithm: str
    changes: tuple[()] = ()


class Source(Spec):
    """Marks a final run as one with the best point of a search.

    Attributes:
        trials: number of the method's trials on this pair, including those ended early and failed ones.
        seconds: of their training and evaluation.
        sha256: of the trials' run_ids.
    """

    trials: int
    seconds: float
    sha256: str
