"""FreeKD: imitates the Haar bands of the teacher's feature, weighted by masks computed from these bands.

    L = weight * sum over levels l = 1..3 of mean over tokens, batch and coefficients of m_l |B_l(f_S) - B_l(f_T)|
    m_l = sigmoid(token_l' sum of B_l(f_T) over its three orientations)

B_l: the three detail bands of level l; an odd side is padded with a zero.

Paper: Zhang, Huang, Liu, Cheng, Liu, Zhang, "FreeKD: Knowledge Distillation via Semantic Frequency Prompt", CVPR 2024,
arXiv 2311.12079.
Authors' code: Gumpest/FreeKD mmrazor/models/losses/freekd.py (weight 1, 2 tokens), for detectors; its variables named
after orientations are levels.
Deviation: a 1x1 convolution if the widths differ. The authors load tokens trained beforehand on the teacher, which are
not released; here tokens keep their random initial values unless `train_tokens`, because training on this loss alone
would drive the masks to 0. Different sizes are resized to the teacher's.
Reduction: as written; ignored pixels count.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.distillers._ops import (
    adapter,
    at_least_float32,
    check_positive,
    compared,
    full_precision,
    missing_tap,
    widths,
)
from harness.distillers.base import Distiller
from harness.taps import Pair, View

LEVELS = 3


def haar(x: Tensor, levels: int = LEVELS) -> tuple[Tensor, list[Tensor]]:
    """Orthonormal Haar transform of (N, C, H, W): the low-pass and, from fine to coarse, bands (N, C, 3, h, w).

    Band 0 is high-pass along the height, 1 along the width, 2 along both.
    """
    bands = []
    for _ in range(levels):
        x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
        top, bottom = x[..., 0::2, :], x[..., 1::2, :]
        low, high = (top + bottom) / 2, (top - bottom) / 2
        x = low[..., 0::2] + low[..., 1::2]
        along_width = low[..., 0::2] - low[..., 1::2]
        along_height = high[..., 0::2] + high[..., 1::2]
        bands.append(torch.stack((along_height, along_width, high[..., 0::2] - high[..., 1::2]), 2))
    return x, bands


@full_precision
def freekd_loss(student: Tensor, teacher: Tensor, tokens: Tensor) -> Tensor:
    """Masked mean absolute difference of the bands, summed over the levels.

    Args:
        student: maps (N, C, h, w).
        teacher: maps of the same shape.
        tokens: (1 + levels, T, C); the first row (low-pass) is not used.
    """
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    total = student.new_zeros(())
    differences = haar(student - teacher)[1]
    for row, band, difference in zip(tokens[1:], haar(teacher)[1], differences, strict=True):
        mask = torch.einsum("tc,nchw->nthw", row.to(band.dtype), band.sum(2)).sigmoid().mean(1)
        total = total + (mask[:, None, None] * difference.abs()).mean()
    return total


class FreeKD(Distiller):
    """Masked differences of Haar bands.

    Args:
        pair: channels of both networks' taps.
        weight: weight of the term.
        tokens: masks per level.
        train_tokens: train the tokens together with the student.
        tap: feature map to compare.

    Raises:
        ValueError: a value is out of range, or either network lacks the tap.
    """

    paper: ClassVar[str] = "Zhang et al., CVPR 2024, arXiv 2311.12079"
    caveat: ClassVar[str] = "no published setting for segmentation; weight and tokens are those for detectors"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.1, 100.0)}

    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"tokens": (1, 4096)}

    def __init__(
        self, pair: Pair, *, weight: float = 1.0, tokens: int = 2, train_tokens: bool = False, tap: str = "decoder"
    ) -> None:
        super().__init__()
        check_positive("freekd", weight=weight)
        if tokens < 1:
            raise ValueError(f"freekd: tokens is at least 1; given {tokens}")
        self.weight, self.tap = weight, tap
        self.adapter = adapter(pair, tap)
        start = 0.01 * torch.randn(1 + LEVELS, tokens, widths(pair, tap)[1])
        if train_tokens:
            start[0] = 0  # never read
            self.tokens = nn.Parameter(start)
        else:
            self.register_buffer("tokens", start)

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason if either network lacks the tap, else None."""
        return missing_tap(pair, parameters.get("tap", "decoder"))

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"freekd": scalar}."""
        ours, theirs = compared(view, self.tap, self.adapter)
        return {"freekd": self.weight * freekd_loss(ours, theirs, self.tokens)}
