"""The adversarial term of SKD, which IFVD also uses: a critic of score maps and its optimizer."""

import torch
from torch import Tensor, nn

from harness.distillers._ops import check_positive
from harness.distillers.base import OwnOptimizer
from sstkd.critic import Adversarial, CriticInput, HolisticCritic, adversarial_terms, check_kind


class Adversary(nn.Module):
    """The critic, the weight of the student's term, and the critic's optimizer.

    Args:
        classes: channels of the score maps.
        weight: weight of the student's adversarial term.
        kind: "wgan-gp" or "hinge".
        width: channels of the critic's first convolution.
        lr: learning rate of the critic's Adam (betas 0.9 and 0.99).
        penalty: weight of the gradient penalty.
        preprocess: "batchnorm" or "tanh" of the scores before the critic's first convolution.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        classes: int,
        weight: float,
        kind: Adversarial,
        width: int,
        lr: float,
        penalty: float,
        preprocess: CriticInput,
    ) -> None:
        super().__init__()
        check_kind(kind)
        check_positive("critic", critic_lr=lr, gradient_penalty=penalty)
        self.critic = HolisticCritic(classes, width, preprocess)
        self.weight, self.kind, self.lr, self.penalty = weight, kind, lr, penalty

    def optimizer(self) -> OwnOptimizer:
        """Adam for the critic."""
        return OwnOptimizer(tuple(self.critic.parameters()), self.lr, (0.9, 0.99))

    def forward(self, student: Tensor, teacher: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """{"adversarial": the student's weighted term, "critic": the critic's loss}, from logits (N, K, h, w)."""
        ours, critic = adversarial_terms(self.critic, student, teacher, generator, self.kind, self.penalty)
        return {"adversarial": self.weight * ours, "critic": critic}
