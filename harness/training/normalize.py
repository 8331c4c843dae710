"""Images as networks see them: RGB bytes become normalised float32 values."""

import functools

import cv2
import numpy as np
import torch
from torch import Tensor

from harness.datasets.base import DataInfo


def normalised_images(image: Tensor, info: DataInfo, layout: torch.memory_format) -> Tensor:
    """uint8 images (N, H, W, 3) as float32 (N, 3, H, W), normalised on their device."""
    if image.device.type == "cpu":
        return _looked_up(image, info, layout)
    return _normalised(image.permute(0, 3, 1, 2).float(), info).contiguous(memory_format=layout)


@functools.lru_cache(maxsize=64)
def by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Values of the channels as (1, C, 1, 1) on a device. Kept: sent anew, a GPU would be waited for at every step."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(1, -1, 1, 1)


def _normalised(x: Tensor, info: DataInfo) -> Tensor:
    """RGB values (N, 3, H, W) in 0..255, normalised."""
    mean, std = (by_channel(values, x.device) for values in (info.mean, info.std))
    x = (x - mean) / std
    return x.flip(1) if info.bgr else x


def _looked_up(image: Tensor, info: DataInfo, layout: torch.memory_format) -> Tensor:
    """The same bits for uint8 images (N, H, W, 3) on a CPU, from a table of the 256 normalised values of a byte."""
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
