"""How `sstkd-bench run` shows what happens, and how it ends when it is interrupted."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from harness.display import Display
    from harness.events import Events
    from harness.spec import Experiment, Run


def shower(directory: Path, as_json: bool) -> "Display | Events":
    """What shows the progress of an experiment: on the terminal, or as JSON on standard output."""

    def why(run_id: str) -> str | None:
        from harness import store

        try:
            message: str = store.read_row(store.run_path(directory, run_id))["message"]
        except (OSError, ValueError):  # the row says it all the same, or the table that it is damaged
            return None
        return message

    if as_json:
        from harness.events import Events

        return Events(sys.stdout, why)
    from rich.console import Console

    from harness.display import Display

    return Display(Console(), why)


def launch(
    runs: "Sequence[Run]", experiment: "Experiment", directory: Path, show: "Display | Events", retry_failed: bool
) -> None:
    """Bring every run to a row.

    Raises:
        ValueError: as `harness.launch.run_all`.
        OSError: as `harness.launch.run_all`, and where `directory` cannot be written.
        typer.Exit: 130, it was interrupted.
    """
    # Better told now than after the training.
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
        raise PermissionError(f"{directory} cannot be written; choose another --results folder")

    try:
        with ended_by_sigterm(), show:
            from harness.launch import run_all  # torch and ray: seconds

            run_all(runs, experiment.resources, directory, show, retry_failed)
    except KeyboardInterrupt:
        _interrupted(runs, directory, show)
        raise typer.Exit(130) from None


def time_steps(
    experiment: "Experiment", file: Path, directory: Path, show: "Display | Events", from_search: bool
) -> None:
    """Where the budget is one of seconds: time a step of every method, after its teacher has been trained.

    Raises:
        ValueError: as `launch`; a teacher or a method failed; the ruleset wants a search first.
        OSError: as `launch`.
        typer.Exit: 130, it was interrupted.
    """
    from harness import matched, protocol, store

    if not protocol.needs_times(experiment):
        return
    if not from_search:
        protocol.require_point(experiment, None)
    folder, runs = matched.times_folder(directory).absolute(), protocol.timing_runs(experiment)
    rows = store.finished(folder)
    waiting = [run for run in runs if run.run_id not in rows]
    if not waiting:
        return
    outline = protocol.outline(experiment)
    if experiment.resources.address == "local":
        from harness.estimate import require_buildable

        require_buildable(outline)
    needed = {run.teacher_run for run in waiting if run.method.needs_teacher}
    teachers = [run for run in outline if run.run_id in needed]
    finished = store.finished(directory)
    if any(run.run_id not in finished for run in teachers):
        launch(teachers, experiment, directory, show, False)
    from harness.home import Home, below, lend

    source = Home(directory.absolute(), experiment.resources)
    resources = below(experiment.resources, directory.name)
    for run in teachers:
        lend(run.run_id, directory, source, folder, Home(folder, resources))
    timing = experiment.model_copy(update={"resources": resources})
    launch([*teachers, *waiting], timing, folder, show, False)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM is like Ctrl-C for the duration of a block."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(runs: "Sequence[Run]", directory: Path, show: "Display | Events") -> None:
    from harness.events import Events

    if isinstance(show, Events):
        show.done(states(runs, directory), interrupted=True)
        return
    done = states(runs, directory).count("ok")
    typer.echo(f"interrupted: {done} rows are in {directory / 'runs'}; the same command continues.")


def states(runs: "Sequence[Run]", directory: Path) -> list[str]:
    """What the row of each run says: "ok", "failed", "skipped"; "waiting" without one."""
    from harness import store

    rows: dict[str, Any] = store.finished(directory)
    return [rows.get(run.run_id, "waiting") for run in runs]
