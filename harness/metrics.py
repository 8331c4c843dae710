"""Segmentation scores from a confusion matrix.

A confusion matrix (K, K) counts pixels: rows are labels, columns are predictions; ignored pixels are not counted.
Needs numpy only, so that reading results does not load torch.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Absent = Literal["skip", "zero"]
"""Treatment of a class in neither labels nor predictions: leave it out of the mean, or count it as 0."""


def class_iou(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of every class: TP / (TP + FP + FN).

    Args:
        confusion: (K, K) counts, rows = label, columns = prediction.

    Returns:
        (K,) in [0, 1]; nan for a class that is in no label and in no prediction.

    Raises:
        ValueError: not a square matrix of finite, non-negative counts.
    """
    c = _checked(confusion)
    hit = np.diag(c)
    return _ratio(hit, c.sum(0) + c.sum(1) - hit)


def hits_and_unions(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """Numerator and denominator of `class_iou`: TP, and TP + FP + FN, of every class; both can be summed over images.

    Args:
        confusion: (..., K, K) counts, rows = label, columns = prediction; e.g. one matrix for each image.

    Returns:
        (..., 2, K): hits, unions.

    Raises:
        ValueError: not square matrices.
    """
    c = np.asarray(confusion)
    if c.ndim < 2 or c.shape[-1] != c.shape[-2]:
        raise ValueError(f"confusion matrices are (..., K, K); given: shape {c.shape}")
    hits = np.diagonal(c, axis1=-2, axis2=-1).astype(np.float64)
    return np.stack([hits, c.sum(-1) + c.sum(-2) - hits], axis=-2)


def class_accuracy(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """Recall of every class, TP / (TP + FN): (K,), nan for a class without labels.

    Raises:
        ValueError: not a square matrix of finite, non-negative counts.
    """
    c = _checked(confusion)
    return _ratio(np.diag(c), c.sum(1))


def miou(confusion: NDArray[Any], absent: Absent = "skip") -> float:
    """Mean of `class_iou` over the classes.

    Args:
        confusion: (K, K) counts, rows = label, columns = prediction.
        absent: "skip" leaves a class that is in neither labels nor predictions out of the mean; "zero" counts it as 0.

    Returns:
        A number in [0, 1]; nan if no pixel was counted, under either policy.

    Raises:
        ValueError: an unknown policy, or not a square matrix of finite, non-negative counts.
    """
    if absent not in get_args(Absent):
        raise ValueError(f"absent={absent!r}: allowed are {', '.join(map(repr, get_args(Absent)))}")
    iou = class_iou(confusion)
    if absent == "zero" and np.asarray(confusion).any():
        iou = np.nan_to_num(iou, nan=0.0)
    return _mean(iou)


def mean_accuracy(confusion: NDArray[Any]) -> float:
    """Mean of `class_accuracy` over the classes that have a label; nan if nothing was counted.

    Raises:
        ValueError: not a square matrix of finite, non-negative counts.
    """
    return _mean(class_accuracy(confusion))


def pixel_accuracy(confusion: NDArray[Any]) -> float:
    """Share of correctly classified pixels, in [0, 1]; nan if nothing was counted.

    Raises:
        ValueError: not a square matrix of finite, non-negative counts.
    """
    c = _checked(confusion)
    total = c.sum()
    return float(np.trace(c) / total) if total else float("nan")


def frequency_weighted_iou(confusion: NDArray[Any]) -> float:
    """Mean of `class_iou` weighted by the classes' labelled pixels, in [0, 1]; nan if nothing was counted.

    Raises:
        ValueError: not a square matrix of finite, non-negative counts.
    """
    c = _checked(confusion)
    weight, total = c.sum(1), c.sum()
    # A class without labels has weight 0, but its IoU may be nan.
    return float(weight @ np.nan_to_num(class_iou(confusion), nan=0.0) / total) if total else float("nan")


def summary(confusion: NDArray[Any], absent: Absent = "skip") -> dict[str, float]:
    """All summary scores: miou, pixel_accuracy, mean_accuracy, frequency_weighted_iou.

    Raises:
        ValueError: as `miou`.
    """
    return {
        "miou": miou(confusion, absent),
        "pixel_accuracy": pixel_accuracy(confusion),
        "mean_accuracy": mean_accuracy(confusion),
        "frequency_weighted_iou": frequency_weighted_iou(confusion),
    }


def of_row(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every score of every confusion matrix in a row: `dev`, `val`, `dev_boundary`, `val_boundary`, if present.

    Args:
        row: with class_names, absent_policy and the confusion columns of `harness.results.store.SCHEMA`.

    Returns:
        By matrix, the scores of `summary`, and `class_iou` by class name; None if nothing was counted.
    """
    out: dict[str, dict[str, Any]] = {}
    for part in ("dev", "val", "dev_boundary", "val_boundary"):
        counts = row.get(f"{part}_confusion")
        if counts is None:
            continue
        names = row["class_names"]
        confusion = np.asarray(counts).reshape(len(names), len(names))
        by_class = dict(zip(names, class_iou(confusion).tolist(), strict=True))
        means = summary(confusion, row["absent_policy"])
        out[part] = {key: _known(value) for key, value in means.items()}
        out[part]["class_iou"] = {key: _known(value) for key, value in by_class.items()}
    return out


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _checked(confusion: NDArray[Any]) -> NDArray[np.float64]:
    c = np.asarray(confusion)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or c.shape[0] == 0:
        raise ValueError(f"a confusion matrix is square, (K, K) with K >= 1; given: shape {c.shape}")
    # float64 holds every count below 2**53 exactly, and a product of two of them cannot overflow.
    out = c.astype(np.float64)
    if not np.isfinite(out).all() or (out < 0).any():
        raise ValueError("a confusion matrix holds counts (finite, >= 0); given: negative or non-finite entries")
    return out


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out


def _mean(values: NDArray[np.float64]) -> float:
    seen = values[~np.isnan(values)]
    return float(seen.mean()) if seen.size else float("nan")
