"""The list of runs is driven from one queue until every run has a row.

Rows are written where a run ends, so nothing of value lives in this process: it can be killed at any moment, and the
same command goes on where the rows and checkpoints stop.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.execution.actors import Board
from harness.execution.connection import connected, require_room, this_node
from harness.execution.groups import Groups
from harness.execution.messages import Outcome
from harness.execution.pool import Pool
from harness.execution.queue import Queue
from harness.execution.status import Status
from harness.execution.workspace import Home
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.files import sweep
from harness.results import paths, record, store
from harness.results.pull import fetch, pull

POLL_SECONDS = 0.5
FETCHERS = 4


def run_all(
    runs: Sequence[Run],
    resources: Resources,
    experiment: Path,
    on_update: Callable[[Status], None],
    retry_failed: bool = False,
) -> dict[str, str]:
    """Bring every run to a row; runs that have one are skipped.

    Args:
        runs: all runs of the experiment, teachers included.
        resources: where they run.
        experiment: the results folder of the experiment; every worker sees it, unless `resources` name a storage.
        on_update: called about twice a second, and whenever a run ended.
        retry_failed: run failed runs again.

    Returns:
        "ok" or "failed" by run_id.

    Raises:
        ValueError: a teacher's weights are missing, the cluster cannot be reached or is too small.
        OSError: the disk is full, or the storage does not answer.
    """
    experiment = experiment.absolute()
    home = Home(experiment, resources)
    if home.storage is not None and home.storage.entries("runs"):
        pull(home.storage, experiment, trusting=True)
    status = Status(runs, _states(runs, experiment, retry_failed))
    waiting = [run for run in runs if status.state[run.run_id] == "waiting"]
    _check_teachers(waiting, status, experiment, home)
    _tidy(status, experiment, home)
    if not waiting:
        return status.state
    on_update(status)
    with connected(resources):
        require_room(resources)
        with ThreadPoolExecutor(FETCHERS, "fetch") as fetchers:
            _Drive(waiting, resources, experiment, home, status, fetchers).to_the_end(on_update)
    return status.state


def _states(runs: Sequence[Run], experiment: Path, retry_failed: bool) -> dict[str, str]:
    rows = store.finished(experiment)
    again = ("failed", "skipped") if retry_failed else ()
    return {
        run.run_id: "waiting" if rows.get(run.run_id, "none") in ("none", *again) else rows[run.run_id] for run in runs
    }


def _check_teachers(waiting: Sequence[Run], status: Status, experiment: Path, home: Home) -> None:
    """See that the weights of finished teachers are where the workers look for them."""
    wanted = {run.teacher_run for run in waiting if run.method.needs_teacher} - {None}
    for teacher in sorted(str(run_id) for run_id in wanted if status.state.get(str(run_id)) == "ok"):
        home.offer(teacher, experiment)
        weights = paths.weights_path(experiment, teacher)
        if home.storage is None and not weights.is_file():
            raise ValueError(
                f"{weights}: the teacher's weights are missing, yet its row says ok. Put the file back, or delete "
                f"{paths.run_path(experiment, teacher)} to train the teacher again."
            )


def _tidy(status: Status, experiment: Path, home: Home) -> None:
    """Remove what processes left that were killed: half of a file, checkpoints of runs that have their row."""
    for folder in filter(None, {experiment, home.folder, home.place.folder}):  # one and the same without a storage
        for name in ("runs", "weights", "per_image"):
            sweep(folder / name)
    for run_id in home.place.folders("checkpoints"):
        if status.state.get(run_id) == "ok":
            home.checkpoints(run_id).drop()


class _Drive:
    """One drive through the queue."""

    def __init__(
        self,
        waiting: Sequence[Run],
        resources: Resources,
        experiment: Path,
        home: Home,
        status: Status,
        fetchers: ThreadPoolExecutor,
    ) -> None:
        # On the node of this process: a node that is lost must not take along what runs have said.
        here = NodeAffinitySchedulingStrategy(this_node(), soft=False)
        self._board = ray.remote(num_cpus=0, max_restarts=-1)(Board).options(scheduling_strategy=here).remote()
        try:
            ray.get(self._board.drain.remote())
        except ray.exceptions.RayActorError as error:
            raise ValueError(
                f"resources.address: {resources.address}: the cluster ends our processes before they start "
                f"({' '.join(str(error).split())[-200:]}). Where it runs without a token, set RAY_AUTH_MODE=disabled."
            ) from None
        lanes = Pool if resources.workers == 1 else Groups
        self._lanes: Pool | Groups = lanes(experiment, resources, self._board)
        self._queue = Queue(waiting, status.state)
        self._resources, self._experiment, self._home = resources, experiment, home
        self._status, self._fetchers = status, fetchers
        self._fetched: list[Future[None]] = []
        self._tries: Counter[str] = Counter()  # failures since the run last came further
        self._reached: dict[str, int] = {}  # the step of the checkpoint that a run was last taken up from

    def to_the_end(self, on_update: Callable[[Status], None]) -> None:
        """Keep every lane busy until no run waits or runs."""
        status, lanes = self._status, self._lanes
        while len(self._queue) or lanes.running:
            for orphan in self._queue.orphans():
                self._fail_orphan(orphan)
            lanes.refresh(len(self._queue))
            status.slots, status.nodes = max(1, lanes.slots), max(1, lanes.nodes)
            for run in lanes.assign(self._queue, self._tries):
                status.change(run, "running")
            for outcome in lanes.wait(POLL_SECONDS):
                self._settle(outcome)
            self._listen()
            on_update(status)
            status.forget()
        for fetched in self._fetched:
            fetched.result()

    def _listen(self) -> None:
        """Take in what runs have said since."""
        try:
            said, complaints = ray.get([self._board.drain.remote(), self._board.complaints.remote()])
        except ray.exceptions.RayActorError:  # it starts again; what was said is for the display only
            return
        self._status.notes += [text for text in complaints if text not in self._status.notes]
        for run_id, progress in said.items():
            began = progress.pop("began", None)
            if began is not None and began > self._reached.get(run_id, 0):
                self._reached[run_id] = began
                self._tries[run_id] = 0
            self._status.report(run_id, progress)

    def _settle(self, outcome: Outcome) -> None:
        run, status = outcome.run, self._status
        if outcome.status == "lost":
            if outcome.error is not None and self._home.storage is None:  # the next try could write no row either
                raise OSError(outcome.error.errno, f"{outcome.error.strerror}: cannot write to {self._experiment}")
            self._listen()  # whether it came further has been said before the end
            self._tries[run.run_id] += 1
            tries = self._tries[run.run_id]
            if tries <= self._resources.max_failures:
                status.notes.append(
                    f"{run.run_id}: is taken up again, since its worker or machine failed ({outcome.reason})"
                )
                status.change(run, "waiting")
                self._queue.put_back(run, outcome.node)
                return
            times = "once" if tries == 1 else f"{tries} times"
            self._fail(run, f"lost {times} without coming further; the last time: {outcome.reason}")
            return
        if self._home.storage is not None:
            name = f"runs/{run.run_id}.parquet"
            self._fetched.append(self._fetchers.submit(fetch, self._home.storage, self._experiment, name))
        status.change(run, outcome.status)

    def _fail(self, run: Run, message: str) -> None:
        """Write the row that no worker could write."""
        record.write_row(run, self._experiment, {}, "failed", message)
        self._home.offer(run.run_id, self._experiment)
        self._status.change(run, "failed")

    def _fail_orphan(self, run: Run) -> None:
        self._fail(
            run, f"the teacher {run.teacher_run} failed; see its row. After mending it: run again with --retry-failed"
        )
