"""Denoised Texture Intensity Equalization Module: equalised intensities of anchor regions of a feature map.

    regions   rectangles of the teacher's map, mostly where it is textured or uncertain
    intensity s_i = cosine(feature at position i, mean feature of the region)
    quantise  N uniform levels over the region's range, then t damped Lloyd-Max steps; C_n = share of level n
    denoise   C_n <- min(C_n, clip/N) + (what was cut off) / N
    equalise  F_n = C_0 + ... + C_n, read back at the positions by the soft assignment
    graph     instead of the last step: vectors F_n from all levels and shares (`sstkd.graph`), read back likewise

The three steps and their purpose are those of Ji et al., "Structural and Statistical Texture Knowledge Distillation for
Semantic Segmentation" (CVPR 2022, arXiv 2305.03944), which has no public code: the formulas above are this project's.
Built on: cosine intensity, level grid and graph of STLNet (Zhu et al., CVPR 2021, arXiv 2103.04133); clipping rule of
CLAHE (Zuiderveld, Graphics Gems IV, 1994), applied once; sampling scheme of PointRend (Kirillov et al., CVPR 2020,
arXiv 1912.08193), in `sstkd.regions`. `equalize` has no parameters: a teacher needs no training for it and nothing can
collapse. `graph` needs weights that a teacher was trained with (`sstkd.texture_head`); frozen and the same on both
sides, they cannot collapse either.

Certainty of each hyper-parameter: V verified in the source itself, V2 in a secondary source, I inferred, R recalled and
unconfirmed, D decided by this project.

Shapes: N images, M regions, P positions read per region, N_l levels, D length of a graph's vectors.
"""

import copy
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sstkd.graph import HOW_TO_TRAIN, GraphEnhancement
from sstkd.quantize import (
    Assignment,
    assign,
    counts,
    interpolate,
    interpolate_vectors,
    refine_levels,
    uniform_levels,
    whole,
)
from sstkd.regions import region_intensity, sample_regions, texture_importance, uncertainty_importance, whole_map

__all__ = [
    "DTIEM",
    "Equalized",
    "clip_counts",
    "cumulative",
    "region_intensity",
    "require_finite",
    "sample_regions",
    "texture_importance",
    "uncertainty_importance",
    "whole_map",
]


class Equalized(NamedTuple):
    """What DTIEM makes of a map.

    values: (N, M, P) equalised intensities in [0, 1], or (N, M, P, D) of the graph.
    cumulative: (N, M, N_l) cumulative distribution of the levels after denoising; the last is 1.
    """

    values: Tensor
    cumulative: Tensor


class Quantized(NamedTuple):
    """Levels (N, M, N_l), their shares (N, M, N_l) after denoising, and the assignment of (N, M, P) positions."""

    levels: Tensor
    share: Tensor
    assignment: Assignment


class DTIEM(nn.Module):
    """Equalised intensity of every region at every position that is read.

    Args:
        levels: number of quantisation levels, an integer, at least 2 (decided, D).
        iterations: re-estimation steps of the levels, an integer; 0 keeps the uniform grid of STLNet, which is
            verified, V (that the quantisation is iterated: secondary source, V2; the Lloyd-Max step and the number
            decided, D).
        relaxation: length of such a step, in (0, 1): neighbouring levels cannot meet, so slopes stay bounded
            (decided, D).
        clip_limit: a level's share is cut at this multiple of 1 / levels, at least 1; None does not cut (that
            intensities are limited against noise: V2; CLAHE's rule and the value decided, D).
        min_range: least width of the level grid in units of the cosine, in [0, 2]; a flatter region is not stretched
            further. Whatever it is, levels stay four times the rounding of a cosine apart: 0 is no division by 0
            (decided, D).
        variant: "equalize" reads the cumulative distribution, "graph" the vectors of a trained graph (both decided, D;
            the graph itself is STLNet's, V).
        graph: trained weights for "graph", usually `GraphEnhancement.from_state(state)`. A frozen copy is kept, in
            eval mode whatever the module's mode.
        check_finite: look for NaN, infinities and norms that overflow in the features first. On CUDA that waits for the
            device at each call; where something else watches the losses it can be switched off: such features then
            become NaN, which passes through to the loss.

    Raises:
        ValueError: a value outside the ranges above; variant "graph" without a graph, with one that was never trained
            or was trained with another quantisation.
    """

    def __init__(
        self,
        levels: int = 32,
        iterations: int = 2,
        relaxation: float = 0.5,
        clip_limit: float | None = 4.0,
        min_range: float = 0.01,
        *,
        variant: Literal["equalize", "graph"] = "equalize",
        graph: GraphEnhancement | None = None,
        check_finite: bool = True,
    ) -> None:
        super().__init__()
        if not whole(levels, iterations) or levels < 2 or iterations < 0:
            raise ValueError(f"levels is {levels}, iterations {iterations}; integers, at least 2 and 0, are needed")
        if not 0 < relaxation < 1:
            raise ValueError(f"relaxation is {relaxation}; it must be between 0 and 1, both excluded")
        if clip_limit is not None and not clip_limit >= 1:
            raise ValueError(f"clip_limit is {clip_limit}; it must be at least 1, or None")
        if not 0 <= min_range <= 2:
            raise ValueError(f"min_range is {min_range}; it must be in [0, 2], the range of a cosine being 2 wide")
        if variant not in ("equalize", "graph"):
            raise ValueError(f"variant is {variant!r}; allowed: 'equalize', 'graph'")
        if variant == "graph" and graph is None:
            raise ValueError(f"variant 'graph' needs weights that the teacher was trained with. {HOW_TO_TRAIN}.")
        if variant == "equalize" and graph is not None:
            raise ValueError("a graph is given, which variant 'equalize' does not use; ask for variant 'graph'")
        self.levels = levels
        self.iterations = iterations
        self.relaxation = relaxation
        self.clip_limit = clip_limit
        self.min_range = min_range
        self.check_finite = check_finite
        self.graph: GraphEnhancement | None = None
        if graph is not None:
            graph.check(self.settings())
            self.graph = copy.deepcopy(graph).requires_grad_(False).eval()

    def settings(self) -> tuple[float | None, ...]:
        """The quantisation, in the order of `sstkd.graph.SETTINGS`."""
        return self.levels, self.iterations, self.relaxation, self.clip_limit, self.min_range

    def train(self, mode: bool = True) -> "DTIEM":
        """Set the module's mode; the graph's statistics are the teacher's and stay."""
        super().train(mode)
        if self.graph is not None:
            self.graph.eval()
        return self

    def forward(self, features: Tensor, positions: Tensor, name: str = "features") -> Tensor:
        """The values of `equalize`: (N, M, P), or (N, M, P, D) of the graph."""
        return self.equalize(features, positions, name).values

    def equalize(self, features: Tensor, positions: Tensor, name: str = "features") -> Equalized:
        """Enhanced intensities and cumulative distributions.

        Args:
            features: (N, C, H, W). Half precision is widened to float32, float64 stays; autocast is off.
            positions: (N, M, P) int64, indices into the flattened map, from `sample_regions` or `whole_map`. M = 0
                gives empty results.
            name: what the features are called in an error, such as the tap they come from.

        Returns:
            Values in [0, 1], increasing with the intensity within a region ("equalize"), or not negative ("graph").
            A region of constant features gives a constant.

        Raises:
            ValueError: the shapes do not fit each other, there is no image, a position is outside the map, or (with
                `check_finite`) a feature is NaN or infinite or the norm of one overflows.
        """
        if self.check_finite:
            require_finite(features, name)
        return self.enhance(features, positions)

    def enhance(self, features: Tensor, positions: Tensor) -> Equalized:
        """As `equalize`, for features that the caller has checked."""
        with torch.autocast(features.device.type, enabled=False):
            levels, share, assignment = self.quantize(features, positions)
            rising = cumulative(share)
            if self.graph is None:
                return Equalized(interpolate(assignment, rising), rising)
            return Equalized(interpolate_vectors(assignment, self.graph(levels, share)), rising)

    def quantize(self, features: Tensor, positions: Tensor) -> Quantized:
        """Levels, denoised shares and assignment; arguments as in `equalize`, autocast left to the caller."""
        intensity = region_intensity(features, positions)
        # A cosine is rounded to about eps: finer levels would be told apart by noise, by slopes that overflow.
        gap = 4 * torch.finfo(intensity.dtype).eps
        levels = uniform_levels(intensity, self.levels, max(self.min_range, self.levels * gap))
        levels = refine_levels(intensity, levels, self.iterations, self.relaxation, gap)
        assignment = assign(intensity, levels)
        share = counts(assignment, self.levels)
        if self.clip_limit is not None:
            share = clip_counts(share, self.clip_limit)
        return Quantized(levels, share, assignment)


def clip_counts(share: Tensor, clip_limit: float, positions: int | None = None) -> Tensor:
    """Cut shares (..., N_l) at clip_limit / N_l and spread what was cut evenly over all levels, once. Sums are kept.

    Args:
        share: of each level, adding up to 1.
        clip_limit: in units of the uniform share.
        positions: None: as above, with a gradient. A number P: by OpenCV's rule for whole counts, for shares that are
            multiples of 1 / P: the limit is max(int(clip_limit P / N_l), 1) positions, the excess is spread in whole
            positions, what remains goes one each to levels at even distances. It has no gradient.
    """
    number = share.shape[-1]
    if positions is None:
        limit = clip_limit / number
        excess = (share - limit).clamp(min=0)
        return share - excess + excess.mean(-1, keepdim=True)
    count = (share.detach() * positions).round().long()
    kept = count.clamp(max=max(int(clip_limit * positions / number), 1))
    excess = (count - kept).sum(-1, keepdim=True)
    rest = excess % number
    step = (number // rest.clamp(min=1)).clamp(min=1)
    order = torch.arange(number, device=share.device)
    extra = (order % step == 0) & (order // step < rest)
    return (kept + excess // number + extra).to(share.dtype) / positions


def cumulative(share: Tensor) -> Tensor:
    """F_n = C_0 + ... + C_n for shares (..., N_l)."""
    # A product with a triangle, for torch.cumsum has no deterministic implementation on CUDA.
    return share @ share.new_ones(share.shape[-1], share.shape[-1]).triu()


def require_finite(features: Tensor, name: str) -> None:
    """Raise if a feature is NaN or infinite, or the norm of one overflows. On CUDA this waits for the device.

    Raises:
        ValueError: names the tensor and where it fails first.
    """
    require_all_finite({name: features})


def require_all_finite(features: Mapping[str, Tensor], scores: Mapping[str, Tensor] | None = None) -> None:
    """As `require_finite`, for several tensors at the price of one wait; of scores, norms may overflow.

    Args:
        features: by name, (N, C, ...) each.
        scores: by name, of any shape.

    Raises:
        ValueError: names the first tensor that fails, and where.
    """
    # The extremes carry NaN and infinities, bound the norms, and need no second tensor of the features' size.
    fine = [_peak(x) <= (torch.finfo(_wide(x)).max / x.numel()) ** 0.5 for x in features.values() if x.numel()]
    fine += [_peak(x).isfinite() for x in (scores or {}).values() if x.numel()]
    if not fine or bool(torch.stack(fine).all()):
        return
    for name, x in {**features, **(scores or {})}.items():
        bad = ~x.detach().isfinite()
        if bad.any():
            first = bad.nonzero()[0].tolist()
            raise ValueError(
                f"{name}: {int(bad.sum())} of {bad.numel()} values are NaN or infinite, the first at {first}"
            )
    for name, x in features.items():
        norms = torch.linalg.vector_norm(x.detach().to(_wide(x)), dim=1) if x.ndim > 1 else x
        if not norms.isfinite().all():
            raise ValueError(f"{name}: the largest value is {float(_peak(x)):g}, too large for norms in {_wide(x)}")


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _peak(x: Tensor) -> Tensor:
    return torch.stack(x.detach().aminmax()).to(_wide(x)).abs().amax()
