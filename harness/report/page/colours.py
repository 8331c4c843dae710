"""Colours and names of classes, and label maps in these colours."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = Mapping[str, Any]

_WHEEL = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (240, 228, 66))
_VOID = ((112, 112, 112), (216, 216, 216))


def rgb(colour: Sequence[int] | NDArray[Any]) -> str:
    """The colour in CSS notation."""
    return "#{:02x}{:02x}{:02x}".format(*(int(v) for v in colour))


def class_names(row: Row) -> list[str]:
    """The names of a row's classes; "class 0" and so on if it has none."""
    return list(row["class_names"] or (f"class {k}" for k in range(row["num_classes"])))


def class_colours(palette: Sequence[Sequence[int]] | None, num_classes: int) -> NDArray[np.uint8]:
    """(K, 3) RGB of the classes: the dataset's palette, or a default one without it.

    Raises:
        ValueError: a palette with another number of classes, or entries that are not RGB in 0..255.
    """
    if palette is None:
        shades = [1.0, 0.62, 0.36]
        made = [[round(v * shades[i // len(_WHEEL) % 3]) for v in _WHEEL[i % len(_WHEEL)]] for i in range(num_classes)]
        return np.array(made, dtype=np.uint8)
    colours = np.array(palette)
    if colours.shape != (num_classes, 3) or colours.min() < 0 or colours.max() > 255:
        raise ValueError(f"palette: {num_classes} colours [r, g, b] in 0..255 are needed; given: {palette}")
    return colours.astype(np.uint8)


def colourise(label_map: bytes, colours: NDArray[np.uint8], ignore_index: int) -> bytes:
    """A label map in colour, with void pixels striped in two greys.

    Args:
        label_map: PNG, 8-bit grey, class ids.
        colours: (K, 3) RGB.
        ignore_index: the id of void pixels.

    Returns:
        PNG, RGB, of the same size.

    Raises:
        ValueError: not such a PNG, or an id is neither a class nor void.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(label_map)) as image:
            ids = np.asarray(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"a label map is a PNG; given: {len(label_map)} bytes of something else") from error
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ValueError(f"a label map is an 8-bit grey PNG; given: shape {ids.shape}, {ids.dtype}")
    void = ids == ignore_index
    if (wrong := ids[~void & (ids >= len(colours))]).size:
        raise ValueError(f"a label map has id {wrong[0]}; there are {len(colours)} classes and void {ignore_index}")
    rgb = colours[np.where(void, 0, ids)]
    y, x = np.indices(ids.shape)
    stripes = np.array(_VOID, dtype=np.uint8)[(x + y) // 2 % 2]
    out = io.BytesIO()
    Image.fromarray(np.where(void[..., None], stripes, rgb)).save(out, "PNG", optimize=True)
    return out.getvalue()
