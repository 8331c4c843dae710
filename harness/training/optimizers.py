"""The recipe's optimizer, the optimizers of a distiller, and their common schedule."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from harness.distillers import Distiller
from harness.experiment.recipe import Optimizer, Schedule
from harness.experiment.spec import Run
from harness.models import TapNet

ENCODERS = ("encoder", "backbone")
"""What a network of one's own calls its encoder."""
IMPLEMENTATION = ("fused", "foreach")
"""Settings that say how a step is computed, not which; a checkpoint may come from another device."""
REFUSALS = (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RuntimeError, AssertionError)
"""How torch refuses an argument: by a check of its own, or by falling over it."""


def lr_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Factor on the learning rate at `step` of `steps`: linear warm-up, then poly, cosine or constant over the rest."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    done = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)
    if schedule.name == "poly":
        return float((1 - done) ** (schedule.power or 0.0))
    return 0.5 * (1 + math.cos(math.pi * done)) if schedule.name == "cosine" else 1.0


class Optimizers:
    """The recipe's optimizer over student and distiller, and Adam for parameters with an optimizer of their own.

    Args:
        spec: the recipe's.
        step: student and distiller.
        distiller: may bring optimizers; None for none.
        student: whose encoder learns with `encoder_lr_factor`; not needed at 1.

    Raises:
        ValueError: torch refuses a keyword argument, or the student has no encoder and needs one.
    """

    def __init__(
        self, spec: Optimizer, step: nn.Module, distiller: Distiller | None = None, student: TapNet | None = None
    ) -> None:
        own = () if distiller is None else distiller.own_optimizers()
        apart = {id(p) for each in own for p in each.parameters}
        trained = [p for p in step.parameters() if p.requires_grad and id(p) not in apart]
        self._spec = spec
        self.scheduled = {"lr"}
        """Settings that the schedule changes."""
        self._factors = [1.0]
        groups: list[Any] = trained
        if spec.encoder_lr_factor != 1:
            assert student is not None
            inner = {id(p) for p in encoder_of(student).parameters()}
            parts = [[p for p in trained if id(p) in inner], [p for p in trained if id(p) not in inner]]
            self._factors = [spec.encoder_lr_factor, 1.0]
            groups = [
                {"params": part, "lr": spec.lr * factor} for part, factor in zip(parts, self._factors, strict=True)
            ]
        self.main = made(spec, groups)
        self._own = [
            (torch.optim.Adam(each.parameters, lr=each.lr, betas=each.betas, fused=_fused(each.parameters)), each.lr)
            for each in own
        ]

    @property
    def lr(self) -> float:
        """The learning rate now, of what is not the encoder."""
        return float(self.main.param_groups[-1]["lr"])

    @property
    def initial(self) -> float:
        """The recipe's learning rate."""
        return self._spec.lr

    def schedule(self, factor: float) -> None:
        """Set every learning rate to `factor` times its initial value."""
        for group, own in zip(self.main.param_groups, self._factors, strict=True):
            group["lr"] = self._spec.lr * factor if own == 1 else self._spec.lr * own * factor
        self._others(factor)

    def follow(self, other: torch.optim.Optimizer) -> None:
        """Set learning rates, and what else a schedule changes, to those of an optimizer with groups like these."""
        for group, shown in zip(self.main.param_groups, other.param_groups, strict=True):
            group.update({key: shown[key] for key in self.scheduled if key in group})
        self._others(self.lr / self._spec.lr)

    def _others(self, factor: float) -> None:
        for optimizer, lr in self._own:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor

    def alike(self) -> torch.optim.Optimizer:
        """An optimizer of the same class, settings and groups over one number each, for a schedule to run on."""
        rates = [self._spec.lr * factor for factor in self._factors]
        return made(self._spec, [{"params": [torch.zeros(1, 1, requires_grad=True)], "lr": lr} for lr in rates])

    def step(self, scaler: torch.amp.GradScaler) -> None:
        """One step of every optimizer, then clear the gradients."""
        for optimizer in self.each():
            scaler.step(optimizer)
        scaler.update()
        for optimizer in self.each():
            optimizer.zero_grad(set_to_none=True)

    def each(self) -> list[torch.optim.Optimizer]:
        """All optimizers, in the order of `state_dict`."""
        return [self.main, *(optimizer for optimizer, _ in self._own)]

    def state_dict(self) -> list[dict[str, Any]]:
        """The state of every optimizer, in order."""
        return [optimizer.state_dict() for optimizer in self.each()]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Load what `state_dict` returned."""
        for optimizer, state in zip(self.each(), states, strict=True):
            groups = [
                {**saved, **{key: own[key] for key in IMPLEMENTATION if key in own}}
                for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
            ]
            optimizer.load_state_dict({**state, "param_groups": groups})


def made(spec: Optimizer, groups: list[Any]) -> torch.optim.Optimizer:
    """The optimizer of a recipe over parameters, or groups of them.

    Raises:
        ValueError: torch refuses a keyword argument.
    """
    if spec.parameters is None:
        assert spec.weight_decay is not None and spec.momentum is not None and spec.betas is not None
        given = [p for part in groups for p in (part["params"] if isinstance(part, dict) else (part,))]
        common: dict[str, Any] = {"lr": spec.lr, "weight_decay": spec.weight_decay, "fused": _fused(given)}
        if spec.name == "sgd":
            return torch.optim.SGD(groups, momentum=spec.momentum, **common)
        return torch.optim.AdamW(groups, betas=spec.betas, **common)
    try:
        kind = getattr(torch.optim, spec.name)
        found: torch.optim.Optimizer = kind(groups, lr=spec.lr, **tuples(spec.parameters))
    except REFUSALS as error:
        raise ValueError(f"train.optimizer: {spec.name}: {type(error).__name__}: {error}") from None
    return found


def _fused(parameters: Iterable[nn.Parameter]) -> bool | None:
    """On a GPU a step is one kernel instead of a handful per group; elsewhere None, torch's choice."""
    return True if all(parameter.is_cuda for parameter in parameters) else None


def tuples(parameters: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments with tuples where plain data has lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in parameters.items()}


def optimizer_of(run: Run) -> Optimizer:
    """The optimizer of a run; a given network is not trained, and need not have an encoder with a rate of its own."""
    spec = run.train.optimizer
    return spec if run.checkpoint is None else spec.model_copy(update={"encoder_lr_factor": 1.0})


def encoder_of(student: TapNet) -> nn.Module:
    """The part of a network that `encoder_lr_factor` is for.

    Raises:
        ValueError: it has none.
    """
    try:
        return student.loaded_encoder()
    except ValueError:
        plain = getattr(student, "network", None)
        for name in ENCODERS:
            if isinstance(inner := getattr(plain, name, None), nn.Module):
                return inner
    raise ValueError(
        "train.optimizer.encoder_lr_factor: this network has no part that is called encoder or backbone. Rename it in "
        "your network, or leave encoder_lr_factor out"
    )
