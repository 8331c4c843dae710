"""A value by seed, as tables keep their runs and scores."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
