"""Train one run and write its row: the common last step of every way to launch."""

import functools
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from harness.errors import RunFailed, WorkerLost, machine_failed
from harness.experiment.spec import Run
from harness.results import content, failures, record
from harness.training.loop import train
from harness.training.runtime import Runtime


def execute(
    run: Run,
    runtime: Runtime,
    directory: Path,
    publish: Callable[[str], None] = lambda run_id: None,
    last_try: bool = True,
) -> str:
    """Train and write the row (rank 0). The row of a run that fails says why; its traceback is a file beside the rows.

    Args:
        run: what to train.
        runtime: where.
        directory: results folder of the experiment.
        publish: called with the run_id when the row is written, before the checkpoints are removed.
        last_try: otherwise an error that another machine may not have (`errors.machine_failed`) is raised and not
            recorded.

    Returns:
        "ok" or "failed".

    Raises:
        OSError: the disk is full or read-only, so that no row can be written.
        Exception: the machine's error, when this is not the last try.
        RunFailed: the run of a worker group failed, as its row says; ends the other ranks too.
        WorkerLost: an earlier run has broken this process.
    """
    require_sound(runtime.device)
    started = datetime.now(timezone.utc)
    place: dict[str, Any] = {"workers": runtime.workers, "threads": runtime.threads}
    began = time.perf_counter()
    measured: dict[str, Any] = {}
    try:
        teacher = run.teacher.architecture if run.teacher and run.method.needs_teacher else None
        names = (run.method.name, run.network.architecture, run.data.name, *run.train.loss_names)
        place |= _code(*names, teacher=teacher)
        result = train(run, runtime, directory)
        if result is None:
            return "ok"
        measured = {**result.columns, **place, "weights_sha256": result.weights_sha256}
        record.write_row(run, directory, measured, started_at=started)
    except (Exception, SystemExit) as error:  # the row records every cause
        if isinstance(error, SystemExit) and not failures.ends_in_users_code(error, run):
            raise  # Ray ends its processes by it
        machine = machine_failed(error)
        if record.is_disk_full(error) or (machine and (not last_try or runtime.rank != 0)):
            raise
        place["wall_seconds"] = time.perf_counter() - began
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
            raise RunFailed(message) from None
        return "failed"
    failures.forget(directory, run.run_id)
    publish(run.run_id)
    runtime.checkpoints.drop()
    return "ok"


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
