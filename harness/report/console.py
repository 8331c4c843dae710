"""How commands speak: tables as wide as the terminal, and mistakes as one line each with an exit code."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from harness.analysis.tables import HEADER, IMAGES, Block, QuickTable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def output() -> "Console":
    """Standard output: as wide as the terminal; into a file or a pipe wide enough that nothing is folded."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=10_000)


def print_columns(columns: list[str], rows: list[list[str]], right: tuple[str, ...] = ()) -> None:
    """A table as wide as the terminal; into a file or a pipe one line per row."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # cells may hold [...], which is markup in plain strings
    output().print(table)


def print_table(table: QuickTable, console: "Console | None" = None, directory: str | Path | None = None) -> None:
    """Print the comparison on the terminal.

    Args:
        table: what `quick_table` returns.
        console: where to; standard output when not given.
        directory: the experiment's directory; when given, the lines below the table say where rows, plots and page are.
    """
    from rich.text import Text

    from harness.report.console import output

    console = console or output()
    for block in table.blocks:
        console.print(Text(f"\n{block.pair} on {block.dataset}", style="bold"))
        console.print(Text(block.headline))
        grid = _grid(block, stacked=False)
        if console.measure(grid, options=console.options.update(max_width=10_000)).maximum > console.width:
            grid = _grid(block, stacked=True)
        console.print(grid)
        for note in block.notes:
            console.print(Text(note, style="red"))
        for caveat in block.caveats:
            console.print(Text(caveat, style="dim"))
        console.print(Text(f"\n{block.compared}", style="dim"))
        for finding in block.findings:
            console.print(Text(str(finding), style="red" if finding.unfair else "dim"))
        if block.images:
            console.print(Text(f"\n{IMAGES}:", style="dim"))
            console.print(Text("\n".join(block.images), style="dim"))
    console.print(Text("\n" + table.legend, style="dim"))
    if directory is not None:
        base = Path(directory)
        for what, name in (("rows", "runs"), ("table", "table.md"), ("curves", "curves.png"), ("page", "report.html")):
            console.print(Text(f"{what:7}{base / name}"), soft_wrap=True)


def _grid(block: Block, stacked: bool) -> "Table":
    """The block for the terminal; `stacked` breaks each cell before its brackets, for windows of 80 columns."""
    from rich.table import Table
    from rich.text import Text

    def fit(text: str) -> str:
        return re.sub(r" (?=[(\[])", "\n", text.replace("; ", "\n")) if stacked else text

    grid = Table(box=None, pad_edge=False, header_style="dim")
    for i, name in enumerate(HEADER):
        grid.add_column(fit(name), justify="right" if i else "left", overflow="fold", no_wrap=i > 0)
    for line in block.methods:
        cells = [Text(cell if i == 0 else fit(cell)) for i, cell in enumerate(line.cells(block.references))]
        if line.absences:
            cells[1].stylize("red")
        for cell, comparison in zip(cells[2:4], (line.vs_none, line.vs_kd), strict=True):
            if comparison is not None and comparison.beyond_noise:
                cell.stylize("green" if comparison.difference.mean > 0 else "magenta")
        grid.add_row(*cells)
    return grid
