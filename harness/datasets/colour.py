"""What a single pixel's colour tells: the floor of a dataset in colour, as `base.intensity_floors` is for grey."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from harness.datasets.base import Split, table_confusion
from harness.metrics import miou

BITS = 6
"""Bits per channel that a table looks at. On landcover a table of 5 bits scores less on dev and val, and so does one of
7, which learns colours by heart that train has a few times only."""
ROUNDS = 40


def colour_floors(train: Split, tests: Iterable[Split], num_classes: int, ignore_index: int = 255) -> list[float]:
    """The mIoU on each of `tests` of a table from colour to class that was learned on `train`.

    Whatever a network scores above it, it owes to more than one pixel. A colour that `train` does not have is taken for
    the nearest one that it has.
    """
    histogram = colour_histogram(train, num_classes, ignore_index)
    known = np.flatnonzero(histogram.any(1))
    table = fit_colour_table(histogram[known])
    floors = []
    for test in tests:
        seen = colour_histogram(test, num_classes, ignore_index)
        met = np.flatnonzero(seen.any(1))
        floors.append(miou(table_confusion(table[_nearest(met, known)], seen[met])))
    return floors


def colour_histogram(split: Split, num_classes: int, ignore_index: int = 255) -> NDArray[np.int64]:
    """Pixels of every (colour, class): (8**BITS, K). A colour's index is its red, green and blue bits in a row."""
    total = np.zeros(8**BITS * num_classes, np.int64)
    for i in range(len(split)):
        image, label = split[i]
        keep = label != ignore_index
        red, green, blue = (image[keep].astype(np.int64) >> (8 - BITS)).T
        colour = (red << 2 * BITS) | (green << BITS) | blue
        np.add.at(total, colour * num_classes + label[keep], 1)
    return total.reshape(-1, num_classes)


def fit_colour_table(histogram: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class for each colour that makes the mIoU on `histogram` as high as it gets, all colours at a time.

    Starts from the class of highest likelihood, as `base.fit_intensity_table` does. To first order, giving n pixels of
    a colour, h of them of class c, to c changes the mIoU by (h (1 + IoU) - IoU n) / U / K, with IoU and union U of
    class c; every colour gets the class where that is most. Repeated with IoU and U that follow by half a step, it
    comes to rest where that one does, in a tenth of the time for thousands of colours.

    Args:
        histogram: (N, K) pixels by colour and class, of the training split.

    Returns:
        (N,) class indices.
    """
    labelled, pixels = histogram.sum(0), histogram.sum(1, keepdims=True)
    table: NDArray[np.int64] = np.argmax(histogram / np.maximum(labelled, 1), axis=1)
    best = table
    hit, union, highest = np.zeros(len(labelled)), np.zeros(len(labelled)), -1.0
    for i in range(ROUNDS):
        confusion = table_confusion(table, histogram)
        score, true = miou(confusion), np.diag(confusion)
        if score > highest:
            best, highest = table, score
        step = 0.5 if i else 1.0
        hit += step * (true - hit)
        union += step * (labelled + confusion.sum(0) - true - union)
        iou, scale = hit / np.maximum(union, 1), np.maximum(union, 1)
        gain = (histogram * (1 + iou) - iou * pixels) / scale
        # A class that has no pixel cannot gain any.
        table = np.argmax(np.where(labelled > 0, gain, -np.inf), axis=1)
    return best


def _nearest(colours: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in the ascending `known` each of `colours` stands, or else the one that is nearest in RGB."""
    place: NDArray[np.int64] = np.minimum(np.searchsorted(known, colours), len(known) - 1)
    new = np.flatnonzero(known[place] != colours)
    rgb = _channels(known)
    # In parts, since all distances at once could be a gigabyte. Whole numbers: exact in floating point.
    for part in np.array_split(new, len(new) // 256 + 1):
        other = _channels(colours[part])
        place[part] = np.argmin((rgb * rgb).sum(1) - 2 * other @ rgb.T, axis=1)
    return place


def _channels(colours: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) colour indices as (N, 3) red, green and blue in 0..2**BITS - 1."""
    return np.stack([colours >> 2 * BITS, colours >> BITS & 2**BITS - 1, colours & 2**BITS - 1], 1).astype(np.float64)
