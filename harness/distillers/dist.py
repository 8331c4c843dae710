"""DIST: the student matches the teacher's correlations between classes and between positions, not its values.

    L = inter * (1 - mean over positions of corr_classes(p_S, p_T)) + intra * (1 - mean over classes of corr_positions)

with p = softmax over classes of logits / tau, Pearson correlations over the K classes of one position, and over all
N h w positions of one class; both times tau^2.

Paper: Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv 2205.10536.
Authors' code: hunto/DIST_KD segmentation/losses/dist_kd.py (1 and 1, tau 1, and 0.4 times the same on the auxiliary
head's scores); mmrazor's file gives the same value on a matrix of positions x classes, but another on (N, C, H, W).
Deviation: no auxiliary scores, because a teacher in eval mode has none.
Reduction: mean over batch and positions (inter), over classes (intra); ignored pixels count.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from harness.distillers._ops import at_least_float32, check_positive, check_weights, match_size
from harness.distillers.base import Distiller
from harness.taps import Pair, View

_EPS = 1e-8


class _Correlation(torch.autograd.Function):
    """Saves the two maps, shared by both relations, and scalars per group; no gradient for the second map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, dims: tuple[int, ...]) -> Tensor:
        mean_x, mean_y = x.mean(dims, keepdim=True), y.mean(dims, keepdim=True)
        centred_x, centred_y = x - mean_x, y - mean_y
        product = (centred_x * centred_y).sum(dims, keepdim=True)
        length_x, length_y = (centred.square_().sum(dims, keepdim=True).sqrt_() for centred in (centred_x, centred_y))
        lengths = length_x * length_y + _EPS
        found = product / lengths
        # d found = (y - mean) / lengths - (x - mean) * found * length_y / (length_x * lengths); constant x: the first.
        own = (found * length_y / (length_x * lengths)).masked_fill_(length_x == 0, 0)
        ctx.save_for_backward(x, y, mean_x, mean_y, own, lengths)
        ctx.dims = dims
        return found.sum(dims)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        x, y, mean_x, mean_y, own, lengths = ctx.saved_tensors
        for dim in ctx.dims:
            grad = grad.unsqueeze(dim)
        on_y, on_x = grad / lengths, grad * own
        return (y * on_y).addcmul_(x, on_x, value=-1).add_(mean_x * on_x - mean_y * on_y), None, None


def correlation(x: Tensor, y: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Pearson correlation over ascending `dims`; 0 where one of the two is constant. No gradient for `y`."""
    found: Tensor = _Correlation.apply(x, y.detach(), dims)
    return found


def relations(student: Tensor, teacher: Tensor, tau: float = 1.0) -> tuple[Tensor, Tensor]:
    """(inter, intra), each times tau^2, from logits (N, K, h, w) of one size."""
    ours, theirs = ((at_least_float32(x) / tau).softmax(1) for x in (student, teacher))
    inter = 1 - correlation(ours, theirs, (1,)).mean()
    intra = 1 - correlation(ours, theirs, (0, 2, 3)).mean()
    return inter * tau**2, intra * tau**2


class DIST(Distiller):
    """Relations between classes and between positions.

    Args:
        pair: not used.
        inter: weight of the relation between the classes of a position.
        intra: weight of the relation between the positions of a class.
        tau: temperature of the softmax.

    Raises:
        ValueError: a value is out of range.
    """

    paper: ClassVar[str] = "Huang et al., NeurIPS 2022, arXiv 2205.10536"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {
        "inter": (0.1, 10.0),
        "intra": (0.1, 10.0),
        "tau": (1.0, 8.0),
    }
    weights: ClassVar[tuple[str, ...]] = ("inter", "intra")

    def __init__(self, pair: Pair, *, inter: float = 1.0, intra: float = 1.0, tau: float = 1.0) -> None:
        super().__init__()
        check_weights("dist", inter=inter, intra=intra)
        check_positive("dist", tau=tau)
        self.inter, self.intra, self.tau = inter, intra, tau

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"inter": scalar, "intra": scalar}; terms of weight 0 are left out."""
        teacher = view.taught().logits
        student = match_size(view.student.logits, teacher)
        inter, intra = relations(student, teacher, self.tau)
        terms = {"inter": (self.inter, inter), "intra": (self.intra, intra)}
        return {name: weight * value for name, (weight, value) in terms.items() if weight}
