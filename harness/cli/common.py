"""What the commands share: options, the experiment that is read, tables of plain columns, errors with an exit code."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.errors import text_of

if TYPE_CHECKING:
    from harness.bench import Bench
    from harness.experiment.spec import Experiment

WRONG_PATH = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError)
DEFAULT_RESULTS = Path("results")
LONGEST = 15_000
"""Characters of an error that are printed."""
COMMAND = re.compile(r": ((?:sstkd-bench|pip install) (?:'[^']*'|[^;()`'])*?)(?:$|[;,.] | (?=\())")
"""A command after a colon, up to what ends its part of the sentence."""

File = Annotated[Path, typer.Argument(help="Experiment file (YAML).")]
Files = Annotated[list[Path], typer.Argument(help="Experiment files (YAML).")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the file, e.g. train.steps=20; repeatable."),
]
Results = Annotated[
    Path, typer.Option("--results", help="Results folder; each experiment has a folder of its own in it.")
]
RerunChanged = Annotated[
    bool,
    typer.Option(
        "--rerun-changed",
        help="Run anew what was made from other data, teachers, source files or code; earlier rows move to `replaced`.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print progress and tables as JSON, one object per line.")]
Directory = Annotated[Path, typer.Argument(help="An experiment's results folder, e.g. results/quickstart.")]
NAMING = (
    "A run_id, its first characters, or method/seed such as kd/0. With two words, the first is the results folder of "
    "an experiment"
)
InDirectory = Annotated[str | None, typer.Argument(metavar="RUN", help="The run, after a directory.")]
ResultsOf = Annotated[Path | None, typer.Option("--results", help="Results folder; `results` when not given.")]
Moved = Annotated[Path | None, typer.Option("--root", help="The dataset's folder, if it has moved since the run.")]
RunId = Annotated[str, typer.Argument(help="The run_id, or its first characters.")]


def place_and_name(run: str, in_directory: str | None, results: Path | None) -> tuple[Path, str]:
    """The results folder and what the run in it is called, from one word or two.

    Raises:
        ValueError: the folder is given twice.
    """
    if in_directory is None:
        return results or DEFAULT_RESULTS, run
    if results is not None:
        raise ValueError(f"--results {results}: the folder {run} is given already; leave one out")
    return Path(run), in_directory


@contextmanager
def answering() -> Iterator[None]:
    """Turn an error into a message and an exit code; SSTKD_BENCH_TRACEBACK=1 shows where it was raised instead."""
    try:
        yield
    except BrokenPipeError:  # `... | head`: nobody reads any more
        raise
    except KeyboardInterrupt:
        if os.environ.get("SSTKD_BENCH_TRACEBACK"):
            raise
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
    except (ValueError, OSError) as error:
        if os.environ.get("SSTKD_BENCH_TRACEBACK"):
            raise
        text = text_of(error)
        if len(text) > LONGEST:
            text = f"{text[:LONGEST]} ... ({len(text):,} characters)"
        for line in error_lines(text, type(error).__name__):
            typer.echo(line, err=True)
        raise typer.Exit(2 if isinstance(error, (ValueError, *WRONG_PATH)) else 1) from None


def error_lines(text: str, kind: str) -> list[str]:
    """The lines of an error; a command to run is on a line of its own, without a prefix, so that it can be copied.

    So are lines that are indented: a list, or lines of a file.

    Args:
        text: of the error.
        kind: what is said if there is no text.
    """
    found = []
    for line in text.splitlines() or [kind]:
        if line.startswith("  "):
            found.append(line)
            continue
        first, *rest = COMMAND.split(line)
        found.append(f"error: {first}{':' if rest else ''}")
        for place, part in enumerate(rest, 1):
            if place % 2:
                found.append(f"    {part}")
            elif part:
                found.append(f"       {part}{':' * (place < len(rest))}")
    return found


def require_place(results: Path) -> None:
    """Check that a results folder that is not there yet can be made, before seconds are spent on what goes into it.

    Raises:
        ValueError: it cannot; says why, and the remedy.
    """
    if results.exists():
        return
    above = next(folder for folder in results.absolute().parents if os.path.lexists(folder))
    remedy = f"give a folder of your own: --results {Path.home() / 'results'}"
    if not above.is_dir():
        raise ValueError(f"--results {results}: {above} is no folder; {remedy}")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"--results {results}: you cannot write into {above}; {remedy}")


def load(file: Path, overrides: list[str] | None, here: bool = True) -> "Experiment":
    """The experiment of a file; `here` is False where the paths of data and weights may be a cluster's."""
    from harness.experiment import load as loader

    return loader.load(file, overrides or [], here=here)


def bench(file: Path, overrides: list[str] | None, results: Path, reading: bool = False) -> "Bench":
    """The experiment of a file, and its folder below `results`.

    Args:
        file: the experiment file.
        overrides: those of --set.
        results: folder of all results.
        reading: rows are only read: data and weights need not be on this machine.
    """
    from harness.bench import Bench

    if not reading:
        return Bench(load(file, overrides), results, file)
    from harness.experiment.weights import of_networks
    from harness.results.weights import with_digests

    try:
        experiment = load(file, overrides)
    except ValueError:
        experiment = load(file, overrides, here=False)
        elsewhere = with_digests(experiment, results / experiment.name)
        networks = [network for pair in elsewhere.pairs for network in (pair.teacher, pair.student)]
        if any(weights.sha256 is None for weights in of_networks(networks)):  # nobody knows what the runs are called
            raise
    return Bench(with_digests(experiment, results / experiment.name), results, file)
