"""A cache of tables with a limit in bytes, because tables grow with the maps and sizes may vary between calls."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from threading import Lock
from typing import Any, Generic, ParamSpec, TypeVar

from torch import Tensor

MAX_BYTES = 1 << 30  # limit for the tables of one function
LEAST = 6  # entries that are kept whatever their size: both directions of a transform of three levels

P = ParamSpec("P")
T = TypeVar("T")


class Kept(Generic[T]):
    """Least-recently-used cache of results by arguments. Thread-safe."""

    def __init__(self) -> None:
        self._results: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of `key`, or the result of `make`, called outside the lock so as not to block other keys."""
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key][0]
        made = make()
        with self._lock:
            self._results[key] = made, _bytes(made)
            while len(self._results) > LEAST and self._total() > MAX_BYTES:
                self._results.popitem(last=False)
        return made

    def __len__(self) -> int:
        return len(self._results)

    def bytes(self) -> int:
        """Total size of the cached tables."""
        with self._lock:
            return self._total()

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._results.clear()

    def _total(self) -> int:
        return sum(size for _, size in self._results.values())


def kept(make: Callable[P, T]) -> Callable[P, T]:
    """Cache the results of `make` (nested tuples of tensors); `.tables` of the returned function is the `Kept`."""
    tables: Kept[T] = Kept()

    @wraps(make)
    def cached(*args: P.args, **kwargs: P.kwargs) -> T:
        assert not kwargs, "one way to write a key"
        return tables.get(args, lambda: make(*args, **kwargs))

    cached.tables = tables  # type: ignore[attr-defined]
    return cached


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, value)) if isinstance(value, tuple) else 0
