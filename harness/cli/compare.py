"""The command `sstkd-bench compare`: methods over the pairs and datasets of several experiments."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, Files, Results, Set, answering, bench

if TYPE_CHECKING:
    from harness.analysis.across import Across


def compare(
    files: Files,
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for tables and figures; RESULTS/compare by default.")
    ] = None,
) -> None:
    """Compare methods over all pairs and datasets of several experiments: gains, ranks, performance profiles, costs."""
    with answering():
        from harness.bench import compared
        from harness.files import write_atomic
        from harness.report.across import pictures, to_markdown
        from harness.report.page.across import render

        folder = to or results / "compare"
        benches = [(file, bench(file, overrides, results, reading=True)) for file in files]
        found, rows, exported = compared(one for _, one in benches)
        _print(found)
        folder.mkdir(parents=True, exist_ok=True)
        named = {one.experiment.name: str(file) for file, one in benches}
        pages = {one.experiment.name: one.directory / "report.html" for _, one in benches}
        reports = {
            name: Path(os.path.relpath(page, folder)).as_posix() for name, page in pages.items() if page.is_file()
        }
        write_atomic(folder / "compare.html", render(found, rows, exported, named, reports))
        write_atomic(folder / "compare.md", to_markdown(found, rows, exported))
        for name, content in pictures(found, rows, exported).items():
            write_atomic(folder / name, content)
        typer.echo(f"\ntables and pictures: {folder}, for a browser {folder / 'compare.html'}")


def _print(found: "Across") -> None:
    from rich.text import Text

    from harness.report.across import gains, notes, standings
    from harness.report.console import output, print_columns

    for sheet in (gains(found), *([standings(found)] if found.ranked else [])):
        head = [column.name for column in sheet.columns]
        print_columns(head, [list(map(str, row)) for row in sheet.rows], right=tuple(head[1:]))
        typer.echo("")
    console = output()
    for note in notes(found):
        console.print(Text(note, style="dim"))
    console.print(Text(f"\n{found.pick}", style="bold"))
