"""Denoised Texture Intensity Equalization Module: equalised intensities of anchor regions of a feature map.

    regions   rectangles of the teacher's map, most of them where it is textured or uncertain
    intensity s_i = cosine(feature at position i, mean feature of the region)
    quantise  N uniform levels over the region's range, then t damped Lloyd-Max steps; C_n = share of level n
    denoise   C_n <- min(C_n, clip/N) + (what was cut off) / N
    equalise  F_n = C_0 + ... + C_n, read back at the positions by the soft assignment

The three steps and their purpose are those of Ji et al., "Structural and Statistical Texture Knowledge Distillation for
Semantic Segmentation" (CVPR 2022, arXiv 2305.03944), which has no public code: the formulas above are this project's.
Built on: cosine intensity and level grid of STLNet (Zhu et al., CVPR 2021, arXiv 2103.04133); clipping rule of CLAHE
(Zuiderveld, Graphics Gems IV, 1994), applied once; sampling scheme of PointRend (Kirillov et al., CVPR 2020, arXiv
1912.08193). There are no parameters, so a teacher needs no training for it and nothing can collapse.

Shapes: N images, M regions, P positions read per region, L = H W positions of the map, N_l levels.
"""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sstkd.quantize import assign, counts, interpolate, refine_levels, uniform_levels

MIN_SIDE = 4  # positions: a smaller region has too few for a distribution


class DTIEM(nn.Module):
    """Equalised intensity of every region at every position that is read.

    Args:
        levels: number of quantisation levels, at least 2.
        iterations: re-estimation steps of the levels; 0 keeps the uniform grid.
        relaxation: length of such a step, in (0, 1): neighbouring levels cannot meet, so slopes stay bounded.
        clip_limit: a level's share is cut at this multiple of 1 / levels, at least 1; None does not cut.
        min_range: least width of the level grid in units of the cosine; a flatter region is not stretched further.

    Raises:
        ValueError: a value outside the ranges above.
    """

    def __init__(
        self,
        levels: int = 32,
        iterations: int = 2,
        relaxation: float = 0.5,
        clip_limit: float | None = 4.0,
        min_range: float = 0.01,
    ) -> None:
        super().__init__()
        if levels < 2 or iterations < 0:
            raise ValueError(f"levels is {levels}, iterations {iterations}; at least 2 and 0 are needed")
        if not 0 < relaxation < 1:
            raise ValueError(f"relaxation is {relaxation}; it must be between 0 and 1, both excluded")
        if clip_limit is not None and clip_limit < 1:
            raise ValueError(f"clip_limit is {clip_limit}; it must be at least 1, or None")
        if min_range < 0:
            raise ValueError(f"min_range is {min_range}; it must not be negative")
        self.levels = levels
        self.iterations = iterations
        self.relaxation = relaxation
        self.clip_limit = clip_limit
        self.min_range = min_range

    def forward(self, features: Tensor, positions: Tensor) -> Tensor:
        """Equalised intensities.

        Args:
            features: (N, C, H, W). Half precision is widened to float32; autocast is off.
            positions: (N, M, P) int64, indices into the flattened map, from `sample_regions` or `whole_map`.

        Returns:
            (N, M, P) in [0, 1], increasing with the intensity within a region. A constant map gives a constant.

        Raises:
            ValueError: the shapes do not fit each other.
        """
        with torch.autocast(features.device.type, enabled=False):
            intensity = region_intensity(features, positions)
            levels = uniform_levels(intensity, self.levels, self.min_range)
            levels = refine_levels(intensity, levels, self.iterations, self.relaxation)
            assignment = assign(intensity, levels)
            share = counts(assignment, self.levels)
            if self.clip_limit is not None:
                share = clip_counts(share, self.clip_limit)
            return interpolate(assignment, cumulative(share))


def region_intensity(features: Tensor, positions: Tensor) -> Tensor:
    """Cosine between the feature at each position of a region and the region's mean feature.

    Args:
        features: (N, C, H, W).
        positions: (N, M, P) int64, indices into the flattened map.

    Returns:
        (N, M, P) in [-1, 1]; 0 where a feature is 0.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    if features.ndim != 4 or positions.ndim != 3 or features.shape[0] != positions.shape[0]:
        raise ValueError(
            f"features must be (N, C, H, W) and positions (N, M, P) with the same N, "
            f"got {tuple(features.shape)} and {tuple(positions.shape)}"
        )
    x_NCL = features.to(torch.promote_types(features.dtype, torch.float32)).flatten(2)
    n, m, p = positions.shape
    # Two matrix products over the whole map cost less than gathering C values for every position of every region.
    weight_NML = x_NCL.new_zeros(n, m, x_NCL.shape[-1])
    weight_NML.scatter_add_(-1, positions, x_NCL.new_full((1, 1, 1), 1 / p).expand(n, m, p))
    mean_NMC = F.normalize(weight_NML @ x_NCL.mT, dim=-1, eps=1e-6)
    return (mean_NMC @ F.normalize(x_NCL, dim=1, eps=1e-6)).gather(-1, positions)


def clip_counts(share: Tensor, clip_limit: float) -> Tensor:
    """Cut shares (..., N_l) at clip_limit / N_l and spread what was cut evenly over all levels, once. Sums are kept."""
    limit = clip_limit / share.shape[-1]
    excess = (share - limit).clamp(min=0)
    return share - excess + excess.mean(-1, keepdim=True)


def cumulative(share: Tensor) -> Tensor:
    """F_n = C_0 + ... + C_n for shares (..., N_l)."""
    # A product with a triangle, for torch.cumsum has no deterministic implementation on CUDA.
    return share @ share.new_ones(share.shape[-1], share.shape[-1]).triu()


def texture_importance(features: Tensor) -> Tensor:
    """Variance, over 3x3 neighbourhoods, of the cosine to the map's mean feature: (N, C, H, W) -> (N, H, W)."""
    n, _, height, width = features.shape
    with torch.autocast(features.device.type, enabled=False):
        everywhere = whole_map(n, height, width, features.device)
        intensity = region_intensity(features, everywhere).view(n, 1, height, width)
        intensity = intensity - intensity.mean((2, 3), keepdim=True)  # fewer digits lost in the difference below
        mean = F.avg_pool2d(intensity, 3, 1, 1, count_include_pad=False)
        square = F.avg_pool2d(intensity.square(), 3, 1, 1, count_include_pad=False)
        return (square - mean.square()).clamp(min=0).squeeze(1)


def uncertainty_importance(logits: Tensor) -> Tensor:
    """One minus the margin between the two highest class probabilities: (N, K, H, W), K >= 2 -> (N, H, W)."""
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    first, second = scores.softmax(1).topk(2, dim=1).values.unbind(1)
    return 1 - (first - second)


def whole_map(n: int, height: int, width: int, device: torch.device) -> Tensor:
    """Positions of one region per image that is the whole map: (n, 1, height * width) int64."""
    return torch.arange(height * width, device=device).expand(n, 1, -1)


def sample_regions(
    importance: Tensor,
    regions: int,
    generator: torch.Generator,
    *,
    sizes: Sequence[float] = (0.25, 0.5),
    aspects: Sequence[float] = (0.5, 1.0, 2.0),
    points: int = 8,
    oversample: int = 3,
    important: float = 0.75,
) -> Tensor:
    """Draw rectangles, preferring important ones, and lay a grid of reading positions on each.

    Of `oversample * regions` random rectangles per image, the floor(important * regions) with the highest mean
    importance are kept; fresh random ones fill up. Sides are size * sqrt(aspect) times the map's height and
    size / sqrt(aspect) times its width, rounded, at least 4 positions where the map has them; every size, aspect and
    placement inside the map is equally likely.

    Args:
        importance: (N, H, W), of the teacher; the regions are used for the student as well.
        regions: M, at least 1.
        generator: the only source of randomness; it may live on another device than `importance`.
        sizes: share of the map's side, each in (0, 1].
        aspects: height over width, relative to the map's own; positive.
        points: positions read along each side, at even distances. Positions repeat where a side is shorter than that.
        oversample: candidates per region, at least 1.
        important: share of the regions that is chosen by importance, in [0, 1].

    Returns:
        (N, M, points * points) int64, indices into the flattened map, on the device of `importance`.

    Raises:
        ValueError: a value outside the ranges above.
    """
    if importance.ndim != 3 or not importance.numel():
        raise ValueError(f"importance must be (N, H, W) and not empty, got shape {tuple(importance.shape)}")
    if regions < 1 or points < 1 or oversample < 1 or not 0 <= important <= 1:
        raise ValueError(
            f"regions {regions}, points {points}, oversample {oversample} must be at least 1 "
            f"and important {important} in [0, 1]"
        )
    if not sizes or not aspects or not all(0 < s <= 1 for s in sizes) or not all(a > 0 for a in aspects):
        raise ValueError(f"sizes {tuple(sizes)} must be in (0, 1] and aspects {tuple(aspects)} positive, none empty")
    n, height, width = importance.shape
    best = int(important * regions)
    drawn = oversample * regions
    sides = [
        (_side(size * sqrt(aspect), height), _side(size / sqrt(aspect), width)) for size in sizes for aspect in aspects
    ]
    positions = _random_grids(n, drawn + regions - best, sides, points, (height, width), generator)
    positions = positions.to(importance.device)

    flat = importance.flatten(1)[:, None, :].expand(-1, drawn, -1)
    score = flat.gather(-1, positions[:, :drawn]).mean(-1)
    chosen = score.topk(best, dim=-1).indices[..., None].expand(-1, -1, points * points)
    return torch.cat((positions.gather(1, chosen), positions[:, drawn:]), 1)


def _side(share: float, length: int) -> int:
    return min(max(round(share * length), MIN_SIDE), length)


def _random_grids(
    n: int, number: int, sides: list[tuple[int, int]], points: int, hw: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Grids of positions on random rectangles: (n, number, points * points) int64 on the generator's device."""
    device = generator.device
    kind = torch.randint(len(sides), (n, number), generator=generator, device=device)
    place = torch.rand(2, n, number, generator=generator, device=device)
    share = (torch.arange(points, device=device) + 0.5) / points
    lines = []
    for axis, length in enumerate(hw):
        side = torch.tensor([pair[axis] for pair in sides], device=device)[kind]
        start = (place[axis] * (length - side + 1)).long().minimum(length - side)
        lines.append(start[..., None] + (share * side[..., None]).long())
    rows, cols = lines
    return (rows[..., :, None] * hw[1] + cols[..., None, :]).flatten(2)
