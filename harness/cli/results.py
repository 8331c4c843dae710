"""The commands `sstkd-bench results ...`: look at rows, fetch them, pack them."""

from pathlib import Path
from typing import Annotated

import typer

from harness.borders import shell
from harness.cli.common import DEFAULT_RESULTS, Directory, ResultsOf, RunId, answering

MANY_FILES = 2_000
"""Single files from which on `list` says that packed rows are read faster: those take seconds."""
results_app = typer.Typer(help="List, show, fetch and pack rows.", no_args_is_help=True, rich_markup_mode=None)


@results_app.command("list")
def results_list(
    directory: Directory,
) -> None:
    """List the rows, one per line.

    In a narrow window columns with the same in every row are said once, and columns that do not fit are named.
    """
    with answering():
        from harness.report.console import print_columns
        from harness.results import store

        columns = [
            "run_id",
            "status",
            "role",
            "pair",
            "method",
            "seed",
            "steps",
            "dev_miou",
            "val_miou",
            "step_ms",
            "message",
        ]
        rows = store.read_rows(directory, columns)
        if not rows.num_rows:
            raise ValueError(f"{directory}: no results yet (expected {directory / 'runs'}/*.parquet)")
        cells = (
            ["" if v is None else f"{v:.4f}" if isinstance(v, float) else str(v) for v in column.to_pylist()]
            for column in rows.columns
        )
        whole = f"{shell('sstkd-bench', 'results', 'show', str(directory), 'RUN_ID')} prints a row whole"
        print_columns(columns, list(map(list, zip(*cells, strict=True))), whole=whole)
        single = sum(1 for _ in (directory / "runs").glob("*.parquet"))
        if single >= MANY_FILES:
            command = shell("sstkd-bench", "results", "pack", str(directory))
            typer.echo(
                f"{single} rows are single files; packed ones are read many times faster:\n    {command}", err=True
            )


@results_app.command("show")
def results_show(
    directory: Directory,
    run_id: RunId,
) -> None:
    """Print one row as JSON (pictures as their size), with all metrics of its confusion matrices."""
    with answering():
        import json

        from harness import metrics
        from harness.results import store

        row = store.read_run(directory, store.find_run(directory, run_id))
        row["scores"] = metrics.of_row(row)
        typer.echo(json.dumps(row, indent=2, default=lambda v: f"{len(v)} bytes" if isinstance(v, bytes) else str(v)))


@results_app.command("pull")
def results_pull(
    source: Annotated[
        str, typer.Argument(help="The experiment's folder in the storage, e.g. s3://bucket/results/NAME.")
    ],
    directory: Annotated[Path, typer.Argument(help="The experiment's results folder here, e.g. results/quickstart.")],
    weights: Annotated[bool, typer.Option("--weights", help="Also fetch the weights of the trained networks.")] = False,
) -> None:
    """Fetch the rows of a cluster's storage into a results folder; two different results of one run are an error."""
    with answering():
        from harness.results.pull import pull
        from harness.results.storage import Storage

        pulled = pull(Storage(source), directory, weights)
        more = f", {pulled.exports} rows of exports" if pulled.exports else ""
        more += f", {pulled.weights} other files" if weights else ""
        typer.echo(f"{directory}: {pulled.new} rows fetched, {pulled.kept} already present{more}")


@results_app.command("pack")
def results_pack(
    directory: Directory,
) -> None:
    """Put the rows of finished students into one file, which is faster to read; all commands read it."""
    with answering():
        from harness.results.packs import pack

        done = pack(directory)
        if done.exports:
            typer.echo(f"{directory}: {done.exports} rows of exports packed into one file")
        if not done.rows:
            if not done.exports:
                typer.echo(f"{directory}: every row is packed already")
            return
        typer.echo(
            f"{directory}: {done.rows} rows packed into one file of {_size(done.after)} (before: {_size(done.before)})"
        )


@results_app.command("add-latency")
def results_add_latency(
    file: Annotated[Path, typer.Argument(help="latency.json of the bench.py that `export --bench-script` writes.")],
    results: ResultsOf = None,
) -> None:
    """Add the latency that another device measured to the export of the same model."""
    with answering():
        from harness.results.latency import add_latency

        directory, row = add_latency(file, results or DEFAULT_RESULTS)
        height, width = row["latency_hw"]
        typer.echo(
            f"{directory}: {row['latency_ms']:.1f} ms for {height}x{width} (p90 {row['latency_ms_p90']:.1f}), "
            f"{row['threads']} threads, {row['device']}; {100 * row['device_agreement']:.3f} % of the pixels have the "
            "labels found where it was exported"
        )


@results_app.command("unpack")
def results_unpack(
    directory: Directory,
) -> None:
    """Turn packed rows into single files again, for instance to delete one and run it again."""
    with answering():
        from harness.results.packs import unpack

        typer.echo(f"{directory}: {unpack(directory)} rows are single files again")


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
