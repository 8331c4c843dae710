"""Contourlet Decomposition Module: low-level features to directional subbands.

A Laplacian pyramid splits the features; each band-pass map is then split into 2**k directions; the pyramid goes on with
the low-pass map. Structure from Ji et al., "Structural and Statistical Texture Knowledge Distillation for Semantic
Segmentation" (CVPR 2022, arXiv 2305.03944), after Do, Vetterli, "The contourlet transform" (2005).

The directional part is the undecimated wedge split of `sstkd.directional`, not the critically sampled filter bank of
the contourlet transform. The module has no parameters and is linear.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sstkd.directional import MAX_DEPTH, directional_split
from sstkd.filters import PyramidName, pyramid_filters
from sstkd.laplacian import decompose


class CDM(nn.Module):
    """Directional subbands of each pyramid level; the final low-pass map is dropped.

    Args:
        levels: depth k of the directional split of each pyramid level, coarse to fine. (3, 4) is two pyramid levels,
            2**3 directions on the coarse one and 2**4 on the fine one.
        filters: low-pass pair of the pyramid.

    Raises:
        ValueError: no level, a depth outside 0..8, or unknown filters.
    """

    def __init__(self, levels: Sequence[int] = (3, 4), filters: PyramidName = "9-7") -> None:
        super().__init__()
        if not levels or not all(0 <= depth <= MAX_DEPTH for depth in levels):
            raise ValueError(f"levels is {tuple(levels)}; it needs one or more depths from 0 to {MAX_DEPTH}")
        pyramid_filters(filters)
        self.levels = tuple(levels)
        self.filters = filters

    @property
    def multiple(self) -> int:
        """What both sides of a map are padded to a multiple of."""
        return 1 << len(self.levels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Subbands of x (N, C, H, W).

        The map is padded at the bottom and the right by repeating its last row and column; the subbands keep the padded
        positions. Computed in float32 (float64 for float64 input) with autocast off, for in bfloat16 the offset of
        post-ReLU features leaves few digits for the bands.

        Returns:
            One stack of equally large subbands per pyramid level, coarse to fine: (N, C, 2**k, h, w), the finest with
            h, w = H, W rounded up to `multiple`, each coarser one with half of that.

        Raises:
            ValueError: x is not (N, C, H, W) with at least one position.
        """
        if x.ndim != 4 or not x.shape[-1] or not x.shape[-2]:
            raise ValueError(f"features must be (N, C, H, W) with H, W >= 1, got shape {tuple(x.shape)}")
        _, bands = decompose(_pad(x, self.multiple), len(self.levels), self.filters)
        return [directional_split(band, depth) for band, depth in zip(bands, self.levels, strict=True)]


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
