"""Run one run to its row, wherever this process stands: the common end of every way to launch."""

from datetime import UTC, datetime
from pathlib import Path

from harness import record
from harness.runtime import Runtime
from harness.spec import Run
from harness.train import train


def execute(run: Run, runtime: Runtime, experiment: Path) -> str:
    """Train and write the row (rank 0). A run that cannot be finished gets a row that says why.

    Returns:
        "ok" or "failed".

    Raises:
        OSError: the disk is full or read-only, so that no row can be written.
    """
    started = datetime.now(UTC)
    place = {"workers": runtime.workers, "threads": runtime.threads}
    try:
        result = train(run, runtime, experiment)
    except Exception as error:  # whatever stops a run belongs into its row
        if record.is_disk_full(error):
            raise
        if runtime.rank == 0:
            if not record.write_row(run, experiment, place, "failed", record.failure(error), started):
                return "ok"  # another process finished this very run meanwhile; its row stands
            # Whoever mends the fault starts anew: half a run with the fault is not half a run without it.
            record.drop_checkpoint(experiment, run.run_id)
        if runtime.workers > 1:
            raise  # the other ranks must not wait for this one
        return "failed"
    if result is not None:
        columns = {**result.columns, **place, "weights_sha256": result.weights_sha256}
        record.write_row(run, experiment, columns, started_at=started)
    return "ok"
