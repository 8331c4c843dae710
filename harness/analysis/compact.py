"""Thousands of rows as dicts that need little memory: lists of numbers stay arrays, equal texts are one object."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.results import store
from harness.results.validity import CONFUSIONS

_FEW = 16
"""Different values of a nested column up to which each row is compared with them, which needs no Python objects."""


def compact_rows(
    directory: str | Path, columns: Collection[str], run_ids: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """The rows of an experiment as dicts, in the order of their run_ids; of `losses` the last entry only.

    Confusion matrices are int64 arrays, and `curve` is a list of (steps, values), both arrays.

    Args:
        directory: the experiment's directory.
        columns: names to read, without `samples`.
        run_ids: read only these; None reads all.

    Raises:
        ValueError: as `store.read_rows`.
    """
    same: dict[str, dict[Any, Any]] = {name: {} for name in columns}
    rows: list[dict[str, Any]] = []
    for table in store.read_batches(directory, columns, run_ids):
        found = {name: _column(name, table[name].combine_chunks(), same[name]) for name in columns}
        rows += (dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True))
        release()
    return rows


def release() -> None:
    """Give back the memory that reading took, which Arrow otherwise keeps."""
    pa.default_memory_pool().release_unused()


def _column(name: str, column: Any, same: dict[Any, Any]) -> list[Any]:
    """The values of a column; equal ones are the object in `same`."""
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) and column.num_chunks else column
    if name in CONFUSIONS:
        return _parts(column, column.flatten().to_numpy(zero_copy_only=False))
    if name == "curve":
        points = column.flatten()
        steps, values = (_parts(column, points.field(part).to_numpy()) for part in ("step", "dev_miou"))
        return [None if s is None else (s, v) for s, v in zip(steps, values, strict=True)]
    if name == "losses":
        return _last(column)
    if pa.types.is_nested(column.type):
        return _shared(column, same)
    encoded = column.dictionary_encode()
    known = [*(same.setdefault(value, value) for value in encoded.dictionary.to_pylist()), None]
    return [known[at] for at in pc.fill_null(encoded.indices, -1).to_pylist()]


def _shared(column: Any, same: dict[Any, Any]) -> list[Any]:
    """The values of a nested column, equal ones as one object; most experiments have one or a few of them."""
    known: list[tuple[Any, Any]] = []
    out = []
    for at in range(len(column)):
        one = column.slice(at, 1)
        place = next((i for i, (other, _) in enumerate(known) if one.equals(other)), None)
        if place is None and len(known) == _FEW:
            return [_known(row[""], same) for row in store.records(pa.table({"": column}))]
        if place is None:
            place = len(known)
            known.append((one, _known(store.records(pa.table({"": one}))[0][""], same)))
        out.append(known[place][1])
    return out


def _known(value: Any, same: dict[Any, Any]) -> Any:
    return same.setdefault(repr(value), value)


def _ends(column: Any) -> Any:
    return np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy())


def _parts(column: Any, flat: Any) -> list[Any]:
    """Each row's part of the flattened values; None where the row has no list."""
    ends, there = _ends(column), column.is_valid().to_pylist()
    starts = [0, *ends[:-1].tolist()]
    return [flat[a:b] if known else None for a, b, known in zip(starts, ends.tolist(), there, strict=True)]


def _last(column: Any) -> list[Any]:
    """A list with the last element of each row's list; empty where there is none."""
    filled = np.flatnonzero(pc.fill_null(pc.list_value_length(column), 0).to_numpy() > 0)
    last = column.flatten().take(pa.array(_ends(column)[filled] - 1))
    out: list[Any] = [[] for _ in range(len(column))]
    for at, row in zip(filled.tolist(), store.records(pa.table({"last": last})), strict=True):
        out[at] = [row["last"]]
    return out
