"""Where a run is executed: ranks, threads, checkpoints, reports. The training loop does not know who launched it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import torch

from harness.training.allocator import keep_freed_memory
from harness.training.checkpoints import Checkpoints
from harness.training.progress import Progress
from harness.training.ranks import Ranks


@dataclass
class Runtime(Ranks):
    """What the training loop needs from its surroundings, beyond the ranks.

    Attributes:
        checkpoints: of this run, on storage that every rank sees.
        threads: CPU threads of this process.
        on_progress: called with reports of the run.
        share: `share(key, make)` is `make()`, or an equal object that another process of this machine has made.
        checkpoint_minutes: a checkpoint is also written after so many minutes.
        gpu_share: of the GPU's memory, this process's; above it, it is out of memory and does not take that of others.
        leaves: whether this process is about to lose its machine; asked between steps.
        on_evaluation: called with columns of the row so far after each evaluation but the last, when the checkpoint is
            written; it may end the process.
    """

    checkpoints: Checkpoints = field(default_factory=lambda: Checkpoints(None))
    threads: int = 1
    on_progress: Callable[[Progress], None] = field(default=lambda progress: None)
    share: Callable[[str, Callable[[], Any]], Any] = field(default=lambda key, make: make())
    checkpoint_minutes: float | None = None
    gpu_share: float = 1.0
    leaves: Callable[[], bool] = field(default=lambda: False)
    on_evaluation: Callable[[dict[str, Any]], None] = field(default=lambda columns: None)

    @classmethod
    def local(cls, checkpoints: Checkpoints | Path | None = None, **options: Any) -> "Runtime":
        """One process that executes the whole run: a plain interpreter or a warm Ray actor.

        Args:
            checkpoints: of the run, or the folder for the last one; None keeps none.
            options: other fields; `device` is the GPU if there is one.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if not isinstance(checkpoints, Checkpoints):
            checkpoints = Checkpoints(checkpoints)
        return cls(options.pop("device", device), checkpoints=checkpoints, **options)

    @classmethod
    def ray_worker(cls, checkpoints: Checkpoints, **options: Any) -> "Runtime":
        """One rank of a Ray Train worker group, in which torch.distributed is initialised."""
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        return cls(
            ray.train.torch.get_device(),
            rank=context.get_world_rank(),
            workers=context.get_world_size(),
            checkpoints=checkpoints,
            **options,
        )

    def enter(self) -> None:
        """Set this process's threads and memory; OpenCV's own threads would compete with the worker's."""
        keep_freed_memory()
        torch.set_num_threads(self.threads)
        cv2.setNumThreads(0)
        if self.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(self.gpu_share, self.device.index)  # None: the current one
