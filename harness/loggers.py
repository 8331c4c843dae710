"""Optional live loggers. The record is the row; these are for watching."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.spec import Run

Progress = dict[str, Any]


def tensorboard(folder: Path, run: Run) -> Callable[[Progress], None]:
    """Write each progress report as scalars: `loss/TERM`, `dev_miou`, `step_ms`, one TensorBoard run per run.

    View with `tensorboard --logdir RESULTS/EXPERIMENT/tensorboard`.

    Raises:
        ValueError: the extra `loggers` is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("resources.loggers: tensorboard is not installed; run: pip install tensorboard") from None

    name = "teacher" if run.role == "teacher" else f"{run.method.label}-seed{run.seed}"
    writer = SummaryWriter(str(folder / f"{run.pair}-{name}-{run.run_id}"))

    def log(progress: Progress) -> None:
        if "step" not in progress:
            return
        for term, value in progress["terms"].items():
            writer.add_scalar(f"loss/{term}", value, progress["step"])
        for key in ("dev_miou", "step_ms"):
            if progress[key] is not None:
                writer.add_scalar(key, progress[key], progress["step"])
        writer.flush()

    return log


LOGGERS = {"tensorboard": tensorboard}
