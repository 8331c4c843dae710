"""The cells of a paper's table."""

from dataclasses import dataclass

from harness.analysis.stats import Difference, Interval
from harness.papers.published import Figure

PARTS = ("measured", "vs student", "published", "measured − published")
NOT_RUN, UNVERIFIED = "not run", "unverified"


@dataclass(frozen=True)
class Cell:
    """One cell. mIoU and its differences are in percent points.

    Attributes:
        line, column: their titles.
        why_not: why nothing was measured; empty where something was.
        measured: mean over seeds with its 95 % t interval.
        vs_student: paired difference to the plain student.
        figure: what was published; None where nobody could verify a figure.
    """

    line: str
    column: str
    why_not: str = ""
    measured: Interval | None = None
    vs_student: Difference | None = None
    figure: Figure | None = None

    @property
    def gap(self) -> float | None:
        """Measured less published."""
        return None if self.measured is None or self.figure is None else self.measured.mean - self.figure.value

    @property
    def texts(self) -> tuple[str, str, str, str]:
        """Of `PARTS`."""
        measured, difference = self.why_not, "–"
        if self.measured is not None:
            half = "" if self.measured.half is None else f" ± {self.measured.half:.2f}"
            measured = f"{self.measured.mean:.2f}{half} (n={self.measured.n})"
        d = self.vs_student
        if d is not None:
            difference = f"no interval (n={d.n})"
            if d.low is not None and d.high is not None:
                difference = f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]"
        published = UNVERIFIED if self.figure is None else f"{self.figure.value:g} ({self.figure.sure})"
        return measured, difference, published, "–" if self.gap is None else f"{self.gap:+.2f}"


@dataclass(frozen=True)
class Grid:
    """A table to be printed: `head` and `rows` are texts, `notes` what is to be known, `cells` the numbers behind."""

    id: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    cells: tuple[Cell, ...] = ()
