"""The contourlet transform with the original toolbox's boundary rule, as passes of sparse tables over positions.

The toolbox extends every sheared map periodically in its own rows and columns, which below the second level of the tree
is not the period of the original map: reconstruction is still perfect, but the transform does not commute with circular
shifts and cannot be computed in the frequency domain. It is still linear: each step is a gather of positions or a short
filter, stored as a table of input positions and weights for every output.

All maps of a call share one array (positions, maps). A ladder split is then, for all nodes of a level at once, one
gather that puts the halves p0 and p1 of every node apart, and two liftings,

    p0 += -B p1        p1 += 1/2 B p0        (y0 = p0 / sqrt(2), y1 = -sqrt(2) p1)

with B separable; the factors are multiplied once at the end. An FIR split is one table. The inverse and the adjoints
run the same list backwards, because each step has its inverse and its transpose.

Boundary rules and shifts as the oracle numbers of tests/oracles fix them. Shapes: P maps, n = H W positions.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sstkd import _tree as tree
from sstkd._cache import kept
from sstkd._scratch import Scratch
from sstkd._sparse import Index, Sparse, Table, Values, entries, halved, low_pass, stacked, table
from sstkd._tree import Kind
from sstkd.filters import LADDERS, Directional, Pyramid, fan_filters, ladder_taps, pyramid_filters


class Gather(NamedTuple):
    """Row i becomes row order[i], a permutation."""

    order: Index


class Lift(NamedTuple):
    """One half of the rows += factor times `filters`, applied one after the other, of the other half."""

    into: int
    factor: float
    filters: tuple[Sparse, ...]


class Scale(NamedTuple):
    """Row i times factor[i]."""

    factor: Values


class Mix(NamedTuple):
    """All rows anew, through `analysis`; `dual` is the transpose of its inverse."""

    analysis: tuple[Sparse, ...]
    dual: tuple[Sparse, ...]


Step = Gather | Lift | Scale | Mix


class Level(NamedTuple):
    """One level, ready to run: low-pass tables (none without a pyramid), the bank's steps, shapes of the bands' groups.

    A separable wavelet step has no low-pass tables, and its first quarter of the rows is the low-pass map.
    """

    hw: tuple[int, int]
    down: tuple[Table, ...]
    up: tuple[Table, ...]
    bank: tuple[tuple[str, Any], ...]
    groups: tuple[tuple[int, int, int], ...]
    keeps_low: bool


@kept
def level(
    hw: tuple[int, int],
    depth: int,
    pyramid: Pyramid | None,
    directional: Directional,
    kind: Kind,
    device: torch.device,
    dtype: torch.dtype,
) -> Level:
    """The tables of one level; without a pyramid that of a bank alone."""

    def made(sparse: Sparse) -> Table:
        return table(sparse, device, dtype)

    dual = kind.endswith(".T")
    # A cached tensor created in inference_mode could not be used for training later.
    with torch.inference_mode(False):
        down: tuple[Table, ...] = ()
        up: tuple[Table, ...] = ()
        if pyramid is not None and depth:
            filters = pyramid_filters(pyramid)
            h, g = low_pass(hw, filters.analysis), low_pass(hw, filters.synthesis)
            # The adjoint has the two filters' places exchanged.
            into, back = (g, h) if dual else (h, g)
            down, up = tuple(map(made, into)), tuple(made(s.T) for s in back[::-1])
        steps = _wavelet(hw, pyramid) if not depth and pyramid else _bank(hw, depth, directional)
        bank = _directed(steps, kind, made, device, dtype)
    return Level(hw, down, up, bank, tree.groups(depth, *hw), pyramid is not None)


def _directed(
    steps: list[Step], kind: Kind, made: Callable[[Sparse], Table], device: torch.device, dtype: torch.dtype
) -> tuple[tuple[str, Any], ...]:
    """The steps of one of the four directions: order, inverse and transpose carried out."""
    backwards, transposed = kind in ("synthesis", "analysis.T"), kind.endswith(".T")
    inverse = kind.startswith("synthesis")
    out: list[tuple[str, Any]] = []
    for step in steps[::-1] if backwards else steps:
        match step:
            case Gather(order):
                rows = np.argsort(order) if backwards else order
                out.append(("gather", torch.from_numpy(rows.astype(np.int32)).to(device)))
            case Scale(factor):
                values = torch.from_numpy(1 / factor if inverse else factor)
                out.append(("scale", values.to(device, dtype)[:, None]))
            case Lift(into, factor, filters):
                used = tuple(s.T for s in filters[::-1]) if transposed else filters
                half = 1 - into if transposed else into
                # The inverse subtracts what was added; its transpose likewise.
                out.append(("lift", (half, -factor if inverse else factor, tuple(map(made, used)))))
            case Mix(analysis, dual):
                used = dual if inverse else analysis
                out.append(("mix", tuple(map(made, (s.T for s in used[::-1]) if backwards else used))))
    return tuple(out)


def _run(bank: tuple[tuple[str, Any], ...], x: Tensor, scratch: Scratch) -> Tensor:
    """The bank's steps on (n, P); x is not changed, because the first step creates a new array."""
    half, turn = x.shape[0] // 2, 0
    for name, what in bank:
        if name == "lift":
            into, factor, tables = what
            halves = x[:half], x[half:]
            halves[into].add_(_through(tables, halves[1 - into]), alpha=factor)
        elif name == "mix":
            x = _through(what, x)
        else:  # from one of two arrays into the other
            turn = 1 - turn
            out = scratch.take(f"bank {turn}", tuple(x.shape), x)
            x = torch.index_select(x, 0, what, out=out) if name == "gather" else torch.mul(x, what, out=out)
    return x


def _through(tables: tuple[Table, ...], x: Tensor) -> Tensor:
    for step in tables:
        x = step(x)
    return x


def _rows(maps: Tensor, into: Tensor) -> Tensor:
    """Maps (P, ...) as rows (n, P) of `into`."""
    return into.copy_(maps.reshape(maps.shape[0], -1).t())


def analyse(x: Tensor, levels: list[Level], low: Tensor | None, stacks: list[list[Tensor]], scratch: Scratch) -> None:
    """Maps (P, H, W) through `levels`, fine to coarse, into `low` and per level into its groups (P, B, u, v)."""
    planes = x.shape[0]
    rows = _rows(x, scratch.take("rows", (x.shape[1] * x.shape[2], planes), x))
    for step, groups in zip(levels, stacks, strict=True):
        if step.down:
            coarse = _through(step.down, rows)
            fine = _through(step.up, coarse)
            bands = _run(step.bank, torch.sub(rows, fine, out=fine), scratch)
            rows = coarse
        else:
            bands = _run(step.bank, rows, scratch)
            if step.keeps_low:
                rows, bands = bands.tensor_split([bands.shape[0] // 4])
        at = 0
        for group in groups:
            size = group[0].numel()
            group.view(planes, size).copy_(bands[at : at + size].t())
            at += size
    if low is not None:
        low.view(planes, -1).copy_(rows.t())


def synthesise(
    low: Tensor | None, stacks: list[list[Tensor]], levels: list[Level], x: Tensor, scratch: Scratch
) -> None:
    """The inverse of `analyse`, into maps x (P, H, W); a missing low-pass map counts as zero."""
    planes, rows = x.shape[0], None
    if low is not None:
        rows = _rows(low, scratch.take("low", (low.shape[1] * low.shape[2], planes), x))
    for step, groups in zip(levels[::-1], stacks[::-1], strict=True):
        size = step.hw[0] * step.hw[1]
        bands, at = scratch.take("rows", (size, planes), x), 0
        if step.keeps_low and not step.down:
            at = size // 4
            bands[:at] = 0.0 if rows is None else rows
        for group in groups:
            end = at + group[0].numel()
            _rows(group, bands[at:end])
            at = end
        bands = _run(step.bank, bands, scratch)
        if step.down:
            coarse = _through(step.down, bands)
            coarse = coarse.neg_() if rows is None else torch.sub(rows, coarse, out=coarse)
            bands = bands.add_(_through(step.up, coarse))
        rows = bands
        if step is not levels[0]:
            # The bands are in a buffer that the next level reuses.
            rows = scratch.take("coarse", tuple(bands.shape), x).copy_(bands)
    assert rows is not None
    x.view(planes, -1).copy_(rows.t())


def _wavelet(hw: tuple[int, int], pyramid: Pyramid) -> list[Step]:
    """A separable wavelet step, quarters LL, LH, HL, HH; LH is high along the rows' axis.

    High-pass: -(-1)^n g at the samples 2 i - 1; its dual with h for g.
    """
    h, g = pyramid_filters(pyramid)

    def both(low: tuple[float, ...], other: tuple[float, ...]) -> tuple[Sparse, Sparse]:
        high = tuple(-((-1.0) ** (i - len(other) // 2)) * tap for i, tap in enumerate(other))
        n = hw[0] * hw[1]
        halves = np.arange(n).reshape(2, -1, hw[1])
        pair = ((low, 0), (high, -1))
        rows = [halved(np.arange(n).reshape(hw), 0, taps, start, n) for taps, start in pair]
        cols = [halved(half, 1, taps, start, n) for taps, start in pair for half in halves]
        return stacked(rows), stacked(cols)

    return [Mix(both(h, g), both(g, h))]


def _bank(hw: tuple[int, int], depth: int, name: Directional) -> list[Step]:
    """The steps of a directional bank: its tree, then bands in order, re-sheared and scaled."""
    ladder = name in LADDERS
    steps: list[Step] = []

    # A node is the map of its positions, and its factor that is not applied yet.
    def divide(level: int, nodes: list[tuple[Index, float]]) -> list[tuple[tuple[Index, float], tuple[Index, float]]]:
        kinds = tree.splits(level, len(nodes))
        if ladder:
            return _ladder_level(steps, level, kinds, nodes, name)
        return _fir_level(steps, level, kinds, nodes, name)

    root = np.arange(hw[0] * hw[1]).reshape(hw)
    leaves = tree.grow((root, 1.0), depth, ladder, divide)
    bands = tree.directions([(_squared(ids, depth, i), factor) for i, (ids, factor) in enumerate(leaves)])
    steps.append(Gather(np.concatenate([ids.ravel() for ids, _ in bands])))
    if ladder:
        steps.append(Scale(np.concatenate([np.full(ids.size, factor) for ids, factor in bands])))
    return steps


def _squared(ids: Index, depth: int, leaf: int) -> Index:
    """A leaf of the tree, sheared so that its rows and columns run along those of the input."""
    if depth == 1:
        ids = tree.sheared(ids, 4)
        out = np.empty_like(ids)
        out[:, ::2], out[:, 1::2] = tree.sheared(ids[:, ::2], 1), tree.sheared(ids[:, 1::2], 1)
        return out
    return tree.sheared(ids, *tree.reshear(depth, leaf)) if depth >= 3 else ids


Nodes = list[tuple[Index, float]]
Pairs = list[tuple[tuple[Index, float], tuple[Index, float]]]


def _ladder_level(steps: list[Step], level: int, kinds: list[tree.Split], nodes: Nodes, name: Directional) -> Pairs:
    halves = [tree.polyphase(ids, kind) for (ids, _), kind in zip(nodes, kinds, strict=True)]
    steps.append(Gather(np.concatenate([half[i].ravel() for i in (0, 1) for half in halves])))
    shapes = [half[0].shape for half in halves]
    steps.append(Lift(0, -1.0, _lifting(shapes, name, 1, level == 1)))
    steps.append(Lift(1, 0.5, _lifting(shapes, name, 0, level == 1)))
    size = sum(h * w for h, w in shapes)
    places, at = [], 0
    for h, w in shapes:
        places.append(np.arange(at, at + h * w).reshape(h, w))
        at += h * w
    return [
        ((place, factor / sqrt(2)), (place + size, -sqrt(2) * factor))
        for place, (_, factor) in zip(places, nodes, strict=True)
    ]


def _lifting(shapes: list[tuple[int, ...]], name: Directional, delay: int, quincunx: bool) -> tuple[Sparse, Sparse]:
    """The separable lifting filter on maps of these shapes, one behind the other: along the columns, then the rows."""
    taps = ladder_taps(name) * (-1.0) ** (np.arange(len(ladder_taps(name))) + 1)
    offsets = range(-(len(taps) // 2 - 1) - delay, len(taps) // 2 + 1 - delay)
    size = sum(h * w for h, w in shapes)
    passes = []
    for axis in (1, 0):
        blocks, at = [], 0
        for h, w in shapes:
            ids = np.arange(at, at + h * w).reshape(h, w)
            shifts = [(o, 0) if axis == 0 else (0, o) for o in offsets]
            blocks.append(entries([_shifted(ids, s, quincunx) for s in shifts], taps, size))
            at += h * w
        passes.append(stacked(blocks))
    return passes[0], passes[1]


def _shifted(ids: Index, offset: tuple[int, int], quincunx: bool) -> Index:
    """ids[i + offset[0], j + offset[1]], periodic; `quincunx`: a turn down the rows moves half a turn along them."""
    h, w = ids.shape
    i = np.arange(h)[:, None] + offset[0]
    j = np.arange(w)[None, :] + offset[1] + (i // h * (w // 2) if quincunx else 0)
    out: Index = ids[i % h, j % w]
    return out


def _fir_level(steps: list[Step], level: int, kinds: list[tree.Split], nodes: Nodes, name: Directional) -> Pairs:
    size = sum(ids.size for ids, _ in nodes)
    analysis: list[Sparse] = []
    dual: list[Sparse] = []
    pairs, at = [], 0
    for (ids, _), kind in zip(nodes, kinds, strict=True):
        source = tree.sheared(ids, kind.shear) if kind.shear else ids
        fans = _fans(name, kind.fan_axis)
        shape = tree.kept(source, kind).shape
        for taps, rows in ((fans, analysis), (_dual_fans(fans), dual)):
            for channel in taps:
                columns = [tree.kept(_shifted(source, offset, level == 2), kind) for offset in channel]
                rows.append(entries(columns, np.array(list(channel.values())), size))
        places = np.arange(at, at + ids.size).reshape(2, *shape)
        pairs.append(((places[0], 1.0), (places[1], 1.0)))
        at += ids.size
    steps.append(Mix((stacked(analysis),), (stacked(dual),)))
    return pairs


Taps = dict[tuple[int, int], float]  # offset -> weight


def _fans(name: Directional, axis: int) -> tuple[Taps, Taps]:
    """The two fan filters: the diamond pair modulated along `axis`, the high-pass one row further."""
    out = []
    diamonds = fan_filters(name)
    for diamond, shift in ((diamonds.low, 0), (diamonds.high, 1)):
        middle = diamond.shape[0] // 2, diamond.shape[1] // 2
        taps = {}
        for (i, j), tap in np.ndenumerate(diamond):
            if tap:
                offset = i - middle[0], j - middle[1]
                taps[offset[0] + shift, offset[1]] = float(tap) * (-1.0) ** offset[axis]
        out.append(taps)
    return out[0], out[1]


def _dual_fans(fans: tuple[Taps, Taps]) -> tuple[Taps, Taps]:
    """The taps s of the synthesis, x[Q n + e] += s_b[e] y_b[n].

    For a biorthogonal pair E_0 E_1' - E_1 E_0' is a monomial, kappa exp(i w d) with d = (1, 0) the shift of the
    high-pass; then s_0[d - m] = 2 / kappa (-1)^m E_1[m] and s_1[d - m] = -2 / kappa (-1)^m E_0[m].
    """

    def value(taps: Taps, at_pi: bool) -> float:
        return sum(tap * (-1.0) ** (sum(offset) * at_pi) for offset, tap in taps.items())

    kappa = value(fans[0], False) * value(fans[1], True) - value(fans[1], False) * value(fans[0], True)

    def dual(taps: Taps, sign: float) -> Taps:
        return {(1 - i, -j): sign * 2 / kappa * (-1.0) ** (i + j) * tap for (i, j), tap in taps.items()}

    return dual(fans[1], 1.0), dual(fans[0], -1.0)
