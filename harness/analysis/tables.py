"""What a comparison of methods shows: its lines, columns and remarks; `harness.analysis.comparison` computes them.

Nothing is dropped: a method without a result is a line that says why, and every number says how many runs are behind
it. mIoU and its differences are in percent and percentage points here; rows keep them in [0, 1].
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from harness.analysis.answer import best
from harness.analysis.columns import MEASURES, SCORE, control_numbers
from harness.analysis.crossing import FEWEST_TEACHERS
from harness.analysis.labels import references
from harness.analysis.lines import FEWEST_SEEDS, MethodRow
from harness.analysis.sheets import Cell, Remark, Section, Sheet
from harness.analysis.stats import score


@dataclass(frozen=True)
class Teacher:
    """The teacher of a block: its row if there is one, else the hash of the weights that were given."""

    run_id: str | None = None
    status: str | None = None
    message: str = ""
    miou: float | None = None  # val, last step, in percent
    dev_miou: float | None = None
    steps: int | None = None
    sha256: str | None = None
    seed: int | None = None

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


OWN_TERMS = (
    "What a method's own terms add: difference of val mIoU to its response term by itself, plain distillation at the "
    "method's weight, in percentage points:"
)


@dataclass(frozen=True)
class Block:
    """All methods on one pair.

    Attributes:
        protocol: version, "major.minor".
        floor, dev_floor: mIoU of the single-pixel baseline on val and on dev, in percent; None where not measured.
        teacher: the pair's teacher, the first where there are several.
        others: the other teachers.
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
    dev_floor: float | None
    teacher: Teacher
    methods: tuple[MethodRow, ...]
    comparisons: int
    notes: tuple[str, ...]
    caveats: tuple[str, ...] = ()
    trials: str = ""
    compared: str = ""
    findings: tuple[Remark, ...] = ()
    images: tuple[str, ...] = ()
    others: tuple[Teacher, ...] = ()

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """All of them."""
        return (self.teacher, *self.others)

    def of_teachers(self, split: str = "val") -> float | None:
        """The teachers' mIoU in percent, on val or dev, the mean of several; None without a result."""
        known = [x.miou if split == "val" else x.dev_miou for x in self.teachers]
        there = [value for value in known if value is not None]
        return sum(there) / len(there) if there else None

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
        taught = f"Teacher: {self.teacher.text}"
        if self.others:
            found = [x.miou for x in self.teachers if x.miou is not None]
            taught = f"Teachers: {score(found).text if found else 'no result'}"
        return f"Single-pixel baseline: {floor}. {taught}."

    @property
    def for_whom(self) -> str:
        """For which teachers the differences hold."""
        if not self.others:
            return "Differences and marks are for this teacher: how far another seed of it moves them is not measured."
        seeds = ", ".join(str(x.seed) for x in self.teachers)
        few = f" Fewer than {FEWEST_TEACHERS} mark nothing." if len(self.teachers) < FEWEST_TEACHERS else ""
        return (
            f"{len(self.teachers)} teachers (seeds {seeds}), each crossed with every method and student seed; the "
            "student without distillation is shared. n is teachers x seeds; intervals are over both, for teachers and "
            f"seeds like these.{few}"
        )

    @property
    def own_terms(self) -> list[str]:
        """What the own terms of methods add to their response terms, where that is no column of the table."""
        known = [x for x in self.methods if x.vs_control is not None and x.control not in self.references.values()]
        return [
            f"{x.label} vs its response term, {x.control}: {x.vs_control.text} (n={x.vs_control.difference.n})"
            for x in known
            if x.vs_control is not None
        ]

    @property
    def sections(self) -> tuple[Section, ...]:
        """All remarks on the block."""
        about = f"{self.budget} per run, ruleset {self.rules}, protocol {self.protocol}, {self.devices}."
        return (
            Section("headline", self.headline, above=True),
            Section("about", about, above=True),
            Section("teachers", self.for_whom, above=True),
            Section("notes", remarks=tuple(Remark(text, "failed") for text in self.notes)),
            Section("caveats", remarks=tuple(map(Remark, self.caveats))),
            Section("own_terms", OWN_TERMS, tuple(map(Remark, self.own_terms))),
            Section("compared", self.compared),
            Section("findings", remarks=self.findings),
            Section("images", f"{IMAGES}:", tuple(map(Remark, self.images))),
        )

    @property
    def numbers(self) -> dict[str, Any]:
        """What all lines have in common, by the names of the CSV file's columns."""
        return {
            "floor_val_miou_percent": self.floor,
            "teacher_val_miou_percent": self.of_teachers(),
            "teachers": len(self.teachers),
        }


LEGEND = (
    "mIoU in percent on the val split at the last step: mean ± standard deviation over n seeds; dev: the same on the "
    "split that hyper-parameters are selected on. Differences of val mIoU in percentage points, paired by seed, with "
    "95 % intervals that hold together for all comparisons of a pair; ▲ ▼: the interval leaves 0 out, over "
    f"{FEWEST_SEEDS} seeds or more."
)
BOLD = "Bold: the highest mean on val, where it is significantly better than none."
WHAT = (
    "mIoU in percent on val, mean ± standard deviation over n runs, and its differences in percentage points with "
    "simultaneous 95 % intervals"
)


@dataclass(frozen=True)
class Table:
    """The comparison of an experiment: a block per pair, all under one protocol version.

    Example:
        >>> import harness
        >>> bench = harness.Bench(harness.load("experiments/quickstart.yaml"), "results/examples")
        >>> (block,) = bench.table().blocks
        >>> [(line.label, round(line.miou.mean, 2)) for line in block.methods][:2]
        [('none', 63.19), ('kd', 64.17)]
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

    @property
    def below(self) -> str:
        """The legend, and what bold is where a value is bold."""
        return f"{LEGEND} {BOLD}" if any(map(best, self.blocks)) else LEGEND

    def sheets(self) -> list[Sheet]:
        """A sheet per block, for `harness.report`."""
        columns = tuple(measure.column for measure in MEASURES)
        found = []
        for i, block in enumerate(self.blocks):
            top, records = best(block), partial(self._records, block)
            rows = tuple(_cells(line, line is top) for line in block.methods)
            id = f"{self.experiment}-{i + 1}"
            found.append(Sheet(id, block.where, columns, rows, block.sections, records, what=WHAT))
        return found

    def records(self) -> list[dict[str, Any]]:
        """The numbers behind the table, unrounded, one dict per pair and method; None where there is none."""
        return [record for block in self.blocks for record in self._records(block)]

    def _records(self, block: Block) -> list[dict[str, Any]]:
        first = {"experiment": self.experiment, "protocol": self.protocol, "dataset": block.dataset, "pair": block.pair}
        return [
            first | {name: value for measure in MEASURES for name, value in measure.numbers(line).items()}
            | block.numbers | {"ruleset": block.ruleset, "search_trials": line.search_trials}
            | {"search_seconds": line.search_seconds} | control_numbers(line)
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

    def _repr_html_(self) -> str:
        """As `to_markdown`, for a notebook's output."""
        from harness.report import formats

        return formats.to_notebook(self)

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


def _cells(line: MethodRow, top: bool) -> tuple[Cell, ...]:
    """The line's cells; of the best line the score is bold."""
    return tuple(replace(measure.cell(line), best=top and measure is SCORE) for measure in MEASURES)
