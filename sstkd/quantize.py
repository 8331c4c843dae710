"""Quantisation and counting of one-dimensional intensities, in O(positions).

A row of P intensities gets N sorted levels; each intensity is shared between the two levels around it, kept as two
indices and two weights; counts are a scatter-add of the weights. No tensor of size P x N is ever made.

The uniform levels and the counting operator are those of Zhu, Ji, Zhu, Gan, Wu, Yan, "Learning Statistical Texture for
Semantic Segmentation" (CVPR 2021, arXiv 2103.04133, STLNet); `kernel="stlnet"` gives that work's weights.

Every function acts on the last dimension, with any leading ones, and is differentiable almost everywhere: nothing is
detached, the choice of the neighbouring levels is piecewise constant.

Shapes: P positions, N levels.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor


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
        number: N, at least 2.
        min_range: rows with a smaller range get bins of this total width around their middle. Whatever it is, a range
            so small that neighbouring levels would be rounding noise apart is widened, so levels are always distinct:
            a constant row sits in the middle of its grid.

    Returns:
        (..., N), increasing.

    Raises:
        ValueError: number below 2, min_range negative, or no position.
    """
    if number < 2:
        raise ValueError(f"number of levels is {number}; at least 2 are needed")
    if min_range < 0:
        raise ValueError(f"min_range is {min_range}; it must not be negative")
    if intensity.ndim < 1 or not intensity.shape[-1]:
        raise ValueError(f"intensities must be (..., P) with P >= 1, got shape {tuple(intensity.shape)}")
    low, high = intensity.amin(-1, keepdim=True), intensity.amax(-1, keepdim=True)
    middle = (low + high) / 2
    resolution = 4 * number * torch.finfo(intensity.dtype).eps * middle.detach().abs()
    floor = resolution.clamp(min=max(min_range, 4 * number * torch.finfo(intensity.dtype).tiny))
    steps = torch.arange(number, device=intensity.device, dtype=intensity.dtype)
    return middle + ((2 * steps + 1) / (2 * number) - 0.5) * torch.maximum(high - low, floor)


def refine_levels(intensity: Tensor, levels: Tensor, iterations: int, relaxation: float = 1.0) -> Tensor:
    """Lloyd-Max re-estimation: move each level towards the mean of the intensities nearest to it.

        L_n <- L_n + relaxation (mean of the intensities in n's cell - L_n);  an empty cell's level stays

    Cells end half-way between levels, so levels stay sorted; with relaxation r < 1 neighbours also stay at least
    (1 - r)^iterations of their first distance apart, which bounds the slope of whatever interpolates between them.

    Args:
        intensity: (..., P).
        levels: (..., N), increasing, with the same leading dimensions.
        iterations: t, 0 returns the levels unchanged.
        relaxation: in (0, 1]; 1 is Lloyd's rule (Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory
            28, 1982; Max, IRE Trans. Inf. Theory 6, 1960).

    Returns:
        (..., N), sorted.

    Raises:
        ValueError: iterations negative, relaxation outside (0, 1], or leading dimensions differ.
    """
    if iterations < 0:
        raise ValueError(f"iterations is {iterations}; it must not be negative")
    if not 0 < relaxation <= 1:
        raise ValueError(f"relaxation is {relaxation}; it must be in (0, 1]")
    _check_rows(intensity, levels)
    ones = torch.ones_like(intensity)
    for _ in range(iterations):
        borders = (levels[..., 1:] + levels[..., :-1]) / 2
        cell = torch.searchsorted(borders.detach().contiguous(), intensity.detach().contiguous(), right=True)
        size = torch.zeros_like(levels).scatter_add(-1, cell, ones)
        total = torch.zeros_like(levels).scatter_add(-1, cell, intensity)
        step = total / size.clamp(min=1) - levels
        levels = levels + relaxation * torch.where(size > 0, step, 0.0)
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


def _check_rows(intensity: Tensor, levels: Tensor) -> None:
    if levels.ndim < 1 or levels.shape[-1] < 2:
        raise ValueError(f"levels must be (..., N) with N >= 2, got shape {tuple(levels.shape)}")
    if intensity.shape[:-1] != levels.shape[:-1]:
        raise ValueError(
            f"intensities {tuple(intensity.shape)} and levels {tuple(levels.shape)} differ in their leading dimensions"
        )
