"""How `sstkd-bench run` shows what happens, and how it ends when it is interrupted."""

import os
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from harness.cli.display import Display
    from harness.cli.events import Events
    from harness.experiment.spec import Experiment, Run


def shower(directory: Path, as_json: bool) -> "Display | Events":
    """What shows the progress of an experiment: on the terminal, or as JSON on standard output."""

    def why(run_id: str) -> str | None:
        from harness.results import store

        try:
            message: str = store.read_run(directory, run_id)["message"]
        except (OSError, ValueError):  # the row says it all the same, or the table that it is damaged
            return None
        return message

    if as_json:
        from harness.cli.events import Events

        return Events(sys.stdout, why)
    from rich.console import Console

    from harness.cli.display import Display

    return Display(Console(), why)


def launch(
    runs: "Sequence[Run]", experiment: "Experiment", directory: Path, show: "Display | Events", retry_failed: bool
) -> None:
    """Bring every run to a row.

    Raises:
        ValueError: as `harness.execution.launcher.run_all`.
        OSError: as `harness.execution.launcher.run_all`, and where `directory` cannot be written.
        typer.Exit: 130, it was interrupted.
    """
    # Better told now than after the training.
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
        raise PermissionError(f"{directory} cannot be written; choose another --results folder")

    try:
        with ended_by_sigterm(), show:
            from harness.execution.launcher import run_all  # torch and ray: seconds

            run_all(runs, experiment.resources, directory, show, retry_failed)
    except KeyboardInterrupt:
        _interrupted(runs, directory, show)
        raise typer.Exit(130) from None


def train_teachers(
    experiment: "Experiment",
    wanted: Collection[str | None],
    directory: Path,
    show: "Display | Events",
    retry_failed: bool,
) -> "list[Run]":
    """Train teachers before the runs that need them are planned; build every method on its pair before that.

    Args:
        experiment: whose.
        wanted: their run_ids; None, the teacher of a method that needs none, is passed over.
        directory: the experiment's results folder.
        show: shows the progress.
        retry_failed: train those again that failed.

    Returns:
        The teachers' runs.

    Raises:
        ValueError: as `launch`; a network cannot be built, a method does not apply, a logger is not installed.
        OSError: as `launch`.
        typer.Exit: 130, it was interrupted.
    """
    from harness.experiment.plan import outline

    runs = outline(experiment)
    require_ready(experiment, runs)
    teachers = [run for run in runs if run.run_id in wanted]
    if waiting(teachers, directory, retry_failed):
        launch(teachers, experiment, directory, show, retry_failed)
    return teachers


def require_ready(experiment: "Experiment", runs: "Sequence[Run]") -> None:
    """Look for what would end the runs, before hours are spent on a teacher.

    Raises:
        ValueError: a logger is not installed, a network cannot be built, or a method does not apply to its pair.
    """
    from harness.execution import loggers

    loggers.require(experiment.resources.loggers)
    if experiment.resources.address == "local":  # elsewhere this machine may not have the data
        from harness.training.estimate import require_buildable

        require_buildable(runs)


def waiting(runs: "Sequence[Run]", directory: Path, retry_failed: bool) -> "list[Run]":
    """The runs that have no row yet, or one that is not to count."""
    again = ("waiting", "failed", "skipped") if retry_failed else ("waiting",)
    return [run for run, state in zip(runs, states(runs, directory), strict=True) if state in again]


def time_steps(experiment: "Experiment", directory: Path, show: "Display | Events", retry_failed: bool) -> None:
    """Where the budget is one of seconds: time a step of every method, after its teacher has been trained.

    Args:
        experiment: any.
        directory: its results folder.
        show: shows the progress.
        retry_failed: train and time again what failed.

    Raises:
        ValueError: as `train_teachers`; a teacher or a method failed.
        OSError: as `launch`.
        typer.Exit: 130, it was interrupted.
    """
    from harness.experiment import rules
    from harness.experiment.plan import timing_runs
    from harness.results import paths

    if not rules.needs_times(experiment):
        return
    folder, runs = paths.times_folder(directory).absolute(), timing_runs(experiment)
    if not waiting(runs, folder, retry_failed):
        return
    needed = {run.teacher_run for run in runs if run.method.needs_teacher}
    teachers = train_teachers(experiment, needed, directory, show, retry_failed)
    from harness.execution.workspace import Workspace, below, copy_teacher

    # Nobody looks at the curves of a few steps.
    resources = below(experiment.resources, directory.name).model_copy(update={"loggers": ()})
    source, home = Workspace(directory.absolute(), experiment.resources), Workspace(folder, resources)
    for run in teachers:
        copy_teacher(run.run_id, directory, source, folder, home)
    timing = experiment.model_copy(update={"resources": resources})
    launch([*teachers, *runs], timing, folder, show, retry_failed)


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
    from harness.cli.events import Events

    if isinstance(show, Events):
        show.done(states(runs, directory), interrupted=True)
        return
    done = states(runs, directory).count("ok")
    typer.echo(f"interrupted: {done} rows are in {directory / 'runs'}; the same command continues.")


def states(runs: "Sequence[Run]", directory: Path) -> list[str]:
    """What the row of each run says: "ok", "failed", "skipped"; "waiting" without one."""
    from harness.results import store

    rows: dict[str, Any] = store.finished(directory)
    return [rows.get(run.run_id, "waiting") for run in runs]
