"""Pixel-wise knowledge distillation: the student's class distribution follows the teacher's at every position.

    L = weight * T^2 / (N h w) * sum_positions sum_classes p_T log(p_T / p_S),   p = softmax(logits / T)

Paper: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531; per pixel as in
Liu et al., "Structured Knowledge Distillation", CVPR 2019, arXiv 1903.04197.
Authors' code: winycg/CIRKD losses/kd.py has this reduction (weight 1, T 1). SKD sums a cross-entropy over batch and
classes and divides by h*w; IFVD averages over classes too. See docs for the factors between them.
Deviation: none. Logits are those before the head's up-sampling; different sizes are resized to the teacher's.
Reduction: sum over classes, mean over batch and positions; ignored pixels count, as in the authors' code.
"""

from collections.abc import Mapping
from math import inf
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from harness.distillers._ops import at_least_float32, match_size
from harness.distillers.base import Distiller
from harness.taps import Pair, View


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student) over classes, mean over batch and positions; logits (N, K, h, w) both."""
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    log_p_student = F.log_softmax(student / temperature, dim=1)
    log_p_teacher = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(log_p_student, log_p_teacher, reduction="none", log_target=True).sum(dim=1)
    return divergence.mean() * temperature**2


class KD(Distiller):
    """Pixel-wise KL divergence on logits."""

    paper: ClassVar[str] = "Hinton et al., 2015, arXiv 1503.02531"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.1, 10.0), "temperature": (1.0, 8.0)}

    def __init__(self, pair: Pair, *, weight: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        if not (0 < weight < inf and 0 < temperature < inf):
            raise ValueError(
                f"kd: weight and temperature are finite and above 0; given weight={weight}, temperature={temperature}"
            )
        self.weight = weight
        self.temperature = temperature

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"kd": scalar}."""
        teacher = view.taught().logits
        student = match_size(view.student.logits, teacher)
        return {"kd": self.weight * kd_loss(student, teacher, self.temperature)}
