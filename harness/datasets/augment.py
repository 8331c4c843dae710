"""Augmentation of one training pair.

Instead of scaling by s and cropping (h, w), a window of (h / s, w / s) is cut from the source and resized to (h, w), so
that only the crop is computed. In a data-loading worker, call `cv2.setNumThreads(0)`, because the workers already run
in parallel.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from harness.datasets.base import Image, Label
from harness.datasets.decode import value_counts

TRIES = 10
"""How often another crop is tried if one exceeds `class_cap`."""


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
    saturation: float = 0.0,
    hue: float = 0.0,
    scale_step: float = 0.0,
    class_cap: float = 1.0,
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ignore_index: int = 255,
) -> tuple[Image, Label]:
    """Random scale, crop with padding, horizontal flip and photometric jitter.

    Each call draws equally many numbers from `rng`, so that switching an option off does not change later draws.

    Args:
        image: (H, W, 3) uint8.
        label: (H, W) uint8.
        rng: random stream of this pair.
        crop_hw: height and width of the result in pixels.
        scale: range of the scale factor, drawn uniformly (rounded so that the window in the source is whole pixels);
            the image is interpolated bilinearly, the label by nearest neighbour.
        flip: probability of a horizontal flip, in [0, 1].
        brightness: largest shift of the image in either direction, as a share of 255, in [0, 1].
        contrast: differences from `fill` are multiplied by a factor of up to 1 +- this, in [0, 1].
        saturation: the saturation (HSV) is multiplied by a factor of up to 1 +- this, in [0, 1].
        hue: largest rotation of the hue in either direction in degrees, in [0, 180].
        scale_step: scales are `scale[0]` plus multiples of this, each equally likely, up to `scale[1]`; 0 for any.
        class_cap: largest share of one class among a crop's labelled pixels; otherwise another crop is tried, at most
            ten times (MMSegmentation's `cat_max_ratio`); in (0, 1], 1 keeps the first crop.
        fill: RGB in 0..255 of pixels outside the source; the dataset's mean.
        ignore_index: label of pixels outside the source.

    Returns:
        Image (crop_h, crop_w, 3) uint8 and label (crop_h, crop_w) uint8; the inputs are not changed.

    Raises:
        ValueError: other shapes or dtypes, or a parameter is out of range.
    """
    _check(image, label, crop_hw, scale, scale_step, class_cap)
    _check_shares(flip=flip, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue / 180)
    u_scale, u_y, u_x, u_flip, u_brightness, u_contrast = rng.random(6)
    u_saturation, u_hue, *u_again = rng.random(2 + 2 * TRIES)
    factor = _factor(scale, scale_step, u_scale)
    window_hw = (max(1, round(crop_hw[0] / factor)), max(1, round(crop_hw[1] / factor)))
    top, left = _place(label, window_hw, class_cap, ignore_index, [u_y, u_x, *u_again])
    shown, truth = _window(image, fill, top, left, window_hw), _window(label, ignore_index, top, left, window_hw)
    if window_hw != crop_hw:
        shown = _resize(shown, crop_hw, cv2.INTER_LINEAR)
        # INTER_NEAREST would shift the label against the image by up to half a pixel; _EXACT does not.
        truth = _resize(truth, crop_hw, cv2.INTER_NEAREST_EXACT)
    if u_flip < flip:
        shown, truth = _bytes(cv2.flip(shown, 1)), _bytes(cv2.flip(truth, 1))
    if brightness or contrast:
        shift = 255 * brightness * (2 * u_brightness - 1)
        shown = _jitter(shown, shift, 1 + contrast * (2 * u_contrast - 1), fill)
    if saturation or hue:
        shown = _recolour(shown, 1 + saturation * (2 * u_saturation - 1), hue * (2 * u_hue - 1))
    # Without scale, padding and flip these are still views of the inputs.
    return shown.copy(), truth.copy()


def _factor(scale: tuple[float, float], step: float, u: float) -> float:
    """The scale for the uniform random number `u`."""
    low, high = scale
    if not step:
        return low + (high - low) * u
    choices = int((high - low) / step + 1e-9) + 1
    return low + step * min(int(u * choices), choices - 1)


def _place(
    label: Label, window_hw: tuple[int, int], class_cap: float, ignore_index: int, uniform: list[float]
) -> tuple[int, int]:
    """Top and left of the first window in which no class exceeds `class_cap`, or else of the last one tried."""
    for u_y, u_x in zip(uniform[::2], uniform[1::2], strict=True):
        top, left = _offset(label.shape[0], window_hw[0], u_y), _offset(label.shape[1], window_hw[1], u_x)
        if class_cap == 1:
            break
        inside = label[max(top, 0) : top + window_hw[0], max(left, 0) : left + window_hw[1]]
        counts = value_counts(inside)
        counts[ignore_index] = 0
        if counts.max() <= class_cap * counts.sum() and np.count_nonzero(counts) > 1:
            break
    return top, left


def _offset(size: int, window: int, u: float) -> int:
    """First pixel of the window: anywhere inside a larger source, otherwise so that the window contains the source."""
    room = abs(size - window)
    shift = min(int(u * (room + 1)), room)
    return shift if size >= window else -shift


def _window(
    x: NDArray[np.uint8], fill: tuple[float, float, float] | int, top: int, left: int, window_hw: tuple[int, int]
) -> NDArray[np.uint8]:
    """Cut a window that may exceed the source; pixels outside are `fill`. The result may be a view."""
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
    """Narrow the type of OpenCV's results to bytes."""
    assert x.dtype == np.uint8
    out: NDArray[np.uint8] = x
    return out


def _jitter(image: Image, shift: float, gain: float, centre: tuple[float, float, float]) -> Image:
    """(value - centre) * gain + centre + shift per channel, by a table of the 256 values."""
    values = np.arange(256, dtype=np.float64)[:, None]
    middle = np.asarray(centre)
    table = np.clip(np.round((values - middle) * gain + middle + shift), 0, 255).astype(np.uint8)
    return _bytes(cv2.LUT(image, table[:, None, :]))


def _recolour(image: Image, gain: float, degrees: float) -> Image:
    """Multiply the saturation and rotate the hue, in HSV with 256 hues."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    values = np.arange(256)
    table = np.stack([values + round(degrees * 256 / 360), np.clip(np.round(values * gain), 0, 255), values], axis=1)
    turned = cv2.LUT(hsv, (table % 256).astype(np.uint8)[:, None, :])
    return _bytes(cv2.cvtColor(turned, cv2.COLOR_HSV2RGB_FULL))


def _check(
    image: Image,
    label: Label,
    crop_hw: tuple[int, int],
    scale: tuple[float, float],
    scale_step: float,
    class_cap: float,
) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, 3) uint8; given: {image.shape} {image.dtype}")
    if label.shape != image.shape[:2] or label.dtype != np.uint8 or label.size == 0:
        raise ValueError(f"the label of this image is {image.shape[:2]} uint8; given: {label.shape} {label.dtype}")
    if min(crop_hw) < 1:
        raise ValueError(f"crop_hw={crop_hw}: both sides are at least 1 pixel")
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale={scale}: 0 < smallest <= largest is needed")
    if scale_step < 0:
        raise ValueError(f"scale_step={scale_step}: allowed are 0 and more")
    if not 0 < class_cap <= 1:
        raise ValueError(f"class_cap={class_cap}: allowed are values above 0, up to 1")


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            given, most = (value * 180, 180) if name == "hue" else (value, 1)
            raise ValueError(f"{name}={given}: allowed are 0..{most}")
