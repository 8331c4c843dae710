"""Af-DCD: masked feature reconstruction, and a dense contrast of channel groups inside small patches.

    L = feature * r |G(m * A f_S) - f_T|^2  +  contrast * L_c  +  kd * L_kd
    L_c = mean over batch and positions of sum over groups g of
          -log( e^{-d(s_ig, t_ig)/tau} / (e^{-d(s_ig, t_ig)/tau} + sum_{j in patch, h != g} e^{-d(s_ig, t_jh)/tau}) )

s, t: the generated and the teacher's feature after max-pooling, their channels cut into `groups`; d: sum of absolute
differences; A, G, m as in `mgd`. With `enhanced_projector` G has two branches, with 3x3 convolutions W:

    G(x) = (W_3 h_1 + W_4 h_2) / 2,   h_1 = ReLU(W_1 x),   h_2 = ReLU(W_2 h_1)

Paper: Fan, Li, Wang, Yao, "Augmentation-free Dense Contrastive Knowledge Distillation for Efficient Semantic
Segmentation", NeurIPS 2023, arXiv 2312.04168.
Authors' code: OSVAI/Af-DCD losses/ocmgd.py (2e-6 and 5e-3 on Cityscapes, tau 0.07, patches of 4x4, pooling 4).
Deviation: A is omitted if the widths are equal (the authors' code fails there); positions beyond the last complete
patch are dropped, and a map smaller than a patch is one patch; the authors' fixed mask and their crop for
CamVid are not offered. Different sizes are resized to the teacher's.
Reduction: sum over channels and positions, mean over batch ("af-dcd", for which 2e-6 is the published weight), or mean
over elements ("canonical"); L_c as written. Ignored pixels count.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.distillers._ops import (
    adapter,
    at_least_float32,
    check_choices,
    check_positive,
    check_weights,
    compared,
    full_precision,
    generator_block,
    kd_of,
    missing_tap,
    random_mask,
    squared_error,
    tap_info,
    widths,
)
from harness.distillers.base import Distiller
from harness.taps import Pair, View


@full_precision
def omni_contrast(
    student: Tensor, teacher: Tensor, groups: int, pool: int, patch: tuple[int, int], tau: float
) -> Tensor:
    """The contrastive term from maps (N, C, h, w) of one shape; C is a multiple of `groups`; `pool` 0 does not pool."""
    height, width = student.shape[-2:]
    window = (min(max(pool, 1), height), min(max(pool, 1), width))
    rows, columns = min(patch[0], height // window[0]), min(patch[1], width // window[1])

    def vectors(x: Tensor) -> Tensor:
        """(patches, positions * groups, C / groups), positions first."""
        x = F.max_pool2d(at_least_float32(x), window)
        down, across = x.shape[-2] // rows, x.shape[-1] // columns
        x = x[..., : down * rows, : across * columns]
        x = x.reshape(len(x), groups, -1, down, rows, across, columns)
        return x.permute(0, 3, 5, 4, 6, 1, 2).reshape(len(x) * down * across, rows * columns * groups, -1)

    ours, theirs = vectors(student), vectors(teacher)
    group = torch.arange(groups, device=ours.device).repeat(rows * columns)
    same = group[:, None] == group
    # Exponentials of distant vectors' scores are denormal, which slows logsumexp down but not log-softmax.
    scores = (torch.cdist(ours, theirs, p=1) / -tau).masked_fill_(same.fill_diagonal_(False), float("-inf"))
    return -scores.log_softmax(2).diagonal(dim1=1, dim2=2).mean() * groups


class EnhancedProjector(nn.Module):
    """G with two branches, (N, C, h, w) to the same shape: the equation above; every convolution has C channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.out = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """The mean of both branches."""
        first = F.relu(self.hidden[0](x))
        second = F.relu(self.hidden[1](first))
        mean: Tensor = (self.out[0](first) + self.out[1](second)) / 2
        return mean


class AfDCD(Distiller):
    """Masked reconstruction and omni-contrast.

    Args:
        pair: channels of both networks' taps.
        feature: weight of the reconstruction term.
        contrast: weight of the contrastive term.
        kd: weight of pixel-wise KD at temperature 1; 0 leaves it out.
        groups: number of groups that the teacher's channels are divided into.
        pool: side of the max-pooling windows; 0, as in the authors' code, and 1 do not pool.
        patch: height and width of a patch, in pooled positions.
        tau: temperature of the contrast.
        dropped: share of the positions that are masked, in [0, 1).
        tap: feature map to compare.
        convention: reduction of the reconstruction term, see above.
        enhanced_projector: G with two branches, see above (the authors' option `enhance_projector`).

    Raises:
        ValueError: a value is out of range, a tap is missing, or a width is not a multiple of `groups`.
    """

    paper: ClassVar[str] = "Fan et al., NeurIPS 2023, arXiv 2312.04168"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {"feature": (1e-8, 1e-4), "contrast": (1e-4, 1.0)}
    weights: ClassVar[tuple[str, ...]] = ("feature", "contrast", "kd")
    response: ClassVar[Mapping[str, str]] = {"weight": "kd"}

    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"groups": (1, 4096), "pool": (0, 1024)}

    added: ClassVar[tuple[str, ...]] = ("enhanced_projector",)

    def __init__(
        self,
        pair: Pair,
        *,
        feature: float = 2e-6,
        contrast: float = 5e-3,
        kd: float = 0.0,
        groups: int = 4,
        pool: int = 4,
        patch: tuple[int, int] = (4, 4),
        tau: float = 0.07,
        dropped: float = 0.75,
        tap: str = "decoder",
        convention: Literal["af-dcd", "canonical"] = "af-dcd",
        enhanced_projector: bool = False,
    ) -> None:
        super().__init__()
        check_weights("af-dcd", feature=feature, contrast=contrast, kd=kd)
        check_choices("af-dcd", AfDCD.__init__, convention=convention)
        check_positive("af-dcd", tau=tau, groups=groups, patch_height=patch[0], patch_width=patch[1])
        if pool < 0:
            raise ValueError(f"af-dcd: pool is a side of windows, or 0 for no pooling; given {pool}")
        if not 0 <= dropped < 1:
            raise ValueError(f"af-dcd: dropped is a share in [0, 1); given {dropped}")
        reason = self.skip(pair, tap=tap, groups=groups)
        if reason is not None:
            raise ValueError(f"af-dcd: {reason}")
        self.feature, self.contrast, self.kd = feature, contrast, kd
        self.groups, self.pool, self.patch, self.tau = groups, pool, (patch[0], patch[1]), tau
        self.dropped, self.tap, self.convention = dropped, tap, convention
        if feature or contrast:
            self.adapter = adapter(pair, tap, bias=True)
            channels = widths(pair, tap)[1]
            self.generator = EnhancedProjector(channels) if enhanced_projector else generator_block(channels)

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason if either network lacks the tap or its width is not a multiple of `groups`, else None."""
        tap, groups = parameters.get("tap", "decoder"), parameters.get("groups", 4)
        reason = missing_tap(pair, tap)
        if reason is not None:
            return reason
        channels = tap_info(pair.teacher, tap).channels
        if groups > 0 and channels % groups == 0:
            return None
        return f"the teacher's {tap} has {channels} channels, no multiple of groups {groups}"

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"feature", "contrast", "kd"}; terms of weight 0 are left out."""
        terms = {}
        if self.feature or self.contrast:
            ours, theirs = compared(view, self.tap, self.adapter)
            made = self.generator(ours * random_mask(theirs, self.dropped, view.generator))
            if self.feature:
                terms["feature"] = self.feature * squared_error(made, theirs, self.convention)
            if self.contrast:
                loss = omni_contrast(made, theirs, self.groups, self.pool, self.patch, self.tau)
                terms["contrast"] = self.contrast * loss
        return terms | kd_of(view, self.kd)
