"""KT: the released loss of knowledge tailoring, on logits and on features.

    L = logits * L_div(z_S, z_T) + feature * L_div(A f_S, f_T)  +  kd * L_kd
    L_div = 1 / (N C) * sum of d(x_S, x_T),  by `divergence`
        kl     tau^2 KL of the softmax over positions at tau: the canonical CWD
        mse    squared difference of maps normalised to length 1 over channels
        l1     absolute difference of maps normalised to length 1 over positions
        huber  delta times mse; if the mean absolute difference is above delta, delta (|difference| - delta / 2)

Paper: Cheung, Woo, Kim, Hwang, "Knowledge tailoring: Bridging the teacher-student gap in semantic segmentation",
Pattern Recognition 172, 2025, https://doi.org/10.1016/j.patcog.2025.112399.
Authors' code: seok-hwa/KT losses/KT.py (kl, tau 4, all weights 1, kd at T 4), train_KT.py.
Deviation: only the divergence. The tailoring of its inputs (logits masked by class, features weighted by the
correlation of channels, and a triplet term on these) is left out. A 1x1 convolution if the features' widths differ.
Reduction: sum over positions, mean over batch and channels: the student's channels before the convolution ("kt") or
those of the compared maps ("canonical"); ignored pixels count.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from harness.distillers._ops import (
    adapter,
    at_least_float32,
    check_choices,
    check_positive,
    check_weights,
    compared,
    cwd_loss,
    kd_of,
    length,
    match_size,
    missing_tap,
    unit,
    widths,
)
from harness.distillers.base import Distiller
from harness.taps import Pair, View


def kt_loss(student: Tensor, teacher: Tensor, divergence: str = "kl", tau: float = 4.0, delta: float = 1.0) -> Tensor:
    """Divergence of maps (N, C, h, w) of one shape, summed over positions, mean over batch and channels."""
    if divergence == "kl":
        return cwd_loss(student, teacher, tau)
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    per_map = 1.0 / (student.shape[0] * student.shape[1])
    if divergence == "l1":
        ours, theirs = (unit(x.flatten(2).flatten(0, 1)) for x in (student, teacher))
        return (ours - theirs).abs().sum() * per_map
    difference = unit(student) - unit(teacher)
    square = length(difference).square().sum()
    if divergence == "mse":
        return square * per_map
    size = difference.abs()
    linear = (size - delta / 2).sum()
    return square.where(size.mean() <= delta, linear) * delta * per_map


class KT(Distiller):
    """The released divergence on logits and features.

    Args:
        pair: channels of both networks' taps.
        logits: weight of the term on logits; 0 leaves it out.
        feature: weight of the term on features; 0 leaves it out.
        kd: weight of pixel-wise KD at temperature `tau`; 0 leaves it out.
        divergence: kind of divergence, see above.
        tau: temperature.
        delta: threshold of "huber".
        tap: feature map to compare.
        convention: divisor of the feature term. "kt": the student's width, for which 1 is the published weight.
            "canonical": the teacher's width.

    Raises:
        ValueError: a value is out of range, or either network lacks the tap.
    """

    paper: ClassVar[str] = "Cheung et al., Pattern Recognition 172, 2025"
    caveat: ClassVar[str] = "only the released divergence; the tailoring of its inputs is left out"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {
        "logits": (0.1, 100.0),
        "feature": (0.1, 100.0),
        "kd": (0.1, 10.0),
    }
    weights: ClassVar[tuple[str, ...]] = ("logits", "feature", "kd")
    response: ClassVar[Mapping[str, str]] = {"weight": "kd", "temperature": "tau"}

    def __init__(
        self,
        pair: Pair,
        *,
        logits: float = 1.0,
        feature: float = 1.0,
        kd: float = 1.0,
        divergence: Literal["kl", "mse", "l1", "huber"] = "kl",
        tau: float = 4.0,
        delta: float = 1.0,
        tap: str = "decoder",
        convention: Literal["kt", "canonical"] = "kt",
    ) -> None:
        super().__init__()
        check_weights("kt", logits=logits, feature=feature, kd=kd)
        check_positive("kt", tau=tau, delta=delta)
        check_choices("kt", KT.__init__, divergence=divergence, convention=convention)
        self.logits, self.feature, self.kd, self.tap = logits, feature, kd, tap
        self.divergence, self.tau, self.delta = divergence, tau, delta
        if feature:
            self.adapter = adapter(pair, tap)
            ours, theirs = widths(pair, tap)
            self.factor = theirs / ours if convention == "kt" else 1.0

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason if the feature term is on and either network lacks the tap, else None."""
        return missing_tap(pair, parameters.get("tap", "decoder")) if parameters.get("feature", 1.0) else None

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"kt_logits", "kt_feature", "kd"}; terms of weight 0 are left out."""
        taught = view.taught()
        terms = {}
        if self.logits:
            scores = match_size(view.student.logits, taught.logits)
            loss = kt_loss(scores, taught.logits, self.divergence, self.tau, self.delta)
            terms["kt_logits"] = self.logits * loss
        if self.feature:
            ours, theirs = compared(view, self.tap, self.adapter)
            loss = kt_loss(ours, theirs, self.divergence, self.tau, self.delta)
            terms["kt_feature"] = self.feature * self.factor * loss
        return terms | kd_of(view, self.kd, self.tau)
