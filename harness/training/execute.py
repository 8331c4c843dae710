"""Run one run to its row, wherever this process stands: the common end of every way to launch."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.experiment.spec import Run
from harness.results import record
from harness.training.loop import train
from harness.training.runtime import Runtime

MACHINE = (RuntimeError, OSError, MemoryError)
"""What another machine, or the same one later, may do better; anything else would happen again."""


class Recorded(Exception):
    """The run failed and its row says why; raised in a worker group only, so that the other ranks end too."""


def execute(
    run: Run,
    runtime: Runtime,
    experiment: Path,
    publish: Callable[[str], None] = lambda run_id: None,
    last_try: bool = True,
) -> str:
    """Train and write the row (rank 0). A run that cannot be finished gets a row that says why.

    Args:
        run: what to train.
        runtime: where.
        experiment: the experiment's results folder.
        publish: called with the run_id when the row is written, before the checkpoints are removed.
        last_try: otherwise what a machine did wrong is raised and not recorded.

    Returns:
        "ok" or "failed".

    Raises:
        OSError: the disk is full or read-only, so that no row can be written.
        RuntimeError, OSError, MemoryError: what went wrong, when this is not the last try.
        Recorded: a worker group's run failed.
    """
    started = datetime.now(UTC)
    place: dict[str, Any] = {"workers": runtime.workers, "threads": runtime.threads}
    began = time.perf_counter()
    try:
        result = train(run, runtime, experiment)
    except Exception as error:  # whatever stops a run belongs into its row
        machine = isinstance(error, MACHINE)
        if record.is_disk_full(error) or (machine and not last_try) or runtime.rank != 0:
            raise
        place["wall_seconds"] = time.perf_counter() - began
        if not record.write_row(run, experiment, place, "failed", record.failure(error), started):
            return "ok"  # another process finished this very run meanwhile; its row stands
        publish(run.run_id)
        if not machine:
            # Whoever mends the fault starts anew: half a run with the fault is not half a run without it.
            runtime.checkpoints.drop()
        if runtime.workers > 1:
            raise Recorded(str(error)) from None
        return "failed"
    if result is not None:
        columns = {**result.columns, **place, "weights_sha256": result.weights_sha256}
        record.write_row(run, experiment, columns, started_at=started)
        publish(run.run_id)
        runtime.checkpoints.drop()
    return "ok"
