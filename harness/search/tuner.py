"""The search: its trials are executed like any runs, or by Ray Tune where an algorithm may end them or proposes them.

Their rows are the record. This process and Tune's own folder hold nothing that is needed later: whatever ends the
search, re-running the same command resumes it from the rows, the checkpoints of the trials that had begun, and the
points drawn before.
"""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from harness.execution.connection import STARTING, connected, doing
from harness.execution.nodes import require_room, room, this_node
from harness.execution.sharing import on_node
from harness.execution.status import Status
from harness.execution.status_file import StatusFile
from harness.execution.workspace import Workspace, below, copy_teacher
from harness.experiment.search_settings import Search
from harness.experiment.space import values_in
from harness.experiment.spec import Experiment, Run
from harness.experiment.studies import Study, studies_of, trial_run
from harness.results import record, store
from harness.results.paths import search_folder
from harness.results.pull import fetch, pull
from harness.search import algorithms, points
from harness.search import outcome as best
from harness.search.drawn import run_drawn
from harness.search.outcome import Outcome, spent
from harness.search.points import LEARNING, proposer
from harness.search.status import TrialStatus, TrialUpdate
from harness.search.trial import Context, asked, forget, named, parsed, remember, run_trial
from harness.training.progress import Progress

ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the rows are the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command; re-running it resumes the search
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a method's package may be found by a relative path
}
SCRATCH = "tune"  # Tune's own folder below the search's


def search(
    experiment: Experiment,
    directory: Path,
    on_trial: Callable[[TrialUpdate], None],
    on_update: Callable[[Status], None] = lambda status: None,
    judge: Callable[[Path, None], object] = lambda folder, ids: None,
) -> None:
    """Run all trials that are not finished yet. The teachers have been trained before.

    Args:
        experiment: with a search.
        directory: its results folder, absolute.
        on_trial: called when a trial begins and when it has ended.
        on_update: called while Ray is started or joined, and by `run_drawn` about twice a second.
        judge: called with the search's folder once the rows at a storage have been fetched; raises if rows are stale.

    Raises:
        ValueError: the folder holds a different search, Optuna or a teacher is missing, the cluster cannot be reached
            or is too small.
        OSError: the disk is full, or the storage does not answer.
    """
    assert experiment.search is not None
    studies = studies_of(experiment)
    if proposer(experiment) == LEARNING:
        algorithms.require_optuna()
    values = points.drawn(experiment, studies)
    folder = search_folder(directory)
    points.keep(folder, experiment, studies, values)
    # Of a trial: one worker, and no loggers, where it would be among the final runs.
    resources = below(experiment.resources, directory.name).model_copy(update={"workers": 1, "loggers": ()})
    workspace = Workspace(folder, resources)
    if workspace.storage is not None and workspace.storage.entries("runs"):
        pull(workspace.storage, folder)
        judge(folder, None)
    if all(outcome.complete for outcome in best.outcomes(experiment, directory)):
        return
    for run_id in sorted({str(s.template.teacher_run) for s in studies if s.template.method.needs_teacher}):
        copy_teacher(run_id, directory, Workspace(directory, experiment.resources), folder, workspace)
    if experiment.search.algorithm is None:
        run_drawn(experiment, folder, resources, studies, values, on_trial, on_update)
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    status, file = TrialStatus(best.outcomes(experiment, directory)), StatusFile(folder)

    def say(note: str) -> None:
        status.notes.append(note)
        on_update(status)

    status.doing = doing(resources)
    file.update(status)
    on_update(status)
    try:
        with connected(resources, say):
            require_room(resources)
            status.doing = STARTING
            on_update(status)
            shelf = on_node(this_node())
            context = Context(folder, resources, tuple(studies), proposer(experiment), shelf, this_node())
            for place in range(len(studies)):
                outcomes = best.outcomes(experiment, directory)
                if not outcomes[place].complete:
                    _Session(context, workspace, experiment, outcomes, on_trial, status, file).run(place, values[place])
    finally:
        status.doing = ""
        file.update(status, ended=True)
    workspace.place.remove_folder(SCRATCH)


class _TimeIsUp(tune.Stopper):  # type: ignore[misc]
    """Ends a study when its trials have used up the worker minutes.

    Args:
        minutes: None for no limit.
        before: seconds of the trials of earlier sessions.
    """

    def __init__(self, minutes: float | None, before: float) -> None:
        self._left = None if minutes is None else 60 * minutes - before
        self._seconds: dict[str, float] = {}

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        self._seconds[trial_id] = result["seconds"]
        return False

    def stop_all(self) -> bool:
        """Whether the time is up."""
        return self._left is not None and sum(self._seconds.values()) >= self._left


class _Session(tune.Callback):  # type: ignore[misc]
    """One run of Tune over an unfinished study; as Tune's callback it writes the rows that no worker can write."""

    def __init__(
        self,
        context: Context,
        workspace: Workspace,
        experiment: Experiment,
        outcomes: Sequence[Outcome],
        on_trial: Callable[[TrialUpdate], None],
        status: TrialStatus,
        file: StatusFile,
    ) -> None:
        assert experiment.search is not None
        self._context, self._workspace, self._on_trial = context, workspace, on_trial
        self._status, self._file = status, file
        self._search: Search = experiment.search
        self._eval_every = experiment.train.eval_every
        self._outcomes = outcomes
        self._began: dict[str, float] = {}
        self._last: dict[str, Mapping[str, Any]] = {}
        self._open: dict[str, Any] = {}
        self._stopper = _TimeIsUp(None, 0.0)
        self._stdout = sys.stdout

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: the pickle that Tune writes is never read."""
        return {}

    def run(self, place: int, values: Sequence[points.Values]) -> None:
        """Run the unfinished trials of a study.

        Args:
            place: of the study, in the context.
            values: by number, where they were drawn before the search.
        """
        study, outcome = self._context.studies[place], self._outcomes[place]
        finished = {(trial.number, trial.seed) for trial in outcome.trials}
        waiting = [
            {"study": place, "number": number, "seed": seed}
            for number in range(self._search.trials)
            for seed in study.seeds
            if (number, seed) not in finished
        ]
        self._stopper = _TimeIsUp(self._search.minutes, outcome.seconds)
        if self._stopper.stop_all():
            return
        if self._context.algorithm == LEARNING:
            searcher, count, space = self._proposals(place, [t["number"] for t in waiting]), len(waiting), {}
        else:
            each = [t | {"values": values[t["number"]]} for t in waiting]
            searcher, count, space = None, 1, {"each": tune.grid_search(each)}
        curves = self._curves(place) if self._search.algorithm == "asha" else {}
        self._fit(
            space,
            tune.TuneConfig(
                search_alg=searcher,
                num_samples=count,
                scheduler=algorithms.scheduler(self._search, study.template.train.steps, self._eval_every, curves),
                max_concurrent_trials=self._slots(),
                reuse_actors=True,
                trial_name_creator=lambda t: named(t.config["each"]),
                trial_dirname_creator=lambda t: str(t.trial_id),
            ),
        )
        for trial in list(self._open.values()):
            self._settle(trial)

    def _fit(self, space: Mapping[str, Any], config: tune.TuneConfig) -> None:
        resources, scratch = self._context.resources, self._workspace.place.below(SCRATCH)
        each = {"cpu": resources.cpus, "gpu": resources.gpus_per_worker}
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, context=self._context), each),
            param_space=dict(space),
            tune_config=config,
            run_config=tune.RunConfig(
                name=f"{int(time.time())}-{os.getpid()}",
                storage_path=str(Path(scratch.uri).absolute()) if scratch.folder is not None else scratch.uri,
                failure_config=tune.FailureConfig(max_failures=resources.max_failures),
                stop=self._stopper,
                callbacks=[self],
                verbose=0,
            ),
        )
        with contextlib.redirect_stdout(io.StringIO()):  # Tune says where its folder is, which is no concern
            tuner.fit()

    def _slots(self) -> int:
        return min(sum(room(self._context.resources).values()), self._context.resources.concurrent or 10**9)

    def _proposals(self, place: int, numbers: Sequence[int]) -> Any:
        study = self._context.studies[place]
        begun = {number: asked(self._workspace, study.key, number) for number in numbers}
        waiting = {
            number: None if run is None else values_in(study.space, run.method.parameters, run.train.optimizer.lr)
            for number, run in begun.items()
        }

        def begin(number: int, values: dict[str, float]) -> dict[str, Any]:
            remember(self._workspace, study.key, trial_run(study, number, self._context.algorithm, values))
            return {"each": {"study": place, "number": number, "seed": study.seeds[0], "values": values}}

        return algorithms.proposals(self._outcomes[place], self._search, waiting, begin)

    def _curves(self, place: int) -> algorithms.Curves:
        numbers = {trial.run_id: trial.number for trial in self._outcomes[place].trials}
        rows = store.read_rows(self._context.folder, ["run_id", "curve"], run_ids=set(numbers)).to_pylist()
        return {numbers[row["run_id"]]: row["curve"] or () for row in rows}

    # What Tune calls.

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial begins or resumes."""
        if trial.trial_id not in self._open:
            self._open[trial.trial_id] = trial
            self._began[trial.trial_id] = time.monotonic()
            self._status.begin(self._run(trial))
            self._update(trial, "running", None, 0.0, "")

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        """A trial has evaluated."""
        self._last[trial.trial_id] = dict(result)
        run = self._run(trial)
        said = {key: result.get(key) for key in ("dev_miou", "step_ms", "pid")}
        curve = result.get("curve") or [{"step": result.get("step")}]
        self._status.report(
            run.run_id,
            Progress(step=curve[-1]["step"], steps=run.train.steps, node=result.get("hostname"), **said),
        )

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Tune has looked at all trials; it does so several times a second."""
        self._file.update(self._status)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial has finished, or was ended early."""
        self._settle(trial)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial's worker or machine failed more often than `max_failures`."""
        self._settle(trial)

    def _settle(self, trial: Any) -> None:
        """Make sure that a trial that has ended has a row in the results folder."""
        if self._open.pop(trial.trial_id, None) is None:
            return
        study, number, _ = self._parts(trial)
        folder, workspace = self._context.folder, self._workspace
        run = self._run(trial)
        if workspace.status(run.run_id) is None:
            self._write_row(run, trial)
            workspace.offer(run.run_id, folder)
        elif workspace.storage is not None:
            fetch(workspace.storage, folder, f"runs/{run.run_id}.parquet")
        workspace.checkpoints(run.run_id).drop()
        forget(workspace, study.key, number)
        row = store.read_run(folder, run.run_id)
        self._status.change(run, row["status"])
        self._status.forget()
        self._update(trial, row["status"], row["dev_miou"], spent(row), row["message"])

    def _write_row(self, run: Run, trial: Any) -> None:
        """The row of a trial that was ended early, or that lost its worker."""
        last, steps = self._last.get(trial.trial_id, {}), run.train.steps
        curve = list(last.get("curve", ()))
        columns: dict[str, Any] = {"wall_seconds": time.monotonic() - self._began[trial.trial_id], "curve": curve}
        if curve:
            top = max(curve, key=lambda point: point["dev_miou"])
            columns |= {"best_dev_miou": top["dev_miou"], "best_dev_step": top["step"]}
            columns |= {key: last[key] for key in ("dev_miou", "step_ms", "train_seconds", "eval_seconds")}
        if trial.status == trial.ERROR:
            record.write_row(run, self._context.folder, columns, "failed", f"its worker was lost: {_reason(trial)}")
            return
        done = curve[-1]["step"] if curve else 0
        why = f"stopped at step {done} of {steps}: the time of the search is up"
        if not self._stopper.stop_all():
            why = f"pruned at step {done} of {steps} by {self._context.algorithm}"
        record.write_row(run, self._context.folder, columns, "skipped", why)

    def _run(self, trial: Any) -> Run:
        study, number, seed = self._parts(trial)
        return trial_run(study, number, self._context.algorithm, trial.config["each"]["values"], seed)

    def _parts(self, trial: Any) -> tuple[Study, int, int]:
        """The study of a trial, the number of its point and its seed."""
        place, number, seed = parsed(str(trial))
        return self._context.studies[place], number, seed

    def _update(self, trial: Any, status: str, dev_miou: float | None, seconds: float, message: str) -> None:
        study, number, seed = self._parts(trial)
        with contextlib.redirect_stdout(self._stdout):
            self._on_trial(TrialUpdate(*study.key, number, seed, status, dev_miou, seconds, message))


def _reason(trial: Any) -> str:
    """A trial's last failure as Tune recorded it, in one sentence."""
    try:
        text = Path(trial.error_file).read_text().rpartition("Failure # ")[2].partition("\n")[2]
    except (OSError, TypeError):  # it wrote nothing
        return "the reason is unknown"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-1:] if "Traceback" in text else lines)[:300]
