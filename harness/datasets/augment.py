"""Augmentation of one training pair, and the step from bytes to a network's input.

Scaling by s and cropping (h, w) is done the other way round: a window of (h / s, w / s) is cut from the source and
resized to (h, w), so that nothing outside the crop is ever computed. OpenCV runs it; whoever calls this in a worker
sets OpenCV's own threads to zero there (`cv2.setNumThreads(0)`), since the worker is the unit of parallelism.
"""

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.datasets.base import Image, Label


def augment(
    image: Image,
    label: Label,
    rng: np.random.Generator,
    *,
    crop_hw: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    flip: float = 0.5,
    brightness: float = 0.0,
    contrast: float = 0.0,
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ignore_index: int = 255,
) -> tuple[Image, Label]:
    """Random scale, crop with padding, horizontal flip and photometric jitter.

    Each call takes the same six numbers from `rng` whatever it does with them, so that a switched-off option does not
    move what comes later in the stream.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) uint8.
        rng: the stream of this pair.
        crop_hw: height and width of the result in pixels.
        scale: both sides are multiplied by a factor drawn uniformly from this range (rounded so that the window in the
            source is whole pixels); the image is interpolated bilinearly, the label by nearest neighbour.
        flip: probability of a horizontal flip, in [0, 1].
        brightness: the image is shifted by up to this share of 255 either way, in [0, 1].
        contrast: differences from `fill` are multiplied by a factor of up to 1 +- this, in [0, 1].
        fill: RGB in 0..255 of pixels outside the source; the dataset's mean.
        ignore_index: label of pixels outside the source.

    Returns:
        image (crop_h, crop_w, 3) uint8 and label (crop_h, crop_w) uint8; the inputs are not changed.

    Raises:
        ValueError: shapes or dtypes other than these, or a parameter outside its range.
    """
    _check(image, label, crop_hw, scale, flip, brightness, contrast)
    u_scale, u_y, u_x, u_flip, u_brightness, u_contrast = rng.random(6)
    factor = scale[0] + (scale[1] - scale[0]) * u_scale
    window_hw = (max(1, round(crop_hw[0] / factor)), max(1, round(crop_hw[1] / factor)))
    top = _offset(label.shape[0], window_hw[0], u_y)
    left = _offset(label.shape[1], window_hw[1], u_x)
    shown, truth = _window(image, fill, top, left, window_hw), _window(label, ignore_index, top, left, window_hw)
    if window_hw != crop_hw:
        shown = _resize(shown, crop_hw, cv2.INTER_LINEAR)
        # INTER_NEAREST rounds down and moves the label against the image by up to half a pixel; _EXACT does not.
        truth = _resize(truth, crop_hw, cv2.INTER_NEAREST_EXACT)
    if u_flip < flip:
        shown, truth = _bytes(cv2.flip(shown, 1)), _bytes(cv2.flip(truth, 1))
    if brightness or contrast:
        shift = 255 * brightness * (2 * u_brightness - 1)
        shown = _jitter(shown, shift, 1 + contrast * (2 * u_contrast - 1), fill)
    # Without scale, padding and flip these are still views of the inputs.
    return shown.copy(), truth.copy()


def to_tensor(image: Image, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Normalise an image: (value - mean) / std per channel.

    Args:
        image: (H, W, 3) uint8 RGB.
        mean: per channel, in 0..255.
        std: per channel, in 0..255, above 0.

    Returns:
        (3, H, W) float32, contiguous.

    Raises:
        ValueError: the image is not (H, W, 3) uint8, or a std is not above 0.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, 3) uint8; given: {image.shape} {image.dtype}")
    if min(std) <= 0:
        raise ValueError(f"std={std}: all three must be above 0")
    x = image.astype(np.float32)
    x -= np.asarray(mean, np.float32)
    x /= np.asarray(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))


def _offset(size: int, window: int, u: float) -> int:
    """Where the window begins: anywhere inside the source if that is larger, else such that it holds all of it."""
    room = abs(size - window)
    shift = min(int(u * (room + 1)), room)
    return shift if size >= window else -shift


def _window(
    x: NDArray[np.uint8], fill: tuple[float, float, float] | int, top: int, left: int, window_hw: tuple[int, int]
) -> NDArray[np.uint8]:
    """Cut a window, which may begin before the source and end after it; what lies outside is `fill`. May be a view."""
    bottom, right = top + window_hw[0], left + window_hw[1]
    inside = x[max(top, 0) : min(bottom, x.shape[0]), max(left, 0) : min(right, x.shape[1])]
    if inside.shape[:2] == window_hw:
        return inside
    pad = (max(-top, 0), max(bottom - x.shape[0], 0), max(-left, 0), max(right - x.shape[1], 0))
    value = np.clip(np.round(fill), 0, 255).tolist()
    return _bytes(cv2.copyMakeBorder(inside, *pad, cv2.BORDER_CONSTANT, value=value))


def _resize(x: NDArray[np.uint8], size_hw: tuple[int, int], how: int) -> NDArray[np.uint8]:
    return _bytes(cv2.resize(x, (size_hw[1], size_hw[0]), interpolation=how))


def _bytes(x: Any) -> NDArray[np.uint8]:
    """OpenCV's results are typed as arrays of any number; here they are bytes."""
    assert x.dtype == np.uint8
    out: NDArray[np.uint8] = x
    return out


def _jitter(image: Image, shift: float, gain: float, centre: tuple[float, float, float]) -> Image:
    """(value - centre) * gain + centre + shift per channel, by a table of the 256 values."""
    values = np.arange(256, dtype=np.float64)[:, None]
    middle = np.asarray(centre)
    table = np.clip(np.round((values - middle) * gain + middle + shift), 0, 255).astype(np.uint8)
    return _bytes(cv2.LUT(image, table[:, None, :]))


def _check(
    image: Image,
    label: Label,
    crop_hw: tuple[int, int],
    scale: tuple[float, float],
    flip: float,
    brightness: float,
    contrast: float,
) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, 3) uint8; given: {image.shape} {image.dtype}")
    if label.shape != image.shape[:2] or label.dtype != np.uint8 or label.size == 0:
        raise ValueError(f"the label of this image is {image.shape[:2]} uint8; given: {label.shape} {label.dtype}")
    if min(crop_hw) < 1:
        raise ValueError(f"crop_hw={crop_hw}: both sides are at least 1 pixel")
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale={scale}: 0 < smallest <= largest is needed")
    for name, value in (("flip", flip), ("brightness", brightness), ("contrast", contrast)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: allowed are 0..1")
