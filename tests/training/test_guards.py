"""The loud errors: each fires on its fault, names it, and is silent without it."""

import pytest
import torch
from torch import nn

from harness.training import guards
from harness.training.named import Named
from harness.training.ranks import Ranks


class TwoRanks(Ranks):
    """Rank 0 of two; `other` is what the second rank brings to every minimum."""

    other: float = float("inf")

    def minimum(self, values: torch.Tensor) -> torch.Tensor:
        return values.clamp(max=self.other)


def local(device: str = "cpu") -> Ranks:
    return Ranks(torch.device(device))


def terms(**named: float) -> Named:
    return Named.of({name: torch.tensor(value) for name, value in named.items()})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_stops_a_cpu_run_at_once(bad: float) -> None:
    watch = guards.FiniteTerms(local())
    for step in range(3):
        watch.watch(terms(task=1.0, cwd=0.0, kd=-1e30), step)
    with pytest.raises(FloatingPointError, match="loss term cwd is not finite at step 3"):
        watch.watch(terms(task=1.0, cwd=bad, kd=1.0), 3)


def test_all_terms_that_failed_first_are_named_and_no_later_ones() -> None:
    # A device that is not the CPU: values wait for `check`, as on CUDA.
    watch = guards.FiniteTerms(local("meta"))
    nan = float("nan")
    watch.watch(terms(task=1.0, cwd=1.0, kd=1.0), 16_000_001)
    watch.watch(terms(task=1.0, cwd=nan, kd=nan), 16_000_002)
    watch.watch(terms(task=nan, cwd=nan, kd=1.0), 16_000_003)
    with pytest.raises(FloatingPointError, match="loss term cwd, kd is not finite at step 16000002"):
        watch.check()


def test_nothing_watched_and_finite_values_pass() -> None:
    watch = guards.FiniteTerms(local("meta"))
    watch.check()
    watch.watch(terms(task=1.0), 0)
    watch.check()


def test_another_rank_s_failure_stops_this_one() -> None:
    ranks = TwoRanks(torch.device("cpu"), workers=2)
    watch = guards.FiniteTerms(ranks)
    watch.watch(terms(task=1.0), 4)
    ranks.other = 5.0
    with pytest.raises(FloatingPointError, match="task is not finite at step 5"):
        watch.watch(terms(task=1.0), 5)


def test_a_distiller_must_give_connected_scalar_terms() -> None:
    weight = nn.Parameter(torch.ones(2))
    task = weight.sum()
    guards.connected({"task": task, "kd": weight.prod()}, "kd", distils=True)
    guards.connected({"task": task}, "none", distils=False)
    with pytest.raises(ValueError, match="method kd: returns no loss terms"):
        guards.connected({"task": task}, "kd", distils=True)
    with pytest.raises(ValueError, match=r"method kd: term kd has shape \(2,\)"):
        guards.connected({"task": task, "kd": weight * 2}, "kd", distils=True)
    with pytest.raises(ValueError, match="method kd: term kd has no gradient"):
        guards.connected({"task": task, "kd": weight.sum().detach()}, "kd", distils=True)


def test_idle_parameters_are_named_and_frozen_ones_are_not_idle() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    model["used"](torch.ones(1, 2)).sum().backward()
    with pytest.raises(ValueError, match=r"2 trainable parameters get no gradient \(first: idle.weight, idle.bias\)"):
        guards.all_used(model)
    model["idle"].requires_grad_(False)
    guards.all_used(model)


def test_terms_that_were_always_zero_are_named() -> None:
    guards.all_contributed({"task": 3.0, "cwd": 1e-30}, 10)
    guards.all_contributed({"cwd": 0.0}, 0)
    with pytest.raises(ValueError, match="loss term cwd, kd was 0 in all 10 steps"):
        guards.all_contributed({"task": 3.0, "cwd": 0.0, "kd": 0.0}, 10)


def test_a_teacher_that_could_change_is_refused() -> None:
    teacher = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).eval().requires_grad_(False)
    guards.teacher_untouched(teacher)
    guards.teacher_untouched(None)
    teacher[1].train()
    with pytest.raises(ValueError, match="module 1 is in train mode"):
        guards.teacher_untouched(teacher)
    teacher.train()
    with pytest.raises(ValueError, match=r"module \(root\) is in train mode"):
        guards.teacher_untouched(teacher)
    teacher.eval()[0].bias.requires_grad_(True)
    with pytest.raises(ValueError, match=r"parameter 0.bias requires a gradient"):
        guards.teacher_untouched(teacher)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_and_scores_that_are_not_finite_are_named(bad: float) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    guards.finite_weights(network, 4, local())
    scores = guards.FiniteScores(local(), "dev")
    scores.watch(torch.tensor([1.0, -3e38, 3e38]))
    scores.watch(torch.zeros(0))
    scores.check()
    scores.watch(torch.tensor([1.0, bad]))
    scores.watch(torch.tensor([1.0]))
    with pytest.raises(FloatingPointError, match="scores on dev are not finite"):
        scores.check()
    for name in ("0.weight", "1.running_var"):
        state = dict(network.state_dict())
        before = state[name].clone()
        state[name].fill_(bad)
        with pytest.raises(FloatingPointError, match=f"1 of 6 tensors .* not finite after step 4 .first: {name}"):
            guards.finite_weights(network, 4, local())
        state[name].copy_(before)


def test_scores_of_another_rank_stop_this_one() -> None:
    ranks = TwoRanks(torch.device("cpu"))
    ranks.other = 0.0
    with pytest.raises(FloatingPointError, match="scores on val"):
        guards.FiniteScores(ranks, "val").check()
    with pytest.raises(FloatingPointError, match="2 of 2 tensors"):
        guards.finite_weights(nn.Conv2d(1, 1, 1), 1, ranks)
