"""The recipe's optimizer beside one that a distiller brings."""

import ast
import copy
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.distillers.base import Distiller, OwnOptimizer
from harness.experiment import torch_names
from harness.experiment.load import load
from harness.experiment.recipe import Optimizer, Train
from harness.experiment.spec import Network
from harness.models import TapNet, build
from harness.taps import View
from harness.training import resume
from harness.training.average import Average
from harness.training.optimizers import Optimizers
from harness.training.schedule import Rates, require_torch_takes
from harness.training.step import KDStep
from tests.support import tiny


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


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_of_a_gpus_weights_is_one_kernel(name: str) -> None:
    for device, fused in (("cpu", None), ("cuda", True)):
        with FakeTensorMode(), torch.device(device):  # weights that only say where they are
            distiller = Judged()
            step = KDStep(nn.Linear(3, 3), distiller, 255)
            optimizers = Optimizers(Optimizer(name=name, lr=0.1), step, distiller)
        assert [each.defaults["fused"] for each in optimizers.each()] == [fused, fused]
        assert optimizers.alike().defaults["fused"] is None  # on the CPU, for a schedule


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_checkpoint_of_another_device_is_taken_up(name: str) -> None:
    """How a step is computed is a setting of the optimizer too, and differs."""
    optimizers = [built(name)[2], built(name)[2]]
    for group in optimizers[0].main.param_groups:
        group["fused"] = True
    state = optimizers[0].state_dict()
    assert resume._settings(state[0], {"lr"}) == resume._settings(optimizers[1].state_dict()[0], {"lr"})
    optimizers[1].load_state_dict(state)
    assert [group["fused"] for group in optimizers[1].main.param_groups] == [None]


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


def recipe(optimizer: dict[str, Any], schedule: dict[str, Any] | None = None, steps: int = 20) -> Train:
    given = {"steps": steps, "batch_size": 1, "optimizer": optimizer, "schedule": schedule or {}}
    return Train.model_validate_json(json.dumps(given))


PLAIN = {
    "Adafactor": {},
    "Adadelta": {"rho": 0.8},
    "Adagrad": {"lr_decay": 0.1},
    "Adam": {"betas": [0.8, 0.9], "amsgrad": True},
    "AdamW": {},
    "Adamax": {},
    "ASGD": {},
    "NAdam": {"momentum_decay": 0.01},
    "RAdam": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {"etas": [0.4, 1.3]},
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_class_of_torch_takes_its_steps_with_its_own_defaults(name: str) -> None:
    def trained(optimizer: torch.optim.Optimizer, layer: nn.Linear, take: Callable[[], None]) -> list[Tensor]:
        for i in range(4):
            layer.weight.grad, layer.bias.grad = torch.full((3, 3), 1.0 + i), torch.linspace(-1, i, 3)
            take()
        return [layer.weight.detach(), layer.bias.detach()]

    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 3), nn.Linear(3, 3)
    theirs.load_state_dict(ours.state_dict())
    optimizers = Optimizers(recipe({"name": name, "lr": 0.01, **PLAIN[name]}).optimizer, ours)
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in PLAIN[name].items()}
    plain = getattr(torch.optim, name)(theirs.parameters(), lr=0.01, **options)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    found = trained(optimizers.main, ours, lambda: optimizers.step(scaler))
    for a, b in zip(found, trained(plain, theirs, plain.step), strict=True):
        assert torch.equal(a, b)


def test_the_names_that_are_allowed_are_those_of_torch() -> None:
    for module, real in ((torch_names.OPTIMIZERS, torch.optim), (torch_names.SCHEDULES, torch.optim.lr_scheduler)):
        base = torch.optim.Optimizer if real is torch.optim else torch.optim.lr_scheduler.LRScheduler
        theirs = {
            name
            for name, kind in vars(real).items()
            if isinstance(kind, type) and issubclass(kind, base) and not name.startswith("_")
        }
        assert set(torch_names.known(module)) == theirs - torch_names.NOT_HERE.keys()
        for name, (allowed, needed, _) in torch_names.known(module).items():
            assert set(needed) <= set(allowed) <= set(inspect.signature(getattr(real, name)).parameters)


STEPS = 20
SCHEDULES: dict[str, dict[str, Any]] = {
    "StepLR": {"step_size": 3, "gamma": 0.5},
    "MultiStepLR": {"milestones": [5, 9]},
    "ConstantLR": {"factor": 0.5, "total_iters": 4},
    "LinearLR": {},
    "ExponentialLR": {"gamma": 0.9},
    "PolynomialLR": {"power": 0.9},
    "CosineAnnealingLR": {"eta_min": 0.001},
    "CosineAnnealingWarmRestarts": {"T_0": 4, "T_mult": 2},
    "CyclicLR": {"max_lr": 0.5, "step_size_up": 3},
    "OneCycleLR": {"pct_start": 0.4},
}
FILLED = {
    "PolynomialLR": {"total_iters": STEPS},
    "CosineAnnealingLR": {"T_max": STEPS},
    "CyclicLR": {"base_lr": 0.1},
    "OneCycleLR": {"total_steps": STEPS, "max_lr": 0.1},
}
WATCHED = ("lr", "momentum")


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("start", [0, 7])
def test_a_schedule_of_torch_gives_its_rates_from_any_step_on(name: str, start: int) -> None:
    sgd = {"name": "SGD", "lr": 0.1, "momentum": 0.9}
    plain = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9)
    theirs = getattr(torch.optim.lr_scheduler, name)(plain, **SCHEDULES[name], **FILLED.get(name, {}))
    expected = []
    for _ in range(STEPS):
        expected.append([plain.param_groups[0][key] for key in WATCHED])
        plain.step()
        if len(expected) < STEPS:
            theirs.step()
    given = recipe(sgd, {"name": name, **SCHEDULES[name]}, STEPS)
    optimizers = Optimizers(given.optimizer, nn.Linear(2, 2))
    rates = Rates(given, STEPS, optimizers)
    for step in range(start, STEPS):
        rates.set(step)
        assert [optimizers.main.param_groups[0][key] for key in WATCHED] == expected[step]


def test_the_warm_up_goes_before_a_schedule_of_torch() -> None:
    given = recipe({"name": "sgd", "lr": 0.1}, {"name": "ExponentialLR", "gamma": 0.5, "warmup_steps": 4})
    optimizers, found = Optimizers(given.optimizer, nn.Linear(2, 2)), []
    rates = Rates(given, 20, optimizers)
    for step in range(7):
        rates.set(step)
        found.append(optimizers.lr)
    assert found == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.05, 0.025])


@pytest.mark.parametrize(
    "schedule",
    [{"name": "poly"}, {"name": "ExponentialLR", "gamma": 0.5}, {"name": "CyclicLR", "max_lr": 1.0, "step_size_up": 4}],
)
def test_the_encoder_learns_with_its_own_rate(schedule: dict[str, Any]) -> None:
    student = build(Network(architecture="fpn", encoder="tu-mobilenetv3_small_050"), 3, seed=0)
    given = recipe({"name": "sgd", "lr": 0.1, "encoder_lr_factor": 0.1}, schedule)
    optimizers = Optimizers(given.optimizer, nn.ModuleList([student, nn.Linear(2, 2)]), None, student)
    rates = Rates(given, 20, optimizers)
    encoder, others = optimizers.main.param_groups
    assert {id(p) for p in encoder["params"]} == {id(p) for p in student.encoder.parameters() if p.requires_grad}  # type: ignore[union-attr]
    assert (
        len(others["params"]) == len([p for p in student.parameters() if p.requires_grad]) - len(encoder["params"]) + 2
    )
    for step in (0, 3):
        rates.set(step)
        assert encoder["lr"] == pytest.approx(0.1 * others["lr"]) and optimizers.lr == others["lr"]
    assert others["lr"] != 0.1


def test_a_cycle_goes_up() -> None:
    given = recipe({"name": "sgd", "lr": 0.1}, {"name": "CyclicLR", "max_lr": 0.05, "step_size_up": 4})
    with pytest.raises(ValueError, match=r"max_lr is 0.05 .* begins, is 0.1; max_lr has to be larger"):
        Rates(given, 20, Optimizers(given.optimizer, nn.Linear(2, 2)))


def test_a_network_without_an_encoder_cannot_have_its_rate() -> None:
    class Bare(TapNet):
        pass

    given = recipe({"name": "sgd", "lr": 0.1, "encoder_lr_factor": 0.1})
    with pytest.raises(ValueError, match=r"encoder_lr_factor: this network has no part that is called encoder"):
        Optimizers(given.optimizer, nn.Linear(2, 2), None, Bare(1))


REFUSED = {
    "optimizer={name: Adamw, lr: 0.1}": "unknown name 'Adamw'. Did you mean 'adamw'?",
    "optimizer={name: AdamW, lr: 0.1, momentum: 0.9}": "AdamW has no 'momentum'.",
    "optimizer={name: AdamW, lr: 0.1, maximize: true}": "AdamW has no 'maximize'.",
    "optimizer={name: AdamW, lr: 0.1, params: []}": "AdamW has no 'params'.",
    "optimizer={name: AdamW, lr: 0.1, eps: 1e31}": "eps is 1e+31; allowed: a number up to 1e+30",
    "optimizer={name: AdamW, lr: 0.1, eps: {a: 1}}": "eps is {'a': 1}; allowed: a number",
    "optimizer={name: AdamW, lr: .inf}": "not a finite number",
    "optimizer={name: AdamW}": "AdamW needs lr",
    "optimizer={name: LBFGS, lr: 0.1}": "LBFGS asks for the loss several times in a step",
    "optimizer={name: lr_scheduler, lr: 0.1}": "unknown name 'lr_scheduler'",
    "optimizer={name: ../SGD, lr: 0.1}": "unknown name '../SGD'",
    "optimizer={name: sgd, nesterov: true}": "unknown key. Allowed: name, lr",
    "optimizer={name: sgd, parameters: {nesterov: true}}": "parameters are for the names of torch",
    "optimizer={name: sgd, encoder_lr_factor: 0}": "greater than 0",
    "schedule={name: ReduceLROnPlateau}": "looks at the dev score",
    "schedule={name: LambdaLR, lr_lambda: 1}": "takes a function",
    "schedule={name: StepLR}": "StepLR needs step_size",
    "schedule={name: StepLR, step_size: 3, last_epoch: 4}": "StepLR has no 'last_epoch'",
    "schedule={name: OneCycleLR, max_lr: 1}": "max_lr of OneCycleLR is train.optimizer.lr; delete it here",
    "schedule={name: poly, gamma: 1}": "unknown key",
    "schedule={name: StepLR, step_size: x}": "step_size of StepLR is 'x'; torch's is int",
    "schedule={name: StepLR, step_size: 0}": "step_size of StepLR is 0; it counts steps, at least 1",
    "schedule={name: CosineAnnealingLR, T_max: -4}": "T_max of CosineAnnealingLR is -4; it counts steps",
    "schedule={name: MultiStepLR, milestones: [a]}": "milestones of MultiStepLR is ['a']; torch's is Iterable[int]",
    "schedule={name: MultiStepLR, milestones: 5}": "milestones of MultiStepLR is 5",
    "schedule={name: CyclicLR, max_lr: 1, scale_mode: x}": "torch's is Literal['cycle', 'iterations']",
    "optimizer={name: AdamW, lr: 0.1, betas: [0.9]}": "betas of AdamW is [0.9]; torch's is tuple[",
    "optimizer={name: AdamW, lr: 0.1, betas: [0.9, 0.99, 0.999]}": "betas of AdamW is [0.9, 0.99, 0.999]",
    "optimizer={name: Rprop, lr: 0.1, etas: [0.5]}": "etas of Rprop is [0.5]",
    "optimizer={name: AdamW, lr: 0.1, fused: 'no'}": "fused of AdamW is 'no'; torch's is bool | None",
    "optimizer={name: SGD, lr: 0.1, dampening: null}": "dampening of SGD is None; torch's is float",
    "optimizer={name: SGD, lr: 0.1, parameters: 3}": "parameters are keyword arguments of SGD, a mapping",
    "optimizer={name: SGD, lr: 0.1, parameters: [1]}": "parameters are keyword arguments of SGD, a mapping",
    "ema=0": "greater than 0",
    "ema=1": "less than 1",
}


@pytest.mark.parametrize("override", REFUSED)
def test_wrong_names_and_keywords_are_refused_with_what_is_allowed(tmp_path: Path, override: str) -> None:
    with pytest.raises(ValueError) as caught:
        load(tiny.write(tmp_path), [f"train.{override}"])
    assert f"train.{override.partition('=')[0]}" in str(caught.value) and REFUSED[override] in str(caught.value)


@pytest.mark.parametrize(
    ("optimizer", "schedule", "words"),
    [
        ({"name": "AdamW", "lr": 0.1, "betas": [0.9, 2]}, {}, "train.optimizer: AdamW: ValueError"),
        ({"name": "SGD", "lr": 0.1, "nesterov": True}, {}, "train.optimizer: SGD: ValueError: Nesterov"),
        ({"name": "sgd"}, {"name": "OneCycleLR", "div_factor": 0}, "train.schedule: OneCycleLR: ZeroDivisionError"),
        ({"name": "sgd"}, {"name": "ConstantLR", "factor": 0.0}, "ConstantLR: ZeroDivisionError: float division by"),
        ({"name": "sgd"}, {"name": "StepLR", "step_size": 3, "gamma": -1}, "the learning rate at step 3 is -0.01;"),
        ({"name": "sgd"}, {"name": "CosineAnnealingLR", "eta_min": -3}, "the learning rate at step 2 is -"),
        (
            {"name": "sgd"},
            {"name": "CyclicLR", "max_lr": 1, "step_size_up": 3, "gamma": -2, "mode": "exp_range"},
            "the learning rate at step 1 is -",
        ),
        ({"name": "sgd"}, {"name": "OneCycleLR", "total_steps": 3}, "ends after 3 steps, and the run has 20"),
        ({"name": "Adagrad", "lr": 0.1}, {"name": "OneCycleLR"}, "train.schedule: OneCycleLR: ValueError"),
    ],
)
def test_what_torch_refuses_is_found_before_a_run(optimizer: Any, schedule: Any, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        require_torch_takes(recipe(optimizer, schedule))
    assert words in str(caught.value), caught.value


def test_a_schedule_that_torch_rounds_below_0_is_none_that_climbs() -> None:
    for schedule in ({"name": "LinearLR", "start_factor": 0.7, "end_factor": 0.0, "total_iters": 7}, {"name": "poly"}):
        require_torch_takes(recipe({"name": "sgd", "lr": 0.3}, schedule))


def test_a_rate_below_0_late_in_a_run_stops_it() -> None:
    given = recipe({"name": "sgd", "lr": 0.1}, {"name": "StepLR", "step_size": 3000, "gamma": -1}, 5000)
    require_torch_takes(given)
    rates = Rates(given, 5000, Optimizers(given.optimizer, nn.Linear(2, 2)))
    rates.set(2999)
    with pytest.raises(ValueError, match=r"StepLR: the learning rate at step 3000 is -0.1; it has to be 0 or more"):
        rates.set(3000)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("Optional[int]", [None, 3], [True, 1.5, "a"]),
        ("Union[float, Tensor]", [1, 2.5], [True, "a", None]),
        ("Tuple[Union[float, Tensor], float]", [[1, 2.5]], [[1], 1, [1, "a"]]),
        ("List[float]", [[], [1]], [3, ["a"]]),
        ("tuple[int, ...]", [[1, 2, 3]], [[1.5]]),
        ("Literal['a', 'b']", ["a"], ["c", 3]),
        ("ParamsT", [3, "a"], []),
    ],
)
def test_annotations_of_all_versions_of_torch_are_read(kind: str, right: list[Any], wrong: list[Any]) -> None:
    node = ast.parse(kind, mode="eval").body
    assert all(torch_names._is_a(node, value) for value in right)
    assert not any(torch_names._is_a(node, value) for value in wrong)


def test_the_average_is_that_of_torch_and_the_trained_weights_stay() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    theirs = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    ours = Average(network, 0.9)
    for step in range(5):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(torch.randn_like(p))
        network(torch.randn(4, 3))
        ours.update(step)
        theirs.update_parameters(network)
    before = copy.deepcopy(network.state_dict())
    with ours.shown():
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), theirs.module.parameters(), strict=True))
        assert torch.equal(network[1].running_mean, before["1.running_mean"])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(KeyError), ours.shown():
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    ours.keep()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), theirs.module.parameters(), strict=True))


def test_without_a_decay_nothing_is_kept() -> None:
    network = nn.Linear(2, 2)
    average, before = Average(network, None), copy.deepcopy(network.state_dict())
    average.update(0)
    average.keep()
    assert average.state() == {} and all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
