"""Intra-class feature variation: the similarity of each position to its class mean follows the teacher's.

    L = weight * mean over batch and positions of (c_S - c_T)^2  +  kd * L_kd  +  adversarial * L_adv
    c_p = f_p' m_{y_p} / (|f_p| |m_{y_p}|),   m_y = mean of f over the image's positions of class y

Labels are resized to the feature (nearest). An ignored position adds 0 to the mean.

Paper: Wang, Zhou, Jiang, Bai, Xu, "Intra-class Feature Variation Distillation for Semantic Segmentation", ECCV 2020,
https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123520341.pdf.
Authors' code: YukangWang/IFVD utils/criterion.py (200, kd 10 in its own reduction, adversarial 0.001); the same number
in winycg/CIRKD losses/ifvd.py (20, with kd 1).
Deviation: one matrix product gives the means of all classes; the authors loop over classes and keep 42 maps for the
backward pass. An ignored position with a zero feature also adds 0.
Reduction: mean over batch and positions, including ignored ones; `kd` by `convention`, by default the authors'.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from harness.distillers._adversary import Adversary
from harness.distillers._ops import (
    at_least_float32,
    check_choices,
    check_positive,
    check_weights,
    compared,
    full_precision,
    kd_of,
    length,
    match_size,
    missing_tap,
    nearest_labels,
)
from harness.distillers.base import Distiller, OwnOptimizer
from harness.taps import Pair, View


@full_precision
def ifv_loss(student: Tensor, teacher: Tensor, labels: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Mean squared difference of the cosines between features and their class means.

    Args:
        student: maps (N, C, h, w); widths may differ, sizes must match.
        teacher: maps of the same size.
        labels: classes (N, H, W) of any size; `ignore_index` and values outside 0..K-1 are ignored.
        num_classes: K.
        ignore_index: label of ignored pixels.
    """
    labels = nearest_labels(labels, teacher).flatten(1)
    valid = (labels >= 0) & (labels < num_classes) & (labels != ignore_index)
    index = labels.where(valid, 0).unsqueeze(2)
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    members = student.new_zeros(*labels.shape, num_classes).scatter_(2, index, valid.unsqueeze(2).to(student.dtype))
    count = members.sum(1).unsqueeze(1) + 1e-6

    def cosines(x: Tensor) -> Tensor:
        x = x.flatten(2)
        means = x @ members / count
        dots = (x.mT @ means).gather(2, index).squeeze(2)
        lengths = length(means).clamp(min=1e-8).gather(1, index.squeeze(2))
        found: Tensor = dots / (length(x).clamp(min=1e-8) * lengths)
        return found

    return ((cosines(student) - cosines(teacher)) * valid).square().mean()


class IFVD(Distiller):
    """Intra-class variation, pixel-wise and adversarial terms.

    Args:
        pair: channels of both networks' taps, and the number of classes.
        weight: weight of the intra-class term.
        kd: weight of pixel-wise KD at temperature 1; 0 leaves it out.
        adversarial: weight of the student's adversarial term; 0 leaves it and the critic out.
        tap: feature map to compare.
        convention: reduction of the `kd` term, see `kd_loss`; the other terms have only one.
        critic_width: channels of the critic's first convolution; the others are proportional.
        critic_lr: initial learning rate of the critic's Adam; follows the recipe's schedule.
        gradient_penalty: weight of the critic's gradient penalty.
        critic_input: what the critic's first convolution sees: the scores after batch normalisation, or their tanh.

    Raises:
        ValueError: a value is out of range, or either network lacks the tap.
    """

    paper: ClassVar[str] = "Wang et al., ECCV 2020"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {
        "weight": (2.0, 2000.0),
        "kd": (1.0, 100.0),
        "adversarial": (0.0001, 0.1),
        "critic_lr": (0.0001, 0.0016),
    }
    optional: ClassVar[tuple[str, ...]] = ("adversarial",)
    needs: ClassVar[Mapping[str, str]] = {"critic_lr": "adversarial"}
    weights: ClassVar[tuple[str, ...]] = ("weight", "kd", "adversarial")
    response: ClassVar[Mapping[str, str]] = {"weight": "kd", "convention": "convention"}

    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"critic_width": (1, 1024)}

    added: ClassVar[tuple[str, ...]] = ("critic_input",)

    def __init__(
        self,
        pair: Pair,
        *,
        weight: float = 200.0,
        kd: float = 10.0,
        adversarial: float = 0.001,
        tap: str = "decoder",
        convention: Literal["ifvd", "canonical"] = "ifvd",
        critic_width: int = 64,
        critic_lr: float = 0.0004,
        gradient_penalty: float = 10.0,
        critic_input: Literal["batchnorm", "tanh"] = "batchnorm",
    ) -> None:
        super().__init__()
        check_positive("ifvd", weight=weight)
        check_choices("ifvd", IFVD.__init__, convention=convention)
        check_weights("ifvd", kd=kd, adversarial=adversarial)
        reason = self.skip(pair, tap=tap)
        if reason is not None:
            raise ValueError(f"ifvd: {reason}")
        self.weight, self.kd, self.tap, self.convention = weight, kd, tap, convention
        self.num_classes, self.ignore_index = pair.num_classes, pair.ignore_index
        if adversarial:
            self.adversary = Adversary(
                pair.num_classes, adversarial, "wgan-gp", critic_width, critic_lr, gradient_penalty, critic_input
            )

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason if either network lacks the tap, else None."""
        return missing_tap(pair, parameters.get("tap", "decoder"))

    def own_optimizers(self) -> tuple[OwnOptimizer, ...]:
        """The critic's, when there is one."""
        return (self.adversary.optimizer(),) if hasattr(self, "adversary") else ()

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"ifv", "kd", "adversarial", "critic"}; terms of weight 0 are left out."""
        taught = view.taught()
        ours, theirs = compared(view, self.tap)
        terms = {"ifv": self.weight * ifv_loss(ours, theirs, view.labels, self.num_classes, self.ignore_index)}
        terms |= kd_of(view, self.kd, 1.0, self.convention)
        if hasattr(self, "adversary"):
            scores = match_size(view.student.logits, taught.logits)
            terms |= self.adversary(scores, taught.logits, view.generator)
        return terms
