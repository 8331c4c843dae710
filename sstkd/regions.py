"""Regions of a feature map: where to read it, drawn by importance, and the intensity there.

The scheme - draw too many at random, keep the most important, fill up with random ones - is PointRend's (Kirillov et
al., CVPR 2020, arXiv 1912.08193), applied to anchor rectangles. That Ji et al. (CVPR 2022, arXiv 2305.03944) sample in
this way is recalled (R); what a region's importance is, and every number, are this project's decisions (D). The
intensity is that of STLNet (Zhu et al., CVPR 2021, arXiv 2103.04133; verified, V): the cosine to the mean feature.

Shapes: N images, M regions, P positions read per region, L = H W positions of the map.
"""

from collections.abc import Sequence
from math import inf, sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from sstkd._transfer import sent
from sstkd.quantize import whole

MIN_SIDE = 4  # positions: a smaller region has too few for a distribution
EPS = 1e-6  # features of a smaller norm count as zero


def region_intensity(features: Tensor, positions: Tensor) -> Tensor:
    """Cosine between the feature at each position of a region and the region's mean feature.

    Args:
        features: (N, C, H, W).
        positions: (N, M, P) int64, indices into the flattened map.

    Returns:
        (N, M, P) in [-1, 1]; 0, with gradient 0, where a feature is 0; NaN where the norm of one overflows. An empty
        list of regions (M = 0) is allowed.

    Raises:
        ValueError: the shapes do not fit each other, the batch or the map is empty, positions are not int64, a region
            has none, or one is outside the map (on CUDA that is an assertion of the device).
    """
    if features.ndim != 4 or positions.ndim != 3 or features.shape[0] != positions.shape[0]:
        raise ValueError(
            f"features must be (N, C, H, W) and positions (N, M, P) with the same N, "
            f"got {tuple(features.shape)} and {tuple(positions.shape)}"
        )
    if positions.dtype != torch.int64 or not positions.shape[2] or not features.numel():
        raise ValueError(
            f"positions must be int64, at least one a region, in maps that are not empty; got {positions.dtype} "
            f"{tuple(positions.shape)} for features {tuple(features.shape)}"
        )
    x_NCL = features.to(torch.promote_types(features.dtype, torch.float32)).flatten(2)
    n, m, p = positions.shape
    # Two matrix products over the whole map cost less than gathering C values for every position of every region.
    weight_NML = x_NCL.new_zeros(n, m, x_NCL.shape[-1])
    try:
        weight_NML.scatter_add_(-1, positions, x_NCL.new_full((1, 1, 1), 1 / p).expand(n, m, p))
    except RuntimeError as error:
        # Only now, for on CUDA reading the positions would wait for the device.
        low, high = int(positions.min()), int(positions.max())
        if low >= 0 and high < x_NCL.shape[-1]:
            raise
        raise ValueError(
            f"positions go from {low} to {high}; the map has the positions 0 to {x_NCL.shape[-1] - 1}"
        ) from error
    mean_NMC = F.normalize(weight_NML @ x_NCL.mT, dim=-1, eps=EPS)
    norm_N1L = torch.linalg.vector_norm(x_NCL, dim=1, keepdim=True)
    # A division by infinity would be a cosine of 0 that nobody notices.
    norm_N1L = norm_N1L.masked_fill(norm_N1L.detach().isinf(), torch.nan)
    # Dividing by a tiny constant instead would give a zero feature a gradient of its inverse.
    similarity_NML = torch.where(norm_N1L <= EPS, 0.0, mean_NMC @ x_NCL / norm_N1L.clamp(min=EPS))
    return similarity_NML.gather(-1, positions)


def texture_importance(features: Tensor) -> Tensor:
    """Variance, over 3x3 neighbourhoods, of the cosine to the map's mean feature: (N, C, H, W) -> (N, H, W).

    Raises:
        ValueError: the features are not (N, C, H, W), or empty.
    """
    if features.ndim != 4 or not features.numel():
        raise ValueError(f"features must be (N, C, H, W) and not empty, got shape {tuple(features.shape)}")
    n, _, height, width = features.shape
    with torch.autocast(features.device.type, enabled=False):
        everywhere = whole_map(n, height, width, features.device)
        intensity = region_intensity(features, everywhere).view(n, 1, height, width)
        intensity = intensity - intensity.mean((2, 3), keepdim=True)  # fewer digits lost in the difference below
        mean = F.avg_pool2d(intensity, 3, 1, 1, count_include_pad=False)
        square = F.avg_pool2d(intensity.square(), 3, 1, 1, count_include_pad=False)
        return (square - mean.square()).clamp(min=0).squeeze(1)


def uncertainty_importance(logits: Tensor) -> Tensor:
    """One minus the margin between the two highest class probabilities: (N, K, H, W), K >= 2 -> (N, H, W).

    Raises:
        ValueError: the scores are not (N, K, H, W) of at least two classes, or empty.
    """
    if logits.ndim != 4 or logits.shape[1] < 2 or not logits.numel():
        raise ValueError(f"scores must be (N, K, H, W), K >= 2, and not empty, got shape {tuple(logits.shape)}")
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
        importance: (N, H, W), floating point, of the teacher; the regions are used for the student too (decided, D).
        regions: M, an integer, at least 1 (the number decided, D). One that is the whole map comes from `whole_map`.
        generator: the only source of randomness; it may live on another device than `importance`.
        sizes: share of the map's side, each in (0, 1] (anchors of several sizes recalled, R; the values decided, D).
        aspects: height over width, relative to the map's own; positive and finite (as `sizes`: R, the values D).
        points: positions read along each side, an integer, at even distances. Positions repeat where a side is shorter
            than that (decided, D).
        oversample: k, candidates per region, an integer, at least 1 (PointRend's scheme recalled, R; the value
            decided, D).
        important: beta, share of the regions that is chosen by importance, in [0, 1] (as `oversample`: R, the value D).

    Returns:
        (N, M, points * points) int64, indices into the flattened map, on the device of `importance`.

    Raises:
        ValueError: a value outside the ranges above.
    """
    if importance.ndim != 3 or not importance.numel() or not importance.is_floating_point():
        raise ValueError(
            f"importance must be (N, H, W), floating point and not empty, "
            f"got {importance.dtype} {tuple(importance.shape)}"
        )
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator is {generator!r}; regions are drawn from a torch.Generator")
    _check_sampling(regions, sizes, aspects, points, oversample, important)
    n, height, width = importance.shape
    # 0.29 * 100 is 28.999999999999996: without a tolerance rounding would cost a region.
    best = int(important * regions + 1e-9)
    drawn = oversample * regions
    sides = [
        (_side(size * sqrt(aspect), height), _side(size / sqrt(aspect), width)) for size in sizes for aspect in aspects
    ]
    positions = _random_grids(n, drawn + regions - best, sides, points, (height, width), generator)
    positions = sent(positions, importance)

    flat = importance.flatten(1)[:, None, :].expand(-1, drawn, -1)
    score = flat.gather(-1, positions[:, :drawn]).mean(-1)
    chosen = score.topk(best, dim=-1).indices[..., None].expand(-1, -1, points * points)
    return torch.cat((positions.gather(1, chosen), positions[:, drawn:]), 1)


def _check_sampling(
    regions: int, sizes: Sequence[float], aspects: Sequence[float], points: int, oversample: int, important: float
) -> None:
    if not whole(regions, points, oversample) or min(regions, points, oversample) < 1 or not 0 <= important <= 1:
        raise ValueError(
            f"regions {regions}, points {points}, oversample {oversample} must be integers, at least 1, "
            f"and important {important} in [0, 1]"
        )
    if not sizes or not aspects or not all(0 < s <= 1 for s in sizes) or not all(0 < a < inf for a in aspects):
        raise ValueError(
            f"sizes {tuple(sizes)} must be in (0, 1] and aspects {tuple(aspects)} positive and finite, none empty"
        )


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
