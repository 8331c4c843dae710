"""The command `sstkd-bench compare`: methods over the pairs and datasets of several experiments."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from harness.analysis.across import Across
    from harness.experiment.spec import Experiment


def compare(files: "Sequence[tuple[Path, Experiment]]", results: Path, to: Path) -> None:
    """Print the comparison, and write it with its pictures into a folder.

    Args:
        files: experiment files and what was read from them.
        results: folder of all results.
        to: the folder, which is made.

    Raises:
        ValueError: there are no rows, rows or experiments that must not be compared, or no baseline.
        OSError: the folder cannot be written.
    """
    from harness.analysis.across import across
    from harness.analysis.comparison import COLUMNS, quick_table
    from harness.cli import tune
    from harness.experiment import rules
    from harness.files import write_atomic
    from harness.report.across import pictures, to_markdown
    from harness.results import store

    tables, rows = [], dict[str, dict[str, Any]]()
    more = (
        *("student_parameters", "student_macs", "student_latency_ms", "train_seconds"),
        *("dev_confusion", "dev_boundary_confusion"),
    )
    for file, experiment in files:
        directory = results / experiment.name
        ids = [run.run_id for run in tune.runs_of(experiment, file, results, experiment.search is not None)]
        read = store.read_runs(directory, [*COLUMNS, *more, "class_names"], run_ids=ids)
        if not read.num_rows:
            raise ValueError(f"{directory}: there are no rows yet. Run it first: sstkd-bench run {file}")
        tables.append(quick_table(read, rules.labels(experiment), experiment.seeds))
        rows |= {row["run_id"]: row for row in read.to_pylist()}
    found = across(tables)
    _print(found)
    to.mkdir(parents=True, exist_ok=True)
    write_atomic(to / "compare.md", to_markdown(found, rows))
    for name, content in pictures(found, rows).items():
        write_atomic(to / name, content)
    typer.echo(f"\ntables and pictures: {to}")


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
