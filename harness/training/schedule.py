"""The learning rates of each training step, by `train.schedule`.

They are a function of the step alone, so that a resumed run has the same ones and no checkpoint holds any.
"""

import math
from typing import Any

import torch
from torch.optim import lr_scheduler

from harness.experiment.recipe import SCHEDULES, Train
from harness.experiment.torch_names import FROM_LR, FROM_STEPS
from harness.training.optimizers import REFUSALS, Optimizers, lr_factor, tuples

LOOKED_AT = 2000
"""Steps whose rates are looked at before a run; the others, when they are reached."""
ROUNDING = 1e-9
"""Share of the first rate by which a rate that means 0 may lie below it."""


class Rates:
    """Sets the learning rates, and what else a schedule of torch changes (momentum in OneCycleLR and CyclicLR).

    A schedule of torch runs on an optimizer of the same class with one number per group, and the real one follows.

    Args:
        recipe: of the run.
        steps: number of training steps.
        optimizers: whose groups are set.

    Raises:
        ValueError: torch refuses the keyword arguments, or the schedule ends before the run.
    """

    def __init__(self, recipe: Train, steps: int, optimizers: Optimizers) -> None:
        self._schedule, self._steps, self._optimizers = recipe.schedule, steps, optimizers
        self._torchs: Any = None
        if recipe.schedule.name in SCHEDULES or not steps:
            return
        name, after = recipe.schedule.name, max(1, steps - recipe.schedule.warmup_steps)
        self._alike = optimizers.alike()
        self._start = [dict(group) for group in self._alike.param_groups]
        options = tuples(recipe.schedule.parameters or {})
        if name in FROM_STEPS and not ("epochs" in options and "steps_per_epoch" in options):
            options.setdefault(FROM_STEPS[name], after)
        if name in FROM_LR:
            options[FROM_LR[name]] = [group["lr"] for group in self._alike.param_groups]
        if name == "CyclicLR" and isinstance(highest := options.get("max_lr"), int | float):
            if highest <= recipe.optimizer.lr:
                raise ValueError(
                    f"train.schedule: CyclicLR: max_lr is {highest} and train.optimizer.lr, where the cycle begins, is "
                    f"{recipe.optimizer.lr}; max_lr has to be larger"
                )
            options["max_lr"] = [highest * (rate / recipe.optimizer.lr) for rate in options["base_lr"]]
        self._made = (name, options)
        try:
            self._torchs = getattr(lr_scheduler, name)(self._alike, **options)
        except REFUSALS as error:
            raise ValueError(f"train.schedule: {name}: {type(error).__name__}: {error}") from None
        self._at = 0
        self._to(min(2, after - 1))  # some settings are looked at in a step only
        if name == "OneCycleLR" and self._torchs.total_steps < after:
            raise ValueError(
                f"train.schedule: {name} ends after {self._torchs.total_steps} steps, and the run has {after} after "
                "the warm-up; leave total_steps out"
            )
        optimizers.scheduled |= {
            key
            for start, now in zip(self._start, self._alike.param_groups, strict=True)
            for key in start
            if key != "params" and start[key] != now[key]
        } | ({"momentum", "betas"} if name in FROM_LR else set())

    def set(self, step: int) -> None:
        """Set the rates of step `step`, from 0; steps may be left out, but not repeated.

        Raises:
            ValueError: a rate of a schedule of torch is below 0 or not finite, or torch fails to compute it.
        """
        if self._torchs is None or step < self._schedule.warmup_steps:
            self._optimizers.schedule(lr_factor(self._schedule, step, self._steps))
            return
        self._to(step - self._schedule.warmup_steps)
        self._optimizers.follow(self._alike)

    def _to(self, step: int) -> None:
        if step < self._at:  # torch's schedules go forward only
            for group, start in zip(self._alike.param_groups, self._start, strict=True):
                group.clear()
                group.update(start)
            self._torchs, self._at = getattr(lr_scheduler, self._made[0])(self._alike, **self._made[1]), 0
        name = self._made[0]
        while self._at < step:
            self._alike.step()  # without gradients nothing moves; torch asks for this order
            try:
                self._torchs.step()
            except REFUSALS as error:
                raise ValueError(
                    f"train.schedule: {name}: {type(error).__name__}: {error} (at step {self._at + 1})"
                ) from None
            self._at += 1
        for group in self._alike.param_groups:
            if not -ROUNDING * self._optimizers.initial <= group["lr"] < math.inf:  # it would climb, or overflow
                raise ValueError(
                    f"train.schedule: {name}: the learning rate at step {step + self._schedule.warmup_steps} is "
                    f"{group['lr']:g}; it has to be 0 or more, and finite. Change the schedule's arguments"
                )


def require_torch_takes(recipe: Train) -> None:
    """Build the optimizer and the schedule of a recipe over a matrix and a vector; nothing random is drawn.

    Raises:
        ValueError: torch refuses a keyword argument, the schedule ends before the run, or one of its first rates is
            below 0 or not finite.
    """
    layer = torch.nn.ParameterList([torch.zeros(2, 2), torch.zeros(2)])
    optimizers = Optimizers(recipe.optimizer.model_copy(update={"encoder_lr_factor": 1.0}), layer)
    rates = Rates(recipe, recipe.steps, optimizers)
    if recipe.schedule.name not in SCHEDULES:
        for step in range(min(recipe.steps, LOOKED_AT)):
            rates.set(step)
