"""How near a trained student is to its teacher: what a positive control of a distillation method looks at."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.results import store
from harness.taps import Taps
from harness.training.batches import evaluation_batches
from harness.training.build import converted, load_data
from harness.training.ranks import Ranks
from harness.training.student import trained_network
from harness.training.texture import Networks, networks


class Cka:
    """Linear CKA of two networks' features, a position being an example (Kornblith et al., ICML 2019, section 3).

    Features (n, p) and (n, q) with columns of mean 0: ||Y'X||^2 / (||X'X|| ||Y'Y||), Frobenius norms. 1 if one is a
    rotation and scaling of the other, 0 if no two columns correlate.
    """

    def __init__(self) -> None:
        self._count = 0
        self._sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Maps (N, p, h, w) and (N, q, H, W) of the same images; the larger one is averaged to the other's size."""
        size = min(x.shape[2:], y.shape[2:])
        a, b = (F.adaptive_avg_pool2d(m, size).double().movedim(1, 3).flatten(0, 2) for m in (x, y))
        parts = [a.sum(0), b.sum(0), a.T @ a, b.T @ b, b.T @ a]
        self._sums = parts if not self._sums else [old + new for old, new in zip(self._sums, parts, strict=True)]
        self._count += len(a)

    def value(self) -> float:
        """The similarity, in [0, 1]."""
        sum_a, sum_b, aa, bb, ba = self._sums
        mean_a, mean_b = sum_a / self._count, sum_b / self._count
        aa, bb = aa - torch.outer(sum_a, mean_a), bb - torch.outer(sum_b, mean_b)
        ba = ba - torch.outer(sum_b, mean_a)
        return float(ba.norm() ** 2 / (aa.norm() * bb.norm()))


def nearness(pair: Networks, images: Iterable[Tensor]) -> dict[str, float]:
    """Share of pixels with the teacher's label, and the CKA of the encoder's last common stage and of the decoder.

    Args:
        pair: student and teacher.
        images: batches normalised as the student sees them.
    """
    stages, decoder = Cka(), Cka()
    same = total = 0
    with torch.no_grad():
        for image in images:
            own: Taps = pair.student(image)
            taught: Taps = pair.teacher(converted(image, pair.student_sees, pair.teacher_sees))
            last = [name for name in own.stages if name in taught.stages][-1]
            stages.add(own.stages[last], taught.stages[last])
            decoder.add(own.decoder, taught.decoder)
            agreed = own.full.argmax(1) == taught.full.argmax(1)
            same, total = same + int(agreed.sum()), total + agreed.numel()
    return {"agreement": same / total, "encoder": stages.value(), "decoder": decoder.value()}


def of_runs(directory: Path, run_ids: Iterable[str]) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
    """Finished students of one pair and teacher, each row with its nearness on dev; all weights must be there.

    Args:
        directory: the experiment's folder of results.
        run_ids: the first one learned from the teacher; others may have learned without one.
    """
    first, *others = run_ids
    known = networks(directory, first)
    data = load_data(known.run.data)
    seen = list(evaluation_batches(data.dev, known.student_sees, Ranks(torch.device("cpu")), 32))
    for run_id in (first, *others):
        row = store.read_run(directory, run_id)
        student = trained_network(directory, row, store.run_of(directory, row), data.info.num_classes)
        yield row, nearness(replace(known, student=student), (batch.image for batch in seen))


def ends(row: Mapping[str, Any], share: float = 0.1) -> dict[str, tuple[float, float]]:
    """Of every weighted loss term the mean over the first and over the last share of the logged steps."""
    logged = [dict(point["terms"]) for point in row["losses"]]
    count = max(1, round(share * len(logged)))
    first, last = logged[:count], logged[-count:]
    return {
        name: (sum(p[name] for p in first) / count, sum(p[name] for p in last) / count)
        for name in logged[0]
        if name != "task"
    }
