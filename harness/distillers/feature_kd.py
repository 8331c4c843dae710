"""Plain feature distillation: the squared difference of the features before the classifiers.

    L = weight * mean over elements of (A f_S - f_T)^2

A: a 1x1 convolution to the teacher's width; identity if the widths are equal.

Paper: the baseline that specialised methods are compared with at matched wall-clock in arXiv 2604.25530 (2026); its
weight is not known, so `weight` 1 is this project's choice.
Authors' code: none; with equal widths the same value as HobbitLong/RepDistiller distiller_zoo/FitNet.py.
Deviation: different sizes are resized to the teacher's.
Reduction: mean over batch, channels and positions; ignored pixels count.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from harness.distillers._ops import adapter, check_positive, compared, missing_tap, mse
from harness.distillers.base import Distiller
from harness.taps import Pair, View


class FeatureKD(Distiller):
    """Mean squared error of features.

    Args:
        pair: channels of both networks' taps.
        weight: weight of the term.
        tap: feature map to compare.

    Raises:
        ValueError: a weight is out of range, or either network lacks the tap.
    """

    paper: ClassVar[str] = "the plain baseline of arXiv 2604.25530, 2026"
    caveat: ClassVar[str] = "weight unverified (no published value is known)"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.01, 100.0)}

    def __init__(self, pair: Pair, *, weight: float = 1.0, tap: str = "decoder") -> None:
        super().__init__()
        check_positive("feature-kd", weight=weight)
        self.weight, self.tap = weight, tap
        self.adapter = adapter(pair, tap)

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason if either network lacks the tap, else None."""
        return missing_tap(pair, parameters.get("tap", "decoder"))

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"feature": scalar}."""
        ours, theirs = compared(view, self.tap, self.adapter)
        return {"feature": self.weight * mse(ours, theirs)}
