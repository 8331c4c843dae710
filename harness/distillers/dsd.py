"""Double similarity distillation: changes of attention between layers, and similarities between classes.

    L = pixel * L_psd + category * L_csd  +  kd * L_kd
    L_psd = mean over pairs of layers n < m, batch and positions of (r_mn^S - r_mn^T)^2
            r_mn = (a_m - a_n) / |a_m - a_n|,   a = attention of a layer's map (see `at`)
    L_csd = mean over batch and pairs of classes of (g_ij^S - g_ij^T)^2
            g_ij = sum_positions p_i p_j,   p = softmax_positions(2x2 average of the logits / tau)

Paper: Feng, Sun, Diao, Li, Gao, "Double Similarity Distillation for Semantic Image Segmentation", TIP 2021,
arXiv 2107.08591.
Authors' code: none; winycg/CIRKD losses/dsd.py (1000 and 10, with kd 1) on the auxiliary head's scores, the feature
before the classifier and the scores.
Deviation: the deepest stage replaces the auxiliary scores, which a teacher in eval mode does not have. Maps of
different size are resized to the teacher's logits before they are normalised.
Reduction: as written; ignored pixels count.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.distillers._ops import (
    at_least_float32,
    attention,
    check_positive,
    check_weights,
    full_precision,
    kd_of,
    match_size,
    missing_tap,
    mse,
    read_tap,
)
from harness.distillers.base import Distiller
from harness.taps import Pair, View


def psd_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Pixel-wise similarity term from two or more maps (N, C_k, h_k, w_k) of each network.

    All are resized to the teacher's last map; widths may differ.
    """

    def residuals(maps: list[Tensor]) -> Tensor:
        seen = [attention(x, teacher[-1]) for x in maps]
        return torch.stack([F.normalize(seen[m] - seen[n], dim=1) for n, m in combinations(range(len(seen)), 2)])

    return mse(residuals(student), residuals(teacher))


class _Halved(torch.autograd.Function):
    """Sums of every second row and column: on a CPU several times as fast as pooling."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        tall = x[..., 0::2, :] + x[..., 1::2, :]
        return (tall[..., 0::2] + tall[..., 1::2]).div_(4)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        n, c, height, width = grad.shape
        spread = grad.new_empty(n, c, height, 2, width, 2).copy_(grad[:, :, :, None, :, None]).div_(4)
        return spread.view(n, c, 2 * height, 2 * width)


def halved(x: Tensor) -> Tensor:
    """Means of 2 x 2 windows of (N, C, h, w); if a side is odd, its last window has one row or column."""
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        return F.avg_pool2d(x, 2, ceil_mode=True)
    found: Tensor = _Halved.apply(x)
    return found


@full_precision
def csd_loss(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Category-wise similarity term from logits (N, K, h, w) of one size."""

    def gram(x: Tensor) -> Tensor:
        p = (halved(at_least_float32(x)).flatten(2) / tau).softmax(2)
        return p @ p.mT

    return mse(gram(student), gram(teacher))


class DSD(Distiller):
    """Pixel-wise and category-wise similarity.

    Args:
        pair: available taps of both networks.
        pixel: weight of the pixel-wise similarity term; 0 leaves it out.
        category: weight of the category-wise similarity term; 0 leaves it out.
        kd: weight of pixel-wise KD at temperature 1; 0 leaves it out.
        tau: temperature of the category-wise term.
        taps: maps of the pixel-wise term, at least two.

    Raises:
        ValueError: a value is out of range, fewer than two taps, or a tap that either network lacks.
    """

    paper: ClassVar[str] = "Feng et al., TIP 2021, arXiv 2107.08591"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {
        "pixel": (10.0, 10000.0),
        "category": (0.1, 1000.0),
        "kd": (0.1, 10.0),
    }
    weights: ClassVar[tuple[str, ...]] = ("pixel", "category", "kd")
    response: ClassVar[Mapping[str, str]] = {"weight": "kd"}

    def __init__(
        self,
        pair: Pair,
        *,
        pixel: float = 1000.0,
        category: float = 10.0,
        kd: float = 1.0,
        tau: float = 4.0,
        taps: tuple[str, ...] = ("last", "decoder", "logits"),
    ) -> None:
        super().__init__()
        check_weights("dsd", pixel=pixel, category=category, kd=kd)
        check_positive("dsd", tau=tau)
        reason = self.skip(pair, taps=taps, pixel=pixel)
        if reason is not None:
            raise ValueError(f"dsd: {reason}")
        self.pixel, self.category, self.kd, self.tau, self.taps = pixel, category, kd, tau, tuple(taps)

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason if the pixel-wise term is on and has fewer than two taps or either network lacks one, else None."""
        taps = parameters.get("taps", ("last", "decoder", "logits"))
        if not parameters.get("pixel", 1.0):
            return None
        return missing_tap(pair, *taps) if len(taps) > 1 else f"taps is {tuple(taps)}; at least two are needed"

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"psd", "csd", "kd"}; terms of weight 0 are left out."""
        taught = view.taught()
        terms = {}
        if self.pixel:
            ours, theirs = ([read_tap(taps, name) for name in self.taps] for taps in (view.student, taught))
            terms["psd"] = self.pixel * psd_loss(ours, theirs)
        if self.category:
            scores = match_size(view.student.logits, taught.logits)
            terms["csd"] = self.category * csd_loss(scores, taught.logits, self.tau)
        return terms | kd_of(view, self.kd)
