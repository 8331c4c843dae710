"""A distiller that has every property, and what breaks each: one piece of its source, replaced.

    L = weight * mean over labelled pixels of (A z_S - z_T)^2

Beside it a judge of the teacher's scores that is trained apart and compares them with their running mean.
"""

from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.distillers import Distiller
from harness.distillers.base import OwnOptimizer
from harness.taps import Pair, View


class Sound(Distiller):
    """Squared error of the scores at a random half of the labelled pixels."""

    paper: ClassVar[str] = "nobody, 2026"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.1, 10.0)}

    def __init__(self, pair: Pair, *, weight: float = 1.0) -> None:
        super().__init__()
        if not 0 < weight < inf:
            raise ValueError(f"weight is finite and above 0; given weight={weight}")
        self.weight, self.ignore_index = weight, pair.ignore_index
        self.adapter = nn.Conv2d(pair.num_classes, pair.num_classes, 1)
        self.judge = nn.Linear(pair.num_classes, 1)
        self.register_buffer("centre", torch.zeros(pair.num_classes))

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        return None

    def own_optimizers(self) -> tuple[OwnOptimizer, ...]:
        return (OwnOptimizer(tuple(self.judge.parameters()), 0.001, (0.9, 0.99)),)

    def forward(self, view: View) -> dict[str, Tensor]:
        teacher = view.taught().full.float()
        student = self.adapter(view.student.full).float()
        known = (view.labels != self.ignore_index).unsqueeze(1)
        kept = known & (torch.rand(known.shape, generator=view.generator) < 0.5)
        error = ((student - teacher).square() * kept).sum() / kept.sum().clamp(min=1)
        self._remember(teacher)
        judged = self.judge(teacher.mean((2, 3)) - self.centre).float()
        return {"error": self.weight * error, "judge": judged.square().mean()}

    @torch.no_grad()
    def _remember(self, teacher: Tensor) -> None:
        mean = teacher.mean((0, 2, 3))
        if dist.is_initialized():
            dist.all_reduce(mean)
            mean = mean / dist.get_world_size()
        self.centre.lerp_(mean, 0.1)
