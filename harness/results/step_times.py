"""Step times for matched compute: how long a training step of every method takes, from the rows of timing runs.

These rows are in the experiment's folder `step_times`. The number of steps of the final runs follows from them, so
re-running a command plans the same runs.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path

from harness.experiment import rules
from harness.experiment.budget import StepTime
from harness.experiment.plan import outline, timing_runs, within_budget
from harness.experiment.rules import Key
from harness.experiment.spec import Experiment, Run
from harness.results import paths, store
from harness.results.paths import times_folder


def ids(experiment: Experiment) -> list[str]:
    """run_ids of the timing runs that the budget needs."""
    return [run.run_id for run in timing_runs(experiment)] if rules.needs_times(experiment) else []


def missing(experiment: Experiment, directory: Path) -> list[Run]:
    """The timing runs that the budget needs and that have not ended."""
    if not rules.needs_times(experiment):
        return []
    ended = store.finished(times_folder(directory))
    return [run for run in timing_runs(experiment) if run.run_id not in ended]


def timed(experiment: Experiment, directory: Path) -> bool:
    """Whether all timing runs that the budget needs have ended; True if it needs none."""
    return not missing(experiment, directory)


def beside_teachers(experiment: Experiment) -> set[str]:
    """run_ids of students that need neither a teacher nor a step time; none if a worker has no time to spare."""
    known = experiment.budget.unit == "steps" and experiment.search is None
    if not known or experiment.resources.concurrent == 1:
        return set()
    students = (run for run in outline(experiment) if run.role == "student")
    return {run.run_id for run in students if not run.method.needs_teacher}


def times(experiment: Experiment, directory: Path, file: str) -> dict[Key, StepTime]:
    """How long a step of every method takes on every pair: the median over repeats of the medians after warm-up.

    With equal steps only the additional control depends on it: then a method whose timing failed has no time, as it
    will have no result, and of several devices the one counts on which the most was timed.

    Args:
        experiment: with a budget that needs step times.
        directory: its results folder.
        file: the experiment file, for the command in the message.

    Raises:
        ValueError: a method has not been timed; with a budget of seconds also if its timing failed, or the timing runs
            used different devices.
    """
    runs = {run.run_id: run for run in timing_runs(experiment)}
    columns = ["run_id", "status", "message", "step_ms", "device"]
    folder = times_folder(directory)
    rows = {row["run_id"]: row for row in store.read_rows(folder, columns, run_ids=set(runs)).to_pylist()}
    found: dict[str, dict[Key, list[float]]] = {}
    exact = experiment.budget.unit == "seconds"
    for run_id, run in runs.items():
        row = rows.get(run_id)
        if row is None:
            raise ValueError(
                f"{folder}: a step of {run.label} on {run.pair} has not been timed yet: sstkd-bench run {file}"
            )
        if row["status"] == "ok":
            found.setdefault(row["device"], {}).setdefault((run.pair, run.method.label), []).append(row["step_ms"])
        elif exact:
            raise ValueError(
                f"{paths.run_path(folder, run_id)}: timing {run.label} on {run.pair} failed: {row['message']}. Fix "
                "the cause, then delete this row; re-running the command times it again"
            )
    if exact and len(found) > 1:
        raise ValueError(
            f"{folder}: steps were timed on different devices ({', '.join(sorted(found))}), whose times are not "
            "comparable. Delete the folder and run on devices of one kind"
        )
    most = max((found[device] for device in sorted(found)), key=len, default={})
    return {key: StepTime(ms=statistics.median(repeats), repeats=tuple(repeats)) for key, repeats in most.items()}


def known(experiment: Experiment, directory: Path, file: str) -> tuple[Experiment, dict[Key, StepTime] | None]:
    """The step times, None if none are needed; of a budget of steps before they are timed, no longer student.

    Raises:
        ValueError: as `times`.
    """
    if not rules.needs_times(experiment):
        return experiment, None
    if experiment.budget.unit == "seconds" or timed(experiment, directory):
        return experiment, times(experiment, directory, file)
    shorter = experiment.budget.model_copy(update={"longer": False})
    return experiment.model_copy(update={"budget": shorter}), None


def outlined(
    experiment: Experiment, directory: Path, file: str, seconds: Mapping[tuple[str, str, str], float]
) -> tuple[list[Run], str]:
    """The runs without the points of a search, and a remark on their steps if these have not been timed yet.

    Args:
        experiment: any.
        directory: its results folder.
        file: the experiment file, for the command in a message.
        seconds: as `harness.training.estimate.step_seconds` gives them; empty where nothing was measured.

    Raises:
        ValueError: as `times`, or the seconds are too few for a method.
    """
    if not rules.needs_times(experiment):
        return outline(experiment), ""
    if timed(experiment, directory):
        return within_budget(experiment, times(experiment, directory, file)), ""
    if not seconds:
        what = "steps that follow from a time, and the control that goes with them, are not known until `run` has timed"
        return outline(experiment), what
    what = "steps that follow from a time, and their run_ids, are estimates until `run` has timed them"
    return within_budget(experiment, estimated(experiment, seconds)), what


def estimated(experiment: Experiment, seconds: Mapping[tuple[str, str, str], float]) -> dict[Key, StepTime]:
    """Step times from `harness.training.estimate.step_seconds`, to estimate an experiment's cost."""
    keys = [(pair.name, method.label) for pair in experiment.pairs for method in experiment.methods]
    ms = {(pair, label): 1e3 * seconds[pair, "student", label] for pair, label in keys}
    return {key: StepTime(ms=value, repeats=(value,)) for key, value in ms.items()}
