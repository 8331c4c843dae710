"""Quantisation and counting of one-dimensional intensities, in O(positions).

A row of P intensities gets N sorted levels; each intensity is shared between the two levels around it, kept as two
indices and two weights; counts are a scatter-add of the weights. No tensor of size P x N is ever made.

The uniform levels and the counting operator are those of Zhu, Ji, Zhu, Gan, Wu, Yan, "Learning Statistical Texture for
Semantic Segmentation" (CVPR 2021, arXiv 2103.04133, STLNet); `kernel="stlnet"` gives that work's weights,
`stlnet_statistic` its levels and counts at once, `cooccurrence` its counts of pairs of neighbouring positions.

Every function acts on the last dimension, with any leading ones, and is differentiable almost everywhere: nothing is
detached, the choice of the neighbouring levels is piecewise constant.

On CUDA the order of additions in a scatter-add is not fixed; `torch.use_deterministic_algorithms` fixes it.

Shapes: P positions, N levels, D values per level.
"""

from math import inf
from numbers import Integral
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Assignment(NamedTuple):
    """For each position the two levels around it: index `lower` and `lower + 1`, and their weights. All (..., P)."""

    lower: Tensor
    lower_weight: Tensor
    upper_weight: Tensor


def uniform_levels(intensity: Tensor, number: int, min_range: float = 0.0) -> Tensor:
    """Centres of `number` equal bins between the smallest and the largest intensity of each row.

        L_n = middle + ((2n + 1) / (2N) - 1/2) max(range, min_range),  n = 0..N-1

    Args:
        intensity: (..., P), floating point, P >= 1.
        number: N, an integer, at least 2.
        min_range: rows with a smaller range get bins of this total width around their middle (0, none: verified, V,
            in STLNet's released code). Whatever it is, a range so small that neighbouring levels would be rounding
            noise apart is widened, so levels are always distinct: a constant row sits in the middle of its grid.

    Returns:
        (..., N), increasing. Around 0 they may be as close as the smallest numbers of the type: what divides by their
        distance needs a `min_range`.

    Raises:
        ValueError: number no integer or below 2, min_range negative or not finite, or no position.
    """
    if not whole(number) or number < 2:
        raise ValueError(f"number of levels is {number}; an integer, at least 2, is needed")
    if not 0 <= min_range < inf:
        raise ValueError(f"min_range is {min_range}; it must be finite and not negative")
    if intensity.ndim < 1 or not intensity.shape[-1]:
        raise ValueError(f"intensities must be (..., P) with P >= 1, got shape {tuple(intensity.shape)}")
    low, high = intensity.amin(-1, keepdim=True), intensity.amax(-1, keepdim=True)
    middle = (low + high) / 2
    resolution = 4 * number * torch.finfo(intensity.dtype).eps * middle.detach().abs()
    # 2^20: sums of gradients, which have 1 / gap, stay finite in any order.
    floor = resolution.clamp(min=max(min_range, 2**20 * number * torch.finfo(intensity.dtype).tiny))
    steps = torch.arange(number, device=intensity.device, dtype=intensity.dtype)
    return middle + ((2 * steps + 1) / (2 * number) - 0.5) * torch.maximum(high - low, floor)


def refine_levels(
    intensity: Tensor, levels: Tensor, iterations: int, relaxation: float = 1.0, min_gap: float = 0.0
) -> Tensor:
    """Lloyd-Max re-estimation: move each level towards the mean of the intensities nearest to it.

        L_n <- L_n + relaxation (mean of the intensities in n's cell - L_n);  an empty cell's level stays

    Cells end half-way between levels, so levels stay sorted; with relaxation r < 1 neighbours also stay at least
    (1 - r)^iterations of their first distance apart, which bounds the slope of whatever interpolates between them.

    Args:
        intensity: (..., P).
        levels: (..., N), increasing, with the same leading dimensions.
        iterations: t, an integer; 0 returns the levels unchanged.
        relaxation: in (0, 1]; 1 is Lloyd's rule (Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory
            28, 1982; Max, IRE Trans. Inf. Theory 6, 1960).
        min_gap: with r < 1, a level that a step could bring nearer than this to a neighbour stays: no two levels come
            nearer to each other than this, however many steps there are (decided, D).

    Returns:
        (..., N), sorted.

    Raises:
        ValueError: iterations no integer or negative, relaxation outside (0, 1], min_gap negative, not finite or
            together with relaxation 1, or leading dimensions differ.
    """
    if not whole(iterations) or iterations < 0:
        raise ValueError(f"iterations is {iterations}; it must be an integer and not negative")
    if not 0 < relaxation <= 1:
        raise ValueError(f"relaxation is {relaxation}; it must be in (0, 1]")
    if not 0 <= min_gap < inf or (min_gap and relaxation == 1):
        raise ValueError(f"min_gap is {min_gap}, relaxation {relaxation}; 0, or positive with relaxation < 1")
    _check_rows(intensity, levels)
    ones = torch.ones_like(intensity)
    for _ in range(iterations):
        borders = (levels[..., 1:] + levels[..., :-1]) / 2
        cell = torch.searchsorted(borders.detach().contiguous(), intensity.detach().contiguous(), right=True)
        size = torch.zeros_like(levels).scatter_add(-1, cell, ones)
        total = torch.zeros_like(levels).scatter_add(-1, cell, intensity)
        step = total / size.clamp(min=1) - levels
        moves = size > 0
        if min_gap:
            # A step of two neighbours leaves at least 1 - relaxation of the gap between them.
            free = levels.detach().diff() >= min_gap / (1 - relaxation)
            moves = moves & F.pad(free, (1, 0), value=True) & F.pad(free, (0, 1), value=True)
        levels = levels + relaxation * torch.where(moves, step, 0.0)
    return levels


def assign(intensity: Tensor, levels: Tensor, kernel: Literal["hat", "stlnet"] = "hat") -> Assignment:
    """Share each intensity between the two levels around it.

    "hat" interpolates linearly: the weights are in [0, 1] and sum to 1; beyond the first or the last level that level
    has weight 1. "stlnet" weighs a level by 1 - |level - intensity| if that distance is below the distance between the
    two levels and by 0 otherwise, so weights are near 1 and do not sum to 1.

    Args:
        intensity: (..., P).
        levels: (..., N), strictly increasing, N >= 2, with the same leading dimensions.
        kernel: the weights.

    Raises:
        ValueError: fewer than two levels, leading dimensions differ, or an unknown kernel.
    """
    _check_rows(intensity, levels)
    # Searching the inner levels only leaves 0..N-2: what lies beyond an end belongs to the last pair there.
    inner = levels[..., 1:-1].detach().contiguous()
    lower = torch.searchsorted(inner, intensity.detach().contiguous(), right=True)
    left, right = levels.gather(-1, lower), levels.gather(-1, lower + 1)
    gap = right - left
    if kernel == "hat":
        upper_weight = ((intensity - left) / gap).clamp(0.0, 1.0)
        return Assignment(lower, 1 - upper_weight, upper_weight)
    if kernel == "stlnet":
        to_left, to_right = (intensity - left).abs(), (right - intensity).abs()
        return Assignment(
            lower, torch.where(to_left < gap, 1 - to_left, 0.0), torch.where(to_right < gap, 1 - to_right, 0.0)
        )
    raise ValueError(f"unknown kernel {kernel!r}; allowed: 'hat', 'stlnet'")


def counts(assignment: Assignment, number: int) -> Tensor:
    """Share of each of `number` levels in the total weight of its row: (..., N), each row sums to 1."""
    lower, lower_weight, upper_weight = assignment
    empty = lower_weight.new_zeros(*lower.shape[:-1], number)
    share = empty.scatter_add(-1, lower, lower_weight).scatter_add(-1, lower + 1, upper_weight)
    return share / share.sum(-1, keepdim=True)


def interpolate(assignment: Assignment, values: Tensor) -> Tensor:
    """Read per-level values (..., N) back at the positions (..., P) with the assignment's weights."""
    lower, lower_weight, upper_weight = assignment
    return lower_weight * values.gather(-1, lower) + upper_weight * values.gather(-1, lower + 1)


def interpolate_vectors(assignment: Assignment, values: Tensor) -> Tensor:
    """Read vectors per level (..., N, D) back at the positions: (..., P, D).

    Nothing larger than indices and weights is kept for the backward pass; the vectors read are not.
    """
    lower, lower_weight, upper_weight = assignment
    number, width = values.shape[-2:]
    rows = torch.arange(lower[..., 0].numel(), device=lower.device).view(*lower.shape[:-1], 1)
    index_P2 = torch.stack((lower, lower + 1), -1) + number * rows[..., None]
    weight_P2 = torch.stack((lower_weight, upper_weight), -1).to(values.dtype)
    table = values.reshape(-1, width)
    read = F.embedding_bag(index_P2.view(-1, 2), table, mode="sum", per_sample_weights=weight_P2.view(-1, 2))
    return read.view(*lower.shape, width)


def cooccurrence(assignment: Assignment, hw: tuple[int, int], number: int, eps: float = 1e-6) -> Tensor:
    """Share of each pair of levels among all pairs of a position and its lower right neighbour.

        C_mn = sum over pairs (i, j) of w_m(i) w_n(j) / (the same sum over all m, n + eps)

    Four scatter-adds, one for each pair out of the two levels of either position.

    Args:
        assignment: of (..., P) positions, P = height * width, row by row.
        hw: height and width.
        number: N, the number of levels.
        eps: in units of the weights; positive (the value verified in STLNet's released code).

    Returns:
        (..., N, N), the level of the upper left position first. Sums to 1 but for eps; all 0 where there are no pairs
        (height or width 1).

    Raises:
        ValueError: P is not height * width, or eps is not positive.
    """
    lower, lower_weight, upper_weight = assignment
    if lower.shape[-1] != hw[0] * hw[1]:
        raise ValueError(f"{lower.shape[-1]} positions are no map of height {hw[0]} and width {hw[1]}")
    if not eps > 0:
        raise ValueError(f"eps is {eps}; it must be positive")
    maps = [part.view(*part.shape[:-1], *hw) for part in (lower, lower_weight, upper_weight)]
    index_a, low_a, high_a = (part[..., :-1, :-1].flatten(-2) for part in maps)
    index_b, low_b, high_b = (part[..., 1:, 1:].flatten(-2) for part in maps)
    pair = number * index_a + index_b
    total = lower_weight.new_zeros(*lower.shape[:-1], number * number)
    total = total.scatter_add(-1, pair, low_a * low_b).scatter_add(-1, pair + 1, low_a * high_b)
    total = total.scatter_add(-1, pair + number, high_a * low_b).scatter_add(-1, pair + number + 1, high_a * high_b)
    return (total / (total.sum(-1, keepdim=True) + eps)).view(*total.shape[:-1], number, number)


def stlnet_statistic(intensity: Tensor, number: int, min_range: float = 0.0) -> tuple[Tensor, Tensor]:
    """Levels and counts of STLNet's operator: those of `uniform_levels`, `assign(..., "stlnet")` and `counts`, faster.

    The levels are evenly spaced, so a position's cell is a division instead of a search; the weights are linear within
    a cell, so the cells' sizes and sums are all that the counts need. At a position exactly on a level the gradient
    is the one-sided one from above.

    Args:
        intensity: (..., P), floating point, P >= 1.
        number: N, an integer, at least 2.
        min_range: see `uniform_levels`.

    Returns:
        Levels (..., N), increasing, and counts (..., N), which sum to 1.

    Raises:
        ValueError: as `uniform_levels`.
    """
    levels = uniform_levels(intensity, number, min_range)
    first, gap = levels[..., :1], levels[..., 1:2] - levels[..., :1]
    size, inside, offset = _CellSums.apply(intensity, first, gap, number)
    # Cell c lies between the levels c - 1 and c. To its lower level a position at distance a gives 1 - a, to its upper
    # one 1 - (gap - a), but 0 if a = 0: that level is then a whole gap away.
    share = size[..., 1:] - offset[..., 1:] + (1 - gap) * inside[..., :-1] + offset[..., :-1]
    return levels, share / share.sum(-1, keepdim=True)


class _CellSums(torch.autograd.Function):
    """Of each of the N + 1 cells around N levels `gap` apart: its size, size without positions exactly on its lower
    level, and sum of distances to its lower level. (..., P), (..., 1), (..., 1) -> three times (..., N + 1).

    A function of its own because the chain of its elementwise operations, differentiated one by one, takes three times
    as long and keeps a dozen maps for the backward pass instead of one.
    """

    @staticmethod
    def forward(ctx: Any, intensity: Tensor, first: Tensor, gap: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        share = (intensity - first).div_(gap)
        cell = share.floor()
        # NaN would be an index out of range. It stays in `share`, hence in the sums.
        cell.nan_to_num_(0.0, 0.0, 0.0).clamp_(-1, number - 1)
        share.sub_(cell)
        index = cell.add_(1).long()
        empty = intensity.new_zeros(*intensity.shape[:-1], number + 1)
        size = empty.scatter_add(-1, index, intensity.new_ones(()).expand_as(intensity))
        inside = empty.scatter_add(-1, index, torch.sign(share, out=cell))
        offset = empty.scatter_add(-1, index, share)
        ctx.save_for_backward(index, size)
        ctx.mark_non_differentiable(size, inside)
        return size, inside, offset.mul_(gap)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        index, size = ctx.saved_tensors
        grad = grads[2]
        to_level = grad * size
        order = torch.arange(-1, grad.shape[-1] - 1, device=grad.device, dtype=grad.dtype)
        to_first, to_gap = -to_level.sum(-1, keepdim=True), -(to_level * order).sum(-1, keepdim=True)
        return grad.gather(-1, index), to_first, to_gap, None


def whole(*values: object) -> bool:
    """Whether all are integers, those of numpy included: 2.0 is none, for sizes of tensors are none either."""
    return all(isinstance(value, Integral) for value in values)


def _check_rows(intensity: Tensor, levels: Tensor) -> None:
    if levels.ndim < 1 or levels.shape[-1] < 2:
        raise ValueError(f"levels must be (..., N) with N >= 2, got shape {tuple(levels.shape)}")
    if intensity.shape[:-1] != levels.shape[:-1]:
        raise ValueError(
            f"intensities {tuple(intensity.shape)} and levels {tuple(levels.shape)} differ in their leading dimensions"
        )
