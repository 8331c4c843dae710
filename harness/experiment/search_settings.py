"""The section `search` of an experiment, and the marks of trials and final runs. Frozen models, strict types."""

from typing import Annotated, Literal

from pydantic import Field

from harness.experiment.recipe import Positive, Spec, Steps

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Fits the row's int64 column."""


class Search(Spec):
    """Search for every method's hyper-parameters and learning rate, before the final runs."""

    trials: Annotated[int, Field(gt=0, le=10_000)]
    """Trials per method, pair and search seed, also for the student without distillation."""
    lr: tuple[Positive, Positive]
    """Lowest and highest learning rate, the same range for every method; log-uniform."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=100)] | None = None
    """Only `tuned`: the search seeds, 2 or more; every point is trained with each, and its score is the mean over them.
    The first is also the seed of the points. None may be one of the final runs' seeds; [1000, 1001] when not given."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only `tuned`: training steps of a trial as a share of train.steps."""
    untied: bool = False
    """Only `tuned`: search every hyper-parameter of a method's space by itself; without it a common factor of the loss
    weights, and nothing else but the learning rate."""
    steps: Steps | None = None
    """Only `searched`: training steps of a trial; train.steps when not given."""
    seed: Seed | None = None
    """Only `searched`: seed of the points and of every trial; must not be one of `seeds`. 1000 when not given."""
    algorithm: Literal["random", "asha", "hyperband", "tpe"] | None = None
    """Only `searched`: `tpe` learns from earlier trials, the others draw points at random; `asha` and `hyperband` end
    trials early."""
    minutes: Positive | None = None
    """Only `searched`: worker minutes after which the search of a method on a pair ends, even with fewer trials."""
    grace: Steps | None = None
    """Only `asha`: no trial is ended before this step; train.eval_every when not given."""
    reduction: Annotated[float, Field(gt=1, le=1000)] | None = None
    """Only `asha` and `hyperband`: one in so many trials is continued; 3 when not given."""

    @property
    def run_seeds(self) -> tuple[int, ...]:
        """The seeds that every point is trained with; the points are drawn from the first."""
        if self.algorithm is not None:
            return (FIRST_SEED if self.seed is None else self.seed,)
        return self.seeds or (FIRST_SEED, FIRST_SEED + 1)

    def steps_of(self, steps: int) -> int:
        """Training steps of a trial where a final run has `steps`."""
        return self.steps or max(1, round(self.fraction * steps))


FIRST_SEED = 1000
FEWEST_SEEDS = 2
"""Search seeds of the ruleset `tuned`."""
BY_ALGORITHM = {"grace": ("asha",), "reduction": ("asha", "hyperband")}
"""Keys of `Search` that only some algorithms have."""
ONLY_SEARCHED = ("algorithm", "minutes", *BY_ALGORITHM)
ONLY_TUNED = {"seeds": "one: seed", "fraction": "steps", "untied": "untied spaces"}
"""Keys of `Search` that only the ruleset `tuned` has, and what `searched` has instead."""
LOOKS_AT_CURVES = ("asha", "hyperband")
"""Algorithms that use evaluations during a trial."""
TIMING = "step time"
"""The `algorithm` of a run that times a step."""


class Trial(Spec):
    """Marks a run as a trial: it is not evaluated on val, and its weights are not kept.

    Attributes:
        method: the method's label in the experiment.
        number: of its point, from 0; in the ruleset `tuned` it is in a trial of each search seed.
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
        trials: number of the method's trials on this pair, of all search seeds, including those ended early and failed
            ones.
        seconds: of their training and evaluation.
        sha256: of the trials' run_ids.
    """

    trials: int
    seconds: float
    sha256: str
