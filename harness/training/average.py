"""The exponential moving average of a student's weights, `train.ema`."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """Averaged weights beside those that are trained; without a decay it does nothing.

    As torch.optim.swa_utils.AveragedModel: the weights after the first step, then after each step
    decay * average + (1 - decay) * weights. Buffers, such as the statistics of batch normalisation, are not averaged
    but those of the trained network.

    Args:
        network: the student.
        decay: in (0, 1), or None.
    """

    def __init__(self, network: nn.Module, decay: float | None) -> None:
        self._weights = {name: p for name, p in network.named_parameters() if decay is not None and p.requires_grad}
        self._average = {name: p.detach().clone() for name, p in self._weights.items()}
        self._step = None if decay is None else get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights after step `step`, from 0, into the average."""
        if self._step is None or not self._average:
            return
        average, weights = list(self._average.values()), [p.detach() for p in self._weights.values()]
        if step == 0:
            torch._foreach_copy_(average, weights)
        else:
            self._step(average, weights, None)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The network has its averaged weights inside, and exactly the trained ones again afterwards."""
        trained = {name: p.detach().clone() for name, p in self._weights.items()}
        self.keep()
        try:
            yield
        finally:
            _set(self._weights, trained)

    def keep(self) -> None:
        """Give the network its averaged weights for good."""
        _set(self._weights, self._average)

    def state(self) -> dict[str, Any]:
        """What a checkpoint has of it: nothing without a decay."""
        return {"average": dict(self._average)} if self._average else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Load what `state` returned."""
        if self._average:
            _set(self._average, state["average"])


@torch.no_grad()
def _set(to: dict[str, Any], values: dict[str, Tensor]) -> None:
    for name, value in to.items():
        value.copy_(values[name])
