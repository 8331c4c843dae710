"""Train one run and write its row: the common last step of every way to launch."""

import functools
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import torch

from harness.errors import Preempted, RunFailed, WorkerLost, machine_failed, out_of_memory
from harness.experiment.spec import Run
from harness.results import content, failures, record
from harness.training.build import release_teacher
from harness.training.loop import steps
from harness.training.runtime import Runtime
from harness.training.together import Steps, alone, together

T = TypeVar("T")


def execute(
    run: Run,
    runtime: Runtime,
    directory: Path,
    publish: Callable[[str], None] = lambda run_id: None,
    last_try: bool = True,
) -> str:
    """Train one run by itself and write its row; arguments, result and errors are those of `executed`."""
    return alone(executed(run, runtime, directory, publish, last_try))


def execute_together(
    runs: Mapping[str, Run],
    runtimes: Mapping[str, Runtime],
    directory: Path,
    publish: Callable[[str], None],
    on_end: Callable[[str, str], None],
    memory: int = 2**63,
) -> None:
    """Train runs that see the same batches and the same teacher, step by step, and write their rows.

    Args:
        runs: by run_id.
        runtimes: by run_id; of one process.
        directory: results folder of the experiment.
        publish: as for `executed`.
        on_end: called with a run_id and how it ended: "ok", "failed", or "waiting" if it was not begun.
        memory: bytes that the runs may hold between their steps; what does not fit is not begun.

    Raises:
        Exception: as `executed` where it is not the last try, and out of memory, which a run by itself may not be; the
            runs that have not ended can be resumed.
    """
    members = {i: executed(run, runtimes[i], directory, publish, False, len(runs) > 1) for i, run in runs.items()}
    for run_id in together(members, memory, on_end):
        on_end(run_id, "waiting")


def executed(
    run: Run,
    runtime: Runtime,
    directory: Path,
    publish: Callable[[str], None],
    last_try: bool,
    beside_others: bool = False,
) -> Steps[str]:
    """Train and write the row (rank 0). The row of a run that fails says why; its traceback is a file beside the rows.

    Args:
        run: what to train.
        runtime: where.
        directory: results folder of the experiment.
        publish: called with the run_id when the row is written, before the checkpoints are removed.
        last_try: otherwise an error that another machine may not have (`errors.machine_failed`) is raised and not
            recorded.
        beside_others: in the same process: then being out of memory is raised too.

    Returns:
        "ok", "failed", or "yielded": its machine is taken away, and it has written its checkpoint.

    Raises:
        OSError: the disk is full or read-only, so that no row can be written.
        Exception: the machine's error, when this is not the last try.
        RunFailed: the run of a worker group failed, as its row says; ends the other ranks too.
        WorkerLost: an earlier run has broken this process.
    """
    require_sound(runtime.device)
    if not (beside_others or run.method.needs_teacher):
        release_teacher()
    started = datetime.now(timezone.utc)
    place: dict[str, Any] = {"workers": runtime.workers, "threads": runtime.threads}
    began, own = time.perf_counter(), list[float]()
    measured: dict[str, Any] = {}
    try:
        teacher = run.teacher.architecture if run.teacher and run.method.needs_teacher else None
        names = (run.method.name, run.network.architecture, run.data.name, *run.train.loss_names)
        place |= _code(*names, teacher=teacher)
        result = yield from _turns(steps(run, runtime, directory), run.method.needs_teacher, own)
        if result is None:
            return "ok"
        measured = {**result.columns, **place, "weights_sha256": result.weights_sha256}
        record.write_row(run, directory, measured, started_at=started)
    except Preempted:
        return "yielded"
    except (Exception, SystemExit) as caught:  # the row records every cause
        # A generator, as the run is one, turns this error into a RuntimeError.
        turned = type(caught) is RuntimeError and isinstance(caught.__cause__, StopIteration)
        error = caught.__cause__ if turned and caught.__cause__ is not None else caught
        if isinstance(error, SystemExit) and not failures.ends_in_users_code(error, run):
            raise  # Ray ends its processes by it
        machine = machine_failed(error) or (beside_others and out_of_memory(error))
        if record.is_disk_full(error) or (machine and (not last_try or runtime.rank != 0)):
            raise
        # Beside others, their turns are in the time that has passed.
        place["wall_seconds"] = sum(own) if beside_others else time.perf_counter() - began
        kept = _keep(directory, run, error)
        rank = f"rank {runtime.rank}: " if runtime.workers > 1 else ""
        message = rank + record.failure(error, run) + kept
        if not _write_failed(run, directory, measured or place, message, started):
            failures.forget(directory, run.run_id)
            return "ok"  # another process has finished the same run meanwhile; its row is kept
        publish(run.run_id)
        if not machine and runtime.rank == 0:
            # After a fix the run starts from step 0: its first half had the fault.
            runtime.checkpoints.drop()
        if runtime.workers > 1:
            raise RunFailed(message, run.run_id) from None
        return "failed"
    failures.forget(directory, run.run_id)
    publish(run.run_id)
    runtime.checkpoints.drop()
    return "ok"


def _turns(run: "Steps[T]", taught: bool, seconds: list[float]) -> "Steps[T]":
    """The run, with the seconds of its own turns, and of what was made for it, appended to `seconds`."""
    began = time.perf_counter()
    try:
        need = next(run)
        while True:
            seconds.append(time.perf_counter() - began)
            try:
                fed = yield need
            except Exception as error:
                began = time.perf_counter()
                need = run.throw(error)
            else:
                began = time.perf_counter() - fed.seconds(taught)
                need = run.send(fed)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        seconds.append(time.perf_counter() - began)
        run.close()


@functools.cache
def _code(method: str, architecture: str, dataset: str, *losses: str, teacher: str | None) -> dict[str, Any]:
    """Kept from a method's first run in this process: what is imported does not change with the files."""
    return content.code_columns(method, architecture, dataset, *losses, teacher=teacher)


def require_sound(device: torch.device) -> None:
    """A label out of range that a run finds on the GPU spoils its process for the runs after it.

    Raises:
        WorkerLost: the process cannot use its GPU any more.
    """
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise WorkerLost(f"an earlier run has left this process without its GPU ({error})") from None


def _keep(directory: Path, run: Run, error: BaseException) -> str:
    """Keep the traceback; a row without one is better than none, and says so."""
    try:
        failures.keep(directory, run, error)
    except OSError as another:
        if record.is_disk_full(another):
            raise
        return f". The traceback cannot be written: {another}"
    return ""


def _write_failed(run: Run, directory: Path, columns: dict[str, Any], message: str, started: datetime) -> bool:
    """The row of a failure, with what was measured as far as the row can hold it."""
    while True:
        try:
            return record.write_row(run, directory, columns, "failed", message, started)
        except ValueError as error:  # a column that no row can hold may be why the run failed
            name = str(error).removeprefix("column ").partition(":")[0].partition("[")[0].partition(".")[0]
            if not columns:
                raise
            # A message that names no column of these leaves none of them.
            columns = {key: value for key, value in columns.items() if name in columns and key != name}
