"""Counting on the device: predictions and labels become one int64 confusion matrix.

The numbers that are read off the matrix are in `harness.scores`, which needs no torch.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Count the pixels of every (label, prediction) pair.

    Args:
        prediction: class indices of any shape, an integer dtype.
        label: class indices of the same shape, an integer dtype; `ignore_index` is not counted.
        num_classes: K.
        ignore_index: the label that never counts.

    Returns:
        (K, K) int64 on the inputs' device, rows = label, columns = prediction.

    Raises:
        ValueError: shapes or devices differ, a dtype is not an integer one, a prediction lies outside [0, K), a label
            lies outside [0, K) and is not `ignore_index`.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}: at least 1 is needed")
    if prediction.shape != label.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} must have one shape")
    if prediction.device != label.device:
        raise ValueError(f"prediction is on {prediction.device} and label on {label.device}: one device is needed")
    for name, x in (("prediction", prediction), ("label", label)):
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"{name} has dtype {x.dtype}: class indices of an integer dtype are needed (argmax?)")
    # int64 first: in uint8 the product below would wrap around.
    prediction, label = prediction.reshape(-1).long(), label.reshape(-1).long()
    _check_range("prediction", prediction, num_classes, "")
    keep = label != ignore_index
    prediction, label = prediction[keep], label[keep]
    _check_range("label", label, num_classes, f" or ignore_index={ignore_index}")
    counts = torch.bincount(label * num_classes + prediction, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


class Confusion:
    """A confusion matrix that grows batch by batch on one device.

    Args:
        num_classes: K.
        ignore_index: the label that never counts.
        device: where the counts live; predictions and labels must be there too.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, device: torch.device | str = "cpu") -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: at least 1 is needed")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Add the pixels of one batch; arguments and errors as in `confusion_matrix`."""
        self.counts += confusion_matrix(prediction, label, self.num_classes, self.ignore_index)

    def numpy(self) -> NDArray[np.int64]:
        """The counts so far, (K, K) int64, as a copy."""
        counts: NDArray[np.int64] = self.counts.cpu().numpy().copy()
        return counts


def _check_range(name: str, values: Tensor, num_classes: int, also: str) -> None:
    if values.numel() == 0:
        return
    low, high = (int(v) for v in torch.aminmax(values))
    for value in (low, high):
        if not 0 <= value < num_classes:
            raise ValueError(f"{name} holds {value}: allowed are 0..{num_classes - 1}{also}")
