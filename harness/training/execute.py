"""Train one run and write its row: the common last step of every way to launch."""

import functools
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import MACHINE_ERRORS, RunFailed
from harness.experiment.spec import Run
from harness.results import content, record
from harness.training.loop import train
from harness.training.runtime import Runtime


def execute(
    run: Run,
    runtime: Runtime,
    directory: Path,
    publish: Callable[[str], None] = lambda run_id: None,
    last_try: bool = True,
) -> str:
    """Train and write the row (rank 0). The row of a run that fails says why.

    Args:
        run: what to train.
        runtime: where.
        directory: results folder of the experiment.
        publish: called with the run_id when the row is written, before the checkpoints are removed.
        last_try: otherwise a machine's error (MACHINE_ERRORS) is raised and not recorded.

    Returns:
        "ok" or "failed".

    Raises:
        OSError: the disk is full or read-only, so that no row can be written.
        RuntimeError, OSError, MemoryError: the error, when this is not the last try.
        RunFailed: the run of a worker group failed, as its row says; ends the other ranks too.
    """
    started = datetime.now(UTC)
    place: dict[str, Any] = {"workers": runtime.workers, "threads": runtime.threads}
    began = time.perf_counter()
    try:
        place |= _code(run.method.name, run.data.name)
        result = train(run, runtime, directory)
    except Exception as error:  # the row records every cause
        machine = isinstance(error, MACHINE_ERRORS)
        if record.is_disk_full(error) or (machine and not last_try) or runtime.rank != 0:
            raise
        place["wall_seconds"] = time.perf_counter() - began
        if not record.write_row(run, directory, place, "failed", record.failure(error), started):
            return "ok"  # another process has finished the same run meanwhile; its row is kept
        publish(run.run_id)
        if not machine:
            # After a fix the run starts from step 0: its first half had the fault.
            runtime.checkpoints.drop()
        if runtime.workers > 1:
            raise RunFailed(str(error)) from None
        return "failed"
    if result is not None:
        columns = {**result.columns, **place, "weights_sha256": result.weights_sha256}
        record.write_row(run, directory, columns, started_at=started)
        publish(run.run_id)
        runtime.checkpoints.drop()
    return "ok"


@functools.cache
def _code(method: str, dataset: str) -> dict[str, Any]:
    """Kept from a method's first run in this process: what is imported does not change with the files."""
    return content.code_columns(method, dataset)
