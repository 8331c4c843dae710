"""What a comparison of methods shows, and the words of its cells; `harness.analysis.comparison` computes it.

Nothing is dropped: a method without a result is a line that says why, and every number says how many runs stand behind
it. mIoU and its differences are in percent points here; rows keep them in [0, 1].
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from harness.analysis.stats import Difference, Interval

CONFIDENCE = 0.95
BOOTSTRAP_SEED = 20240
HEADER = ("method", "mIoU (dev, last step)", "vs none", "vs kd", "s/step", "peak MB")
REFERENCES = ("none", "kd")


def base(label: str) -> str:
    """The method of a line's label: what stands before its parameters."""
    return label.split("(", 1)[0]


def references(labels: Iterable[str]) -> dict[str, str | None]:
    """The label that stands for each of `REFERENCES`; None where there is none."""
    known = list(labels)
    return {name: next((label for label in known if base(label) == name), None) for name in REFERENCES}


@dataclass(frozen=True)
class Comparison:
    """One method against a reference, paired by seed, in percent points.

    Attributes:
        difference: mean with the paired t interval, which decides.
        bootstrap: the percentile bootstrap interval beside it.
        p_holm: p-value after Holm's correction over all comparisons of the block; None without an interval.
        lost: seeds whose run failed while the reference has a result: no number can be put on them, so that there is no
            gain to be marked.
        won: the same the other way round.
    """

    difference: Difference
    bootstrap: Interval
    p_holm: float | None = None
    lost: int = 0
    won: int = 0

    @property
    def beyond_noise(self) -> bool:
        """Whether the corrected test finds a difference, the interval leaves 0 out and no failed run is against it."""
        d = self.difference
        if self.p_holm is None or d.low is None or d.high is None:
            return False
        if self.lost if d.mean > 0 else self.won:
            return False
        return self.p_holm < 1 - CONFIDENCE and not d.low <= 0 <= d.high

    @property
    def text(self) -> str:
        """E.g. "+1.23 [-0.40, +2.86]", with an arrow when it is beyond noise; never a difference without interval."""
        d = self.difference
        failed = "".join(f"; {n} {word}" for word, n in (("lost", self.lost), ("won", self.won)) if n)
        if d.low is None or d.high is None:
            return f"no interval (n={d.n}){failed}"
        mark = (" ▲" if d.mean > 0 else " ▼") if self.beyond_noise else ""
        return f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]{mark}{failed}"


@dataclass(frozen=True)
class MethodRow:
    """One line of a block.

    Attributes:
        label: what the method is called in this table.
        run_ids: run_id of every ok run, by seed.
        values: dev mIoU of the last step of every ok run, by seed, percent points.
        steps: that a run was trained for; None without an ok run.
        failed, skipped, missing: how many of the expected runs ended so, or are not there.
        expected: how many runs there should be (one per seed).
        miou: dev mIoU of the last step over seeds, percent points; None without an ok run.
        best_miou: the same for the best step of each curve: a second number, never the headline.
        vs_none, vs_kd: the paired comparisons; None for the reference itself and where no seed pairs.
        step_s: median over runs of the step time in seconds.
        peak_mb: highest peak memory of any run.
        search_trials, search_seconds: of the search that the method's values come from; None without one.
    """

    label: str
    run_ids: Mapping[int, str]
    failed: int
    skipped: int
    missing: int
    expected: int
    values: Mapping[int, float] = field(default_factory=dict)
    steps: int | None = None
    miou: Interval | None = None
    best_miou: Interval | None = None
    vs_none: Comparison | None = None
    vs_kd: Comparison | None = None
    step_s: float | None = None
    peak_mb: float | None = None
    search_trials: int | None = None
    search_seconds: float | None = None

    @property
    def absences(self) -> str:
        """What is not there, e.g. "failed (1 of 3)"; empty if every run is ok."""
        if self.missing == self.expected:
            return "not run"
        counts = (("failed", self.failed), ("skipped", self.skipped), ("not run", self.missing))
        return "; ".join(f"{word} ({n} of {self.expected})" for word, n in counts if n)

    def cells(self, references: Mapping[str, str | None]) -> tuple[str, ...]:
        """The texts of `HEADER`'s columns; `references` are the labels that "none" and "kd" stand for in the block."""
        score = self.absences
        if self.miou is not None:
            half = "" if self.miou.half is None else f" ± {self.miou.half:.2f}"
            score = f"{self.miou.mean:.2f}{half} (n={self.miou.n})" + (f"; {score}" if score else "")
        compared = []
        for name, comparison in zip(REFERENCES, (self.vs_none, self.vs_kd), strict=True):
            if comparison is not None:
                # The line's own n holds for its differences too, unless the reference lacks a seed.
                fewer = self.miou is not None and 1 < comparison.difference.n < self.miou.n
                compared.append(comparison.text + (f" (n={comparison.difference.n})" if fewer else ""))
            else:
                compared.append("–" if self.label == references[name] or self.miou is None else "no pair")
        step = "–" if self.step_s is None else f"{self.step_s:.3g}"
        peak = "–" if self.peak_mb is None else f"{self.peak_mb:.0f}"
        return (self.label, score, *compared, step, peak)


@dataclass(frozen=True)
class Teacher:
    """The teacher of a block: its row if there is one, else the hash of the weights that were given."""

    run_id: str | None = None
    status: str | None = None
    message: str = ""
    miou: float | None = None  # dev, last step, percent points
    steps: int | None = None
    sha256: str | None = None

    @property
    def text(self) -> str:
        """One phrase for the line above the table."""
        if self.miou is not None:
            return f"{self.miou:.2f} ({f'{self.steps} steps' if self.steps else 'weights given'}, n=1)"
        if self.status is not None:
            return f"{self.status}: {self.message}"
        if self.sha256 is not None:
            return f"weights given (sha256 {self.sha256[:12]}), not measured here"
        return "not run"


@dataclass(frozen=True)
class Finding:
    """To be known before a comparison is believed. `unfair`: it favours a method, or leaves too little to tell."""

    unfair: bool
    text: str

    def __str__(self) -> str:
        """E.g. "unfair: 2 seeds ..."."""
        return f"{'unfair' if self.unfair else 'note'}: {self.text}"


@dataclass(frozen=True)
class Block:
    """All methods on one pair. `floor` is in percent points; `notes` say why runs have no result, `caveats` what
    must be known of a method's values, `trials` how many the search of each method had, `compared` what is compared
    with what, `findings` what `harness.analysis.fairness` finds, `images` what `harness.analysis.per_image` does."""

    pair: str
    dataset: str
    ruleset: str
    budget_amount: float
    budget_unit: str
    devices: str
    floor: float | None
    teacher: Teacher
    references: Mapping[str, str | None]
    methods: tuple[MethodRow, ...]
    comparisons: int
    notes: tuple[str, ...]
    caveats: tuple[str, ...] = ()
    trials: str = ""
    compared: str = ""
    findings: tuple[Finding, ...] = ()
    images: tuple[str, ...] = ()

    def line(self, label: str | None) -> MethodRow | None:
        """The line of a method; None where there is none."""
        return next((x for x in self.methods if x.label == label), None)

    @property
    def plain(self) -> MethodRow | None:
        """The plain student's line."""
        return self.line(self.references["none"])

    @property
    def budget(self) -> str:
        """What each run has, e.g. "400 steps"."""
        return f"{self.budget_amount:g} {self.budget_unit}"

    @property
    def rules(self) -> str:
        """The ruleset, and how many trials stand behind each method."""
        return f"{self.ruleset} ({self.trials} trials per method)" if self.trials else self.ruleset

    @property
    def headline(self) -> str:
        """What the numbers below it are to be read against."""
        floor = "not measured" if self.floor is None else f"{self.floor:.2f}"
        return f"Floor (best look-up from a single pixel): {floor}. Teacher: {self.teacher.text}."


IMAGES = (
    "Over the images of val: difference of mIoU to the plain student in percent points, with its 95 % bootstrap "
    "interval over images (it says nothing of seeds)"
)


@dataclass(frozen=True)
class QuickTable:
    """One block per pair, all under one protocol version."""

    experiment: str
    protocol: str
    blocks: tuple[Block, ...]

    @property
    def legend(self) -> str:
        """How to read the cells."""
        return (
            "mIoU in percent points on the dev split at the last step: mean ± half its 95 % t interval over n seeds. "
            "Differences are paired by seed, with their 95 % t interval. "
            "▲ ▼ mark those beyond noise (paired t, Holm over all comparisons of a pair, level 0.05)."
        )
