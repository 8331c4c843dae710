"""The recipe's optimizer, the optimizers of a distiller, and their common schedule."""

import math
from typing import Any

import torch
from torch import nn

from harness.distillers import Distiller
from harness.experiment.recipe import Optimizer, Schedule


def lr_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Factor on the learning rate at `step` of `steps`: linear warm-up, then poly, cosine or constant over the rest."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    if schedule.name == "poly":
        return float((1 - done) ** schedule.power)
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule.name == "cosine" else 1.0


class Optimizers:
    """The recipe's optimizer over student and distiller, and Adam for parameters with an optimizer of their own."""

    def __init__(self, spec: Optimizer, step: nn.Module, distiller: Distiller) -> None:
        own = distiller.own_optimizers()
        apart = {id(p) for each in own for p in each.parameters}
        trained = [p for p in step.parameters() if p.requires_grad and id(p) not in apart]
        kwargs: dict[str, Any] = {"lr": spec.lr, "weight_decay": spec.weight_decay}
        self.main: torch.optim.Optimizer = (
            torch.optim.SGD(trained, momentum=spec.momentum, **kwargs)
            if spec.name == "sgd"
            else torch.optim.AdamW(trained, betas=spec.betas, **kwargs)
        )
        self._each: list[tuple[torch.optim.Optimizer, float]] = [(self.main, spec.lr)]
        self._each += [(torch.optim.Adam(each.parameters, lr=each.lr, betas=each.betas), each.lr) for each in own]

    def schedule(self, factor: float) -> None:
        """Set every learning rate to `factor` times its initial value."""
        for optimizer, lr in self._each:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor

    def step(self, scaler: torch.amp.GradScaler) -> None:
        """One step of every optimizer, then clear the gradients."""
        for optimizer, _ in self._each:
            scaler.step(optimizer)
        scaler.update()
        for optimizer, _ in self._each:
            optimizer.zero_grad(set_to_none=True)

    def each(self) -> list[torch.optim.Optimizer]:
        """All optimizers, in the order of `state_dict`."""
        return [optimizer for optimizer, _ in self._each]

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of every optimizer, in order."""
        return [optimizer.state_dict() for optimizer, _ in self._each]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Load what `state_dict` returned."""
        for (optimizer, _), state in zip(self._each, states, strict=True):
            optimizer.load_state_dict(state)
