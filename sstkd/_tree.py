"""Geometry of the directional filter bank's tree: the samples kept by each split, and the order of the bands.

A split of a map x sends it to two halves, p0[n] = x[Q n] and p1[n] = x[Q n + s]. The first two splits are quincunx, so
four quadrant-pair wedges come out on the lattice diag(2, 2); every further one is a parallelogram split, of kinds 1
and 2 below the first two bands and 3 and 4 below the others. At depth k >= 3 a last re-shear brings each band to a
diagonal lattice. Kinds and order: Do, Vetterli, "The contourlet transform" (IEEE Trans. Image Proc. 14, 2005) and
Bamberger, Smith, "A filter bank for the directional decomposition of images" (IEEE Trans. Signal Proc. 40, 1992), as
the oracle numbers of tests/oracles fix them.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Index = NDArray[np.int64]
Kind = Literal["analysis", "synthesis", "analysis.T", "synthesis.T"]
MAX_DEPTH = 8


class Split(NamedTuple):
    """One two-channel split, as a quincunx split after a shear.

    Attributes:
        shear: type 1 to 4 of the shear in front (0: none); see `sheared`.
        rows: whether the quincunx split halves the rows (else the columns).
        fan_axis: axis along which the FIR diamond is modulated to a fan: 0 rows, 1 columns.
    """

    shear: int
    rows: bool
    fan_axis: int


# Quincunx splits with the shears that carry them out (Q = R D R'): inner shear, outer shear, per (kind of split).
FIRST = Split(0, True, 1)
SECOND = Split(0, False, 1)
PARALLELOGRAM = (Split(1, True, 0), Split(2, True, 1), Split(3, False, 1), Split(4, False, 0))
# (shear before keeping every second line, shear after), for FIRST, SECOND and the four parallelogram splits.
_QUINCUNX = {FIRST: (2, 3), SECOND: (4, 1)} | dict(zip(PARALLELOGRAM, ((2, 3), (1, 4), (4, 1), (3, 2)), strict=True))
_SHEARS = {1: (0, 1), 2: (0, -1), 3: (1, 1), 4: (1, -1)}  # axis that moves, sign


def sheared(x: Index, kind: int, amount: int = 1) -> Index:
    """Circular shear of a (h, w) array: kinds 1, 2 move column j up, down by j; kinds 3, 4 row i left, right by i."""
    axis, sign = _SHEARS[kind]
    i, j = np.indices(x.shape)
    if axis == 0:
        i = (i + sign * amount * j) % x.shape[0]
    else:
        j = (j + sign * amount * i) % x.shape[1]
    out: Index = x[i, j]
    return out


def kept(x: Index, split: Split) -> Index:
    """The samples x[Q n] that a quincunx split keeps, of an array that `split.shear` was already applied to."""
    before, after = _QUINCUNX[split]
    y = sheared(x, before)
    return sheared(y[::2] if split.rows else y[:, ::2], after)


def polyphase(x: Index, split: Split) -> tuple[Index, Index]:
    """The two halves (p0, p1) of an array; together they hold each entry once.

    Beside p0[n] = x[Q n], p1 starts at the neighbour s of the origin: (0, 1) or (1, 0) for the quincunx splits, and
    (1, 1), (1, 0), (1, 1), (0, 1) for the parallelogram splits 1 to 4.
    """
    if split.shear:
        # Parallelogram lattices are cheaper as one shear of every second line than as shear, quincunx, shear.
        after = (3, 4, 1, 2)[split.shear - 1]
        odd = split.shear in (1, 3)  # p1 one step further along the other axis
        lines = (x[::2], x[1::2]) if split.rows else (x[:, ::2], x[:, 1::2])
        second = np.roll(lines[1], -1, 1 if split.rows else 0) if odd else lines[1]
        return sheared(lines[0], after), sheared(second, after)
    before, after = _QUINCUNX[split]
    y = sheared(x, before)
    if split.rows:
        return sheared(y[::2], after), sheared(np.roll(y[1::2], -1, 1), after)
    return sheared(y[:, ::2], after), sheared(np.roll(y[:, 1::2], -1, 0), after)


def lattice(split: Split) -> NDArray[np.int64]:
    """Sampling matrix Q, columns are the steps of the two indices: p0[n] = x[Q n] on an unbounded grid."""
    return np.array(
        {
            FIRST: ((1, -1), (1, 1)),
            SECOND: ((1, 1), (-1, 1)),
            PARALLELOGRAM[0]: ((2, 0), (1, 1)),
            PARALLELOGRAM[1]: ((2, 0), (-1, 1)),
            PARALLELOGRAM[2]: ((1, 1), (0, 2)),
            PARALLELOGRAM[3]: ((1, -1), (0, 2)),
        }[split]
    )


COSETS = {FIRST: (0, 1), SECOND: (1, 0)} | dict(
    zip(PARALLELOGRAM, ((1, 1), (1, 0), (1, 1), (0, 1)), strict=True)
)  # s in p1[n] = x[Q n + s]


def splits(level: int, nodes: int) -> list[Split]:
    """The split of each of `nodes` maps at a level of the tree, 1 the first."""
    if level <= 2:
        return [FIRST if level == 1 else SECOND] * nodes
    return [PARALLELOGRAM[i % 2 + (0 if i < nodes // 2 else 2)] for i in range(nodes)]


def grow(root: T, depth: int, ladder: bool, divide: Callable[[int, list[T]], list[tuple[T, T]]]) -> list[T]:
    """Leaves of the tree in tree order: `divide(level, nodes)` gives the two outputs (y0, y1) of every node.

    A ladder's two outputs come swapped from the second level on. The bands are `directions(leaves)`.
    """
    nodes = [root]
    for level in range(1, depth + 1):
        swap = ladder and level > 1
        nodes = [leaf for y0, y1 in divide(level, nodes) for leaf in ((y1, y0) if swap else (y0, y1))]
    return nodes


def directions(leaves: list[T]) -> list[T]:
    """Leaves in tree order -> bands in the order of directions: the second half is reversed."""
    half = len(leaves) // 2
    return leaves if len(leaves) <= 2 else leaves[:half] + leaves[half:][::-1]


def reshear(depth: int, leaf: int) -> tuple[int, int]:
    """Kind and amount of the last shear of a leaf in tree order; depth >= 3."""
    half = 2 ** (depth - 1)
    return (3 if leaf < half else 1), 2 * ((leaf % half) // 2) - (2 ** (depth - 2) - 1)


def groups(depth: int, height: int, width: int) -> tuple[tuple[int, int, int], ...]:
    """Bands of equal size as (number, height, width), in the order of directions; depth 0 is a wavelet step."""
    if depth < 3:
        return ((3 if depth == 0 else 2**depth, height // 2, width // (1 if depth == 1 else 2)),)
    half = fine = 1 << (depth - 1)
    return (half, height // fine, width // 2), (half, height // 2, width // fine)


def multiple(depth: int) -> int:
    """The number that both sides of a map must be multiples of."""
    return max(2, 1 << max(depth - 1, 0))
