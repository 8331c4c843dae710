"""Channel-wise distillation: each channel's map is a distribution over positions that the student's map follows.

    L = w tau^2 / (N C) * sum_{n,c} sum_positions p_T log(p_T / p_S),   p = softmax_positions(map / tau)

on the logits (w = `logits`) and on a feature (w = `feature`; a 1x1 convolution projects the student to the teacher's
width).

Paper: Shu, Liu, Gao, Yan, Shen, "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021,
arXiv 2011.13256.
Authors' code: irfanICMLL/TorchDistiller SemSeg-distill (logits 3, features 50, tau 4); the same value in winycg/CIRKD
and mmrazor.
Deviation: log-softmax instead of softmax().log(), which is NaN on peaked maps; the feature term is divided by the
map's own width, not by the student's (`convention` "cirkd"). Different sizes are resized to the teacher's.
Reduction: sum over positions, mean over batch and channels; ignored pixels count, as in the authors' code.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from harness.distillers._ops import (
    adapter,
    check_choices,
    check_positive,
    check_weights,
    cwd_loss,
    match_size,
    missing_tap,
    read_tap,
)
from harness.distillers.base import Distiller
from harness.taps import Pair, View


class CWD(Distiller):
    """Channel-wise KL divergence on logits, on features, or on both.

    Args:
        pair: channels of both networks' taps.
        logits: weight of the term on logits; 0 leaves it out.
        feature: weight of the term on features (published: 50); 0 leaves it out.
        tau: temperature of both terms.
        tap: feature map to compare.
        convention: the source of the reduction, see `cwd_loss`; "mmseg" (pppppM/mmsegmentation-distiller: 5,
            tau 1) uses an adapter with bias.

    Raises:
        ValueError: a value is out of range, or either network lacks the tap.
    """

    paper: ClassVar[str] = "Shu et al., ICCV 2021, arXiv 2011.13256"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {"logits": (0.3, 30.0), "tau": (1.0, 8.0)}
    weights: ClassVar[tuple[str, ...]] = ("logits", "feature")

    def __init__(
        self,
        pair: Pair,
        *,
        logits: float = 3.0,
        feature: float = 0.0,
        tau: float = 4.0,
        tap: str = "decoder",
        convention: Literal["canonical", "cirkd", "mmseg"] = "canonical",
    ) -> None:
        super().__init__()
        check_positive("cwd", tau=tau)
        check_choices("cwd", CWD.__init__, convention=convention)
        check_weights("cwd", logits=logits, feature=feature)
        self.logits, self.feature, self.tau, self.tap, self.convention = logits, feature, tau, tap, convention
        if feature:
            self.adapter = adapter(pair, tap, bias=convention == "mmseg")

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason if the feature term is on and either network lacks the tap, else None."""
        return missing_tap(pair, parameters.get("tap", "decoder")) if parameters.get("feature") else None

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"cwd": scalar, "cwd_feature": scalar}; terms of weight 0 are left out."""
        taught = view.taught()
        terms = {}
        if self.logits:
            student = match_size(view.student.logits, taught.logits)
            terms["cwd"] = self.logits * cwd_loss(student, taught.logits, self.tau, self.convention)
        if self.feature:
            ours, theirs = read_tap(view.student, self.tap), read_tap(taught, self.tap)
            mapped = match_size(self.adapter(ours), theirs)
            loss = cwd_loss(mapped, theirs, self.tau, self.convention, student_channels=ours.shape[1])
            terms["cwd_feature"] = self.feature * loss
        return terms
