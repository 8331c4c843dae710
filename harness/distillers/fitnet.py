"""FitNet: a 1x1 convolution of the student's feature imitates the teacher's.

    L = weight * mean over elements of (W f_S - f_T)^2  +  kd * L_kd

Paper: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550.
Authors' code: none for segmentation; winycg/CIRKD losses/fitnet.py (weight 10, with kd 1), on the feature before the
classifier, with the convolution (no bias) even if the widths are equal.
Deviation: none. Different sizes are resized to the teacher's.
Reduction: mean over batch, channels and positions; ignored pixels count.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from harness.distillers._ops import adapter, check_positive, check_weights, compared, kd_of, missing_tap, mse
from harness.distillers.base import Distiller
from harness.taps import Pair, View


class FitNet(Distiller):
    """Mean squared error of adapted features.

    Args:
        pair: channels of both networks' taps.
        weight: weight of the feature term.
        kd: weight of pixel-wise KD at temperature 1; 0 leaves it out.
        tap: feature map to compare.

    Raises:
        ValueError: a weight is out of range, or either network lacks the tap.
    """

    paper: ClassVar[str] = "Romero et al., ICLR 2015, arXiv 1412.6550"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.1, 100.0), "kd": (0.1, 10.0)}
    weights: ClassVar[tuple[str, ...]] = ("weight", "kd")
    response: ClassVar[Mapping[str, str]] = {"weight": "kd"}

    def __init__(self, pair: Pair, *, weight: float = 10.0, kd: float = 1.0, tap: str = "decoder") -> None:
        super().__init__()
        check_positive("fitnet", weight=weight)
        check_weights("fitnet", kd=kd)
        self.weight, self.kd, self.tap = weight, kd, tap
        self.adapter = adapter(pair, tap, always=True)

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason if either network lacks the tap, else None."""
        return missing_tap(pair, parameters.get("tap", "decoder"))

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"fitnet": scalar, "kd": scalar}."""
        ours, theirs = compared(view, self.tap, self.adapter)
        return {"fitnet": self.weight * mse(ours, theirs), **kd_of(view, self.kd)}
