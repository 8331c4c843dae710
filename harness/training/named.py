"""Numbers with names in one tensor, so that one operation on the device is enough for all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Named:
    """Scalars and what they are called.

    Attributes:
        names: of the scalars, in their order.
        values: (number of names).
    """

    names: tuple[str, ...] = ()
    values: Tensor = field(default_factory=lambda: torch.zeros(0))

    @classmethod
    def of(cls, scalars: Mapping[str, Tensor]) -> "Named":
        """Those of a mapping."""
        return cls(tuple(scalars), torch.stack(list(scalars.values()))) if scalars else cls()

    def scalars(self) -> dict[str, Tensor]:
        """As a mapping."""
        return dict(zip(self.names, self.values, strict=True))

    def each(self, function: Callable[[Tensor], Tensor]) -> "Named":
        """The same names with a function of the values."""
        return Named(self.names, function(self.values))

    def with_those(self, other: "Named", combine: Callable[[Tensor, Tensor], Tensor], missing: float = 0.0) -> "Named":
        """Both combined, number by number; where one lacks a name, it has `missing`."""
        if not self.names or not other.names:
            return other if not self.names else self
        if self.names == other.names:
            return Named(self.names, combine(self.values, other.values))
        names = (*self.names, *(name for name in other.names if name not in self.names))
        return Named(names, combine(self._in_order(names, missing), other._in_order(names, missing)))

    def _in_order(self, names: tuple[str, ...], missing: float) -> Tensor:
        own, none = self.scalars(), torch.full_like(self.values[0], missing)
        return torch.stack([own.get(name, none) for name in names])
