"""The batches of a rank: for training, by step; for evaluation, each sample once."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from harness import seeds
from harness.datasets.augment import augment
from harness.datasets.base import DataInfo, Split
from harness.experiment.recipe import Train
from harness.experiment.spec import Run
from harness.training.loader import copied_ahead, items
from harness.training.normalize import normalised_images
from harness.training.ranks import Ranks
from harness.training.runtime import Runtime


class Batch(NamedTuple):
    """One rank's share of a global batch: images (N, 3, H, W) float32 normalised, labels (N, H, W) int64."""

    image: Tensor
    label: Tensor


def training_batches(
    split: Split, info: DataInfo, run: Run, runtime: Runtime, start: int, stop: int
) -> Iterator[Batch]:
    """This rank's batches of steps start..stop-1, on the device.

    Raises:
        ValueError: images of different sizes without a crop.
    """
    require_one_size(split, info, run.train)
    batches = _Steps(split, info, run, runtime.rank, runtime.workers)
    on_gpu = runtime.device.type == "cuda"
    read = items(batches, range(start, stop), runtime.loader_workers, pin=on_gpu)
    for image, label in copied_ahead(read, runtime.device) if on_gpu else read:
        yield to_batch(image, label, info, runtime.device, _layout(run.train))


def share_of_batch(split: Split, info: DataInfo, run: Run, workers: int, step: int) -> tuple[Tensor, Tensor]:
    """The first rank's images (N, H, W, 3) and labels (N, H, W) of a step as bytes, as a loader process makes them."""
    return _Steps(split, info, run, 0, workers)[step]


def batch_of(split: Split, info: DataInfo, run: Run, runtime: Runtime, step: int) -> Batch:
    """This rank's batch of one step, made in this process; equal to what `training_batches` gives."""
    image, label = _Steps(split, info, run, runtime.rank, runtime.workers)[step]
    return to_batch(image, label, info, runtime.device, _layout(run.train))


def _layout(recipe: Train) -> torch.memory_format:
    return torch.channels_last if recipe.channels_last else torch.contiguous_format


def require_one_size(split: Split, info: DataInfo, recipe: Train) -> None:
    """Check that images make a batch.

    Raises:
        ValueError: they differ in size, and there is no crop.
    """
    if recipe.augment.crop_hw is None and recipe.batch_size > 1 and not getattr(split, "one_size", True):
        raise ValueError(f"train.augment.crop_hw: images of {info.name} differ in size; give a crop, e.g. [512, 512]")


def evaluation_batches(
    split: Split, info: DataInfo, ranks: Ranks, batch_size: int, indices: Sequence[int] = ()
) -> Iterator[Batch]:
    """Batches of this rank's share of a split (or of `indices`): each sample once, images of one size together."""
    wanted = indices or range(ranks.rank, len(split), ranks.workers)
    workers = ranks.loader_workers if len(wanted) > batch_size else 0  # one batch is read before processes have begun
    waiting: list[tuple[Tensor, Tensor]] = []
    for image, label in items(_Samples(split), wanted, workers):
        if waiting and (len(waiting) == batch_size or waiting[0][0].shape != image.shape):
            yield _stacked(waiting, info, ranks)
            waiting = []
        waiting.append((image, label))
    if waiting:
        yield _stacked(waiting, info, ranks)


def to_batch(
    image: Tensor,
    label: Tensor,
    info: DataInfo,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
) -> Batch:
    """Move uint8 images (N, H, W, 3) and labels (N, H, W) to the device and normalise the images there."""
    label = label.to(device, non_blocking=True).long()
    return Batch(normalised_images(image.to(device, non_blocking=True), info, layout), label)


def accumulation_steps(recipe: Train, workers: int) -> int:
    """Micro-batches of each worker in a step.

    Raises:
        ValueError: the global batch does not divide among workers and micro-batches.
    """
    pieces = recipe.accumulate * workers
    if recipe.batch_size % pieces:
        raise ValueError(
            f"train.batch_size: {recipe.batch_size} does not divide into {workers} workers x "
            f"{recipe.accumulate} accumulation steps; give a multiple of {pieces}"
        )
    return recipe.accumulate


def _stacked(samples: list[tuple[Tensor, Tensor]], info: DataInfo, ranks: Ranks) -> Batch:
    images, labels = (torch.stack(parts) for parts in zip(*samples, strict=True))
    return to_batch(images, labels, info, ranks.device)


class _Samples(Dataset[tuple[Tensor, Tensor]]):
    """A split, as tensors of their own: what a cache maps into memory is read-only."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.split[index]
        return torch.from_numpy(image.copy()), torch.from_numpy(label.copy())


class _Steps(Dataset[tuple[Tensor, Tensor]]):
    """Item `i` is this rank's uint8 batch of step `i`, the same in any loader process."""

    def __init__(self, split: Split, info: DataInfo, run: Run, rank: int, workers: int) -> None:
        self.split, self.info, self.run, self.rank, self.workers = split, info, run, rank, workers

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        train, seed = self.run.train, self.run.stream_seed
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
