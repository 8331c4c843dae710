"""What counting an evaluation costs on a CPU: the shipped ways against torchmetrics' and torch's, on the same inputs.

    pytest tests/benchmarks/bench_evaluate.py

All run in one process on one thread, interleaved, 19 classes at 1024x2048; the table prints their times and the ratio
to the shipped one. torchmetrics checks its inputs by default; `unchecked` is without that, which the shipped ways never
are. They must agree before anything is timed.
"""

import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchmetrics.classification import MulticlassJaccardIndex

from harness.training.confusion import argmax, confusion_matrix
from harness.training.evaluate import boundary_band

CLASSES, H, W = 19, 1024, 2048
LABELS = {"blocks": 32, "noise": 1}  # side of equal labels: like a street scene, and the worst for a cache


@pytest.fixture(autouse=True)
def one_thread():
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    yield
    torch.set_num_threads(threads)
    cv2.setNumThreads(cv_threads)


def _times(ways: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """ms of the fastest of several interleaved rounds: neighbours on the machine slow all of them alike."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, call in ways.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], (time.perf_counter() - start) * 1e3)
    return best


def _print(title: str, times: dict[str, float]) -> None:
    print(f"\n{title}")
    shipped = next(iter(times.values()))
    for name, ms in times.items():
        print(f"  {name:44s} {ms:9.3f} ms  x {ms / shipped:.2f}")


def _label(side: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    label = torch.randint(0, CLASSES, (1, H // side, W // side), generator=g)
    label = label.repeat_interleave(side, 1).repeat_interleave(side, 2)
    label[torch.rand(label.shape, generator=g) < 0.1] = 255
    return label


def _prediction(label: torch.Tensor) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    other = torch.randint(0, CLASSES, label.shape, generator=g)
    return torch.where((torch.rand(label.shape, generator=g) < 0.8) & (label != 255), label, other)


def _jaccard(checked: bool = True) -> MulticlassJaccardIndex:
    return MulticlassJaccardIndex(num_classes=CLASSES, ignore_index=255, validate_args=checked)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
@pytest.mark.parametrize("kind", LABELS)
def test_predictions_to_confusion(kind, dtype):
    label = _label(LABELS[kind])
    prediction, label = _prediction(label).to(dtype), label.to(dtype)
    checked, unchecked = _jaccard(), _jaccard(False)
    checked.update(prediction, label)
    assert torch.equal(confusion_matrix(prediction, label, CLASSES), checked.confmat)
    ways = {
        "shipped": lambda: confusion_matrix(prediction, label, CLASSES),
        "torchmetrics MulticlassJaccardIndex": lambda: checked.update(prediction, label),
        "torchmetrics, unchecked": lambda: unchecked.update(prediction, label),
    }
    _print(f"predictions -> confusion, {kind}, {dtype}", _times(ways))


@pytest.mark.parametrize("layout", ["contiguous", "cropped", "channels last"])
def test_logits_to_predictions(layout):
    low = torch.randn(1, CLASSES, H // 16, W // 16, generator=torch.Generator().manual_seed(2))
    logits = F.interpolate(low, (H + 16, W + 16), mode="bilinear")[..., :H, :W]
    if layout == "contiguous":
        logits = logits.contiguous()
    elif layout == "channels last":
        logits = logits.contiguous(memory_format=torch.channels_last)
    assert torch.equal(argmax(logits).long(), logits.argmax(1))
    ways = {"shipped": lambda: argmax(logits), "torch.argmax": lambda: logits.argmax(1)}
    _print(f"logits -> predictions, {layout}", _times(ways, 3))


def test_logits_to_confusion():
    low = torch.randn(1, CLASSES, H // 16, W // 16, generator=torch.Generator().manual_seed(2))
    logits, label = F.interpolate(low, (H, W), mode="bilinear"), _label(LABELS["blocks"])
    checked, unchecked, given = _jaccard(), _jaccard(False), logits.argmax(1)
    checked.update(logits, label)
    assert torch.equal(confusion_matrix(argmax(logits), label, CLASSES), checked.confmat)
    ways = {
        "shipped": lambda: confusion_matrix(argmax(logits), label, CLASSES),
        "torchmetrics, given the logits": lambda: checked.update(logits, label),
        "torchmetrics, given argmax(logits)": lambda: checked.update(logits.argmax(1), label),
        "torchmetrics, given argmax, unchecked": lambda: unchecked.update(logits.argmax(1), label),
        "torchmetrics without the time of argmax": lambda: checked.update(given, label),
    }
    _print("logits -> confusion", _times(ways, 3))


@pytest.mark.parametrize("distance", [1, 3, 20])
def test_boundary_band(distance):
    label = _label(LABELS["blocks"])
    values, square = label[0].byte().numpy(), np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)

    def pooled():
        x, side = label.float(), 2 * distance + 1
        return F.max_pool2d(x, side, 1, distance) != -F.max_pool2d(-x, side, 1, distance)

    assert torch.equal(boundary_band(label, distance), pooled())
    ways = {
        "shipped": lambda: boundary_band(label, distance),
        "max_pool2d of float32": pooled,
        "cv2.dilate and cv2.erode": lambda: cv2.dilate(values, square) != cv2.erode(values, square),
    }
    _print(f"boundary band, distance {distance}", _times(ways, 2))
