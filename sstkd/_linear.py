"""The transforms as linear maps for autograd: the gradient of each is its adjoint, which needs no stored tensors.

A transform has four directions: analysis, synthesis (its inverse), and the adjoint of either. `analyse` and
`synthesise` are each other's gradient with the adjoint kind, so they can be differentiated any number of times.

Maps are processed in tiles whose intermediates fit the cache; only the input, the bands and one tile exist at a time.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from sstkd import _periodic, _toolbox
from sstkd import _tree as tree
from sstkd._scratch import Scratch
from sstkd._tree import Kind
from sstkd.filters import Directional, Pyramid, directional_filters, pyramid_filters

Boundary = Literal["periodic", "toolbox"]
_MODES: dict[str, Any] = {"periodic": _periodic, "toolbox": _toolbox}
_ADJOINT: dict[Kind, Kind] = {
    "analysis": "analysis.T",
    "analysis.T": "analysis",
    "synthesis": "synthesis.T",
    "synthesis.T": "synthesis",
}
# Bytes of a tile's maps: a few such arrays fit a core's share of the cache; a GPU only needs its memory bounded.
_TILE_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}


class Plan(NamedTuple):
    """Parameters of a transform.

    Attributes:
        depths: depths of the directional banks, fine to coarse.
        pyramid: low-pass pair; None for one bank without a pyramid.
        directional: filters of the banks.
        boundary: boundary rule.
    """

    depths: tuple[int, ...]
    pyramid: Pyramid | None
    directional: Directional
    boundary: Boundary

    @property
    def multiple(self) -> int:
        """The number that both sides of a map must be multiples of."""
        return max(tree.multiple(depth) << i for i, depth in enumerate(self.depths))

    def shapes(self, height: int, width: int) -> tuple[tuple[int, int] | None, list[tuple[tuple[int, int, int], ...]]]:
        """Sides of the low-pass map, and per level, fine to coarse, (number, height, width) of its groups of bands."""
        groups = []
        for depth in self.depths:
            groups.append(tree.groups(depth, height, width))
            if self.pyramid is not None:
                height, width = height // 2, width // 2
        return (None if self.pyramid is None else (height, width)), groups


def plan(depths: tuple[int, ...], pyramid: Pyramid | None, directional: Directional, boundary: Boundary) -> Plan:
    """A checked plan; depths fine to coarse.

    Raises:
        ValueError: no depth or one out of range, or an unknown filter or boundary.
    """
    least = 1 if pyramid is None else 0
    if not depths or not all(isinstance(k, Integral) and least <= int(k) <= tree.MAX_DEPTH for k in depths):
        raise ValueError(
            f"depths of the directional banks are {depths[::-1]}; one or more whole numbers from {least} to "
            f"{tree.MAX_DEPTH} are needed, coarse to fine"
        )
    if boundary not in get_args(Boundary):
        raise ValueError(f"unknown boundary {boundary!r}; allowed: {', '.join(map(repr, get_args(Boundary)))}")
    if pyramid is not None:
        pyramid_filters(pyramid)
    directional_filters(directional)
    return Plan(tuple(int(k) for k in depths), pyramid, directional, boundary)


def prepared(x: Tensor, multiple: int) -> Tensor:
    """Maps (..., H, W) as (P, H, W) in float32 or float64.

    Raises:
        ValueError: complex maps, fewer than two dimensions, or a side that is not a positive multiple.
    """
    if x.is_complex() or x.ndim < 2:
        raise ValueError(f"maps must be real and (..., H, W); given {x.dtype} of shape {tuple(x.shape)}")
    hw = x.shape[-2], x.shape[-1]
    check_sides(hw, multiple)
    return x.to(torch.promote_types(x.dtype, torch.float32)).reshape(x.shape[:-2].numel(), *hw)


def check_sides(hw: tuple[int, int], multiple: int) -> None:
    """Raise ValueError unless both sides are positive multiples."""
    if not all(hw) or any(side % multiple for side in hw):
        raise ValueError(
            f"maps have sides {hw}; both must be positive multiples of {multiple}. "
            "Pad or crop them, or take fewer levels or directions"
        )


def widest(tensors: Iterable[Tensor]) -> torch.dtype:
    """The common type of the computation: float32 or float64.

    Raises:
        ValueError: one of them is complex.
    """
    found = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    if found.is_complex:
        raise ValueError(f"coefficients must be real; given {found}")
    return found


def stacked(
    bands: Sequence[Tensor], shapes: tuple[tuple[int, int, int], ...], lead: tuple[int, ...], dtype: torch.dtype
) -> list[Tensor]:
    """All bands of one level, each (*lead, u, v), as its groups (P, B, u, v) in a common type.

    Raises:
        ValueError: the bands' number or shapes are wrong.
    """
    want = [(*lead, *sides) for number, *sides in shapes for _ in range(number)]
    given = [tuple(band.shape) for band in bands]
    if given != want:
        raise ValueError(f"the bands of a level have shapes {given}; they must be {want}")
    groups, rest = [], list(bands)
    for number, *sides in shapes:
        group, rest = torch.stack([band.to(dtype) for band in rest[:number]], -3), rest[number:]
        groups.append(group.reshape(-1, number, *sides))
    return groups


def analyse(x: Tensor, plan: Plan, kind: Kind = "analysis") -> tuple[Tensor, ...]:
    """Maps (P, H, W) to the low-pass map (P, h, w), unless there is no pyramid, and all groups (P, B, u, v).

    Groups come level by level, fine to coarse. Kinds: "analysis", or "synthesis.T", the adjoint of the synthesis.
    """
    parts: tuple[Tensor, ...] = _Analysis.apply(x, plan, kind)
    return parts


def synthesise(parts: tuple[Tensor | None, ...], hw: tuple[int, int], plan: Plan, kind: Kind = "synthesis") -> Tensor:
    """The inverse of `analyse`, to maps (P, H, W); None counts as zero. Kinds: "synthesis", or "analysis.T"."""
    x: Tensor = _Synthesis.apply(plan, kind, hw, *parts)
    return x


class _Analysis(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, plan: Plan, kind: Kind) -> tuple[Tensor, ...]:
        hw = x.shape[-2], x.shape[-1]
        low_hw, groups = plan.shapes(*hw)
        low = None if low_hw is None else x.new_empty((x.shape[0], *low_hw))
        stacks = [[x.new_empty((x.shape[0], *shape)) for shape in level] for level in groups]
        levels = _levels(plan, x, hw, kind)
        with torch.autocast(x.device.type, enabled=False):
            scratch = Scratch()
            for tile in _tiles(x):
                _MODES[plan.boundary].analyse(tile(x), levels, *_cut(tile, low, stacks), scratch)
        flat = [band for stack in stacks for band in stack]
        return tuple(flat if low is None else [low, *flat])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Plan, Kind], output: object) -> None:
        ctx.set_materialize_grads(False)
        x, ctx.plan, ctx.kind = inputs
        ctx.hw = x.shape[-2], x.shape[-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        if all(gradient is None for gradient in gradients):
            return None, None, None
        return synthesise(gradients, ctx.hw, ctx.plan, _ADJOINT[ctx.kind]), None, None


class _Synthesis(torch.autograd.Function):
    @staticmethod
    def forward(plan: Plan, kind: Kind, hw: tuple[int, int], *parts: Tensor | None) -> Tensor:
        known = next(part for part in parts if part is not None)
        x = known.new_empty((known.shape[0], *hw))
        rest = list(parts)
        low = rest.pop(0) if plan.pyramid is not None else None
        _, groups = plan.shapes(*hw)
        stacks = []
        for level in groups:
            bands, rest = rest[: len(level)], rest[len(level) :]
            zeros = (known.new_zeros((1, *shape)).expand(known.shape[0], *shape) for shape in level)
            stacks.append([zero if band is None else band for band, zero in zip(bands, zeros, strict=True)])
        levels = _levels(plan, x, hw, kind)
        with torch.autocast(x.device.type, enabled=False):
            scratch = Scratch()
            for tile in _tiles(x):
                _MODES[plan.boundary].synthesise(*_cut(tile, low, stacks), levels, tile(x), scratch)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
        ctx.set_materialize_grads(False)
        ctx.plan, ctx.kind, _, *parts = inputs
        ctx.given = [part is not None for part in parts]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        if gradients[0] is None:
            return (None,) * (3 + len(ctx.given))
        parts = analyse(gradients[0], ctx.plan, _ADJOINT[ctx.kind])
        return None, None, None, *(part if given else None for part, given in zip(parts, ctx.given, strict=True))


def _levels(plan: Plan, x: Tensor, hw: tuple[int, int], kind: Kind) -> list[Any]:
    made = _MODES[plan.boundary].level
    if plan.pyramid is None:
        return [made(tuple(hw), plan.depths[0], None, plan.directional, kind, x.device, x.dtype)]
    return [
        made((hw[0] >> i, hw[1] >> i), depth, plan.pyramid, plan.directional, kind, x.device, x.dtype)
        for i, depth in enumerate(plan.depths)
    ]


def _tiles(x: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """Cuts of the maps' dimension; at least 16 maps each, an even number."""
    bytes_per_map = x.element_size() * max(1, x.shape[-2] * x.shape[-1])
    size = max(16, _TILE_BYTES.get(x.device.type, 256 << 20) // bytes_per_map // 2 * 2)

    def cut(first: int) -> Callable[[Tensor], Tensor]:
        return lambda maps: maps[first : first + size]

    return [cut(first) for first in range(0, x.shape[0], size)]


def _cut(
    tile: Callable[[Tensor], Tensor], low: Tensor | None, stacks: list[list[Tensor]]
) -> tuple[Tensor | None, list[list[Tensor]]]:
    return (None if low is None else tile(low)), [[tile(band) for band in stack] for stack in stacks]
