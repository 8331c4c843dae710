"""The cells of a paper's table, with measured and published values, and the table of cells."""

from dataclasses import dataclass
from typing import Any

from harness.analysis.sheets import Sheet, sheet
from harness.analysis.stats import Difference, Score
from harness.papers.published import Figure

PARTS = ("measured", "vs student", "published", "measured − published")
NOT_RUN, UNVERIFIED = "not run", "unverified"


@dataclass(frozen=True)
class Cell:
    """One cell. mIoU is in percent, its differences in percentage points.

    Attributes:
        line, column: their titles.
        why_not: reason why nothing was measured; else empty.
        measured: mean and standard deviation over seeds.
        vs_student: paired difference to the student without distillation.
        figure: the published value; None if none could be verified.
    """

    line: str
    column: str
    why_not: str = ""
    measured: Score | None = None
    vs_student: Difference | None = None
    figure: Figure | None = None

    @property
    def gap(self) -> float | None:
        """Measured minus published; None if nobody verified the published value."""
        if self.measured is None or self.figure is None or self.figure.sure == "U":
            return None
        return self.measured.mean - self.figure.value

    @property
    def texts(self) -> tuple[str, str, str, str]:
        """The texts of `PARTS`."""
        measured, difference = self.why_not, "–"
        if self.measured is not None:
            measured = self.measured.text
        d = self.vs_student
        if d is not None:
            difference = f"no interval (n={d.n})"
            if d.low is not None and d.high is not None:
                difference = f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]"
        published = UNVERIFIED if self.figure is None else self.figure.text
        return measured, difference, published, "–" if self.gap is None else f"{self.gap:+.2f}"

    def record(self, table: str) -> dict[str, Any]:
        """Its numbers, unrounded; None if missing."""
        m, d, f = self.measured and self.measured.interval(), self.vs_student, self.figure
        found: dict[str, Any] = {"table": table, "method": self.line, "column": self.column}
        found |= dict(zip(("mean", "low", "high", "n"), (m.mean, m.low, m.high, m.n) if m else [None] * 4, strict=True))
        names = ("vs_student", "vs_student_low", "vs_student_high", "vs_student_n")
        found |= dict(zip(names, (d.mean, d.low, d.high, d.n) if d else [None] * 4, strict=True))
        names = ("published", "sure", "source", "measured_minus_published")
        found |= dict(zip(names, (f.value, f.sure, f.source, self.gap) if f else [None] * 4, strict=True))
        return found | {"why_not": self.why_not}


@dataclass(frozen=True)
class Grid:
    """A paper's table: `head` and `rows` are texts, `notes` go below, `cells` hold the numbers."""

    id: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    cells: tuple[Cell, ...] = ()

    @property
    def sheet(self) -> Sheet:
        """The table for all output formats; CSV has one line per cell."""
        return sheet(self.id, self.title, self.head, self.rows, self.notes, self.records)

    @property
    def long(self) -> Sheet:
        """One row per cell (if the table has cells), because a paper's tables are too wide for the terminal."""
        columns = list(dict.fromkeys(cell.column for cell in self.cells))
        title = f"{self.title} ({self.id})"
        if self.head[1:] != tuple(f"{column}: {part}" for column in columns for part in PARTS):
            return sheet(self.id, title, self.head, self.rows, self.notes, self.records)
        several = len(columns) > 1
        head = ("method", *(["student"] if several else []), *PARTS)
        rows = [(cell.line, *([cell.column] if several else []), *cell.texts) for cell in self.cells]
        return sheet(self.id, title, head, rows, self.notes, self.records, left=len(head) - len(PARTS))

    def records(self) -> list[dict[str, Any]]:
        """The numbers of each cell."""
        return [cell.record(self.id) for cell in self.cells]
