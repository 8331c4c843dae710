"""The command `sstkd-bench reproduce`: the plan, cost and state of a paper's table, and its experiment files."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, Results, answering
from harness.cli.run import run

if TYPE_CHECKING:
    from harness.experiment.spec import Experiment
    from harness.papers.lines import PaperTable
    from harness.papers.published import Figure

FOLDER = "reproduce"
"""Below the results: the experiment files that the command has written."""
HEAD = ("method", "student", "published", "measured", "runs", "state")


@dataclass(frozen=True)
class Known:
    """An experiment of a table: its file, and what was read from it."""

    path: Path
    dataset: str
    experiment: "Experiment"


def reproduce(
    table: Annotated[
        str | None, typer.Argument(help="The table, e.g. sstkd-table-1; without it they are listed.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the plan, its cost and the state of each cell.")
    ] = False,
    results: Results = DEFAULT_RESULTS,
    write: Annotated[
        Path | None, typer.Option("--write", help="Only write the experiment files, into this folder.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Time a step of each method on this machine, on random images; minutes on a CPU."
        ),
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--page", help="Only write the state of all tables, as Markdown, into this file.")
    ] = None,
    margin: Annotated[
        float,
        typer.Option(help="Percentage points by which a reproduction may differ from the published mIoU."),
    ] = 0.5,
) -> None:
    """Plan a paper's table, then run it.

    Prints its experiments, their cost and the state of each cell. Without a table, lists all of them.
    """
    with answering():
        from harness.files import write_atomic

        if table is None and page is None and not (dry_run or measure or write):
            _list_tables()
            return
        if (table is None) == (page is None):
            raise ValueError("name a table, or give --page FILE for the state of all of them")
        if page is not None:
            write_atomic(page, state_page(results, margin))
            return
        paths = _show(str(table), dry_run, results, write, measure, margin)
    failed = False
    for path in paths if write is None else ():
        try:
            run(path, results=results)
        except typer.Exit as left:
            if left.exit_code != 1:
                raise
            failed = True  # which does not keep the next experiment from running
    if failed:
        raise typer.Exit(1)


def _list_tables() -> None:
    """The tables that have something to train."""
    from harness.papers.tables import PAPERS
    from harness.report.console import print_columns

    tables = [table for several in PAPERS.values() for table in several if table.columns]
    print_columns(["table", "what", "published under"], [[t.id, t.title, t.protocol] for t in tables])
    typer.echo("\nThe runs of a table, their cost and their state:\n    sstkd-bench reproduce TABLE --dry-run")


def _show(table: str, dry_run: bool, results: Path, write: Path | None, measure: bool, margin: float) -> list[Path]:
    """Print the plan of a table, its cost and its state; or with `write` the experiment files that were written.

    Args:
        table: e.g. "sstkd-table-1".
        dry_run: leave no files.
        results: folder of all results; the experiment files go below it where no other folder is given.
        write: folder of the experiment files, which are all that is wanted.
        measure: time a step of each method.
        margin: of a reproduction, in percentage points.

    Returns:
        The experiment files that are there now.

    Raises:
        ValueError: there is no such table, a published figure is wrong, or rows of several comparisons fit it.
        OSError: a file cannot be read or written.
    """
    from harness.papers.published import published_folder, read_published
    from harness.papers.reproduce import find_table
    from harness.report.console import print_columns

    wanted, figures = find_table(table), read_published(published_folder(results))
    with _folder(write or (None if dry_run else results / FOLDER)) as folder:
        known, unknown = _experiments(wanted, folder)
    paths = [each.path for each in known]
    if write is not None:
        for path in paths:
            typer.echo(path)
        return paths
    typer.echo(f"{wanted.title} ({wanted.id}), published under {wanted.protocol}\n")
    print_columns(list(HEAD), _states(wanted, known, figures, results, margin), right=("runs",))
    typer.echo("")
    for each in known:
        typer.echo(_cost(each.experiment, measure))
    for name in unknown:
        typer.echo(f"{name}: {_UNKNOWN}")
    if dry_run and known:
        typer.echo(f"its experiment files:\n    sstkd-bench reproduce {table} --write FOLDER")
        typer.echo(f"to run them:\n    sstkd-bench reproduce {table}")
    return [] if dry_run else paths


_UNKNOWN = "the published recipe, or a network, is not known here, so there is no experiment for it"


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _experiments(table: "PaperTable", folder: Path) -> tuple[list[Known], list[str]]:
    """The experiments of a table, their files in `folder`; and the names of those whose recipe is not known here."""
    import yaml

    from harness.experiment.load import load
    from harness.files import shipped, write_atomic
    from harness.papers.reproduce import parts

    known, unknown = [], []
    for part in parts(table, shipped("experiments")):
        if part.data is None:
            unknown.append(part.name)
            continue
        text = yaml.safe_dump(dict(part.data), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
        path = folder / f"{part.name}.yaml"
        about = f"# {table.title}. Written by `sstkd-bench reproduce`: data and recipe of the protocol's own file.\n"
        write_atomic(path, about + text)
        known.append(Known(path, part.dataset, load(path, here=False)))
    return known, unknown


def _states(
    table: "PaperTable", known: Sequence[Known], figures: "Sequence[Figure]", results: Path, margin: float
) -> list[list[str]]:
    """A line of `HEAD` for each cell."""
    import pyarrow as pa

    from harness.papers.cells import NOT_RUN
    from harness.papers.measured import COLUMNS, build, prepared
    from harness.papers.reproduce import results_name, state
    from harness.results import store

    seeds = {each.dataset: len(each.experiment.seeds) for each in known}
    folders = [results / results_name(table, name) for name in dict.fromkeys(c.dataset for c in table.columns)]
    rows = pa.concat_tables([store.read_rows(folder, list(COLUMNS)) for folder in folders])
    lines = []
    columns = [column for _ in table.lines for column in table.columns]
    for cell, column in zip(build(table, prepared(rows), figures).cells, columns, strict=True):
        measured, _, published, _ = cell.texts
        count = 1 if cell.line == "teacher" else seeds.get(column.dataset, 0)
        said = state(cell, count, margin)
        if said == NOT_RUN and not count:
            said = "recipe not known here"
        runs = str(count) if count and cell.why_not in ("", NOT_RUN) else "–"
        lines.append([cell.line, cell.column, published, measured if cell.measured else "–", runs, said])
    return lines


def _cost(experiment: "Experiment", measure: bool) -> str:
    """What an experiment costs, in one phrase."""
    from harness.experiment.plan import plan

    runs = plan(experiment)
    train, workers = experiment.train, experiment.resources.workers
    steps = sum(run.train.steps for run in runs)
    text = f"results/{experiment.name}: {len(runs)} runs, {steps:,} steps of {train.batch_size} images"
    text += f", each run on {workers} workers" if workers > 1 else ""
    if not measure:
        return f"{text}; cost not measured (--measure)"
    from harness.training.estimate import IMAGES_TIMED, calibrated

    seconds, device = calibrated(runs, experiment.resources)
    hours = sum(seconds[run.pair, run.role, run.method.label] * run.train.steps for run in runs) / 3600
    crop = "x".join(map(str, train.augment.crop_hw or ()))
    kind = "CPU" if device.startswith("CPU") else "GPU"
    return (
        f"{text}: about {hours:,.0f} {kind}-hours on {device}, from one step of each method with {IMAGES_TIMED} random "
        f"images of {crop}, scaled to {train.batch_size} (without evaluation)"
    )


def state_page(results: Path, margin: float = 0.5) -> str:
    """The state of every table, as Markdown; errors as `show`."""
    from harness.analysis.sheets import sheet
    from harness.papers.published import published_folder, read_published
    from harness.papers.tables import PAPERS
    from harness.report.formats import sheets_to_markdown

    figures = read_published(published_folder(results))
    sheets = []
    for table in (each for tables in PAPERS.values() for each in tables if each.columns):
        with _folder(None) as folder:
            known, unknown = _experiments(table, folder)
        rows = _states(table, known, figures, results, margin)
        notes = [f"Published under: {table.protocol}."]
        notes += [f"{_cost(each.experiment, False).partition(';')[0]}." for each in known]
        notes += [f"{name}: {_UNKNOWN}." for name in unknown]
        notes += [f"The teacher's figure on {data}: {other}." for data, other in table.teachers_under.items()]
        notes += [table.note] if table.note else []
        if known:
            notes.append(f"sstkd-bench reproduce {table.id}")
        sheets.append(sheet(table.id, table.title, HEAD, rows, notes))
    return _ABOUT.replace("MARGIN", f"{margin:g}") + sheets_to_markdown(sheets)


_ABOUT = """# Reproduction

The state of every published cell: the published figure, the measured one, the number of runs it needs, and whether it
is reproduced. `sstkd-bench reproduce --page FILE` writes this page from the rows in the results folder. *Reproduced*
means that the 90 % interval of our mean lies within MARGIN percentage points of the published figure (an equivalence
test at level 0.05), *not reproduced* that the 95 % interval lies outside of them, *undecided* neither: more seeds are
needed. V, V2 and C say [how well the figure is confirmed](papers.md#published-figures). A figure that nobody verified
is *unverified*; neither it nor a computed one (C) can be reproduced. Data and recipes are those of the files in
`experiments/`, with a small part of train held out as dev; tables with the same published recipe share their runs.
`sstkd-bench reproduce TABLE --dry-run --measure` estimates the cost of a table on your machine.

"""
