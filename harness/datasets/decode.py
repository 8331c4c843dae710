"""Decodes and downscales images and label maps. Every error names the file."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from harness.datasets.base import Image, Label

NOT_ALLOWED = -1
"""Entry of a label table for a value that may not occur."""
_COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def image_pixels(data: bytes | memoryview, file: object) -> Image:
    """Decode an image; its orientation tag is ignored, because labels have none.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the bytes are not a complete image; names `file`.
    """
    buffer = np.frombuffer(data, np.uint8)
    if png_depth(data) == 16:
        raise ValueError(
            f"{file}: an image has 8 bits per channel, this one 16; convert it (values are not rescaled here)"
        )
    try:
        pixels = cv2.imdecode(buffer, _COLOUR) if buffer.size else None
    except cv2.error as error:
        raise ValueError(f"{file}: not a readable image ({error.err}). Fetch the file again.") from None
    if pixels is None:
        raise ValueError(f"{file}: not a readable image, or cut short. Fetch the file again.")
    return _bytes(pixels)


def label_values(data: bytes | memoryview, file: object) -> NDArray[np.uint8]:
    """Decode a label map: a grey image with 8 bits per pixel, a palette image, or a .mat file of SBD.

    Returns:
        Stored values (H, W) uint8; for a palette image, the indices.

    Raises:
        ValueError: not a readable image, in colour, or not of 8 bits; names `file`.
    """
    if str(file).endswith(".mat"):
        return _mat_values(data, file)
    with _opened(data, file, "label map") as picture:
        mode = picture.mode
        if mode == "P":
            values = np.asarray(picture)
    if mode == "P":
        with _opened(data, file, "label map") as picture:
            picture.verify()  # checksums, which reading the pixels does not check
        return values
    depth = png_depth(data)
    if mode != "L" or depth not in (None, 8):
        what = f"mode is {mode}" + ("" if depth in (None, 8) else f", with {depth} bits")
        raise ValueError(f"{file}: a label map has one channel of 8 bits, or a palette; this one's {what}")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 2:
        raise ValueError(f"{file}: not a readable label map, or cut short. Fetch the file again.")
    return _bytes(pixels)


def _mat_values(data: bytes | memoryview, file: object) -> NDArray[np.uint8]:
    """GTcls.Segmentation of a MATLAB file of version 5, as in SBD's folder cls."""
    from scipy.io import loadmat  # slow to import (a third of a second) and needed by one dataset

    # Version and byte order. Version 5 holds only numbers and text; versions 4 and 7.3 are other formats.
    if bytes(data[124:128]) not in (b"\0\1IM", b"\1\0MI"):
        raise ValueError(f"{file}: not a MATLAB file of version 5. Fetch the file again.")
    try:
        values = loadmat(io.BytesIO(data), variable_names=["GTcls"])["GTcls"][0, 0]["Segmentation"]
    except Exception as error:  # the reader's errors on damaged files are not documented
        raise ValueError(f"{file}: GTcls.Segmentation cannot be read ({error!r}). Fetch the file again.") from None
    if not isinstance(values, np.ndarray) or values.dtype != np.uint8 or values.ndim != 2:
        raise ValueError(f"{file}: GTcls.Segmentation is not an array (H, W) of 8 bits")
    return np.ascontiguousarray(values)


@contextlib.contextmanager
def _opened(data: bytes | memoryview, file: object, what: str) -> Iterator[PILImage.Image]:
    """The bytes opened by Pillow; its errors become a ValueError that names the file."""
    try:
        with PILImage.open(io.BytesIO(data)) as picture:
            yield picture
    except UnidentifiedImageError:
        raise ValueError(f"{file}: not a readable {what}. Fetch the file again.") from None
    except PILImage.DecompressionBombError:
        most = 2 * (PILImage.MAX_IMAGE_PIXELS or 0)
        raise ValueError(f"{file}: a {what} of more than {most:,} pixels; cut it into tiles") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{file}: not a readable {what} ({error}). Fetch the file again.") from None


def png_depth(data: bytes | memoryview) -> int | None:
    """Bits per channel from a PNG's header; None if it is not a PNG."""
    return data[24] if bytes(data[:8]) == b"\x89PNG\r\n\x1a\n" and len(data) > 24 else None


def to_classes(values: NDArray[np.uint8], table: NDArray[np.int16], file: object) -> Label:
    """Map stored label values to class indices.

    Args:
        values: (H, W) uint8.
        table: (256,) int16: class index or ignore index of every value, `NOT_ALLOWED` if it must not occur.
        file: file name for the message.

    Raises:
        ValueError: a value is not allowed; gives the value and its number of pixels.
    """
    wrong = np.flatnonzero(table == NOT_ALLOWED)
    if wrong.size:
        counts = value_counts(values)[wrong]
        if counts.any():
            found = ", ".join(f"{v} ({n} pixels)" for v, n in zip(wrong[counts > 0], counts[counts > 0], strict=True))
            allowed = _ranges(np.flatnonzero(table != NOT_ALLOWED))
            raise ValueError(f"{file}: label values {found} are not allowed; allowed: {allowed}")
    return _bytes(cv2.LUT(values, table.astype(np.uint8)))


def value_counts(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each of 256 values occurs, (256,)."""
    # OpenCV counts bytes several times faster than numpy; its float32 result is exact up to 2**24 pixels.
    if values.size >= 2**24:
        return np.bincount(values.reshape(-1), minlength=256)
    counts: NDArray[np.int64] = cv2.calcHist([values], [0], None, [256], [0, 256]).reshape(-1).astype(np.int64)
    return counts


def shrink(image: Image, label: Label | None, short_side: int | None) -> tuple[Image, Label | None]:
    """Downscale to `short_side` pixels on the shorter side; smaller pairs are returned unchanged.

    The image is averaged over areas, the label is resized by nearest neighbour.
    """
    size_hw = (image.shape[0], image.shape[1])
    wanted = shrunk_size(size_hw, short_side)
    if wanted == size_hw:
        return image, label
    size = wanted[::-1]
    small = _bytes(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    if label is None:
        return small, None
    return small, _bytes(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST_EXACT))


def shrunk_size(size_hw: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """Height and width after `shrink`."""
    if short_side is None or min(size_hw) <= short_side:
        return size_hw
    factor = short_side / min(size_hw)
    return max(1, round(size_hw[0] * factor)), max(1, round(size_hw[1] * factor))


def _ranges(values: NDArray[np.int64]) -> str:
    """`0..33, 255` for the sorted values."""
    groups = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(str(g[0]) if len(g) == 1 else f"{g[0]}..{g[-1]}" for g in groups)


def _bytes(x: Any) -> NDArray[np.uint8]:
    """Narrow the type of OpenCV's results to bytes."""
    assert x.dtype == np.uint8
    out: NDArray[np.uint8] = x
    return out
