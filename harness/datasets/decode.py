"""Decodes and downscales images and label maps. Every error names the file."""

import contextlib
import io
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from harness.datasets.base import Image, Label
from harness.datasets.header import UPRIGHT, Header, header
from harness.experiment.recipe import MOST_PIXELS

NOT_ALLOWED = -1
"""Entry of a label table for a value that may not occur."""
BLENDED = 16
"""Colours of a mask that no class has: more are no classes that were forgotten."""
_COLOUR = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def image_pixels(data: bytes | memoryview, file: object, upright: bool = True) -> Image:
    """Decode an image.

    Args:
        data: the file's bytes; they say of which format it is.
        file: its name, for messages.
        upright: turn it as its orientation tag says.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: not a complete image, or one that cannot be shown to a network without loss; names `file`.
    """
    head = require_image(data, file)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _COLOUR)
    except cv2.error as error:
        raise ValueError(f"{file}: not a readable image ({error.err}). Fetch the file again.") from None
    if pixels is None or pixels.shape != (head.height, head.width, 3):
        raise ValueError(f"{file}: not a readable image, or cut short. Fetch the file again.")
    return turned(_bytes(pixels), head.orientation) if upright else _bytes(pixels)


def require_image(data: bytes | memoryview, file: object) -> Header:
    """What an image says of itself; its pixels are not decoded.

    Raises:
        ValueError: as `image_pixels`, but for pixels that are damaged or missing.
    """
    head = _header(data, file, "image")
    problem = next((text for holds, text in _REFUSED_IMAGES.items() if _NOT[holds](head)), None)
    if problem is not None:
        raise ValueError(f"{file}: {problem.format(head=head)}")
    return head


def orientation(data: bytes | memoryview) -> int:
    """The EXIF orientation of an image's bytes, 1 to 8; 1 is upright."""
    return header(data).orientation


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Stored pixels (H, W, ...) as they are meant to be seen; (W, H, ...) for orientations 5 to 8."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def label_values(data: bytes | memoryview, file: object) -> NDArray[np.uint8]:
    """Decode a label map: a grey image with 8 bits per pixel, a palette image, or a .mat file of SBD.

    Returns:
        Stored values (H, W) uint8; for a palette image, the indices.

    Raises:
        ValueError: not a readable image, not of one lossless channel of 8 bits, or turned; names `file`.
    """
    if str(file).endswith(".mat"):
        return _mat_values(data, file)
    head = _header(data, file, "label map")
    problem = next((text for holds, text in _REFUSED_LABELS.items() if _NOT[holds](head)), None)
    if problem is not None:
        raise ValueError(f"{file}: a label map has one channel of 8 bits, or a palette; {problem.format(head=head)}")
    values: Any
    if head.kind == "PNG" and not head.palette:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    else:
        with _opened(data, file, "label map") as picture:
            values = np.asarray(picture)
        if head.kind == "PNG":
            with _opened(data, file, "label map") as picture:
                picture.verify()  # checksums, which reading the pixels does not check
    if values is None or values.dtype != np.uint8 or values.shape != (head.height, head.width):
        raise ValueError(f"{file}: not a readable label map, or cut short. Fetch the file again.")
    return _bytes(values)


def colour_classes(
    data: bytes | memoryview, file: object, colours: Mapping[tuple[int, int, int], int]
) -> NDArray[np.uint8]:
    """Decode a label map in colours.

    Args:
        data: the file's bytes.
        file: its name, for messages.
        colours: class index by RGB colour.

    Returns:
        (H, W) uint8 class indices.

    Raises:
        ValueError: not a readable lossless image, turned, or with a colour that is not listed; names `file`.
    """
    head = _header(data, file, "label map")
    for rule in ("lossless", "upright"):
        if _NOT[rule](head):
            raise ValueError(f"{file}: a label map in colours is lossless and upright; save it as PNG, without a tag")
    if head.channels != 3 and not head.palette:
        what = "is grey; masks of values are for masks: values" if head.channels == 1 else f"has {head.channels}"
        raise ValueError(f"{file}: a label map in colours has three channels, this one {what}. {_SAVE_RGB}")
    pixels = image_pixels(data, file).astype(np.int32)
    packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    pairs = sorted((r << 16 | g << 8 | b, index) for (r, g, b), index in colours.items())
    known = np.array([colour for colour, _ in pairs], np.int32)
    place = np.minimum(np.searchsorted(known, packed), len(known) - 1)
    wrong = known[place] != packed
    if wrong.any():
        others = packed[wrong]
        first, count = int(others[0]), len(np.unique(others))
        remedy = (
            "Its edges are blended, by smooth drawing or resizing: resize masks to the nearest pixel"
            if count > BLENDED
            else "Add it to a class or to ignore_colours"
        )
        raise ValueError(
            f"{file}: {others.size} pixels have {count} colours that no class has, the first "
            f"[{first >> 16}, {first >> 8 & 255}, {first & 255}]. {remedy}"
        )
    classes: NDArray[np.uint8] = np.array([index for _, index in pairs], np.uint8)[place]
    return classes


_NOT: dict[str, Callable[[Header], bool]] = {
    "one page": lambda head: head.pages > 1,
    "unsigned": lambda head: head.number != "unsigned",
    "at most 8 bits": lambda head: head.bits > 8,
    "8 bits": lambda head: head.bits != 8 and not head.palette,
    "grey or RGB": lambda head: head.channels not in (1, 3) and not (head.kind == "JPEG" and head.channels == 4),
    "opaque": lambda head: head.transparent,
    "no CIELab": lambda head: head.lab,
    "one channel": lambda head: head.channels != 1,
    "lossless": lambda head: head.lossy or head.kind == "WebP",
    "black is 0": lambda head: head.inverted,
    "no turned TIFF": lambda head: head.kind == "TIFF" and head.orientation != UPRIGHT,
    "upright": lambda head: head.orientation != UPRIGHT,
}
"""Rules by name: whether a file breaks one."""
_CONVERT = "Choose the range and save 8 bits: numpy.clip((x - low) / (high - low) * 255, 0, 255).astype('uint8')"
_SAVE_RGB = "Save three channels: PIL.Image.open(file).convert('RGB').save(file)"
_REFUSED_IMAGES = {
    "one page": "several pages or frames; an image is one. Save each as a file of its own",
    "unsigned": f"an image has 8 bits per channel, this one {{head.bits}} bits ({{head.number}}). {_CONVERT}",
    "at most 8 bits": f"an image has 8 bits per channel, this one {{head.bits}}. {_CONVERT}",
    "no turned TIFF": "a TIFF with the orientation tag {head.orientation}, on which readers disagree. Save it upright, "
    "without the tag",
    "grey or RGB": "an image has one or three channels, this one {head.channels}; none is dropped silently. "
    + _SAVE_RGB,
    "opaque": f"some of its pixels are transparent, which no network is shown. {_SAVE_RGB}",
    "no CIELab": f"its colours are CIELab, on which readers disagree. {_SAVE_RGB}",
}
_REFUSED_LABELS = {
    "one channel": "this one has {head.channels} channels ({head.kind}). Save the class values in one channel; "
    "a folder of your own may have colours, with masks: colours in its classes.yaml",
    "lossless": "this one is a {head.kind} with lossy compression, which changes the values. Save it as PNG",
    "one page": "this one has several pages. Save the one with the classes",
    "unsigned": "this one has {head.bits} bits ({head.number}). Save the values as 8 bits",
    "8 bits": "this one's mode is {head.kind} with {head.bits} bits. Save the values as 8 bits",
    "black is 0": "in this one 0 is white. Save it as PNG",
    "upright": "this one has the orientation tag {head.orientation}. Save it without the tag, as its image is seen",
}


def _header(data: bytes | memoryview, file: object, what: str) -> Header:
    """What the bytes say of themselves, if the declared size can be held."""
    try:
        found = header(data)
    except ValueError as error:
        remedy = "Save it as one of these" if "its bytes are no" in str(error) else "Fetch the file again"
        raise ValueError(f"{file}: not a readable {what} ({error}). {remedy}.") from None
    if found.height * found.width > MOST_PIXELS:
        raise ValueError(
            f"{file}: declares {found.width} x {found.height} pixels; at most {MOST_PIXELS:,} are read. Cut the {what} "
            "into tiles"
        )
    return found


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
        with PILImage.open(io.BytesIO(data), formats=("PNG", "BMP", "TIFF")) as picture:
            yield picture
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        text = " ".join(str(error).split())[:200]
        raise ValueError(f"{file}: not a readable {what} ({text}). Fetch the file again.") from None


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
