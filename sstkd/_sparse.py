"""Filters and samplings of maps as sparse matrices over positions, applied to arrays (positions, maps)."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Index = NDArray[np.int64]
Values = NDArray[np.float64]


class Sparse(NamedTuple):
    """A sparse matrix by rows: row i holds entries offsets[i] ... offsets[i + 1] of (column, weight)."""

    column: Index
    weight: Values
    offsets: Index
    columns: int

    @property
    def T(self) -> "Sparse":
        """The transpose."""
        rows = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        order = np.argsort(self.column, kind="stable")
        counts = np.bincount(self.column, minlength=self.columns)
        return Sparse(rows[order], self.weight[order], np.append(0, np.cumsum(counts)), len(self.offsets) - 1)


class Table(NamedTuple):
    """`Sparse` in the format of `embedding_bag`."""

    column: Tensor
    weight: Tensor
    offsets: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(columns, P) -> (rows, P)."""
        return F.embedding_bag(self.column, x, self.offsets, mode="sum", per_sample_weights=self.weight)


def table(sparse: Sparse, device: torch.device, dtype: torch.dtype) -> Table:
    """The matrix on a device, in the maps' type."""
    column, offsets = (torch.from_numpy(i.astype(np.int32)).to(device) for i in (sparse.column, sparse.offsets[:-1]))
    return Table(column, torch.tensor(sparse.weight, dtype=dtype, device=device), offsets)


def entries(columns: list[Index], taps: Values, size: int) -> Sparse:
    """Row i adds taps[k] times column columns[k][i]; `size` columns in all."""
    column = np.stack([c.ravel() for c in columns], 1)
    weight = np.broadcast_to(taps, column.shape)
    return Sparse(column.ravel(), weight.ravel(), np.arange(len(column) + 1) * len(taps), size)


def stacked(blocks: list[Sparse]) -> Sparse:
    """Concatenate the rows of blocks with the same columns."""
    starts = np.cumsum([0] + [len(b.column) for b in blocks])
    offsets = np.concatenate([b.offsets[:-1] + s for b, s in zip(blocks, starts, strict=False)])
    column, weight = np.concatenate([b.column for b in blocks]), np.concatenate([b.weight for b in blocks])
    return Sparse(column, weight, np.append(offsets, len(column)), blocks[0].columns)


def halved(ids: Index, axis: int, taps: tuple[float, ...], start: int, size: int) -> Sparse:
    """Filter the map of positions `ids` along an axis, taps centred, and keep the samples at 2 i + start."""
    side = ids.shape[axis]
    first = 2 * np.arange(side // 2) + start - len(taps) // 2
    return entries([ids.take((first + k) % side, axis) for k in range(len(taps))], np.array(taps), size)


def low_pass(hw: tuple[int, int], taps: tuple[float, ...]) -> tuple[Sparse, Sparse]:
    """Even samples of the map filtered along both axes."""
    height, width = hw
    rows, cols = np.arange(height * width), np.arange(height * width // 2)
    return (
        halved(rows.reshape(hw), 0, taps, 0, rows.size),
        halved(cols.reshape(-1, width), 1, taps, 0, cols.size),
    )
