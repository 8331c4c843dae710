"""A line of a comparison: a method, its numbers, and its differences to the references."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.crossing import FEWEST_TEACHERS
from harness.analysis.labels import Label
from harness.analysis.stats import Difference, Interval, Score, bootstrap_interval

CONFIDENCE = 0.95
FEWEST_SEEDS = 5
"""With fewer seeds nothing is marked: a small estimate of their spread is then as likely as a difference."""
BOOTSTRAP_SEED = 20240


@dataclass(frozen=True)
class Comparison:
    """One method against a reference, paired by seed, in percentage points.

    Attributes:
        difference: mean with its simultaneous interval, which decides, and the p-value adjusted for all comparisons of
            the block; no interval for one seed, or without any spread.
        p_paired, p_holm: of the paired t-test, alone and after Holm's correction over all comparisons of the block;
            None without an interval. They decide nothing.
        lost: seeds whose run failed while the reference has a result: they have no number, so no gain is
            significant.
        won: the same the other way round.
        deltas: (n,) the paired differences, or where `swapped` those of the reference to the method; none of several
            teachers, where they are not independent.
        teachers: over how many teachers the difference is, each with the same number of seeds; 0 where no teacher had a
            part in either line.
    """

    difference: Difference
    p_paired: float | None = None
    p_holm: float | None = None
    lost: int = 0
    won: int = 0
    deltas: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    swapped: bool = field(default=False, repr=False, compare=False)
    teachers: int = 1
    several: bool = False
    """Whether the pair has several teachers."""

    @cached_property
    def bootstrap(self) -> Interval:
        """The percentile bootstrap interval; too narrow for few seeds, so it decides nothing."""
        if not self.deltas.size:
            return Interval(self.difference.mean, None, None, self.difference.n)
        # A stream of its own for each comparison: adding a method leaves the others' intervals as they were.
        found = bootstrap_interval(self.deltas, np.random.default_rng(BOOTSTRAP_SEED), CONFIDENCE)
        return found.reversed if self.swapped else found

    @property
    def reversed(self) -> "Comparison":
        """The reference against the method."""
        return replace(
            self, difference=self.difference.reversed, lost=self.won, won=self.lost, swapped=not self.swapped
        )

    @property
    def enough(self) -> bool:
        """Whether there are as many runs as a claim needs.

        Enough are `FEWEST_SEEDS` seeds and, where the pair has several teachers, `FEWEST_TEACHERS` of them.
        """
        if self.difference.n // max(1, self.teachers) < FEWEST_SEEDS:
            return False
        return not self.several or self.teachers == 0 or self.teachers >= FEWEST_TEACHERS

    @property
    def significant(self) -> bool:
        """Whether the interval leaves 0 out, over enough seeds and teachers, and no failed run is against it."""
        d = self.difference
        if d.low is None or d.high is None or not self.enough:
            return False
        if self.lost if d.mean > 0 else self.won:
            return False
        return not d.low <= 0 <= d.high

    @property
    def text(self) -> str:
        """E.g. "+1.23 [-0.40, +2.86]", with an arrow where it is significant; never a difference without interval."""
        d = self.difference
        failed = "".join(f"; {n} {word}" for word, n in (("lost", self.lost), ("won", self.won)) if n)
        if d.low is None or d.high is None:
            return f"no interval (n={d.n}){failed}"
        mark = (" ▲" if d.mean > 0 else " ▼") if self.significant else ""
        return f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]{mark}{failed}"


@dataclass(frozen=True)
class MethodRow:
    """One line of a block.

    Attributes:
        name: what the method is called in this table.
        reference: "none" or "kd" where it is the one that others are compared with; else empty.
        run_ids: run_id of every ok run, by seed; where the pair has several teachers, and they have a part in the
            method, by (seed of the teacher, seed).
        failed, skipped, missing: how many of the expected runs ended so, or are not there.
        expected: how many runs there should be: one per seed, or per teacher and seed.
        values: val mIoU of the last step of every ok run, as `run_ids`, in percent.
        steps: that a run was trained for; None without an ok run.
        miou: val mIoU of the last step over seeds, in percent; None without an ok run.
        dev_miou: the same on dev, which hyper-parameters are selected on.
        best_miou: the same for the best step of each curve on dev; never the headline.
        vs_none, vs_kd: the paired comparisons; None for the reference itself and where no seed pairs.
        control: the line that is this method without its own terms; empty where it has none, or that is not there.
        lacks: what this line would be called, where it is not there.
        vs_control: the paired comparison with it: what the method's own terms add.
        chosen: the hyper-parameters at defaults that this project chose on the block's dataset.
        step_s: median over runs of the step time in seconds.
        peak_mb: highest peak memory of any run.
        search_trials, search_seconds: of the search that the method's values come from; None without one.
    """

    name: Label
    run_ids: Mapping[Any, str]
    failed: int
    skipped: int
    missing: int
    expected: int
    reference: str = ""
    values: Mapping[Any, float] = field(default_factory=dict)
    steps: int | None = None
    miou: Score | None = None
    dev_miou: Score | None = None
    best_miou: Score | None = None
    vs_none: Comparison | None = None
    vs_kd: Comparison | None = None
    control: str = ""
    lacks: str = ""
    vs_control: Comparison | None = None
    chosen: tuple[str, ...] = ()
    step_s: float | None = None
    peak_mb: float | None = None
    search_trials: int | None = None
    search_seconds: float | None = None

    @property
    def label(self) -> str:
        """The name as text."""
        return str(self.name)

    @property
    def absences(self) -> str:
        """What is not there, e.g. "failed (1 of 3)"; empty if every run is ok."""
        if self.missing == self.expected:
            return "not run"
        counts = (("failed", self.failed), ("skipped", self.skipped), ("not run", self.missing))
        return "; ".join(f"{word} ({n} of {self.expected})" for word, n in counts if n)
