"""Ray runs the list: warm actors take run after run; a run with several workers is a Ray Train worker group.

One process that calls Ray `local` or joins a running cluster. Rows are written where the run ends, so nothing of value
lives in this process: it can be killed at any moment, and the same command goes on where the rows and checkpoints stop.
"""

import os
import shutil
import signal
import socket
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch

from harness import record, store
from harness.execute import execute
from harness.loggers import LOGGERS
from harness.parts import weights_path
from harness.runtime import Progress, Runtime
from harness.spec import Resources, Run

ATTEMPTS = 3  # a worker process that dies (out of memory, lost node) gets its run this often
POLL_SECONDS = 0.5


@dataclass
class Status:
    """What is going on, for a display.

    Attributes:
        runs: every run of the experiment.
        state: "waiting", "running", "ok" or "failed" by run_id.
        progress: the last word of each run that runs or ran in this session: step, steps, loss, dev_miou, step_ms.
        slots: runs at the same time.
        notes: things worth telling once.
    """

    runs: Sequence[Run]
    state: dict[str, str]
    progress: dict[str, Progress] = field(default_factory=dict)
    slots: int = 1
    notes: list[str] = field(default_factory=list)

    def eta_seconds(self) -> float | None:
        """Seconds to the end at the measured step times, None before the first is known."""
        known = {
            run.run_id: p["step_ms"] for run in self.runs if (p := self.progress.get(run.run_id)) and p.get("step_ms")
        }
        if not known:
            return None
        by_method: dict[tuple[str, str], list[float]] = {}
        for run in self.runs:
            if run.run_id in known:
                by_method.setdefault((run.role, run.method.label), []).append(known[run.run_id])
        typical = statistics.median(known.values())
        left = [0.0]
        for run in self.runs:
            if self.state[run.run_id] in ("waiting", "running"):
                alike = by_method.get((run.role, run.method.label))
                ms = known.get(run.run_id) or (statistics.median(alike) if alike else typical)
                left.append((run.train.steps - self.progress.get(run.run_id, {}).get("step", 0)) * ms / 1e3)
        return max(sum(left) / self.slots, *left)  # a single run cannot be shared out


class _Board:
    """Actor: the last progress of each run, so that the driver can ask without disturbing a worker."""

    def __init__(self) -> None:
        self.seen: dict[str, Progress] = {}

    def post(self, run_id: str, progress: Progress) -> None:
        self.seen.setdefault(run_id, {}).update(progress)

    def read(self) -> dict[str, Progress]:
        return self.seen


def _reporter(run: Run, resources: Resources, experiment: Path, board: Any) -> Callable[[Progress], None]:
    """Where a run's progress goes: the board, and the loggers that were asked for."""
    loggers = [LOGGERS[name](experiment / name, run) for name in resources.loggers]

    def report(progress: Progress) -> None:
        board.post.remote(run.run_id, {"pid": os.getpid(), **progress})
        for log in loggers:
            log(progress)

    return report


class _Worker:
    """Actor: one process that keeps imports, dataset and teacher in memory and takes run after run."""

    def __init__(self, experiment: str, resources: str, board: Any) -> None:
        self.experiment = Path(experiment)
        self.resources = Resources.model_validate_json(resources)
        self.board = board

    def run(self, spec: str) -> str:
        run = Run.model_validate_json(spec)
        runtime = Runtime.local(
            record.checkpoint_directory(self.experiment, run.run_id),
            device=torch.device("cuda" if self.resources.gpus_per_worker > 0 else "cpu"),
            threads=self.resources.cpus_per_worker,
            loader_workers=self.resources.loader_workers,
            on_progress=_reporter(run, self.resources, self.experiment, self.board),
        )
        return execute(run, runtime, self.experiment)


def _rank_loop(config: dict[str, Any]) -> str:
    """What each rank of a Ray Train worker group does."""
    run, resources = Run.model_validate_json(config["run"]), Resources.model_validate_json(config["resources"])
    experiment = Path(config["experiment"])
    runtime = Runtime.ray_worker(
        record.checkpoint_directory(experiment, run.run_id),
        threads=resources.cpus_per_worker,
        loader_workers=resources.loader_workers,
    )
    if runtime.rank == 0:
        runtime.on_progress = _reporter(run, resources, experiment, config["board"])
    return execute(run, runtime, experiment)


def _group_run(spec: str, experiment: str, resources_json: str, board: Any, attempt: int) -> str:
    """Task: one run as a Ray Train worker group."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    run, resources = Run.model_validate_json(spec), Resources.model_validate_json(resources_json)
    use_gpu = resources.gpus_per_worker > 0
    share: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if use_gpu:
        share["GPU"] = resources.gpus_per_worker
    storage, row = Path(experiment) / "ray", store.run_path(experiment, run.run_id)
    before = row.stat().st_mtime_ns if row.exists() else None  # the failed row of an earlier try, if there is one
    trainer = TorchTrainer(
        _rank_loop,
        train_loop_config={"run": spec, "experiment": experiment, "resources": resources_json, "board": board},
        scaling_config=ScalingConfig(num_workers=resources.workers, use_gpu=use_gpu, resources_per_worker=share),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        # Retries are the driver's: a run that wrote a failed row must not be tried again.
        run_config=RunConfig(
            name=f"{run.run_id}-{attempt}", storage_path=str(storage), failure_config=FailureConfig(max_failures=0)
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError:
        if row.exists() and row.stat().st_mtime_ns != before:
            return "failed"  # the run said itself why it cannot go on
        raise
    finally:
        shutil.rmtree(storage / f"{run.run_id}-{attempt}", ignore_errors=True)
    return "ok"


@contextmanager
def connected(resources: Resources) -> Iterator[None]:
    """Ray for the duration of a block: an instance of our own, or the cluster at `resources.address`.

    Raises:
        ValueError: the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray Train looks at its workers only so often; at the default of 2 s a short run waits longer than it works.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if resources.address == "local":
        # Ray Train frees a dead run's resources through the dashboard's API; warm actors do not need it.
        options |= {"include_dashboard": resources.workers > 1, "dashboard_host": "127.0.0.1"}
        options["num_cpus"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    on_terminate = signal.getsignal(signal.SIGTERM)
    _knock(resources.address)
    try:
        ray.init(address=resources.address, **options)
    except ConnectionError as error:
        raise ValueError(f"resources.address: {resources.address}: no Ray cluster answers ({error})") from None
    if threading.current_thread() is threading.main_thread():
        # Ray puts a handler of its own in the way, which ends the process without a word: put the caller's back.
        signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Try a host:port before Ray does, which would wait for minutes and then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ValueError(
            f"resources.address: {address}: nothing answers there ({error}). "
            "Start Ray there (ray start --head), or set resources.address: local"
        ) from None


def slots(resources: Resources, wanted: int) -> int:
    """How many runs fit at the same time, at most `wanted`.

    Raises:
        ValueError: not even one fits, with what was asked for and what there is.
    """
    fit = 0
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        there = node["Resources"]
        workers = int(there.get("CPU", 0) // resources.cpus_per_worker)
        if resources.gpus_per_worker > 0:
            workers = min(workers, int(there.get("GPU", 0) / resources.gpus_per_worker + 1e-9))
        fit += workers
    runs = fit // resources.workers
    if runs < 1:
        total = ray.cluster_resources()
        raise ValueError(
            f"resources: a run asks for {resources.workers} workers x ({resources.cpus_per_worker} CPUs, "
            f"{resources.gpus_per_worker:g} GPUs); Ray has {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs. "
            "Lower resources.workers, cpus_per_worker or gpus_per_worker."
        )
    return max(1, min(runs, resources.concurrent or runs, wanted))


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
        experiment: the results folder of the experiment, on storage that every worker sees.
        on_update: called about twice a second.
        retry_failed: run failed runs again.

    Returns:
        "ok" or "failed" by run_id.

    Raises:
        ValueError: a teacher's weights are missing, the cluster cannot be reached or is too small.
        OSError: the disk is full.
    """
    experiment = experiment.absolute()
    state = _states(runs, experiment, retry_failed)
    status = Status(runs, state)
    waiting = [run for run in runs if state[run.run_id] == "waiting"]
    _check_teachers(waiting, state, experiment)
    if not waiting:
        return state
    on_update(status)
    with connected(resources):
        status.slots = slots(resources, len(waiting))
        _drive(waiting, resources, experiment, status, on_update)
    return state


def _states(runs: Sequence[Run], experiment: Path, retry_failed: bool) -> dict[str, str]:
    rows = store.finished(experiment)
    again = ("failed", "skipped") if retry_failed else ()
    return {
        run.run_id: "waiting" if rows.get(run.run_id, "none") in ("none", *again) else rows[run.run_id] for run in runs
    }


def _check_teachers(waiting: Sequence[Run], state: dict[str, str], experiment: Path) -> None:
    for run in waiting:
        teacher = run.teacher_run
        if run.method.needs_teacher and teacher is not None and state[teacher] == "ok":
            weights = weights_path(experiment, teacher)
            if not weights.is_file():
                raise ValueError(
                    f"{weights}: the teacher's weights are missing, yet its row says ok. Put the file back, or delete "
                    f"{store.run_path(experiment, teacher)} to train the teacher again."
                )


def _drive(
    waiting: list[Run], resources: Resources, experiment: Path, status: Status, on_update: Callable[[Status], None]
) -> None:
    """Keep every slot busy until no run waits or runs."""
    board = ray.remote(num_cpus=0)(_Board).remote()
    start = _starter(resources, experiment, board)
    idle: list[Any] = [None] * status.slots
    running: dict[Any, tuple[Run, Any]] = {}
    attempts: dict[str, int] = {}
    while waiting or running:
        _fail_orphans(waiting, status, experiment)
        while idle and (run := _next(waiting, status.state)) is not None:
            waiting.remove(run)
            attempts[run.run_id] = attempts.get(run.run_id, 0) + 1
            future, worker = start(run, idle.pop(), attempts[run.run_id])
            running[future] = (run, worker)
            status.state[run.run_id] = "running"
        done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
        for future in done:
            run, worker = running.pop(future)
            try:
                status.state[run.run_id] = ray.get(future)
            except (
                ray.exceptions.RayActorError,
                ray.exceptions.WorkerCrashedError,
                ray.exceptions.RayTaskError,
            ) as error:
                cause = getattr(error, "cause", None) or error
                if isinstance(cause, OSError):  # the next attempt could write no row either
                    raise OSError(cause.errno, f"{cause.strerror}: cannot write to {experiment}") from None
                worker = None  # the process is gone or in doubt: the next run gets a new one
                reason = " ".join(str(cause).split())[:300]
                if attempts[run.run_id] < ATTEMPTS:
                    status.notes.append(f"{run.run_id}: worker lost, the run is taken up again ({reason})")
                    status.state[run.run_id] = "waiting"
                    waiting.insert(0, run)
                else:
                    record.write_row(run, experiment, {}, "failed", f"lost {ATTEMPTS} times; the last time: {reason}")
                    status.state[run.run_id] = "failed"
            idle.append(worker)
        status.progress = ray.get(board.read.remote())
        on_update(status)


def _starter(resources: Resources, experiment: Path, board: Any) -> Callable[[Run, Any, int], tuple[Any, Any]]:
    """How a run is started: on a warm actor (given, or made when None), or as a worker group of its own."""
    text = resources.model_dump_json()

    def on_actor(run: Run, worker: Any, attempt: int) -> tuple[Any, Any]:
        if worker is None:
            kind = ray.remote(num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker)(_Worker)
            worker = kind.remote(str(experiment), text, board)
        return worker.run.remote(run.model_dump_json()), worker

    def as_group(run: Run, worker: Any, attempt: int) -> tuple[Any, Any]:
        task = ray.remote(num_cpus=0, max_retries=0)(_group_run)
        return task.remote(run.model_dump_json(), str(experiment), text, board, attempt), None

    return on_actor if resources.workers == 1 else as_group


def _next(waiting: Sequence[Run], state: dict[str, str]) -> Run | None:
    """The first run whose teacher, if its method needs one, is there."""
    for run in waiting:
        if run.teacher_run is None or not run.method.needs_teacher or state[run.teacher_run] == "ok":
            return run
    return None


def _fail_orphans(waiting: list[Run], status: Status, experiment: Path) -> None:
    """Runs whose teacher failed get a row that says so."""
    for run in list(waiting):
        if run.method.needs_teacher and run.teacher_run is not None and status.state[run.teacher_run] == "failed":
            message = (
                f"the teacher {run.teacher_run} failed; see its row. After mending it: run again with --retry-failed"
            )
            record.write_row(run, experiment, {}, "failed", message)
            status.state[run.run_id] = "failed"
            waiting.remove(run)
