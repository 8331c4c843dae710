"""The command `sstkd-bench run`: run all pending runs, show their progress, print the table."""

import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, AsJson, File, RerunChanged, Results, Set, answering, bench

if TYPE_CHECKING:
    from harness.bench import Bench
    from harness.cli.events import Events
    from harness.cli.progress import Display
    from harness.experiment.spec import Experiment


def run(
    file: File,
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed runs again.")] = False,
    rerun_changed: RerunChanged = False,
    from_search: Annotated[
        bool, typer.Option("--from-search", help="Use the best hyper-parameters that `tune` found.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run all pending runs, then print the table. Interrupt it at any time; re-run the same command to resume."""
    with answering():
        from harness.cli.events import Events

        wanted = bench(file, overrides, results)
        show = progress(wanted.directory, as_json)
        require_from_search(wanted.fetch_weights(show.say), file, from_search)
        before = wanted.states()
        say_what_is_done(show, before.values(), retry_failed, wanted.experiment)
        try:
            with stopped_by_sigterm(), show:
                states = wanted.run(show, retry_failed, rerun_changed)
        except KeyboardInterrupt:
            interrupted(wanted, show)
            raise typer.Exit(130) from None
        table = wanted.write_report(rewrite=states != before or retry_failed or rerun_changed)
        if isinstance(show, Events):
            show.table(table)
            show.done(states.values())
        else:
            from harness.report.console import print_table

            print_table(table, directory=wanted.directory)
            say_where_networks_are(wanted)
    exit_by(list(states.values()), wanted.directory)


def say_what_is_done(
    show: "Display | Events", states: Collection[str], retry_failed: bool, experiment: "Experiment"
) -> None:
    """The first lines, before anything that takes seconds: what will be done, and which data is not used."""
    again = ("waiting", "failed", "skipped") if retry_failed else ("waiting",)
    if pending := sum(state in again for state in states):
        show.say(f"{pending} of {len(states)} runs to do; loading torch, building the networks, reading the data")
        say_what_is_left_out(show, experiment)


def say_what_is_left_out(show: "Display | Events", experiment: "Experiment") -> None:
    """A note for each kind of files in the data's folder that no run will see."""
    from harness.datasets.inspect import left_out

    for note in left_out(experiment.data):
        show.say(f"note: {note}")


def exit_by(states: list[str], directory: Path) -> None:
    """Exit code 1 where a run failed."""
    if failed := sum(state in ("failed", "skipped") for state in states):
        from harness.borders import shell

        typer.echo(f"{failed} of {len(states)} runs failed; they are listed by:", err=True)
        typer.echo(f"    {shell('sstkd-bench', 'results', 'list', str(directory))}", err=True)
        raise typer.Exit(1)


def say_where_networks_are(wanted: "Bench") -> None:
    """The folder of the trained networks, and how to use one."""
    from harness.borders import shell
    from harness.results.find import name_of
    from harness.results.paths import weights_path

    runs = wanted.runs()
    here = [run for run in runs if weights_path(wanted.directory, run.run_id).is_file()]
    if not here:
        storage = wanted.experiment.resources.storage
        if storage is not None:
            pull = shell("sstkd-bench", "results", "pull", "--weights", f"{storage}/{wanted.directory.name}")
            typer.echo(f"networks: in {storage}; fetch them:\n    {pull} {shell(str(wanted.directory))}")
        return
    # The last of the students: of a method rather than the baseline.
    run = next((run for run in reversed(here) if run.role == "student" and run.control is None), here[-1])
    name, folder = name_of(run, runs), str(wanted.directory)
    command = shell("sstkd-bench", "predict", folder, name, "--images", "DIR", "--to", "DIR")
    typer.echo(
        f"networks: {weights_path(wanted.directory, run.run_id).parent}; to use one:\n    {command}\nor in Python:\n"
        f"    harness.load_student({name!r}, {folder!r})"
    )


def require_from_search(experiment: "Experiment", file: Path, from_search: bool) -> None:
    """`--from-search` belongs to an experiment with a search, and such an experiment is only run with it.

    Raises:
        ValueError: one without the other.
    """
    from harness.experiment import rules

    if from_search and experiment.search is None:
        raise ValueError(f"--from-search: {file} has no search; its ruleset is published. Leave the option out")
    if not from_search:
        rules.require_point(experiment, None)


def progress(directory: Path, as_json: bool) -> "Display | Events":
    """What shows the progress of an experiment: on the terminal, or as JSON on standard output."""

    def why(run_id: str) -> str | None:
        from harness.results import paths, store

        for folder in (directory, paths.search_folder(directory)):
            try:
                message: str = store.read_run(folder, run_id)["message"]
            except (OSError, ValueError):  # the run failed all the same, or the table names the corrupt row
                continue
            return message
        return None

    if as_json:
        from harness.cli.events import Events

        return Events(sys.stdout, why)
    from harness.cli.progress import Display
    from harness.report.console import output

    return Display(output(), why)


def interrupted(wanted: "Bench", show: "Display | Events") -> None:
    """Say what has finished, and how to resume."""
    from harness.cli.events import Events

    states = list(wanted.states().values())
    if isinstance(show, Events):
        show.done(states, interrupted=True)
    else:
        count = f"{states.count('ok')} of {len(states)} runs have finished"
        typer.echo(f"interrupted: {count}, rows in {wanted.directory / 'runs'}; re-run the same command to resume")


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM is like Ctrl-C for the duration of a block."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
