"""An exported file by its own runtime, beside the network as it was trained: scores on a split, and milliseconds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.datasets import Data
from harness.datasets.base import Split
from harness.deployment.deployed import Runner
from harness.deployment.source import Source
from harness.metrics import miou
from harness.models import TapNet
from harness.taps import Taps
from harness.training.evaluate import evaluate
from harness.training.ranks import Ranks

SPLIT = "val"
WARM_UP, CALLS = 10, 100
MOST = 0.001
"""Difference of mIoU that an export without quantisation may have, 0.1 percentage points."""


class First:
    """The first images of a split.

    Args:
        split: the split.
        count: of images.
    """

    def __init__(self, split: Split, count: int) -> None:
        self._split, self._count = split, min(count, len(split))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        if index >= self._count:
            raise IndexError(index)
        return self._split[index]


class _Beside(nn.Module):
    """A file's runtime as a network, which compares its class scores with those of the network itself.

    Args:
        network: as it was trained.
        run: the file.
        compares: scores, not labels alone.
    """

    def __init__(self, network: TapNet, run: Runner, compares: bool) -> None:
        super().__init__()
        self.network, self._run, self._compares = network, run, compares
        self.same, self.pixels, self.largest = 0, 0, 0.0

    def forward(self, image: Tensor) -> Taps:
        found, own = self._run(image), self.network(image).full
        self.same += int((found.argmax(1) == own.argmax(1)).sum())
        self.pixels += own[:, 0].numel()
        if self._compares:
            self.largest = max(self.largest, float((found - own).abs().max()))
        return Taps({}, found, found, found)


@dataclass(frozen=True)
class Judged:
    """What a file is worth; columns of `harness.results.exports`."""

    images: int
    miou: float
    student_miou: float
    agreement: float
    largest_difference: float | None


def judged(source: Source, data: Data, run: Runner, limit: int | None, compares: bool) -> Judged:
    """Evaluate a file and the network by the run's own protocol.

    Args:
        source: the run.
        data: its dataset, normalised for the network.
        run: the file by its runtime.
        limit: the most images; None: all of the split.
        compares: it gives scores, not labels alone.
    """
    if limit is not None:
        data = replace(data, val=First(data.val, limit))
    ranks, beside = Ranks(torch.device("cpu")), _Beside(source.network, run, compares)
    policy = source.run.protocol.absent_policy
    theirs, own = (
        miou(evaluate(each, data, SPLIT, source.run, ranks).confusion, policy) for each in (beside, source.network)
    )
    return Judged(len(data.val), theirs, own, beside.same / beside.pixels, beside.largest if compares else None)


def require_equal(found: Judged, target: str) -> None:
    """Check that the file says what the network says.

    Raises:
        ValueError: its mIoU differs by more than rounding can explain.
    """
    if abs(found.miou - found.student_miou) > MOST:
        raise ValueError(
            f"--to {target}: the file's mIoU on {found.images} images of {SPLIT} is {100 * found.miou:.2f}, that of "
            f"the network {100 * found.student_miou:.2f}; {100 * found.agreement:.2f} % of the pixels have one label. "
            "The file is not kept. Another --to, or another version of its library, may do"
        )


def latency(call: Callable[[], object]) -> tuple[float, float]:
    """Median and 90th percentile of a call's milliseconds after warm-up."""
    for _ in range(WARM_UP):
        call()
    taken = []
    for _ in range(CALLS):
        began = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - began))
    return float(np.median(taken)), float(np.percentile(taken, 90))


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """With so many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
