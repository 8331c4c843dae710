"""What a comparison of methods shows: its lines, columns and remarks; `harness.analysis.comparison` computes them.

Nothing is dropped: a method without a result is a line that says why, and every number says how many runs are behind
it. mIoU and its differences are in percent and percentage points here; rows keep them in [0, 1].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.labels import Label, references
from harness.analysis.sheets import Cell, Column, Remark, Section, Sheet
from harness.analysis.stats import Difference, Interval, bootstrap_interval

CONFIDENCE = 0.95
BOOTSTRAP_SEED = 20240


@dataclass(frozen=True)
class Comparison:
    """One method against a reference, paired by seed, in percentage points.

    Attributes:
        difference: mean with the paired t interval, which decides.
        p_holm: p-value after Holm's correction over all comparisons of the block; None without an interval.
        lost: seeds whose run failed while the reference has a result: they have no number, so no gain is
            significant.
        won: the same the other way round.
        deltas: (n,) the paired differences, or where `swapped` those of the reference to the method.
    """

    difference: Difference
    p_holm: float | None = None
    lost: int = 0
    won: int = 0
    deltas: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    swapped: bool = field(default=False, repr=False, compare=False)

    @cached_property
    def bootstrap(self) -> Interval:
        """The percentile bootstrap interval; too narrow for few seeds, so it decides nothing."""
        # A stream of its own for each comparison: adding a method leaves the others' intervals as they were.
        found = bootstrap_interval(self.deltas, np.random.default_rng(BOOTSTRAP_SEED), CONFIDENCE)
        return found.reversed if self.swapped else found

    @property
    def reversed(self) -> "Comparison":
        """The reference against the method."""
        return Comparison(self.difference.reversed, self.p_holm, self.won, self.lost, self.deltas, not self.swapped)

    @property
    def significant(self) -> bool:
        """Whether the corrected test finds a difference, the interval leaves 0 out and no failed run is against it."""
        d = self.difference
        if self.p_holm is None or d.low is None or d.high is None:
            return False
        if self.lost if d.mean > 0 else self.won:
            return False
        return self.p_holm < 1 - CONFIDENCE and not d.low <= 0 <= d.high

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
        run_ids: run_id of every ok run, by seed.
        failed, skipped, missing: how many of the expected runs ended so, or are not there.
        expected: how many runs there should be (one per seed).
        values: dev mIoU of the last step of every ok run, by seed, in percent.
        steps: that a run was trained for; None without an ok run.
        miou: dev mIoU of the last step over seeds, in percent; None without an ok run.
        best_miou: the same for the best step of each curve: a second number, never the headline.
        vs_none, vs_kd: the paired comparisons; None for the reference itself and where no seed pairs.
        step_s: median over runs of the step time in seconds.
        peak_mb: highest peak memory of any run.
        search_trials, search_seconds: of the search that the method's values come from; None without one.
    """

    name: Label
    run_ids: Mapping[int, str]
    failed: int
    skipped: int
    missing: int
    expected: int
    reference: str = ""
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

    @property
    def cells(self) -> tuple[str, ...]:
        """The texts of `HEADER`'s columns."""
        return tuple(str(measure.cell(self)) for measure in MEASURES)


@dataclass(frozen=True)
class Measure:
    """A column of a comparison: its cells, the numbers behind them by name, and a hint for formats with room for it."""

    column: Column
    cell: Callable[[MethodRow], Cell]
    numbers: Callable[[MethodRow], dict[str, Any]]
    hint: Callable[[MethodRow], str] = lambda line: ""


def _score(line: MethodRow) -> Cell:
    return Cell("" if line.miou is None else mean_text(line.miou), line.absences)


def mean_text(x: Interval) -> str:
    """E.g. "54.00 ± 6.57 (n=3)": mean, half-width of its interval, values."""
    return f"{x.mean:.2f}" + ("" if x.half is None else f" ± {x.half:.2f}") + f" (n={x.n})"


def _against(reference: str, of: Callable[[MethodRow], Comparison | None]) -> Measure:
    """The column of the differences to a reference."""

    def cell(line: MethodRow) -> Cell:
        c = of(line)
        if c is None:
            return Cell("–" if line.reference == reference or line.miou is None else "no pair")
        d = c.difference
        # The line's own n holds for its differences too, unless the reference lacks a seed.
        fewer = line.miou is not None and 1 < d.n < line.miou.n
        text = c.text + (f" (n={d.n})" if fewer else "")
        return Cell(text, tone=("better" if d.mean > 0 else "worse") if c.significant else "")

    def numbers(line: MethodRow) -> dict[str, Any]:
        c = of(line)
        names = ("mean", "low", "high", "n", "bootstrap_low", "bootstrap_high", "p", "p_holm", "significant")
        values: tuple[Any, ...] = (None,) * len(names)
        if c is not None:
            d, b = c.difference, c.bootstrap
            values = (d.mean, d.low, d.high, d.n, b.low, b.high, d.p_value, c.p_holm, c.significant)
        return {f"vs_{reference}_{name}": value for name, value in zip(names, values, strict=True)}

    def hint(line: MethodRow) -> str:
        c = of(line)
        if c is None or c.p_holm is None or c.bootstrap.low is None:
            return ""
        return f"bootstrap [{c.bootstrap.low:+.2f}, {c.bootstrap.high:+.2f}] Holm p {c.p_holm:.3f}"

    return Measure(Column(f"vs {reference}"), cell, numbers, hint)


def _scores(line: MethodRow) -> dict[str, Any]:
    x, best = line.miou or Interval(float("nan"), None, None, 0), line.best_miou
    return {
        "dev_miou_percent_mean": x.mean if line.miou else None,
        "dev_miou_percent_low": x.low,
        "dev_miou_percent_high": x.high,
        "dev_miou_percent_n": x.n,
        "best_dev_miou_percent_mean": best.mean if best else None,
    }


def _counts(line: MethodRow) -> dict[str, Any]:
    found = {"method": line.label, "expected": line.expected, "ok": len(line.run_ids), "failed": line.failed}
    return found | {"skipped": line.skipped, "not_run": line.missing}


MEASURES = (
    Measure(Column("method", "left"), lambda x: Cell(x.label), _counts),
    Measure(Column("mIoU (dev, last step)"), _score, _scores),
    _against("none", lambda x: x.vs_none),
    _against("kd", lambda x: x.vs_kd),
    Measure(
        Column("s/step"), lambda x: Cell("–" if x.step_s is None else f"{x.step_s:.3g}"), lambda x: {"step_s": x.step_s}
    ),
    Measure(
        Column("peak MB"),
        lambda x: Cell("–" if x.peak_mb is None else f"{x.peak_mb:.0f}"),
        lambda x: {"peak_mb": x.peak_mb},
    ),
)
HEADER = tuple(measure.column.name for measure in MEASURES)


@dataclass(frozen=True)
class Teacher:
    """The teacher of a block: its row if there is one, else the hash of the weights that were given."""

    run_id: str | None = None
    status: str | None = None
    message: str = ""
    miou: float | None = None  # dev, last step, in percent
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


IMAGES = (
    "Over the images of val: difference of mIoU to the student without distillation in percentage points, with its "
    "95 % bootstrap interval over images (not over seeds)"
)


@dataclass(frozen=True)
class Block:
    """All methods on one pair.

    Attributes:
        protocol: version, "major.minor".
        floor: mIoU of the single-pixel baseline on dev, in percent; None where it was not measured.
        methods: a line each, references first.
        comparisons: how many are corrected together.
        notes: why runs have no result.
        caveats: what must be known of a method's values.
        trials: how many the search of each method had; empty without one.
        compared: what is compared with what, in one sentence.
        findings: of `harness.analysis.fairness`.
        images: of `harness.analysis.per_image`.
    """

    pair: str
    dataset: str
    protocol: str
    ruleset: str
    budget_amount: float
    budget_unit: str
    devices: str
    floor: float | None
    teacher: Teacher
    methods: tuple[MethodRow, ...]
    comparisons: int
    notes: tuple[str, ...]
    caveats: tuple[str, ...] = ()
    trials: str = ""
    compared: str = ""
    findings: tuple[Remark, ...] = ()
    images: tuple[str, ...] = ()

    def line(self, label: str | None) -> MethodRow | None:
        """The line of a method; None where there is none."""
        return next((x for x in self.methods if x.label == label), None)

    @property
    def baseline(self) -> MethodRow | None:
        """The line of the student without distillation."""
        return next((x for x in self.methods if x.reference == "none"), None)

    @property
    def references(self) -> dict[str, str]:
        """The labels of the references that there are, by "none" and "kd"."""
        return {name: str(label) for name, label in references(x.name for x in self.methods).items()}

    @property
    def where(self) -> str:
        """E.g. "unet-r18d-to-r10t on texmosaic"."""
        return f"{self.pair} on {self.dataset}"

    @property
    def budget(self) -> str:
        """What each run has, e.g. "400 steps"."""
        return f"{self.budget_amount:g} {self.budget_unit}"

    @property
    def rules(self) -> str:
        """The ruleset, and how many trials each method had."""
        return f"{self.ruleset} ({self.trials} trials per method)" if self.trials else self.ruleset

    @property
    def headline(self) -> str:
        """What the numbers below it are to be read against."""
        floor = "not measured" if self.floor is None else f"{self.floor:.2f}"
        return f"Single-pixel baseline: {floor}. Teacher: {self.teacher.text}."

    @property
    def sections(self) -> tuple[Section, ...]:
        """All remarks on the block."""
        about = f"{self.budget} per run, ruleset {self.rules}, protocol {self.protocol}, {self.devices}."
        return (
            Section("headline", self.headline, above=True),
            Section("about", about, above=True),
            Section("notes", remarks=tuple(Remark(text, "failed") for text in self.notes)),
            Section("caveats", remarks=tuple(map(Remark, self.caveats))),
            Section("compared", self.compared),
            Section("findings", remarks=self.findings),
            Section("images", f"{IMAGES}:", tuple(map(Remark, self.images))),
        )

    @property
    def numbers(self) -> dict[str, Any]:
        """What all lines have in common, by the names of the CSV file's columns."""
        return {"floor_dev_miou_percent": self.floor, "teacher_dev_miou_percent": self.teacher.miou}


LEGEND = (
    "mIoU in percent on the dev split at the last step: mean ± half-width of its 95 % t interval over n seeds. "
    "Differences in percentage points, paired by seed, with their 95 % t interval; ▲ ▼: significant after Holm's "
    "correction over all comparisons of a pair (paired t-test, level 0.05)."
)


@dataclass(frozen=True)
class Table:
    """The comparison of an experiment: a block per pair, all under one protocol version.

    Example:
        >>> import harness
        >>> bench = harness.Bench(harness.load("experiments/quickstart.yaml"), "results/examples")
        >>> (block,) = bench.table().blocks
        >>> [(line.label, round(100 * line.miou.mean, 2)) for line in block.methods][:2]
        [('none', 48.29), ('kd', 51.36)]
        >>> bench.table().to_markdown().splitlines()[0]
        '# quickstart'
    """

    experiment: str
    protocol: str
    blocks: tuple[Block, ...]

    @property
    def legend(self) -> str:
        """How to read the cells."""
        return LEGEND

    def sheets(self) -> list[Sheet]:
        """A sheet per block, for `harness.report`."""
        columns = tuple(measure.column for measure in MEASURES)
        found = []
        for i, block in enumerate(self.blocks):
            rows = tuple(tuple(measure.cell(line) for measure in MEASURES) for line in block.methods)
            records = partial(self._records, block)
            found.append(Sheet(f"{self.experiment}-{i + 1}", block.where, columns, rows, block.sections, records))
        return found

    def records(self) -> list[dict[str, Any]]:
        """The numbers behind the table, unrounded, one dict per pair and method; None where there is none."""
        return [record for block in self.blocks for record in self._records(block)]

    def _records(self, block: Block) -> list[dict[str, Any]]:
        first = {"experiment": self.experiment, "protocol": self.protocol, "dataset": block.dataset, "pair": block.pair}
        return [
            first | {name: value for measure in MEASURES for name, value in measure.numbers(line).items()}
            | block.numbers | {"ruleset": block.ruleset, "search_trials": line.search_trials}
            | {"search_seconds": line.search_seconds}
            for line in block.methods
        ]  # fmt: skip

    # What a notebook looks for on a table; the work is the report's, which imports this file.
    def to_markdown(self) -> str:
        """Each block with its remarks, in the syntax of GitHub."""
        from harness.report import formats

        return formats.to_markdown(self)

    def to_latex(self) -> str:
        """As `to_markdown`, for the package booktabs."""
        from harness.report import formats

        return formats.to_latex(self)

    def to_html(self) -> str:
        """As `to_markdown`, as a page that loads nothing."""
        from harness.report import formats

        return formats.to_html(self)

    def to_csv(self) -> str:
        """`records` as CSV."""
        from harness.report import formats

        return formats.to_csv(self)

    def to_arrow(self) -> Any:
        """`records` as a `pyarrow.Table`."""
        import pyarrow as pa

        return pa.Table.from_pylist(self.records())

    def to_pandas(self) -> Any:
        """`records` as a `pandas.DataFrame`.

        Raises:
            ImportError: pandas is not installed.
        """
        from importlib.util import find_spec

        if find_spec("pandas") is None:
            raise ImportError("to_pandas needs pandas, which is not installed: pip install pandas")
        return self.to_arrow().to_pandas()
