"""Rows as arrays: what they share (few settings), what each has of its own (many seeds), and values by seed."""

from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Shared:
    """Rows with the same values in all shared columns; a subclass has a field for each of these.

    Attributes:
        run_id: of the first of the rows.
        places: (n,) the rows' places in `Runs.own`, by seed, then by run_id.
    """

    run_id: str
    places: Indices

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """The columns that rows of one setting share."""
        return tuple(f.name for f in fields(cls) if f.name not in ("run_id", "places"))


S = TypeVar("S", bound=Shared)


@dataclass(frozen=True)
class Runs(Generic[S]):
    """Rows in the order of their run_ids.

    Attributes:
        settings: the different combinations of the shared columns, in the order of their first run_id.
        own: (N,) arrays of the other columns; a missing number is nan.
    """

    settings: tuple[S, ...]
    own: dict[str, NDArray[Any]]

    def places(self, settings: Sequence[S]) -> Indices:
        """Of the rows with one of these settings, by seed, then by run_id."""
        found = np.concatenate([np.zeros(0, np.int64), *(s.places for s in settings)])
        return found[np.lexsort((found, self.own["seed"][found]))]

    def seeds(self, settings: Sequence[S]) -> set[int]:
        """The seeds of the rows with one of these settings."""
        return {seed for s in settings for seed in self.own["seed"][s.places].tolist()}


def split(rows: Any, kind: type[S], own: Sequence[str]) -> Runs[S]:
    """Split a table of rows.

    Args:
        rows: `pyarrow.Table` with "run_id", the fields of `kind`, and the columns of `own`, "seed" among these. Text
            columns may be dictionary arrays.
        kind: a subclass of `Shared`.
        own: columns that differ from row to row.
    """
    import pyarrow as pa

    rows = rows.unify_dictionaries().sort_by("run_id")
    values = {name: rows[name].to_numpy() for name in ("run_id", *own)}
    shared = list(kind.columns())
    numbered = rows.select(shared).append_column("place", pa.array(np.arange(rows.num_rows)))
    grouped = numbered.group_by(shared, use_threads=False).aggregate([("place", "list")])
    settings = []
    for record in grouped.to_pylist():
        places = np.array(record.pop("place_list"), dtype=np.int64)
        by_seed = places[np.argsort(values["seed"][places], kind="stable")]
        settings.append(kind(run_id=str(values["run_id"][places[0]]), places=by_seed, **record))
    return Runs(tuple(sorted(settings, key=lambda s: s.run_id)), values)


class BySeed(Mapping[int, Any]):
    """A value by seed, kept as two arrays.

    Attributes:
        seeds: (n,) ascending, each once.
        array: (n,) of the values.
    """

    def __init__(self, seeds: NDArray[np.int64], array: NDArray[Any]) -> None:
        self.seeds, self.array = seeds, array

    @classmethod
    def of(cls, values: Mapping[int, float]) -> "BySeed":
        """The same of any mapping of numbers."""
        if isinstance(values, BySeed):
            return values
        seeds = sorted(values)
        return cls(np.array(seeds, dtype=np.int64), np.array([values[s] for s in seeds], dtype=np.float64))

    def __getitem__(self, seed: int) -> Any:
        place = int(np.searchsorted(self.seeds, seed))
        if place == len(self.seeds) or self.seeds[place] != seed:
            raise KeyError(seed)
        return self.array[place].item() if isinstance(self.array[place], np.generic) else self.array[place]

    def __iter__(self) -> Iterator[int]:
        return iter(self.seeds.tolist())

    def _dict(self) -> dict[int, Any]:
        return dict(zip(self.seeds.tolist(), self.array.tolist(), strict=True))

    def items(self) -> ItemsView[int, Any]:
        """All pairs, without looking each seed up."""
        return self._dict().items()

    def values(self) -> ValuesView[Any]:
        """All values, without looking each seed up."""
        return self._dict().values()

    def __len__(self) -> int:
        return len(self.seeds)

    def __repr__(self) -> str:
        return repr(dict(self))


def stacked(sides: Sequence[BySeed]) -> NDArray[np.float64]:
    """The values of several methods by all their seeds, ascending: (M, n), nan where a method has no value."""
    seeds = np.unique(np.concatenate([np.zeros(0, np.int64), *(side.seeds for side in sides)]))
    out = np.full((len(sides), len(seeds)), np.nan)
    for line, side in zip(out, sides, strict=True):
        line[np.searchsorted(seeds, side.seeds)] = side.array
    return out
