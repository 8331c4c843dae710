"""Attention transfer: the student's features are large at the positions where the teacher's are.

    L = weight * mean over batch and positions of (a_S - a_T)^2  +  kd * L_kd
    a = q / |q|_2,   q = mean over channels of F^2, as a vector over positions

Paper: Zagoruyko, Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv 1612.03928.
Authors' code: szagoruyko/attention-transfer utils.py; the same value in winycg/CIRKD losses/at.py (weight 10000 with
kd 1, on the feature before the classifier), mmrazor and RepDistiller. The paper's own formula is the norm of the
difference, mean over batch (torchdistill "paper").
Deviation: none. Maps of different size are resized to the teacher's before they are normalised.
Reduction: mean over batch and positions; ignored pixels count.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from harness.distillers._ops import attention, check_positive, check_weights, kd_of, missing_tap, mse, read_tap
from harness.distillers.base import Distiller
from harness.taps import Pair, View


def at_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the attention of maps (N, C, h, w); their widths may differ."""
    return mse(attention(student, teacher), attention(teacher, teacher))


class AT(Distiller):
    """Attention transfer.

    Args:
        pair: available taps of both networks.
        weight: weight of the attention term.
        kd: weight of pixel-wise KD at temperature 1; 0 leaves it out.
        taps: feature maps to compare; the term is the sum over them.

    Raises:
        ValueError: a weight is out of range, `taps` is empty, or either network lacks one.
    """

    paper: ClassVar[str] = "Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (100.0, 100000.0), "kd": (0.1, 10.0)}
    weights: ClassVar[tuple[str, ...]] = ("weight", "kd")
    response: ClassVar[Mapping[str, str]] = {"weight": "kd"}

    def __init__(
        self, pair: Pair, *, weight: float = 10000.0, kd: float = 1.0, taps: tuple[str, ...] = ("decoder",)
    ) -> None:
        super().__init__()
        check_positive("at", weight=weight)
        check_weights("at", kd=kd)
        reason = self.skip(pair, taps=taps)
        if reason is not None:
            raise ValueError(f"at: {reason}")
        self.weight, self.kd, self.taps = weight, kd, tuple(taps)

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason if `taps` is empty or either network lacks one, else None."""
        taps = parameters.get("taps", ("decoder",))
        return missing_tap(pair, *taps) if taps else "taps is empty; at least one is needed"

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"at": scalar, "kd": scalar}."""
        taught = view.taught()
        losses = [at_loss(read_tap(view.student, name), read_tap(taught, name)) for name in self.taps]
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return {"at": self.weight * total, **kd_of(view, self.kd)}
