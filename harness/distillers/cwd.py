"""Channel-wise distillation: each channel's map is a distribution over positions that the student's map follows.

    L = weight * tau^2 / (N C) * sum_{n,c} sum_positions p_T log(p_T / p_S),   p = softmax_positions(map / tau)

Paper: Shu, Liu, Gao, Yan, Shen, "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021,
arXiv 2011.13256.
Authors' code: irfanICMLL/TorchDistiller SemSeg-distill (logits: weight 3, tau 4); the same number in winycg/CIRKD and
mmrazor.
Deviation: log-softmax instead of softmax().log(), which is NaN on peaked maps. Different sizes are resized to the
teacher's.
Reduction: sum over positions, mean over batch and channels; ignored pixels count, as in the authors' code.
"""

from collections.abc import Mapping
from math import inf
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from harness.distillers._ops import at_least_float32, match_size
from harness.distillers.base import Distiller
from harness.taps import Pair, View


def cwd_loss(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """tau^2 * KL(teacher || student) over positions, mean over batch and channels; maps (N, C, h, w) both."""
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    log_p_student = F.log_softmax(student.flatten(2) / tau, dim=2)
    log_p_teacher = F.log_softmax(teacher.flatten(2) / tau, dim=2)
    divergence = F.kl_div(log_p_student, log_p_teacher, reduction="none", log_target=True).sum(dim=2)
    return divergence.mean() * tau**2


class CWD(Distiller):
    """Channel-wise KL divergence on logits."""

    paper: ClassVar[str] = "Shu et al., ICCV 2021, arXiv 2011.13256"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.3, 30.0), "tau": (1.0, 8.0)}

    def __init__(self, pair: Pair, *, weight: float = 3.0, tau: float = 4.0) -> None:
        super().__init__()
        if not (0 < weight < inf and 0 < tau < inf):
            raise ValueError(f"cwd: weight and tau are finite and above 0; given weight={weight}, tau={tau}")
        self.weight = weight
        self.tau = tau

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"cwd": scalar}."""
        teacher = view.taught().logits
        student = match_size(view.student.logits, teacher)
        return {"cwd": self.weight * cwd_loss(student, teacher, self.tau)}
