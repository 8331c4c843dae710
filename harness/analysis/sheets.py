"""A table as every format writes it: columns, cells, and remarks above and below; `harness.report` walks it.

A column or a remark that is added to what makes a `Sheet` is on the terminal, in Markdown, LaTeX, CSV, HTML and JSON.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Tone = Literal["", "better", "worse"]
Level = Literal["failed", "unfair", "note", ""]


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    name: str
    align: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: its value; may be empty.
        missing: what is not there, e.g. "failed (1 of 3)".
        tone: how the value compares, where that is significant.
        best: whether it is the best of its column and significantly so: it is bold.
    """

    text: str
    missing: str = ""
    tone: Tone = ""
    best: bool = False

    def __str__(self) -> str:
        """Value and what is missing."""
        return "; ".join(filter(None, (self.text, self.missing)))


@dataclass(frozen=True)
class Remark:
    """One remark on a table. `unfair` and `note` are findings of the fairness report and are called so."""

    text: str
    level: Level = ""

    @property
    def bad(self) -> bool:
        """Whether it is highlighted."""
        return self.level in ("failed", "unfair")

    @property
    def unfair(self) -> bool:
        """Whether the comparison favours a method, or is too small to be conclusive."""
        return self.level == "unfair"

    def __str__(self) -> str:
        """E.g. "unfair: 2 seeds ..."."""
        return f"{self.level}: {self.text}" if self.level in ("unfair", "note") else self.text

    @property
    def json(self) -> str | dict[str, Any]:
        """A text, or for a finding its text and whether it is unfair."""
        return {"unfair": self.unfair, "text": self.text} if self.level in ("unfair", "note") else self.text


@dataclass(frozen=True)
class Section:
    """Remarks that belong together.

    Attributes:
        name: its key in JSON.
        head: a sentence, or the head of a list.
        remarks: the list; None where there is only the sentence.
        above: whether it is shown above the table.
    """

    name: str
    head: str = ""
    remarks: tuple[Remark, ...] | None = None
    above: bool = False

    @property
    def json(self) -> Any:
        """The sentence, or the list."""
        return self.head if self.remarks is None else [remark.json for remark in self.remarks]

    @property
    def texts(self) -> list[str]:
        """Head and remarks one after the other; nothing for an empty list."""
        if self.remarks is None:
            return [self.head]
        return [*filter(None, (self.head,)), *map(str, self.remarks)] if self.remarks else []


@dataclass(frozen=True)
class Sheet:
    """One table.

    Attributes:
        id: a name for links to it; may be empty.
        title: its heading.
        columns: one per cell of a row.
        rows: of cells.
        sections: remarks, in this order.
        records: gives the numbers behind it, unrounded, all with the same keys: the lines of CSV.
        alone: whether its own remarks say how to read it; the legend of other tables is not for it.
        what: what its numbers are, for captions.
    """

    id: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sections: tuple[Section, ...] = ()
    records: Callable[[], list[dict[str, Any]]] = list
    alone: bool = False
    what: str = ""


def sheet(
    id: str,
    title: str,
    head: Sequence[str],
    rows: Iterable[Iterable[str]],
    notes: Iterable[str] = (),
    records: Callable[[], list[dict[str, Any]]] = list,
    left: int = 1,
) -> Sheet:
    """A sheet of plain texts; the first `left` columns are aligned left, the others right."""
    columns = tuple(Column(name, "left" if i < left else "right") for i, name in enumerate(head))
    said = Section("notes", remarks=tuple(map(Remark, notes)))
    return Sheet(id, title, columns, tuple(tuple(map(Cell, row)) for row in rows), (said,), records)
