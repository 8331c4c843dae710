"""Tables on the terminal: as wide as it is, and into a file or a pipe one line per row."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from harness.analysis.sheets import Section, Sheet
from harness.analysis.tables import Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

_TONES = {"better": "green", "worse": "magenta", "": ""}


def output() -> "Console":
    """Standard output: as wide as the terminal; into a file or a pipe wide enough that nothing is folded."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=10_000)


def print_columns(columns: list[str], rows: list[list[str]], right: tuple[str, ...] = ()) -> None:
    """A table as wide as the terminal; into a file or a pipe one line per row."""
    from rich.cells import cell_len
    from rich.table import Table as Grid
    from rich.text import Text

    console = output()
    if all(cell.isprintable() for row in rows for cell in row):
        widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
        if sum(widths) + 2 * len(widths) <= console.width:  # nothing to fold; a grid of 20,000 rows takes half a minute
            left = [name not in right for name in columns]
            pads = list(zip(widths, left, strict=True))

            def line(cells: list[str]) -> str:
                spaces = (" " * (width - cell_len(cell)) for cell, (width, _) in zip(cells, pads, strict=True))
                padded = zip(cells, spaces, left, strict=True)
                return "  ".join(cell + space if first else space + cell for cell, space, first in padded)

            console.print(Text(line(columns), style="dim"))
            console.file.write("".join(f"{line(row)}\n" for row in rows))
            return
    grid = Grid(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        grid.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))  # cells may hold [...], which is markup in plain strings
    console.print(grid)


def print_table(table: Table, console: "Console | None" = None, directory: str | Path | None = None) -> None:
    """Print the comparison on the terminal.

    Args:
        table: what `quick_table` returns.
        console: where to; standard output when not given.
        directory: the experiment's directory; when given, the lines below the table say where rows, plots and page are.
    """
    from rich.text import Text

    console = console or output()
    for one in table.sheets():
        print_sheet(one, console)
    console.print(Text("\n" + table.legend, style="dim"))
    if directory is not None:
        base = Path(directory)
        for what, name in (("rows", "runs"), ("table", "table.md"), ("curves", "curves.png"), ("page", "report.html")):
            console.print(Text(f"{what:7}{base / name}"), soft_wrap=True)


def print_sheet(one: Sheet, console: "Console | None" = None) -> None:
    """Print a table with all remarks on it."""
    from rich.text import Text

    console = console or output()
    console.print(Text(f"\n{one.title}", style="bold"))
    _say([section for section in one.sections if section.above], console)
    grid = _grid(one, stacked=False)
    if console.measure(grid, options=console.options.update(max_width=10_000)).maximum > console.width:
        grid = _grid(one, stacked=True)
    console.print(grid)
    _say([section for section in one.sections if not section.above], console)


def _say(sections: Iterable[Section], console: "Console") -> None:
    from rich.text import Text

    for section in sections:
        if section.head and section.texts:
            console.print(Text(section.head) if section.above else Text(f"\n{section.head}", style="dim"))
        for remark in section.remarks or ():
            console.print(Text(str(remark), style="red" if remark.bad else "dim"))


def _grid(one: Sheet, stacked: bool) -> "Grid":
    """The table for the terminal; `stacked` breaks each cell before its brackets, for narrow windows."""
    from rich.table import Table as Grid
    from rich.text import Text

    def fit(text: str) -> str:
        return re.sub(r" (?=[(\[])", "\n", text.replace("; ", "\n")) if stacked else text

    grid = Grid(box=None, pad_edge=False, header_style="dim")
    for i, column in enumerate(one.columns):
        grid.add_column(fit(column.name), justify=column.align, overflow="fold", no_wrap=i > 0)
    for row in one.rows:
        cells = []
        for i, cell in enumerate(row):
            style = "red" if cell.missing else _TONES[cell.tone]
            cells.append(Text(fit(str(cell)) if i else str(cell), style=style))
        grid.add_row(*cells)
    return grid
