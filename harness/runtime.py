"""Where a run runs: rank, device, threads, batches, checkpoints. The training loop asks; it never knows who answers."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from harness import seeds
from harness.datasets.augment import augment
from harness.datasets.base import DataInfo, Image, Label, Split
from harness.files import write_atomic
from harness.models.syncbn import convert_batchnorm
from harness.spec import Run

Progress = dict[str, Any]


class Batch(NamedTuple):
    """One rank's share of a global batch: images (N, 3, H, W) float32 normalised, labels (N, H, W) int64."""

    image: Tensor
    label: Tensor


class _Steps(Dataset[tuple[Tensor, Tensor]]):
    """Item `i` is this rank's whole uint8 batch of step `i`, the same whichever process loads it."""

    def __init__(self, split: Split, info: DataInfo, run: Run, rank: int, workers: int) -> None:
        self.split, self.info, self.run, self.rank, self.workers = split, info, run, rank, workers

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        train, seed = self.run.train, self.run.seed
        indices = seeds.batch_indices(seed, step, train.batch_size, len(self.split))
        images, labels = [], []
        for position in range(self.rank, train.batch_size, self.workers):
            rng = seeds.numpy_stream(seed, "augment", step, position)
            image, label = self.split[indices[position]]
            options = train.augment
            image, label = augment(
                image,
                label,
                rng,
                crop_hw=options.crop_hw or label.shape,
                scale=options.scale,
                flip=0.5 if options.flip else 0.0,
                brightness=options.jitter,
                contrast=options.jitter,
                saturation=options.saturation,
                hue=options.hue,
                scale_step=options.scale_step,
                class_cap=options.class_cap,
                fill=self.info.mean,
                ignore_index=self.info.ignore_index,
            )
            images.append(image)
            labels.append(label)
        if len({image.shape for image in images}) > 1:
            raise ValueError(
                f"train.augment.crop_hw: a batch has images of sizes {sorted({i.shape[:2] for i in images})}; "
                "give a crop, e.g. crop_hw: [512, 512]"
            )
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


@dataclass
class Runtime:
    """What the training loop needs from its surroundings.

    Attributes:
        directory: folder of this run's checkpoint, on storage that every rank sees.
        device: where tensors live.
        rank: this process among the run's workers.
        workers: processes that share the run.
        threads: CPU threads of this process.
        loader_workers: extra processes that prepare batches.
        on_progress: called now and then with plain data about the run.
    """

    directory: Path
    device: torch.device
    rank: int = 0
    workers: int = 1
    threads: int = 1
    loader_workers: int = 0
    on_progress: Callable[[Progress], None] = field(default=lambda progress: None)

    @classmethod
    def local(cls, directory: Path, **options: Any) -> "Runtime":
        """One process that owns the whole run: a plain interpreter or a warm Ray actor."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(directory, options.pop("device", device), **options)

    @classmethod
    def ray_worker(cls, directory: Path, **options: Any) -> "Runtime":
        """One rank of a Ray Train worker group; torch.distributed is initialised already."""
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        return cls(
            directory,
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
        return nn.parallel.DistributedDataParallel(step, device_ids=devices, gradient_as_bucket_view=True)

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
            ValueError: the global batch does not divide among workers and accumulation steps.
        """
        share = self.workers * run.train.accumulate
        if run.train.batch_size % share:
            raise ValueError(
                f"train.batch_size: {run.train.batch_size} does not divide into {self.workers} workers x "
                f"{run.train.accumulate} accumulation steps; give a multiple of {share}"
            )
        if run.train.augment.crop_hw is None and run.train.batch_size > 1 and not getattr(split, "one_size", True):
            raise ValueError(
                f"train.augment.crop_hw: images of {info.name} differ in size; give a crop, e.g. [512, 512]"
            )
        loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            _Steps(split, info, run, self.rank, self.workers),
            batch_size=None,
            sampler=range(start, stop),
            num_workers=self.loader_workers,
            worker_init_fn=_one_thread,
            pin_memory=self.device.type == "cuda",
        )
        layout = torch.channels_last if run.train.channels_last else torch.contiguous_format
        for image, label in loader:
            yield self.batch(image, label, info, layout)

    def batch(self, image: Tensor, label: Tensor, info: DataInfo, layout: torch.memory_format) -> Batch:
        """Move uint8 images (N, H, W, 3) and labels (N, H, W) to the device and normalise them there."""
        label = label.to(self.device, non_blocking=True).long()
        if self.device.type == "cpu":
            return Batch(_looked_up(image, info, layout), label)
        x = image.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        return Batch(_normalised(x, info).contiguous(memory_format=layout), label)

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

    def save(self, state: dict[str, Any]) -> None:
        """Replace the run's checkpoint, whole or not at all; rank 0 writes, the others wait."""
        if self.rank == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            # Serialised in memory: a full disk is then an OSError, and not an error of the format's own.
            buffer = io.BytesIO()
            torch.save(state, buffer)
            write_atomic(self.directory / "last.pt", buffer.getvalue())
        if self.workers > 1:
            dist.barrier()

    def load(self, run_id: str, data_hash: str) -> dict[str, Any] | None:
        """The run's checkpoint, or None if there is none that can be read, or one of other data: it starts again then.

        Read with weights_only=True, so that it cannot execute code.
        """
        path = self.directory / "last.pt"
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            own, same_data = state["run_id"] == run_id, state["data_hash"] == data_hash
        except Exception as error:  # bytes that are no checkpoint make the unpickler raise anything
            self.on_progress(
                {"note": f"{path} cannot be read ({type(error).__name__}: {error}); the run starts again from step 0"}
            )
            return None
        if own and not same_data:
            self.on_progress({"note": f"{path} is of other data: files have changed; the run starts again from step 0"})
        return state if own and same_data else None


def _normalised(x: Tensor, info: DataInfo) -> Tensor:
    """RGB values (N, 3, H, W) in 0..255 as networks see them."""
    mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (info.mean, info.std))
    x = (x - mean) / std
    return x.flip(1) if info.bgr else x


def _looked_up(image: Tensor, info: DataInfo, layout: torch.memory_format) -> Tensor:
    """The same bits for uint8 images (N, H, W, 3) on a CPU: a byte has 256 values, which are normalised once."""
    table = _normalised(torch.arange(256.0).view(1, 1, 1, 256).expand(1, 3, 1, 256), info)[0, :, 0].numpy()
    pixels = image.numpy()
    count, height, width, _ = pixels.shape
    flat = pixels.reshape(count * height, width, 3)
    if info.bgr:
        flat = cv2.cvtColor(flat, cv2.COLOR_RGB2BGR)
    if layout == torch.channels_last:
        values = cv2.LUT(flat, np.ascontiguousarray(table.T)[:, None, :])
        return torch.from_numpy(values.reshape(count, height, width, 3)).permute(0, 3, 1, 2)
    out = np.empty((count, 3, height, width), np.float32)
    for i, image_i in enumerate(pixels if not info.bgr else flat.reshape(pixels.shape)):
        for c, plane in enumerate(cv2.split(image_i)):
            out[i, c] = cv2.LUT(plane, table[c])
    return torch.from_numpy(out)
