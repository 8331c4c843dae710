"""The command `sstkd-bench tables`: an experiment's own table, or a paper's, in several formats."""

import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.borders import quoted
from harness.cli.common import DEFAULT_RESULTS, Results, Set, answering, bench, load

if TYPE_CHECKING:
    from harness.analysis.sheets import Sheet
    from harness.analysis.tables import Table
    from harness.papers.cells import Grid
    from harness.papers.lines import PaperTable
    from harness.papers.published import Figure

EXPORTS = "exports"
"""What --with takes."""


class Paper(str, Enum):
    """The papers whose tables can be printed."""

    SSTKD = "sstkd"
    SKD = "skd"
    CWD = "cwd"
    CIRKD = "cirkd"
    BPKD = "bpkd"
    MGD = "mgd"
    AF_DCD = "af-dcd"
    CIRKDV2 = "cirkdv2"
    ATTNFD = "attnfd"
    MASKD = "maskd"


class Format(str, Enum):
    """How a table is printed."""

    MD = "md"
    LATEX = "latex"
    CSV = "csv"
    HTML = "html"


def tables(
    files: Annotated[list[Path], typer.Argument(help="Experiment files (YAML), or results folders.")],
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    paper: Annotated[
        Paper | None, typer.Option(help="Print this paper's tables: measured beside published figures.")
    ] = None,
    form: Annotated[Format | None, typer.Option("--format", help="Print in this format, and write no files.")] = None,
    keep_stale: Annotated[
        bool,
        typer.Option(
            "--keep-stale",
            help="Show rows of other data, teachers or source files too, in blocks of their own, marked.",
        ),
    ] = False,
    published: Annotated[
        Path | None, typer.Option("--published", help="Folder of the published figures; RESULTS/published by default.")
    ] = None,
    below: Annotated[
        str | None,
        typer.Option("--with", help="`exports`: mIoU, gain, size and latency of the exported files, below the table."),
    ] = None,
) -> None:
    """Rebuild the table, the plots and the HTML page from the finished runs, or print a paper's tables."""
    with answering():
        if published is not None and paper is None:
            raise ValueError("--published belongs to --paper: name the paper whose figures these are")
        if below not in (None, EXPORTS):
            raise ValueError(f"--with {quoted(below)}: allowed is {EXPORTS}")
        if below is not None and paper is not None:
            raise ValueError(f"--with {EXPORTS} belongs to an experiment's own table; leave it or --paper out")
        if overrides and (folder := next((file for file in files if file.is_dir()), None)):
            raise ValueError(f"--set changes an experiment file, and {folder} is a results folder: name the file")
        if paper is not None:
            # The paths of data and weights may be a cluster's: rows need neither.
            folders = [file if file.is_dir() else results / load(file, overrides, here=False).name for file in files]
            print_paper(paper, folders, results, published, form)
            return
        for file in files:
            if file.is_dir():
                print_folder(file, form, below)
            else:
                _print_experiment(file, overrides, results, form, keep_stale, below)


def _print_experiment(
    file: Path, overrides: list[str] | None, results: Path, form: Format | None, keep_stale: bool, below: str | None
) -> None:
    wanted = bench(file, overrides, results, reading=True)
    if form is not None:
        table = wanted.table(keep_stale)
        _write(table, form, _below(below, wanted.directory, table, str(file)))
        return
    from harness.report.console import print_table

    table = wanted.write_report(keep_stale=keep_stale)
    print_table(table, directory=wanted.directory, more=_below(below, wanted.directory, table, str(file)))


def _below(below: str | None, directory: Path, table: "Table", file: str = "FILE") -> "list[Sheet]":
    """The tables that --with adds.

    Raises:
        ValueError: there is no export that could be shown; names the command that makes them.
    """
    if below is None:
        return []
    from harness.analysis.export_sheets import sheets
    from harness.analysis.exports import read

    found = read(directory, table)
    if not found.tables:
        what = found.left_out or "no exports yet"
        raise ValueError(f"{directory}: {what}. First: sstkd-bench export {file} --all --to onnx")
    return sheets(found, table.experiment)


def print_paper(
    paper: Paper, folders: Sequence[Path], results: Path, published: Path | None, form: Format | None
) -> None:
    """Print a paper's tables: what these experiments have measured beside what was published.

    Args:
        paper: the paper.
        folders: results folders of the experiments.
        results: folder of all results.
        published: folder of the published figures; `published` in `results`, or the checkout's, when not given.
        form: a terminal's table when not given.

    Raises:
        ValueError: a published figure is wrong, or rows of several comparisons fit one table.
        FileNotFoundError: there are no published figures.
    """
    import pyarrow as pa

    from harness.papers.measured import COLUMNS, build, prepared
    from harness.papers.published import published_folder, read_published
    from harness.papers.tables import PAPERS
    from harness.report.console import print_sheet
    from harness.report.formats import FORMATS
    from harness.results import store

    figures = read_published(published or published_folder(results))
    rows = pa.concat_tables(store.read_rows(f, list(COLUMNS)) for f in dict.fromkeys(folders))
    runs = prepared(rows)
    grids = [build(t, runs, figures) if t.columns else _costs(t, figures) for t in PAPERS[paper]]
    if form is None:
        for grid in grids:
            print_sheet(grid.long)
    else:
        sys.stdout.write(FORMATS[form]([grid.sheet for grid in grids], ""))


def _costs(table: "PaperTable", figures: "Sequence[Figure]") -> "Grid":
    from harness.experiment.spec import Network
    from harness.papers.measured import costs
    from harness.papers.protocols import NETWORKS
    from harness.training.build import network_cost

    counted = {}
    for name in table.networks:
        architecture, encoder, parameters = NETWORKS[name]
        network = Network(architecture=architecture, encoder=encoder, parameters=dict(parameters))
        own, macs = network_cost(network, 19, 512, 1024)
        counted[name] = (own / 1e6, macs / 1e9)
    return costs(table, counted, figures)


def print_folder(directory: Path, form: Format | None, below: str | None = None) -> None:
    """Print the table of all rows of a folder, whatever experiment file they came from.

    Args:
        directory: an experiment's results folder.
        form: which; a terminal's table when not given.
        below: as --with takes it.

    Raises:
        ValueError: no results yet, rows that must not be compared, or no exports where these are asked for.
    """
    from harness.report.console import print_table
    from harness.report.write import table_of

    table, _ = table_of(directory)
    more = _below(below, directory, table)
    if form is None:
        print_table(table, more=more)
    else:
        _write(table, form, more)


def _write(table: "Table", form: Format, more: "Sequence[Sheet]") -> None:
    from harness.report.formats import TABLE_FORMATS

    sys.stdout.write(TABLE_FORMATS[form](table, more))
