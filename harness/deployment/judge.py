"""An exported file by its own runtime, beside the network as it was trained: scores on a split, and milliseconds."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.deployment.deployed import Runner
from harness.deployment.graphs import as_labels
from harness.deployment.source import Form, Source
from harness.experiment.recipe import Evaluation
from harness.metrics import miou
from harness.taps import Taps
from harness.training.batches import to_batch
from harness.training.confusion import Confusion
from harness.training.evaluate import class_scores

SPLIT = "val"
WARM_UP, CALLS, SECONDS = 10, 100, 60.0
MOST = 0.001
"""Difference of mIoU that an export without quantisation may have, 0.1 percentage points."""


@dataclass(frozen=True)
class Judged:
    """What a file is worth; columns of `harness.results.exports`."""

    images: int
    miou: float
    student_miou: float
    agreement: float
    largest_difference: float | None


class _Scorer(nn.Module):
    """A runner as a network that is evaluated; images smaller than a graph of one size are padded by their border."""

    def __init__(self, run: Runner, size_hw: tuple[int, int] | None) -> None:
        super().__init__()
        self._run, self._size = run, size_hw

    def forward(self, image: Tensor) -> Taps:
        height, width = image.shape[-2:]
        if self._size is not None:
            bottom, right = self._size[0] - height, self._size[1] - width
            image = F.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image
        scores = self._run(image)[..., :height, :width]
        return Taps({}, scores, scores, scores)


def one_pass(how: Evaluation, form: Form) -> Evaluation:
    """How both are evaluated: a run's evaluation at one scale without mirroring, in windows of a graph's size."""
    plain = how.model_copy(update={"scales": (1.0,), "flip": False})
    return plain.model_copy(update={"window_hw": form.size_hw, "stride_hw": None}) if form.size_hw else plain


@torch.no_grad()
def judged(source: Source, run: Runner, form: Form, limit: int | None) -> Judged:
    """Evaluate a file and the network in the same way, image by image.

    Args:
        source: the run.
        run: the file by its runtime.
        form: of a graph; one that gives labels is compared by labels, and so is the network then.
        limit: the most images; None: all of the split.
    """
    info, how, split = source.info, one_pass(source.run.train.evaluation, form), source.data.val
    own: Runner = lambda image: source.network(image).full  # noqa: E731
    reference = (lambda image: as_labels(own(image))) if form.preprocessing else own
    file, network = _Scorer(run, form.size_hw), _Scorer(reference, form.size_hw)
    theirs, ours = (Confusion(info.num_classes, info.ignore_index) for _ in range(2))
    count, same, pixels, largest = min(len(split), limit or len(split)), 0, 0, 0.0
    for index in range(count):
        image, label = (torch.from_numpy(array.copy())[None] for array in split[index])
        batch = to_batch(image, label, info, torch.device("cpu"))
        found, wanted = class_scores(file, batch.image, how), class_scores(network, batch.image, how)
        labels, expected = found.argmax(1), wanted.argmax(1)
        theirs.update(labels, batch.label)
        ours.update(expected, batch.label)
        same, pixels = same + int((labels == expected).sum()), pixels + labels.numel()
        apart = float((found - wanted).abs().max())
        if not math.isfinite(apart):
            raise ValueError(f"class scores of image {index} of {SPLIT} are not finite numbers; the file is not kept")
        largest = max(largest, apart)
    policy = source.run.protocol.absent_policy
    file_miou, student_miou = (miou(each.numpy(), policy) for each in (theirs, ours))
    if not math.isfinite(file_miou):
        raise ValueError(f"--limit {count}: no pixel of these images has a label, so that there is no mIoU; take more")
    return Judged(count, file_miou, student_miou, same / pixels, None if form.preprocessing else largest)


def require_equal(found: Judged, target: str) -> None:
    """Check that the file says what the network says.

    Raises:
        ValueError: its mIoU is no number, or differs by more than rounding can explain.
    """
    if not abs(found.miou - found.student_miou) <= MOST:
        raise ValueError(
            f"--to {target}: the file's mIoU on {found.images} images of {SPLIT} is {100 * found.miou:.2f}, that of "
            f"the network {100 * found.student_miou:.2f}; {100 * found.agreement:.2f} % of the pixels have one label. "
            "The file is not kept. Another --to, or another version of its library, may do"
        )


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a call: the median and the 90th percentile of so many calls after warm-up."""

    median: float
    p90: float
    calls: int


@torch.no_grad()
def latency(call: Callable[[], Any]) -> Latency:
    """Time a call: a hundred times, or as often as a minute allows."""
    began = time.perf_counter()
    taken: list[float] = []
    for turn in range(WARM_UP + CALLS):
        before = time.perf_counter()
        if len(taken) >= 2 and before - began > SECONDS:
            break
        call()
        if turn >= WARM_UP or before - began > SECONDS / 2:
            taken.append(1e3 * (time.perf_counter() - before))
    return Latency(float(np.median(taken)), float(np.percentile(taken, 90)), len(taken))


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """With so many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
