"""Contourlet Decomposition Module: low-level features to directional subbands.

The contourlet transform of the features without its low-pass map. Structure from Ji et al., "Structural and Statistical
Texture Knowledge Distillation for Semantic Segmentation" (CVPR 2022, arXiv 2305.03944). The module has no parameters
and is linear.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sstkd._linear import Boundary, Plan, plan, synthesise
from sstkd.contourlet import subbands
from sstkd.filters import Directional, Pyramid

Weighting = Literal["equal", "whitened"]


class CDM(nn.Module):
    """Directional subbands of each pyramid level; the final low-pass map is dropped.

    Certainty of each default: V2 verified in a secondary source, R recalled and unconfirmed, D this project's decision.

    Args:
        levels: depth k of the directional bank of each pyramid level, coarse to fine, 0 to 8 each. (3, 4) is two
            pyramid levels (V2), 2**3 directions on the coarse one and 2**4 on the fine one (R).
        pyramid: low-pass pair of the pyramid (D).
        directional: filters of the directional bank (D).
        boundary: "periodic" or "toolbox", see `contourlet` (D).
        weighting: "equal" returns the transform's own bands; "whitened" divides each by the standard deviation that
            white noise of variance 1 has in it (D).

    Raises:
        ValueError: no level, a depth outside 0..8, unknown filters, boundary or weighting.
    """

    def __init__(
        self,
        levels: Sequence[int] = (3, 4),
        pyramid: Pyramid = "9-7",
        directional: Directional = "pkva",
        boundary: Boundary = "periodic",
        weighting: Weighting = "equal",
    ) -> None:
        super().__init__()
        if weighting not in get_args(Weighting):
            raise ValueError(f"unknown weighting {weighting!r}; allowed: {', '.join(map(repr, get_args(Weighting)))}")
        self.levels, self.weighting = tuple(levels), weighting
        self.plan = plan(self.levels[::-1], pyramid, directional, boundary)
        if weighting == "whitened":
            for i, deviations in enumerate(noise_deviations(self.plan)):
                self.register_buffer(f"factor{i}", 1 / deviations[:, None, None], persistent=False)

    @property
    def multiple(self) -> int:
        """Both sides of a map are padded to a multiple of this number: 8 for (3, 4)."""
        return self.plan.multiple

    def forward(self, x: Tensor) -> list[Tensor]:
        """Subbands of x (N, C, H, W).

        The map is padded at the bottom and the right by repeating its last row and column; the subbands keep the padded
        positions. Computed in float32 (float64 for float64 input) with autocast off, because in bfloat16 the offset of
        post-ReLU features leaves few digits for the bands.

        Returns:
            Stacks of equally large subbands (N, C, B, u, v), by level, coarse to fine. With h, w the level's sides: for
            k >= 3 two, each of 2**(k - 1) directions, (h / 2**(k - 1), w / 2) and (h / 2, w / 2**(k - 1)); for k <= 2
            one, of 3 (k = 0), 2 or 4.

        Raises:
            ValueError: x is not (N, C, H, W), or empty.
        """
        if x.ndim != 4 or not x.numel():
            raise ValueError(f"features must be (N, C, H, W) and not empty, got shape {tuple(x.shape)}")
        _, levels = subbands(_pad(x, self.multiple), self.plan)
        stacks = [stack for level in levels for stack in level]
        if self.weighting == "equal":
            return stacks
        return [stack * getattr(self, f"factor{i}").to(stack) for i, stack in enumerate(stacks)]


@lru_cache(maxsize=32)
def noise_deviations(made: Plan) -> list[Tensor]:
    """Standard deviation of each band when the map is white noise of variance 1, stacks coarse to fine, float64.

    This is the norm of the band's equivalent filter: the adjoint of the periodic transform applied to an impulse in the
    band, on a map larger than the filters. The mean square of two neighbours in a row is taken; they differ only at
    depth 1, where the lattice is finer than the pyramid's.
    """
    side = max(64, 8 * made.multiple)
    low, levels = made.shapes(side, side)
    assert low is not None
    shapes = [shape for level in levels for shape in level]
    number = sum(shape[0] for shape in shapes)
    with torch.inference_mode(False), torch.no_grad():
        parts = [torch.zeros(2 * number, *shape, dtype=torch.float64) for shape in shapes]
        first = 0
        for part in parts:
            bands = torch.arange(part.shape[1])
            for column in (0, 1):
                part[2 * (first + bands) + column, bands, 0, column] = 1.0
            first += len(bands)
        filters = synthesise((None, *parts), (side, side), made._replace(boundary="periodic"), "analysis.T")
        norms = filters.square().sum((1, 2)).view(-1, 2).mean(1).sqrt()
        deviations = list(torch.split(norms, [shape[0] for shape in shapes]))
    # `shapes` is fine to coarse; stacks of one level keep their order.
    ordered: list[Tensor] = []
    for level in levels[::-1]:
        ordered += deviations[len(deviations) - len(level) :]
        deviations = deviations[: len(deviations) - len(level)]
    return ordered


def _pad(x: Tensor, multiple: int) -> Tensor:
    # Not F.pad(mode="replicate"): its backward has no deterministic implementation on CUDA.
    for dim in (-2, -1):
        missing = -x.shape[dim] % multiple
        if missing:
            last = x.narrow(dim, x.shape[dim] - 1, 1)
            sizes = [-1] * x.ndim
            sizes[dim] = missing
            x = torch.cat((x, last.expand(sizes)), dim)
    return x
