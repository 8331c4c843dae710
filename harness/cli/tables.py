"""`sstkd-bench tables`: an experiment's own table, or a paper's, on the terminal or as Markdown, LaTeX, CSV, HTML."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.analysis.tables import Table
    from harness.experiment.spec import Experiment
    from harness.papers.cells import Grid
    from harness.papers.published import Figure
    from harness.papers.tables import PaperTable


class Paper(StrEnum):
    """Whose tables there are."""

    SSTKD = "sstkd"
    SKD = "skd"
    CWD = "cwd"
    CIRKD = "cirkd"
    BPKD = "bpkd"
    MGD = "mgd"
    AF_DCD = "af-dcd"


class Format(StrEnum):
    """How a table is printed."""

    MD = "md"
    LATEX = "latex"
    CSV = "csv"
    HTML = "html"


def print_paper(
    paper: Paper, folders: Sequence[Path], results: Path, published: Path | None, form: Format | None
) -> None:
    """Print a paper's tables: what these experiments have measured beside what was published.

    Args:
        paper: whose.
        folders: of the experiments whose rows are looked at.
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
    rows = pa.concat_tables(store.read_runs(f, list(COLUMNS), encoded=True) for f in dict.fromkeys(folders))
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
    from harness.papers.tables import NETWORKS
    from harness.training.build import network_cost

    counted = {}
    for name in table.networks:
        architecture, encoder, parameters = NETWORKS[name]
        network = Network(architecture=architecture, encoder=encoder, parameters=dict(parameters))
        own, macs = network_cost(network, 19, 512, 1024)
        counted[name] = (own / 1e6, macs / 1e9)
    return costs(table, counted, figures)


def print_formatted(experiment: "Experiment", run_ids: Sequence[str], directory: Path, form: Format) -> None:
    """Print an experiment's own table in a format.

    Args:
        experiment: whose.
        run_ids: of all its runs.
        directory: its results folder.
        form: which.

    Raises:
        ValueError: there are no rows, or rows that must not be compared.
    """
    from harness.experiment import rules
    from harness.report.write import table_of

    table, _ = table_of(directory, rules.labels(experiment), experiment.seeds, run_ids)
    _write(table, form)


def print_folder(directory: Path, form: Format | None) -> None:
    """Print the table of all rows of a folder, whatever experiment file they came from.

    Args:
        directory: an experiment's results folder.
        form: which; a terminal's table when not given.

    Raises:
        ValueError: there are no rows, or rows that must not be compared.
    """
    from harness.report.console import print_table
    from harness.report.write import table_of

    table, _ = table_of(directory)
    if form is None:
        print_table(table)
    else:
        _write(table, form)


def _write(table: "Table", form: Format) -> None:
    from harness.report.formats import TABLE_FORMATS

    sys.stdout.write(TABLE_FORMATS[form](table))
