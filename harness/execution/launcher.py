"""Executes all pending runs from one queue until every run is finished.

Workers write the rows, so this process holds nothing of value: it can be killed at any moment, and the same command
resumes from the last completed runs and checkpoints.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.execution.actors import ProgressActor
from harness.execution.connection import STARTING, connected, doing
from harness.execution.groups import Groups
from harness.execution.messages import Outcome
from harness.execution.nodes import idle_gpus, require_room, this_node
from harness.execution.pool import Pool
from harness.execution.queue import Queue
from harness.execution.status import ENDED, Status
from harness.execution.status_file import StatusFile
from harness.execution.workspace import Workspace
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.files import sweep
from harness.results import failures, paths, record, store
from harness.results.pull import fetch, pull

Judge = Callable[[Path, Collection[str]], Mapping[str, str]]
"""From a results folder and run_ids: the state of each run, "waiting" without a row; raises if rows are stale."""
POLL_SECONDS = 0.5
FETCHERS = 4


def rows_as_they_are(directory: Path, run_ids: Collection[str]) -> dict[str, str]:
    """The status in the rows, whatever they were made from."""
    rows = store.finished(directory)
    return {run_id: rows.get(run_id, "waiting") for run_id in run_ids}


def run_all(
    runs: Sequence[Run],
    resources: Resources,
    directory: Path,
    on_update: Callable[[Status], None],
    retry_failed: bool = False,
    judge: Judge = rows_as_they_are,
) -> dict[str, str]:
    """Execute all pending runs; finished runs are skipped.

    Args:
        runs: all runs of the experiment, teachers included.
        resources: where they run.
        directory: results folder of the experiment; every worker sees it, unless `resources` name a storage.
        on_update: called about twice a second, and whenever a run ended.
        retry_failed: execute failed and skipped runs again.
        judge: which rows are results; asked once, after the rows at a storage have been fetched.

    Returns:
        "ok" or "failed" by run_id.

    Raises:
        ValueError: a teacher's weights are missing, the cluster cannot be reached or is too small.
        OSError: the disk is full, or the storage does not answer.
    """
    directory = directory.absolute()
    workspace = Workspace(directory, resources)
    if workspace.storage is not None and workspace.storage.entries("runs"):
        pull(workspace.storage, directory, trusting=True)
    again = ("failed", "skipped") if retry_failed else ()
    found = judge(directory, [run.run_id for run in runs])
    status = Status(runs, {run_id: "waiting" if state in again else state for run_id, state in found.items()})
    waiting = [run for run in runs if status.state[run.run_id] == "waiting"]
    _check_teachers(waiting, status, directory, workspace)
    _tidy(status, directory, workspace)
    if not waiting:
        return status.state
    file = StatusFile(directory)

    def update(now: Status) -> None:
        file.update(now)
        on_update(now)

    def say(note: str) -> None:
        status.notes.append(note)
        update(status)

    status.doing = doing(resources)
    update(status)
    try:
        with connected(resources, say):
            require_room(resources)
            if idle := idle_gpus(resources):
                say(idle)
            status.doing = STARTING
            update(status)
            with ThreadPoolExecutor(FETCHERS, "fetch") as fetchers:
                _Launch(waiting, resources, directory, workspace, status, fetchers).run(update)
    finally:
        status.doing = ""
        file.update(status, ended=True)
    return status.state


def _check_teachers(waiting: Sequence[Run], status: Status, directory: Path, workspace: Workspace) -> None:
    """Check that the weights of finished teachers are where the workers look for them."""
    wanted = {run.teacher_run for run in waiting if run.method.needs_teacher} - {None}
    for teacher in sorted(str(run_id) for run_id in wanted if status.state.get(str(run_id)) == "ok"):
        workspace.offer(teacher, directory)
        weights = paths.weights_path(directory, teacher)
        if workspace.storage is None and not weights.is_file():
            raise ValueError(
                f"{weights}: the teacher's weights are missing, although its row says ok. Restore the file, or delete "
                f"{paths.run_path(directory, teacher)} to train the teacher again."
            )


def _tidy(status: Status, directory: Path, workspace: Workspace) -> None:
    """Remove what killed processes left: partially written files, checkpoints of finished runs."""
    # Without a storage these are the same folder.
    for folder in filter(None, {directory, workspace.folder, workspace.place.folder}):
        for name in ("runs", "weights", "per_image", "failures"):
            sweep(folder / name)
    for run_id in workspace.place.folders("checkpoints"):
        if status.state.get(run_id) == "ok":
            workspace.checkpoints(run_id).drop()


class Executor(Protocol):
    """Where runs are executed: a `Pool` of actors, or `Groups` of workers."""

    @property
    def running(self) -> int:
        """How many runs are being executed."""

    @property
    def slots(self) -> int:
        """How many runs can be executed at the same time."""

    @property
    def nodes(self) -> int:
        """How many nodes have room."""

    def refresh(self, waiting: int, ready: int) -> None:
        """Adapt to the nodes there are now, to the number of pending runs, and of those that could begin."""

    def assign(self, queue: Queue, tries: Counter[str]) -> Iterator[Run]:
        """Start as many runs as there is room for; yields them."""

    def wait(self, seconds: float) -> Iterator[Outcome]:
        """The runs that end within so many seconds; returns as soon as one did."""


class _Launch:
    """One pass through the queue."""

    def __init__(
        self,
        waiting: Sequence[Run],
        resources: Resources,
        directory: Path,
        workspace: Workspace,
        status: Status,
        fetchers: ThreadPoolExecutor,
    ) -> None:
        # On the node of this process: progress must not be lost with another node.
        here = NodeAffinitySchedulingStrategy(this_node(), soft=False)
        self._progress = (
            ray.remote(num_cpus=0, max_restarts=-1)(ProgressActor).options(scheduling_strategy=here).remote()
        )
        try:
            ray.get(self._progress.drain.remote())
        except ray.exceptions.RayActorError as error:
            raise ValueError(
                f"resources.address: {resources.address}: the cluster ends processes before they start "
                f"({' '.join(str(error).split())[-200:]}). Where it runs without a token, set RAY_AUTH_MODE=disabled."
            ) from None
        kind = Pool if resources.workers == 1 else Groups
        self._executor: Executor = kind(directory, resources, self._progress)
        self._queue = Queue(waiting, status.state)
        self._resources, self._directory, self._workspace = resources, directory, workspace
        self._status, self._fetchers = status, fetchers
        self._fetched: list[Future[None]] = []
        self._tries: Counter[str] = Counter()  # failures since the last progress of the run
        self._spent: defaultdict[str, float] = defaultdict(float)  # seconds of attempts that were lost
        self._reached: dict[str, int] = {}  # the step from which a run last resumed

    def run(self, on_update: Callable[[Status], None]) -> None:
        """Keep the executor busy until no run is pending or running."""
        status, executor = self._status, self._executor
        while len(self._queue) or executor.running:
            for orphan in self._queue.orphans():
                self._fail_orphan(orphan)
            executor.refresh(len(self._queue), self._queue.ready)
            status.slots, status.nodes = max(1, executor.slots), max(1, executor.nodes)
            for run in executor.assign(self._queue, self._tries):
                status.change(run, "running")
            for outcome in executor.wait(POLL_SECONDS):
                self._finish(outcome)
            self._collect()
            on_update(status)
            status.forget()
        for fetched in self._fetched:
            fetched.result()

    def _collect(self) -> None:
        """Take the progress that runs have reported since the last call."""
        try:
            progress, notes = ray.get([self._progress.drain.remote(), self._progress.notes.remote()])
        except ray.exceptions.RayActorError:  # Ray restarts it; its content is for the display only
            return
        self._status.notes += [text for text in notes if text not in self._status.notes]
        for run_id, report in progress.items():
            if report.began is not None and report.began > self._reached.get(run_id, 0):
                self._reached[run_id] = report.began
                self._tries[run_id] = 0
            self._status.report(run_id, report)
            if report.ended is not None and run_id in self._status.running:
                self._finish(Outcome(self._status.running[run_id], report.ended))

    def _finish(self, outcome: Outcome) -> None:
        run, status = outcome.run, self._status
        if status.state[run.run_id] in ENDED:  # told by the run itself, while others in step with it went on
            return
        if outcome.status in ("waiting", "yielded"):
            if outcome.status == "yielded":  # no fault of anybody's: it counts as no try
                name = f"{failures.title(run)} ({run.run_id})"
                status.notes.append(f"{name}: has left its machine, which is taken away, with a checkpoint; resumed")
            status.change(run, "waiting")
            self._queue.put_back(run)
            return
        if outcome.status == "lost" and self._workspace.status(run.run_id) == "ok":
            outcome = Outcome(run, "ok")  # its row was written before its process was lost
        if outcome.status == "lost":
            self._spent[run.run_id] += time.time() - status.since.get(run.run_id, time.time())
            if outcome.error is not None and self._workspace.storage is None:  # no attempt could write a row
                raise OSError(outcome.error.errno, f"{outcome.error.strerror}: cannot write to {self._directory}")
            self._collect()  # whether it made progress was reported before its end
            self._tries[run.run_id] += 1
            tries = self._tries[run.run_id]
            # One that was beside others gets a try by itself in any case.
            if tries <= max(self._resources.max_failures, int(outcome.beside_others)):
                name = f"{failures.title(run)} ({run.run_id})"
                status.notes.append(f"{name}: resumed, since its worker or machine failed ({outcome.reason})")
                status.change(run, "waiting")
                self._queue.put_back(run, outcome.node)
                return
            times = "once" if tries == 1 else f"{tries} times"
            failures.keep_text(self._directory, run, outcome.detail)
            again = "re-run with --retry-failed" if run.trial is None else "delete this row and re-run tune"
            self._fail(
                run,
                f"worker died {times} without progress; last: {outcome.reason} ({failures.title(run)}; details: "
                f"failures/{run.run_id}.txt). Where it ran out of memory, lower train.batch_size or "
                f"resources.concurrent; then {again}",
            )
            return
        if self._workspace.storage is not None:
            names = [f"runs/{run.run_id}.parquet"]
            if outcome.status == "failed":
                names.insert(0, f"failures/{run.run_id}.txt")
            for name in names:
                self._fetched.append(self._fetchers.submit(fetch, self._workspace.storage, self._directory, name))
        status.change(run, outcome.status)

    def _fail(self, run: Run, message: str) -> None:
        """Write the failed row of a run that no worker could finish."""
        seconds = self._spent.get(run.run_id)
        record.write_row(run, self._directory, {"wall_seconds": seconds} if seconds else {}, "failed", message)
        self._workspace.offer(run.run_id, self._directory)
        self._status.change(run, "failed")

    def _fail_orphan(self, run: Run) -> None:
        self._fail(run, f"the teacher {run.teacher_run} failed; see its row. Fix the cause, then use --retry-failed")
