"""Tables on the terminal: as wide as it is, and into a file or a pipe one line per row."""

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.borders import one_line, terminal, unguarded

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

    from harness.analysis.sheets import Section, Sheet
    from harness.analysis.tables import Table

MAX_FOLDED = 1_000
"""Rows up to which a table that is too wide for the terminal is folded by columns, which is slow."""
_HEAD = 16
"""Letters of a line of a column's head where a table is too wide."""
_TONES = {"better": "green", "worse": "magenta", "": ""}


def output(stderr: bool = False) -> "Console":
    """A console: as wide as the terminal; into a file or a pipe wide enough that nothing is folded.

    Texts from rows and files reach the terminal through it: what a terminal would obey is written out.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Safe(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else terminal(text), style, control)

    console = Safe(file=unguarded(sys.stderr if stderr else sys.stdout))
    if not console.is_terminal and not stderr:
        console.width = 10_000
    return console


def print_columns(columns: list[str], rows: list[list[str]], right: tuple[str, ...] = ()) -> None:
    """A table as wide as the terminal; into a file or a pipe, and where it fits or is long, one line per row."""
    from rich.cells import cell_len
    from rich.table import Table as Grid
    from rich.text import Text

    console = output()
    # Each different cell is looked at once: of thousands of rows most have the same.
    cells = {cell: one_line(cell) for row in rows for cell in row}
    # Only texts that are not ASCII may be wider than long.
    widths = {text: len(text) if text.isascii() else cell_len(text) for text in (*columns, *cells.values())}
    sides = [[name, *(cells[row[i]] for row in rows)] for i, name in enumerate(columns)]
    wide = [max(widths[text] for text in set(side)) for side in sides]
    if len(rows) > MAX_FOLDED or sum(wide) + 2 * (len(wide) - 1) <= console.width:
        for side, most in zip(sides, wide, strict=True):
            fill = {text: " " * (most - widths[text]) for text in set(side)}
            side[:] = [fill[text] + text for text in side] if side[0] in right else [text + fill[text] for text in side]
        head, *lines = [f"{'  '.join(line).rstrip()}\n" for line in zip(*sides, strict=True)]
        console.print(Text(head[:-1], style="dim"), soft_wrap=True)
        console.file.write("".join(lines))
        return
    grid = Grid(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        grid.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cells[cell]) for cell in row))  # cells may hold [...], which is markup in plain strings
    console.print(grid)


def print_table(
    table: "Table",
    console: "Console | None" = None,
    directory: str | Path | None = None,
    more: "Sequence[Sheet]" = (),
) -> None:
    """Print the comparison on the terminal.

    Args:
        table: what `quick_table` returns.
        console: where to; standard output when not given.
        directory: the experiment's directory; when given, the lines below the table say where rows, plots and page are.
        more: tables below it.
    """
    from rich.text import Text

    console = console or output()
    for one in table.sheets():
        print_sheet(one, console)
    console.print(Text("\n" + table.legend, style="dim"))
    for one in more:
        print_sheet(one, console)
    if directory is not None:
        base = Path(directory)
        for what, name in (("rows", "runs"), ("table", "table.md"), ("curves", "curves.png"), ("page", "report.html")):
            console.print(Text(f"{what:7}{base / name}"), soft_wrap=True)


def print_sheet(one: "Sheet", console: "Console | None" = None) -> None:
    """Print a table with all remarks on it."""
    from rich.text import Text

    console = console or output()
    console.print(Text(f"\n{one.title}", style="bold"))
    _say([section for section in one.sections if section.above], console)
    for grid in _parts(one, console):
        console.print(grid)
    _say([section for section in one.sections if not section.above], console)


def _say(sections: "Iterable[Section]", console: "Console") -> None:
    from rich.text import Text

    for section in sections:
        if section.head and section.texts:
            console.print(Text(section.head) if section.above else Text(f"\n{section.head}", style="dim"))
        for remark in section.remarks or ():
            console.print(Text(str(remark), style="red" if remark.bad else "dim"))


def _parts(one: "Sheet", console: "Console") -> "Iterator[Grid]":
    """The table; where it is too wide with its cells broken, and where that is not enough in parts of some columns."""

    def fits(grid: "Grid") -> bool:
        return console.measure(grid, options=console.options.update(max_width=10_000)).maximum <= console.width

    left = list(range(1, len(one.columns)))
    if fits(whole := _grid(one, left, stacked=False)):
        yield whole
        return
    while left:
        count = len(left)
        while count > 1 and not fits(_grid(one, left[:count], stacked=True)):
            count -= 1
        yield _grid(one, left[:count], stacked=True)
        left = left[count:]


def _grid(one: "Sheet", places: "Sequence[int]", stacked: bool) -> "Grid":
    """The first column and those at these places; `stacked` breaks cells before brackets, for narrow windows."""
    from rich.table import Table as Grid
    from rich.text import Text

    def fit(text: str) -> str:
        return re.sub(r" (?=[(\[])", "\n", text.replace("; ", "\n")) if stacked else text

    def head(text: str) -> str:
        return "\n".join(textwrap.fill(line, _HEAD, break_long_words=False) for line in fit(text).splitlines())

    grid = Grid(box=None, pad_edge=False, header_style="dim")
    for i in (0, *places):
        column = one.columns[i]
        name = head(column.name) if stacked else column.name
        grid.add_column(Text(name), justify=column.align, overflow="fold", no_wrap=i > 0)
    for row in one.rows:
        cells = []
        for i in (0, *places):
            style = "red" if row[i].missing else _TONES[row[i].tone]
            cells.append(Text(fit(str(row[i])) if i else str(row[i]), style=style))
        grid.add_row(*cells)
    return grid
