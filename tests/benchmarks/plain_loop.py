"""A distillation loop as public code writes it: winycg/CIRKD train_kd.py, train_baseline.py, from their description.

Each method has its own script, so that each makes its own teacher's pass; maps lie in the default format; every step
reads its losses for the log. Networks and batches are ours, losses the plain forms; of SSTKD, which has no public code,
our own.
"""

import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.distillers import METHODS
from harness.models import TapNet
from harness.taps import Pair, Taps, View
from tests.benchmarks import plain_distillers as plain
from tests.benchmarks.plain_critic import PlainCritic

Loss = Callable[[Taps, Taps, Tensor], list[Tensor]]


class PlainLosses(nn.Module):
    """Losses of a method beside cross-entropy, by default weights, with what is trained for them.

    Args:
        method: its name.
        pair: channels of both networks' taps.
    """

    def __init__(self, method: str, pair: Pair) -> None:
        super().__init__()
        self.method, self.pair = method, pair
        self.own = METHODS[method](pair) if method in ("skd", "ifvd", "sstkd") else None
        self.critic = PlainCritic(self.own.adversary.critic) if method in ("skd", "ifvd") else None
        self.stream = torch.Generator().manual_seed(0)

    def _adversary(self, student: Taps, teacher: Taps) -> Tensor:
        maps = (
            F.interpolate(x, (64, 64), mode="bilinear", align_corners=True) for x in (student.logits, teacher.logits)
        )
        return self.critic.terms(*maps, self.stream)

    def forward(self, student: Taps, teacher: Taps, labels: Tensor) -> list[Tensor]:
        logits = student.logits, teacher.logits
        if self.method == "kd":
            return [plain.kd_in_rows(*logits)]
        if self.method == "cwd":
            return [3 * plain.cwd_by_log(*logits)]
        features = student.decoder, teacher.decoder
        if self.method == "skd":
            pixel, nodes = plain.kd_cross_entropy(*logits), plain.pairwise(*features)
            return [10 * pixel, nodes, 0.1 * self._adversary(student, teacher)]
        if self.method == "ifvd":
            variation = plain.ifv(*features, labels, self.pair.num_classes)
            return [200 * variation, 10 * plain.kd_in_place(*logits), 0.001 * self._adversary(student, teacher)]
        return list(self.own(View(student, teacher, labels, 0.0, self.stream)).values())


def seconds(
    method: str, pair: Pair, student: TapNet, teacher: TapNet, batches: Sequence[tuple[Tensor, Tensor]], ignored: int
) -> float:
    """Processor seconds of one pass over `batches` of images (N, 3, H, W) and labels (N, H, W)."""
    losses = PlainLosses(method, pair) if method != "none" else None
    trained = [*student.parameters(), *(losses.parameters() if losses is not None else ())]
    optimizer = torch.optim.SGD(trained, lr=0.02, momentum=0.9, weight_decay=1e-4)
    student.train()
    teacher.eval()
    began = time.process_time()
    for image, label in batches:
        with torch.no_grad():
            taught = teacher(image) if losses is not None else None
        seen = student(image)
        terms = [F.cross_entropy(seen.full, label, ignore_index=ignored)]
        if losses is not None:
            terms += losses(seen, taught, label)
        optimizer.zero_grad()
        sum(terms[1:], start=terms[0]).backward()
        optimizer.step()
        [each.item() for each in terms]
    return time.process_time() - began
