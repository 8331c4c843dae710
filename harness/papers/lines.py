"""What a paper's table is made of: columns, lines, and the corresponding methods of this project."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.experiment.method import Method

Ours = tuple[str, Mapping[str, Any]]
"""A name in METHODS, and its non-default parameters; of a sum `a+b`, in the order of the alphabet, and `a.NAME`."""


@dataclass(frozen=True)
class Column:
    """A student on a dataset; `variant` applies to all lines, if the paper has variants as columns."""

    student: str
    dataset: str = "cityscapes"
    split: str = "val"
    variant: str | None = None


@dataclass(frozen=True)
class Line:
    """A method: its name in the paper, published `method` and `variant`, and our method (one for all columns, or by
    column variant, or by dataset; None if there is none).

    `unknown`: this project has the method, but the weights behind the figure are not known.
    """

    title: str
    method: str
    variant: str = ""
    ours: Ours | Mapping[str, Ours] | None = None
    unknown: bool = False


def ours_of(line: Line, column: Column) -> Ours | None:
    """Our method for a cell; None if there is none."""
    if isinstance(line.ours, Mapping):
        return line.ours.get(column.dataset if column.variant is None else column.variant)
    return line.ours


def parts_of(ours: Ours) -> list[Ours]:
    """The methods of a sum, each with its own parameters; a single method is its only part."""
    return [(part.name, part.parameters) for part in Method(name=ours[0], parameters=dict(ours[1])).parts]


@dataclass(frozen=True)
class PaperTable:
    """One table of a paper. Without columns it is a table of costs: parameters and MACs of `networks`.

    Attributes:
        id, title: of the table.
        protocol: under which its figures are filed.
        teacher, columns, lines: the cells.
        networks: of a table of costs.
        gains: figures published only as gains are listed below the table.
        teachers_under: the protocol of the teacher's figure by dataset, where it is another one.
        note: stands below the table.
    """

    id: str
    title: str
    protocol: str
    teacher: str = ""
    columns: tuple[Column, ...] = ()
    lines: tuple[Line, ...] = ()
    networks: tuple[str, ...] = ()
    gains: bool = False
    teachers_under: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
