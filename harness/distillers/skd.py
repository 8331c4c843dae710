"""Structured knowledge distillation: pixel-wise, pair-wise and holistic (adversarial) terms.

    L = pixel * L_pixel + pairwise * L_pair + holistic * L_adv
    L_pixel = divergence of the class distributions per position
    L_pair  = mean over batch and pairs of nodes of (a_ij^S - a_ij^T)^2,   a_ij = f_i' f_j / (|f_i| |f_j|)
    L_adv   = -mean D(z_S), with a critic D that is trained together with the student

The nodes f are the feature before the classifier, max-pooled with windows of `scale` times its size.

Paper: Liu, Chen, Liu, Qin, Luo, Wang, "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019,
arXiv 1903.04197.
Authors' code: irfanICMLL/structure_knowledge_distillation utils/criterion.py, utils/utils.py (10 / 1 / 0.1, windows of
half the map, norms without gradient). winycg/CIRKD losses/skd.py differs: 1 / 10 / 0.001, 2x2 windows, gradient through
the norms; this is `convention` "cirkd" and gives other values.
Deviation: a node of norm 0 gives similarity 0; the critic has its own Adam, and its loss is not weighted.
Reduction: L_pair mean over batch and pairs; L_pixel by `convention`, by default the authors' (see `kd_loss`), for which
10 is the published weight; ignored pixels count.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from harness.distillers._adversary import Adversary
from harness.distillers._ops import (
    at_least_float32,
    check_choices,
    check_positive,
    check_weights,
    compared,
    full_precision,
    kd_loss,
    length,
    match_size,
    missing_tap,
    mse,
    unit,
)
from harness.distillers.base import Distiller, OwnOptimizer
from harness.taps import Pair, View


@full_precision
def pairwise_loss(student: Tensor, teacher: Tensor, scale: float = 0.5, convention: str = "canonical") -> Tensor:
    """Mean squared difference of the cosine similarities between all pairs of nodes.

    Args:
        student: maps (N, C, h, w); widths may differ, sizes must match.
        teacher: maps of the same size.
        scale: side of a pooling window as a share of the map's side; windows do not overlap, the last may be smaller.
        convention: "canonical": no gradient through the norms. "cirkd": 2x2 windows, gradient through the norms.
    """
    height, width = teacher.shape[-2:]
    window = (2, 2) if convention == "cirkd" else (max(1, int(height * scale)), max(1, int(width * scale)))

    def similarity(x: Tensor) -> Tensor:
        nodes = F.max_pool2d(at_least_float32(x), window, ceil_mode=True).flatten(2)
        nodes = unit(nodes) if convention == "cirkd" else nodes / (length(nodes.detach()).unsqueeze(1) + 1e-8)
        return nodes.mT @ nodes

    return mse(similarity(student), similarity(teacher))


class SKD(Distiller):
    """Pixel-wise, pair-wise and holistic terms; terms of weight 0 are not computed.

    Args:
        pair: channels of both networks' taps, and the number of classes.
        pixel: weight of the pixel-wise term.
        pairwise: weight of the pair-wise term.
        holistic: weight of the student's adversarial term.
        scale: side of a pooling window as a share of the map's side (published: 0.5).
        tap: the feature of the pair-wise term.
        convention: "skd": the authors' reduction of the pixel term. "canonical": the default reduction of `kd`.
            "cirkd": pixel term as canonical, pair-wise term on 2x2 windows.
        adversarial: kind of the critic's loss; both kinds have a gradient penalty.
        critic_width: channels of the critic's first convolution; the others are proportional.
        critic_lr: initial learning rate of the critic's Adam; follows the recipe's schedule.
        gradient_penalty: weight of the critic's gradient penalty.
        critic_input: what the critic's first convolution sees: the scores after batch normalisation, or their tanh.

    Raises:
        ValueError: a value is out of range, or either network lacks the tap.
    """

    paper: ClassVar[str] = "Liu et al., CVPR 2019, arXiv 1903.04197"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {
        "pixel": (1.0, 100.0),
        "pairwise": (0.1, 100.0),
        "holistic": (0.001, 1.0),
        "critic_lr": (0.0001, 0.0016),
    }
    optional: ClassVar[tuple[str, ...]] = ("holistic",)
    needs: ClassVar[Mapping[str, str]] = {"critic_lr": "holistic"}
    weights: ClassVar[tuple[str, ...]] = ("pixel", "pairwise", "holistic")
    response: ClassVar[Mapping[str, str]] = {"weight": "pixel", "convention": "convention"}
    response_values: ClassVar[Mapping[str, str]] = {"cirkd": "canonical"}

    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"critic_width": (1, 1024)}

    added: ClassVar[tuple[str, ...]] = ("critic_input",)

    def __init__(
        self,
        pair: Pair,
        *,
        pixel: float = 10.0,
        pairwise: float = 1.0,
        holistic: float = 0.1,
        scale: float = 0.5,
        tap: str = "decoder",
        convention: Literal["skd", "canonical", "cirkd"] = "skd",
        adversarial: Literal["wgan-gp", "hinge"] = "wgan-gp",
        critic_width: int = 64,
        critic_lr: float = 0.0004,
        gradient_penalty: float = 10.0,
        critic_input: Literal["batchnorm", "tanh"] = "batchnorm",
    ) -> None:
        super().__init__()
        check_weights("skd", pixel=pixel, pairwise=pairwise, holistic=holistic)
        check_positive("skd", scale=scale)
        check_choices("skd", SKD.__init__, convention=convention)
        if scale > 1:
            raise ValueError(f"skd: scale is a share of the map's side, in (0, 1]; given {scale}")
        reason = self.skip(pair, tap=tap, pairwise=pairwise)
        if reason is not None:
            raise ValueError(f"skd: {reason}")
        self.pixel, self.pairwise, self.scale, self.tap, self.convention = pixel, pairwise, scale, tap, convention
        if holistic:
            self.adversary = Adversary(
                pair.num_classes, holistic, adversarial, critic_width, critic_lr, gradient_penalty, critic_input
            )

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason if the pair-wise term is on and either network lacks the tap, else None."""
        return missing_tap(pair, parameters.get("tap", "decoder")) if parameters.get("pairwise", 1.0) else None

    def own_optimizers(self) -> tuple[OwnOptimizer, ...]:
        """The critic's, when there is one."""
        return (self.adversary.optimizer(),) if hasattr(self, "adversary") else ()

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"pixel", "pairwise", "adversarial", "critic"}; terms of weight 0 are left out."""
        taught = view.taught()
        terms: dict[str, Tensor] = {}
        scores = match_size(view.student.logits, taught.logits)
        if self.pixel:
            convention = "skd" if self.convention == "skd" else "canonical"
            terms["pixel"] = self.pixel * kd_loss(scores, taught.logits, 1.0, convention, view.images())
        if self.pairwise:
            ours, theirs = compared(view, self.tap)
            convention = "cirkd" if self.convention == "cirkd" else "canonical"
            terms["pairwise"] = self.pairwise * pairwise_loss(ours, theirs, self.scale, convention)
        if hasattr(self, "adversary"):
            terms |= self.adversary(scores, taught.logits, view.generator)
        return terms
