"""Many rows, split into what they share and what each has of its own, so that a million of them is no loop in Python.

An experiment has few settings and many seeds: everything but a handful of columns has as many different values as there
are lines in a table.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Runs:
    """Rows in the order of their run_ids.

    Attributes:
        settings: the different combinations of the shared columns, as dicts, each with the first "run_id" that has it
            and "number", its place in `bounds`; in the order of those run_ids.
        own: (N,) arrays of the other columns; a missing number is nan.
        order: (N,) places of the rows, by setting, then by seed, then by run_id.
        bounds: (S + 1,) where the rows of each setting begin in `order`.
    """

    settings: tuple[dict[str, Any], ...]
    own: dict[str, NDArray[Any]]
    order: Indices
    bounds: Indices

    def places(self, settings: Sequence[dict[str, Any]]) -> Indices:
        """Of the rows that have one of these settings, by seed, then by run_id."""
        found = self.unordered(settings)
        return found if len(settings) == 1 else found[np.lexsort((found, self.own["seed"][found]))]

    def unordered(self, settings: Sequence[dict[str, Any]]) -> Indices:
        """The same places, setting by setting: of many rows much sooner."""
        parts = [self.order[self.bounds[s["number"]] : self.bounds[s["number"] + 1]] for s in settings]
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.int64), *parts])

    def seeds(self, settings: Sequence[dict[str, Any]]) -> set[int]:
        """The seeds of the rows that have one of these settings."""
        return set(np.unique(self.own["seed"][self.unordered(settings)]).tolist())


def split(rows: Any, shared: Sequence[str], own: Sequence[str]) -> Runs:
    """Split a table of rows.

    Args:
        rows: `pyarrow.Table` with "run_id", the columns of `shared` and of `own`, "seed" among these. Text columns may
            be dictionary arrays.
        shared: columns whose combinations of values are few.
        own: columns that differ from row to row.
    """
    rows = _sorted(rows.unify_dictionaries())
    number, firsts = _combinations([rows[name] for name in shared], rows.num_rows)
    settings = rows.select(["run_id", *shared]).take(firsts).to_pylist()
    for i, setting in enumerate(settings):
        setting["number"] = i
    values = {name: rows[name].to_numpy() for name in ("run_id", *own)}
    by_seed = _argsort(values["seed"])
    order = by_seed[_argsort(number[by_seed])]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=len(settings)))])
    return Runs(tuple(sorted(settings, key=lambda s: str(s["run_id"]))), values, order, bounds)


def codes(column: Any) -> tuple[Indices, int] | None:
    """Whole numbers that are equal where the values of a column are, and a number above all; None if all are equal."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not len(array) or array.null_count == len(array):
        return None
    if not array.null_count and not pa.types.is_dictionary(array.type):
        ends = pc.min_max(array)
        if ends["min"] == ends["max"]:
            return None
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    count = len(array.dictionary)
    if count == 1 and not array.null_count:
        return None
    indices: Indices = pc.fill_null(array.indices, count).to_numpy(zero_copy_only=False)
    return indices, count + 1


def _sorted(rows: Any) -> Any:
    import pyarrow.compute as pc

    ids = rows["run_id"]
    if rows.num_rows > 1 and not pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py():
        return rows.sort_by("run_id")
    return rows


def _argsort(values: NDArray[Any]) -> Indices:
    """Stable; small numbers take two bytes, which numpy sorts in one pass."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if high - low < 2**16:
        values = (values - low).astype(np.uint16)
    return np.argsort(values, kind="stable")


def _combinations(columns: Sequence[Any], count: int) -> tuple[Indices, Indices]:
    """The number of each row's combination of values, (N,), and the place of the first row of every combination."""
    key, firsts = np.zeros(count, np.int64), np.zeros(min(count, 1), np.int64)
    for column in columns:
        if (found := codes(column)) is not None:
            key, firsts = _renumbered(key * found[1] + found[0], len(firsts) * found[1])
    return key, firsts


def _renumbered(key: Indices, above: int) -> tuple[Indices, Indices]:
    """The keys as 0, 1, ... without gaps, and where each occurs first."""
    count = len(key)
    if above > 4 * count + 1024:  # a table of all possible keys would be larger than the rows
        _, firsts, numbers = np.unique(key, return_index=True, return_inverse=True)
        return numbers, firsts
    first = np.full(above, count, np.int64)
    first[key[::-1]] = np.arange(count - 1, -1, -1)  # of several assignments the last one stays
    used = np.flatnonzero(first < count)
    numbers = np.zeros(above, np.int64)
    numbers[used] = np.arange(len(used))
    return numbers[key], first[used]


class BySeed(Mapping[int, Any]):
    """A value by seed, kept as two arrays: a thousand seeds cost what a few do.

    Attributes:
        seeds: (n,) ascending, each once.
        array: (n,) of the values.
    """

    def __init__(self, seeds: NDArray[np.int64], array: NDArray[Any]) -> None:
        self.seeds, self.array = seeds, array

    @classmethod
    def of(cls, values: Mapping[int, float]) -> "BySeed":
        """The same of any mapping of numbers."""
        seeds = sorted(values)
        return cls(np.array(seeds, dtype=np.int64), np.array([values[s] for s in seeds], dtype=np.float64))

    def __getitem__(self, seed: int) -> Any:
        place = int(np.searchsorted(self.seeds, seed))
        if place == len(self.seeds) or self.seeds[place] != seed:
            raise KeyError(seed)
        return self.array[place].item() if isinstance(self.array[place], np.generic) else self.array[place]

    def __iter__(self) -> Iterator[int]:
        return iter(self.seeds.tolist())

    def __len__(self) -> int:
        return len(self.seeds)

    def __repr__(self) -> str:
        return repr(dict(self))
