"""Where a run runs: rank, device, threads, batches, checkpoints. The training loop asks; it never knows who answers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from harness.datasets.base import DataInfo, Image, Label, Split
from harness.experiment.recipe import Train
from harness.experiment.spec import Run
from harness.models.syncbn import convert_batchnorm
from harness.training.batches import Batch, Steps, looked_up, normalised, one_thread
from harness.training.checkpoints import Checkpoints, State

Progress = dict[str, Any]


@dataclass
class Runtime:
    """What the training loop needs from its surroundings.

    Attributes:
        checkpoints: of this run, on storage that every rank sees.
        device: where tensors live.
        rank: this process among the run's workers.
        workers: processes that share the run.
        threads: CPU threads of this process.
        loader_workers: extra processes that prepare batches.
        on_progress: called now and then with plain data about the run.
        share: `share(key, make)` is `make()`, or the equal that another process of this machine has made before.
        checkpoint_minutes: a checkpoint is also written after so many minutes.
        bucket_mb: size of the pieces in which gradients are summed over workers.
        on_evaluation: called after each evaluation before the last, when the checkpoint is written; may not return.
    """

    checkpoints: Checkpoints
    device: torch.device
    rank: int = 0
    workers: int = 1
    threads: int = 1
    loader_workers: int = 0
    on_progress: Callable[[Progress], None] = field(default=lambda progress: None)
    share: Callable[[str, Callable[[], Any]], Any] = field(default=lambda key, make: make())
    checkpoint_minutes: float | None = None
    bucket_mb: int = 25
    on_evaluation: Callable[[Progress], None] = field(default=lambda progress: None)

    @classmethod
    def local(cls, checkpoints: Checkpoints | Path | None = None, **options: Any) -> "Runtime":
        """One process that owns the whole run: a plain interpreter or a warm Ray actor.

        Args:
            checkpoints: of the run, or the folder for the last one; None keeps none.
            options: other fields; `device` is the GPU if there is one.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if not isinstance(checkpoints, Checkpoints):
            checkpoints = Checkpoints(checkpoints)
        return cls(checkpoints, options.pop("device", device), **options)

    @classmethod
    def ray_worker(cls, checkpoints: Checkpoints, **options: Any) -> "Runtime":
        """One rank of a Ray Train worker group; torch.distributed is initialised already."""
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        return cls(
            checkpoints,
            ray.train.torch.get_device(),
            rank=context.get_world_rank(),
            workers=context.get_world_size(),
            **options,
        )

    def enter(self) -> None:
        """Give this process its threads: OpenCV's own would fight with the worker's."""
        torch.set_num_threads(self.threads)
        cv2.setNumThreads(0)

    def wrap(self, step: nn.Module, sync_batchnorm: bool, equal_buffers: Sequence[str] = ()) -> nn.Module:
        """The module on its device; with several workers inside DistributedDataParallel.

        Args:
            step: the module that is trained.
            sync_batchnorm: whether statistics are those of all workers' images.
            equal_buffers: names of buffers that every worker keeps equal by itself; the others are sent at each step.
        """
        step = step.to(self.device)
        if self.workers == 1:
            return step
        if sync_batchnorm:
            step = convert_batchnorm(step, self.device)
        devices = [self.device] if self.device.type == "cuda" else None
        ignore: Any = nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        ignore(step, list(equal_buffers))
        return nn.parallel.DistributedDataParallel(
            step, device_ids=devices, gradient_as_bucket_view=True, bucket_cap_mb=self.bucket_mb
        )

    def accumulate(self, recipe: Train) -> int:
        """Micro-batches of each worker in a step.

        Raises:
            ValueError: the global batch does not divide among workers and micro-batches.
        """
        pieces = recipe.accumulate * self.workers
        if recipe.batch_size % pieces:
            raise ValueError(
                f"train.batch_size: {recipe.batch_size} does not divide into {self.workers} workers x "
                f"{recipe.accumulate} accumulation steps; give a multiple of {pieces}"
            )
        return recipe.accumulate

    def unsynced(self, step: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around the passes of a micro-batch: gradients are summed over the workers with the last one only."""
        if last or not isinstance(step, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return step.no_sync()

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over the ranks, in place."""
        if self.workers > 1:
            dist.all_reduce(values)
        return values

    def minimum(self, values: Tensor) -> Tensor:
        """The smallest of `values` over the ranks, in place."""
        if self.workers > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MIN)
        return values

    def agreed(self, values: Sequence[float]) -> list[float]:
        """Rank 0's values, on every rank. The ranks wait for each other."""
        if self.workers == 1:
            return list(values)
        sent = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(sent, 0)
        out: list[float] = sent.tolist()
        return out

    def gather(self, values: Tensor) -> Tensor:
        """Every rank's `values` (n, ...), one rank's below the other's: (sum of n, ...). n may differ, the rest not."""
        if self.workers == 1:
            return values
        own = torch.tensor([len(values)], device=values.device)
        sizes = [torch.empty_like(own) for _ in range(self.workers)]
        dist.all_gather(sizes, own)
        lengths = [int(size) for size in sizes]
        padded = values.new_zeros(max(lengths), *values.shape[1:])
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)  # tensors only: nothing that comes from another process is unpickled
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def batches(self, split: Split, info: DataInfo, run: Run, start: int, stop: int) -> Iterator[Batch]:
        """This rank's batches of steps start..stop-1, on the device.

        Raises:
            ValueError: images of different sizes without a crop.
        """
        if run.train.augment.crop_hw is None and run.train.batch_size > 1 and not getattr(split, "one_size", True):
            raise ValueError(
                f"train.augment.crop_hw: images of {info.name} differ in size; give a crop, e.g. [512, 512]"
            )
        loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            Steps(split, info, run, self.rank, self.workers),
            batch_size=None,
            sampler=range(start, stop),
            num_workers=self.loader_workers,
            worker_init_fn=one_thread,
            pin_memory=self.device.type == "cuda",
        )
        layout = torch.channels_last if run.train.channels_last else torch.contiguous_format
        for image, label in loader:
            yield self.batch(image, label, info, layout)

    def batch(self, image: Tensor, label: Tensor, info: DataInfo, layout: torch.memory_format) -> Batch:
        """Move uint8 images (N, H, W, 3) and labels (N, H, W) to the device and normalise them there."""
        label = label.to(self.device, non_blocking=True).long()
        if self.device.type == "cpu":
            return Batch(looked_up(image, info, layout), label)
        x = image.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        return Batch(normalised(x, info).contiguous(memory_format=layout), label)

    def evaluation(self, split: Split, info: DataInfo, batch_size: int, indices: Sequence[int] = ()) -> Iterator[Batch]:
        """Batches of this rank's share of a split (or of `indices`): each sample once, images of one size together."""
        waiting: list[tuple[Image, Label]] = []
        for index in indices or range(self.rank, len(split), self.workers):
            image, label = split[index]
            if waiting and (len(waiting) == batch_size or waiting[0][0].shape != image.shape):
                yield self._stack(waiting, info)
                waiting = []
            waiting.append((image, label))
        if waiting:
            yield self._stack(waiting, info)

    def _stack(self, samples: list[tuple[Image, Label]], info: DataInfo) -> Batch:
        images, labels = (torch.from_numpy(np.stack(parts)) for parts in zip(*samples, strict=True))
        return self.batch(images, labels, info, torch.contiguous_format)

    def load(self, run_id: str, data_hash: str) -> State | None:
        """The run's checkpoint; None if there is none that can be read and is of this run and data: it starts again."""

        def refuse(state: State) -> str | None:
            if state["run_id"] != run_id:
                return "is of another run"
            return None if state["data_hash"] == data_hash else "is of other data: files have changed"

        def tell(text: str) -> None:
            self.on_progress({"note": f"{text}; an earlier one is taken up, or the run starts again from step 0"})

        state: State | None = self.checkpoints.load(refuse, tell) if self.rank == 0 else None
        (step,) = self.agreed([state["step"] if state is not None else -1])
        return self.checkpoints.read(int(step)) if self.rank != 0 and step >= 0 else state
