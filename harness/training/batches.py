"""Batches of a rank: the sampler of steps, and the normalisation of images."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from harness import seeds
from harness.datasets.augment import augment
from harness.datasets.base import DataInfo, Split
from harness.experiment.spec import Run


class Batch(NamedTuple):
    """One rank's share of a global batch: images (N, 3, H, W) float32 normalised, labels (N, H, W) int64."""

    image: Tensor
    label: Tensor


class Steps(Dataset[tuple[Tensor, Tensor]]):
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


def one_thread(worker: int) -> None:
    """A loader worker uses one thread: workers share the cores."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def normalised(x: Tensor, info: DataInfo) -> Tensor:
    """RGB values (N, 3, H, W) in 0..255 as networks see them."""
    mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (info.mean, info.std))
    x = (x - mean) / std
    return x.flip(1) if info.bgr else x


def looked_up(image: Tensor, info: DataInfo, layout: torch.memory_format) -> Tensor:
    """The same bits for uint8 images (N, H, W, 3) on a CPU: a byte has 256 values, which are normalised once."""
    table = normalised(torch.arange(256.0).view(1, 1, 1, 256).expand(1, 3, 1, 256), info)[0, :, 0].numpy()
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
