"""Argmax of class scores, and confusion matrices counted on the device in int64.

Scores computed from a matrix are in `harness.metrics`, which needs no torch.
"""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 2**17  # pixels per block, so that the running maximum and its class fit in a core's cache
_COUNTABLE = 2**24  # OpenCV returns counts as float32, which is exact for integers up to this
_BYTE = 256


def argmax(scores: Tensor) -> Tensor:
    """The class of the highest score of every pixel, as `torch.argmax` over dim 1 but many times faster on a CPU.

    The first class wins a tie, and the first NaN counts as the highest score, as in torch.

    Args:
        scores: (N, K, H, W) floating point.

    Returns:
        (N, H, W), uint8 for up to 256 classes and int64 for more.

    Raises:
        ValueError: not four dimensions, or no class.
    """
    if scores.ndim != 4 or scores.shape[1] < 1:
        raise ValueError(f"a batch of scores is (N, K, H, W) with K >= 1; given {tuple(scores.shape)}")
    if scores.shape[1] > _BYTE:
        return scores.argmax(dim=1)
    readable = scores.dtype in (torch.float32, torch.float64) and scores.stride(-1) == 1
    if scores.device.type != "cpu" or not readable:
        return scores.argmax(dim=1).to(torch.uint8)
    n, _, height, width = scores.shape
    out = np.zeros((n, height, width), np.uint8)
    rows = max(1, BLOCK // max(1, width))
    for image, classes in zip(scores.detach().numpy(), out, strict=True):
        for top in range(0, height, rows):
            _running_argmax(image[:, top : top + rows], classes[top : top + rows])
    return torch.from_numpy(out)


def _running_argmax(scores: NDArray[np.floating], out: NDArray[np.uint8]) -> None:
    """Fill `out`, (H, W) zeros, with the classes of the highest of `scores`, (K, H, W)."""
    best = scores[0].copy()
    better = np.empty(best.shape, np.bool_)
    number = better.view(np.uint8)
    for k in range(1, len(scores)):
        np.greater(scores[k], best, out=better)
        # Classes are compared in ascending order, so the highest class that raised the maximum is the argmax.
        np.multiply(number, np.uint8(k), out=number)
        np.maximum(out, number, out=out)
        np.maximum(best, scores[k], out=best)
    if np.isnan(best).any():  # comparisons with NaN are false, but a maximum keeps NaN
        out[...] = torch.from_numpy(scores).argmax(dim=0).numpy()


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Count the pixels of every (label, prediction) pair.

    Args:
        prediction: class indices of any shape, an integer dtype.
        label: class indices of the same shape, an integer dtype; `ignore_index` is not counted.
        num_classes: K.
        ignore_index: the label that is never counted.

    Returns:
        (K, K) int64 on the inputs' device, rows = label, columns = prediction.

    Raises:
        ValueError: shapes or devices differ, a dtype is not an integer one, a prediction lies outside [0, K), a label
            lies outside [0, K) and is not `ignore_index`.
    """
    _check(prediction, label, num_classes)
    if prediction.device.type == "cpu":
        table = _histogram(prediction, label, num_classes, ignore_index)
        if table is not None:
            return torch.from_numpy(table)
    counts, extremes = _count(prediction, label, num_classes, ignore_index)
    _check_range(extremes, num_classes, ignore_index)
    return counts


class Confusion:
    """A confusion matrix that is accumulated batch by batch on one device.

    Args:
        num_classes: K.
        ignore_index: the label that is never counted.
        device: device of the counts, predictions and labels.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, device: torch.device | str = "cpu") -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: at least 1 is needed")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
        # Reading a value from a GPU synchronises, so on a GPU values are checked once, at the end.
        self.deferred = self.counts.device.type != "cpu"
        self._extremes = torch.zeros(4, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Add the pixels of one batch; arguments and errors as in `confusion_matrix`.

        On a GPU a value out of range is not counted; `numpy` raises the error.
        """
        if not self.deferred:
            self.counts += confusion_matrix(prediction, label, self.num_classes, self.ignore_index)
            return
        _check(prediction, label, self.num_classes)
        counts, extremes = _count(prediction, label, self.num_classes, self.ignore_index)
        self.counts += counts
        low, high = torch.minimum(self._extremes, extremes), torch.maximum(self._extremes, extremes)
        self._extremes = torch.stack([low[0], high[1], low[2], high[3]])

    def numpy(self) -> NDArray[np.int64]:
        """The counts so far, (K, K) int64, as a copy.

        Raises:
            ValueError: on a GPU, a prediction or a label of some batch was out of range.
        """
        _check_range(self._extremes, self.num_classes, self.ignore_index)
        counts: NDArray[np.int64] = self.counts.cpu().numpy().copy()
        return counts


def _check(prediction: Tensor, label: Tensor, num_classes: int) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: at least 1 is needed")
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} must have one shape")
    if prediction.device != label.device:
        raise ValueError(f"prediction is on {prediction.device} and label on {label.device}: one device is needed")
    for name, x in (("prediction", prediction), ("label", label)):
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"{name} has dtype {x.dtype}: class indices of an integer dtype are needed (argmax?)")


def _histogram(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int) -> NDArray[np.int64] | None:
    """Counts (K, K) by a two-dimensional histogram of bytes; None if not applicable or a value is out of range."""
    if num_classes > _BYTE or not 0 <= ignore_index < _BYTE:
        return None
    said, true = _bytes(prediction), _bytes(label)
    if said is None or true is None:
        return None
    table = np.zeros((_BYTE, _BYTE), np.int64)
    for at in range(0, said.size, _COUNTABLE):
        pair = [x[None, at : at + _COUNTABLE] for x in (true, said)]
        table += cv2.calcHist(pair, [0, 1], None, [_BYTE, _BYTE], [0, _BYTE, 0, _BYTE]).astype(np.int64)
    outside = table[:, num_classes:].any()
    table[ignore_index] = 0
    if outside or table[num_classes:].any():
        return None
    counts: NDArray[np.int64] = table[:num_classes, :num_classes].copy()
    return counts


def _bytes(x: Tensor) -> NDArray[np.uint8] | None:
    """The values of `x` as a flat array of bytes, or None if a value is not a byte."""
    values = x.reshape(-1).numpy()
    if values.dtype == np.uint8:
        return values
    out = np.empty(values.size, np.uint8)
    for at in range(0, values.size, BLOCK):
        block = values[at : at + BLOCK]
        if block.min() < 0 or block.max() >= _BYTE:
            return None
        out[at : at + BLOCK] = block
    return out


def _count(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Counts (K, K) of values in range, and (4,) int64: lowest and highest prediction and non-ignored label.

    For any device and integer dtype; without a sync.
    """
    # int64 first: in uint8 the product below would wrap around.
    prediction, label = prediction.reshape(-1).long(), label.reshape(-1).long()
    if not prediction.numel():
        empty = label.new_zeros(num_classes, num_classes)
        return empty, label.new_zeros(4)
    ignored = label == ignore_index
    fine = ~ignored & (prediction >= 0) & (prediction < num_classes) & (label >= 0) & (label < num_classes)
    cell = torch.where(fine, label * num_classes + prediction, num_classes**2)  # the last cell counts the rest
    counts = torch.bincount(cell, minlength=num_classes**2 + 1)[:-1]
    extremes = torch.stack([*torch.aminmax(prediction), *torch.aminmax(label.masked_fill(ignored, 0))])
    return counts.reshape(num_classes, num_classes), extremes


def _check_range(extremes: Tensor, num_classes: int, ignore_index: int) -> None:
    also = ("", "", f" or ignore_index={ignore_index}", f" or ignore_index={ignore_index}")
    names = ("prediction", "prediction", "label", "label")
    for name, value, more in zip(names, extremes.tolist(), also, strict=True):
        if not 0 <= value < num_classes:
            raise ValueError(f"{name} holds {value}: allowed are 0..{num_classes - 1}{more}")
