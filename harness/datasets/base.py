"""The interface of a dataset: three splits of (image, label) pairs, and their description."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.metrics import miou

Image = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""
Label = NDArray[np.uint8]
"""(H, W) uint8 class indices; the ignore index where there is none."""


class Split(Protocol):
    """A finite sequence of (image, label) pairs; reading a pair again gives the same pair."""

    def __len__(self) -> int:
        """Number of pairs."""
        ...

    def __getitem__(self, index: int) -> tuple[Image, Label]:
        """Pair `index`: image (H, W, 3) uint8 and label (H, W) uint8. IndexError past the end."""
        ...


@dataclass(frozen=True)
class DataInfo:
    """The description of a dataset that runs, reports and methods need.

    Attributes:
        name: the key in `DATASETS`.
        num_classes: K; labels are 0..K-1.
        class_names: K names.
        palette: K RGB colours, for pictures of labels.
        mean: RGB mean in 0..255, subtracted from an image; also the padding colour.
        std: RGB standard deviation, divides the difference.
        content_hash: sha256 of the splits' content; rows with the same hash used the same data.
        note: description of the data in one sentence.
        ignore_index: the label that is never counted.
        floor_dev_miou: mIoU of the single-pixel baseline on dev; None if not computed.
        floor_val_miou: the same on val.
        shareable: whether public rows may contain its photographs and labels.
        bgr: whether networks get the channels in the order blue, green, red.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    content_hash: str
    note: str
    ignore_index: int = 255
    floor_dev_miou: float | None = None
    floor_val_miou: float | None = None
    shareable: bool = True
    bgr: bool = False

    def __post_init__(self) -> None:
        for name in ("class_names", "palette"):
            if len(getattr(self, name)) != self.num_classes:
                raise ValueError(f"{self.name}: {name} has {len(getattr(self, name))} entries, not {self.num_classes}")


@dataclass(frozen=True)
class Data:
    """A dataset: training pairs, the dev split for selection, and val for final figures only."""

    info: DataInfo
    train: Split
    dev: Split
    val: Split


def faults(data: Data, where: str) -> list[str]:
    """What keeps splits from being trained, selected or evaluated on, a text each.

    Args:
        data: the splits.
        where: the folder of the data, or what made it.
    """
    found = []
    for name in ("train", "dev", "val"):
        split = getattr(data, name)
        if not len(split):
            found.append(f"{where}: {name} has no image; it needs at least one")
        elif not _labelled(split, data.info.ignore_index):
            own = ", or give another data.parameters.dev_seed" if name == "dev" else ""
            found.append(
                f"{where}: {name} has no labelled pixel in its {len(split)} pairs; every pixel is ignored. Correct the "
                f"label maps, or the values of the classes{own}"
            )
    return found


def _labelled(split: Split, ignore_index: int) -> bool:
    """Whether any pixel has a class; a split in files knows it from its index."""
    known: bool | None = getattr(split, "labelled", None)
    if known is not None:
        return known
    return any((split[i][1] != ignore_index).any() for i in range(len(split)))


def intensity_histogram(split: Split, num_classes: int, ignore_index: int) -> NDArray[np.int64]:
    """Pixels of every (grey level, class): (256, K). Grey level is the rounded-down mean of the channels."""
    total = np.zeros(256 * num_classes, np.int64)
    for i in range(len(split)):
        image, label = split[i]
        keep = label != ignore_index
        grey = image[keep].sum(1, dtype=np.int64) // 3
        total += np.bincount(grey * num_classes + label[keep], minlength=total.size)
    return total.reshape(256, num_classes)


def fit_intensity_table(histogram: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose a class for each grey level to maximise the mIoU on `histogram`, changing one level at a time.

    Starts from the class of highest likelihood (classes weighted equally, as in mIoU) and changes single entries as
    long as the mIoU increases.

    Args:
        histogram: (256, K) pixels by grey level and class, of the training split.

    Returns:
        (256,) class indices.
    """
    labelled = histogram.sum(0)
    table: NDArray[np.int64] = np.argmax(histogram / np.maximum(labelled, 1), axis=1)
    confusion = table_confusion(table, histogram)
    hit, said = np.diag(confusion).copy(), confusion.sum(0)
    best, changed = miou(confusion), True
    while changed:
        changed = False
        for level, counts in enumerate(histogram):
            # Row c of a trial: hits and predictions if this level is assigned to class c.
            old = np.eye(len(labelled), dtype=np.int64)[table[level]]
            trial_hit = hit - old * counts + np.diag(counts)
            trial_said = said - old * counts.sum() + np.eye(len(labelled), dtype=np.int64) * counts.sum()
            union = labelled + trial_said - trial_hit
            score = (trial_hit / np.maximum(union, 1)).sum(1) / np.maximum((union > 0).sum(1), 1)
            new = int(np.argmax(score))
            if score[new] > best + 1e-9:
                table[level], hit, said, best, changed = new, trial_hit[new], trial_said[new], float(score[new]), True
    return table


def table_confusion(table: NDArray[np.int64], histogram: NDArray[np.int64]) -> NDArray[np.int64]:
    """Confusion matrix (K, K), rows = label, of predicting `table[grey level]`; `histogram` is (256, K) pixels."""
    classes = histogram.shape[1]
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion.T, table, histogram)
    return confusion


def intensity_floors(train: Split, tests: Iterable[Split], num_classes: int, ignore_index: int = 255) -> list[float]:
    """The mIoU on each of `tests` of a table from grey level to class fitted on `train` (single-pixel baseline)."""
    table = fit_intensity_table(intensity_histogram(train, num_classes, ignore_index))
    return [miou(table_confusion(table, intensity_histogram(test, num_classes, ignore_index))) for test in tests]
