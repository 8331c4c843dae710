"""The recipe's optimizer beside one that a distiller brings."""

import copy
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from harness.distillers.base import Distiller, OwnOptimizer
from harness.experiment.recipe import Optimizer
from harness.taps import View
from harness.training.optimizers import Optimizers
from harness.training.step import KDStep


class Judged(Distiller):
    """A critic that is trained apart."""

    apart: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.adapter, self.critic = nn.Linear(2, 2), nn.Linear(2, 1)

    def own_optimizers(self) -> tuple[OwnOptimizer, ...]:
        return (OwnOptimizer(tuple(self.critic.parameters()), 0.5, (0.9, 0.99)),) if self.apart else ()

    def forward(self, view: View) -> dict[str, Tensor]:
        return {}


def built(name: str = "sgd") -> tuple[KDStep, Judged, Optimizers]:
    torch.manual_seed(0)
    distiller = Judged()
    step = KDStep(nn.Linear(3, 3), distiller, 255)
    return step, distiller, Optimizers(Optimizer(name=name, lr=0.1, weight_decay=0.0), step, distiller)


def gradients(step: nn.Module) -> None:
    for i, parameter in enumerate(step.parameters()):
        parameter.grad = torch.full_like(parameter, 1.0 + i)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_each_parameter_is_in_one_optimizer(name: str) -> None:
    step, distiller, optimizers = built(name)
    main = [p for group in optimizers.main.param_groups for p in group["params"]]
    critic = {id(p) for p in distiller.critic.parameters()}
    assert {id(p) for p in main} == {id(p) for p in step.parameters()} - critic
    assert len(main) == 4 and len(critic) == 2


def test_both_step_by_their_own_rate_times_the_schedule() -> None:
    step, distiller, optimizers = built()
    before = copy.deepcopy(step.state_dict())
    optimizers.schedule(0.5)
    gradients(step)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizers.step(scaler)
    # SGD moves by lr times the gradient, Adam's first step by its lr.
    torch.testing.assert_close(step.student.weight, before["student.weight"] - 0.05)
    torch.testing.assert_close(distiller.critic.weight, before["distiller.critic.weight"] - 0.25)
    assert all(p.grad is None for p in step.parameters())


def test_a_state_continues_both() -> None:
    first, second = built("adamw"), built("adamw")
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    for i in range(4):
        for step, _, optimizers in (first, second) if i < 2 else (first,):
            gradients(step)
            optimizers.step(scaler)
    resumed, _, optimizers = built("adamw")
    resumed.load_state_dict(second[0].state_dict())
    optimizers.load_state_dict(second[2].state_dict())
    for _ in range(2):
        gradients(resumed)
        optimizers.step(scaler)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), first[0].parameters(), strict=True))


def test_without_one_of_its_own_there_is_one_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Judged, "apart", False)
    step, _, optimizers = built()
    assert len(optimizers.state_dict()) == 1
    assert sum(len(group["params"]) for group in optimizers.main.param_groups) == len(list(step.parameters()))
