"""Several distillers in one run; each term is named after its method."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from harness.distillers.base import Distiller, OwnOptimizer
from harness.taps import View


class Sum(Distiller):
    """The terms of all `parts`, as "METHOD.TERM".

    Args:
        parts: distillers by method name, in the order in which they draw from the step's random stream.
    """

    def __init__(self, parts: Mapping[str, Distiller]) -> None:
        super().__init__()
        self.names = tuple(parts)
        self.parts = nn.ModuleList(parts.values())

    def _each(self) -> Iterator[tuple[str, Distiller]]:
        for name, part in zip(self.names, self.parts, strict=True):
            assert isinstance(part, Distiller)
            yield name, part

    def own_optimizers(self) -> tuple[OwnOptimizer, ...]:
        """Those of all parts."""
        return tuple(own for _, part in self._each() for own in part.own_optimizers())

    def equal_buffers(self) -> tuple[str, ...]:
        """Those of all parts."""
        parts = enumerate(part for _, part in self._each())
        return tuple(f"parts.{i}.{name}" for i, part in parts for name in part.equal_buffers())

    def forward(self, view: View) -> dict[str, Tensor]:
        """The weighted terms of every part."""
        return {f"{name}.{term}": value for name, part in self._each() for term, value in part(view).items()}
