"""Frequency responses of the contourlet transform's equivalent filters, on the torus Z_H x Z_W.

Every frequency, including sheared ones, is an integer multiple of 2 pi / L with L = lcm(H, W). A wave is stored as this
integer, and a filter of one variable as a table of L values, so no sine is computed twice.
"""

from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sstkd import _tree as tree
from sstkd.filters import LADDERS, Directional, Pyramid, fan_filters, ladder_taps, pyramid_filters

Response = NDArray[Any]  # complex, or real where a filter is symmetric about the origin
Waves = tuple[NDArray[np.int64], NDArray[np.int64]]  # row and column frequency, in turns over L


class Torus:
    """The frequencies of an (H, W) map, H and W even."""

    def __init__(self, height: int, width: int) -> None:
        self.hw = height, width
        self.order = lcm(height, width)
        self.roots: Response = np.exp(2j * np.pi * np.arange(self.order) / self.order)
        self.waves: Waves = (
            np.arange(height)[:, None] * (self.order // height),
            np.arange(width)[None, :] * (self.order // width),
        )
        self.half = self.order // 2  # pi

    def turn(self, wave: NDArray[np.int64]) -> Response:
        """exp(i wave)."""
        return self.seen(self.roots, wave)

    def seen(self, table: Response, wave: NDArray[np.int64]) -> Response:
        """Look up a function on the circle, tabulated at all L points, at these waves."""
        out: Response = table[wave % self.order]
        return out

    def filtered(self, taps: NDArray[np.float64], offsets: NDArray[np.int64]) -> Response:
        """Sum of taps times exp(i offset wave), at all L points."""
        out: Response = taps @ self.roots[offsets[:, None] * np.arange(self.order) % self.order]
        return out


def split_responses(torus: Torus, split: tree.Split, waves: Waves, name: Directional) -> tuple[Response, Response]:
    """Frequency responses of the two outputs of a split, before its decimation.

    Ladder: y0 = (p0 - B p1) / sqrt(2), y1 = -sqrt(2) p1 - B y0, with B the separable lifting filter on p's grid.
    """
    row, col = waves
    if name in LADDERS:
        (a, c), (b, d) = tree.lattice(split).tolist()
        kept = (a * row + b * col, c * row + d * col)
        step = torus.turn(tree.COSETS[split][0] * row + tree.COSETS[split][1] * col)
        y0 = (1 - step * _lifting(torus, name, kept, 1)) / np.sqrt(2)
        return y0, -np.sqrt(2) * step - _lifting(torus, name, kept, 0) * y0
    if split.shear:  # a wave seen after the shear x[R n]
        (a, c), (b, d) = {
            1: ((1, 1), (0, 1)),
            2: ((1, -1), (0, 1)),
            3: ((1, 0), (1, 1)),
            4: ((1, 0), (-1, 1)),
        }[split.shear]
        row, col = a * row + b * col, c * row + d * col
    modulated = row + torus.half * (split.fan_axis == 0), col + torus.half * (split.fan_axis == 1)
    fans = fan_filters(name)
    low, high = (_centred(torus, taps, modulated) for taps in (fans.low, fans.high))
    return low, high * torus.turn(row)


def _lifting(torus: Torus, name: Directional, waves: Waves, delay: int) -> Response:
    """Response of the separable lifting filter at offsets -5 - delay ... 6 - delay (12 taps), alternating in sign."""
    taps = ladder_taps(name) * (-1.0) ** np.arange(len(ladder_taps(name)))
    table = torus.filtered(taps, np.arange(len(taps)) - (len(taps) // 2 - 1) - delay)
    return torus.seen(table, waves[0]) * torus.seen(table, waves[1])


def _centred(torus: Torus, taps: NDArray[np.float64], waves: Waves) -> Response:
    """Response of a filter with odd sides and symmetric about its middle."""
    rows, cols = (np.arange(side) - side // 2 for side in taps.shape)
    out: Response = np.zeros((), np.complex128)
    for offset, line in zip(rows, taps, strict=True):
        if line.any():
            out = out + torus.turn(offset * waves[0]) * torus.seen(torus.filtered(line, cols), waves[1])
    return out


def band_responses(torus: Torus, depth: int, name: Directional, dual: bool) -> Response:
    """Responses of the bank's bands, of the analysis or (dual) of the synthesis: (bands, H, W).

    At depth 1 the two bands live on a quincunx lattice: four responses, per band that of the even columns (sampled at
    rows 2i) and that of the odd ones (at rows 2i - 1), so that every lattice is diagonal.

    The synthesis of a split with responses E_0, E_1 is F_0 = 2 E_1' / D, F_1 = -2 E_0' / D, where ' is the response
    at the alias (w_row + pi, w_col + pi) and D = E_0 E_1' - E_1 E_0', a monomial for a biorthogonal pair.
    """
    row, col = torus.waves

    def divide(level: int, nodes: list[tuple[Response, NDArray[np.int64]]]):  # type: ignore[no-untyped-def]
        out = []
        for split, (above, matrix) in zip(tree.splits(level, len(nodes)), nodes, strict=True):
            (a, c), (b, d) = matrix.tolist()
            waves = a * row + b * col, c * row + d * col
            first, second = split_responses(torus, split, waves, name)
            if dual:
                other = split_responses(torus, split, _alias(torus, split, waves), name)
                scale = 2 / (first * other[1] - second * other[0])
                first, second = other[1] * scale, -other[0] * scale
            lattice = matrix @ tree.lattice(split)
            out.append(((above * first, lattice), (above * second, lattice)))
        return out

    root = np.ones(torus.hw, np.complex128), np.eye(2, dtype=np.int64)
    bands = np.stack([response for response, _ in tree.directions(tree.grow(root, depth, name in LADDERS, divide))])
    if depth == 1:
        odd = torus.turn(row - col if dual else col - row)
        bands = np.stack((bands, bands * odd), 1).reshape(4, *torus.hw)
    return bands


def _alias(torus: Torus, split: tree.Split, waves: Waves) -> Waves:
    """The other frequency that looks the same on the samples x[Q n]."""
    quincunx = not split.shear
    return (
        waves[0] + torus.half * (quincunx or split.rows),
        waves[1] + torus.half * (quincunx or not split.rows),
    )


def level_responses(
    torus: Torus, depth: int, pyramid: Pyramid, directional: Directional, dual: bool
) -> tuple[Response, Response]:
    """Low-pass gain (H, W) of a level, and responses of its bands, of the analysis or (dual) of the synthesis.

    Depth 0 is a separable wavelet step: LL is the low-pass; LH, HL, HH the bands.

    With h, g the pyramid's gains and <f>(w) the mean of f over the four aliases of w under diag(2, 2), the level's
    equivalent responses are E'_b = E_b - h <E_b g> and F'_b = F_b - g <h F_b>: the band-pass map is
    x - g up(down(h x)), and the way back is d + g up(c - down(h d)).
    """
    own, other = pyramid_filters(pyramid)[:: -1 if dual else 1]
    row, col = torus.waves
    tables = [torus.filtered(np.array(taps), np.arange(len(taps)) - len(taps) // 2).real for taps in (own, other)]
    low, back = (torus.seen(table, row) * torus.seen(table, col) for table in tables)
    if depth:
        bands = band_responses(torus, depth, directional, dual)
        return low, bands - low * _alias_mean(bands * back)
    # High-pass -(-1)^n g at the samples 2 i - 1; its dual is -(-1)^n h there.
    high = -np.roll(tables[1], -torus.half) * (torus.roots if dual else torus.roots.conj())
    rows, cols = ((torus.seen(tables[0], wave), torus.seen(high, wave)) for wave in (row, col))
    return low, np.stack([rows[1] * cols[0], rows[0] * cols[1], rows[1] * cols[1]])


def _alias_mean(response: Response) -> Response:
    """Mean over the four aliases under diag(2, 2), on the full grid."""
    bands, height, width = response.shape
    folded = response.reshape(bands, 2, height // 2, 2, width // 2).mean((1, 3))
    return np.tile(folded, (1, 2, 2))
