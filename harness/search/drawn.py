"""Trials whose points were drawn before the search: runs like any others, so the launcher executes them.

They share workers, a worker's teacher and, with `resources.together`, its passes, as the runs of an experiment do.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.execution.launcher import run_all
from harness.execution.status import Looker, Status
from harness.execution.workspace import Workspace
from harness.experiment.plan import teacher_run
from harness.experiment.resources import Resources
from harness.experiment.spec import Experiment, Run
from harness.experiment.studies import Study, trial_run
from harness.results import store
from harness.search.outcome import spent
from harness.search.points import Values, proposer
from harness.search.status import TrialUpdate


def run_drawn(
    experiment: Experiment,
    folder: Path,
    resources: Resources,
    studies: Sequence[Study],
    values: Sequence[Sequence[Values]],
    on_trial: Callable[[TrialUpdate], None],
    on_update: Callable[[Status], None],
) -> None:
    """Run all trials that are not finished, point by point in the order of their numbers, each with all search seeds.

    Args:
        experiment: with a search.
        folder: of the search, absolute; the teachers' rows and weights are there, or in the storage.
        resources: of a trial.
        studies: of the experiment.
        values: by study and number.
        on_trial: called when a trial begins and when it has ended.
        on_update: called about twice a second.

    Raises:
        ValueError, OSError: as `run_all`.
    """
    taught = {study.template.teacher_run for study in studies if study.template.method.needs_teacher}
    teachers = [run for pair in experiment.pairs if (run := teacher_run(experiment, pair)).run_id in taught]
    trials: dict[str, tuple[Study, Run]] = {}
    for number in range(max(map(len, values))):
        for study, drawn in zip(studies, values, strict=True):
            for seed in study.seeds:
                run = trial_run(study, number, proposer(experiment), drawn[number], seed)
                trials[run.run_id] = study, run
    workspace, looker, begun = Workspace(folder, resources), Looker(), set[str]()

    def update(status: Status) -> None:
        changes = looker.look(status)
        for run_id, run in changes.begun:
            if run_id not in begun:  # else it resumes
                begun.add(run_id)
                tell(run, "running", None, 0.0, "")
        for run_id, run in changes.ended:
            if status.state[run_id] != "ok":  # the launcher keeps them for a retry, which a trial does not have
                workspace.checkpoints(run_id).drop()
            try:
                row = _row(workspace, folder, run_id)
            except OSError as error:  # of a storage, for a moment: the search goes on
                tell(run, status.state[run_id], None, 0.0, f"its row cannot be read now: {error}")
            else:
                tell(run, row["status"], row["dev_miou"], spent(row), row["message"])
        on_update(status)

    def tell(run: Run, status: str, dev_miou: float | None, seconds: float, message: str) -> None:
        assert run.trial is not None
        key = trials[run.run_id][0].key
        on_trial(TrialUpdate(*key, run.trial.number, run.seed, status, dev_miou, seconds, message))

    run_all([*teachers, *(run for _, run in trials.values())], resources, folder, update)


def _row(workspace: Workspace, folder: Path, run_id: str) -> dict[str, Any]:
    if workspace.storage is None:
        return store.read_run(folder, run_id)
    name = f"runs/{run_id}.parquet"  # not fetched yet, perhaps
    return store.parse_row(workspace.place.read(name), name)
