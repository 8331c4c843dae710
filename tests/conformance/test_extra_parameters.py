"""What a method trains beside the student is what its formula says: in the row's column, and in MACs."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from harness.distillers import METHODS, Distiller
from harness.taps import Pair
from harness.testing import Case, networks
from harness.testing.made_up import CLASSES, MAIN, SAME, SCENES, view
from harness.training.cost import parameters
from tests.conformance.extra_parameters import FORMULAS, Extra, Step
from tests.conformance.methods import SMALL, case, sum_of


class Counted:
    """MACs of trainable convolutions, by the shapes that they were called with."""

    def __init__(self) -> None:
        self.macs = 0

    def see(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        self.macs += output.shape[0] * output.shape[2] * output.shape[3] * module.weight.numel()


@contextmanager
def counting(distiller: Distiller) -> Iterator[Counted]:
    counted = Counted()
    layers = [m for m in distiller.modules() if isinstance(m, nn.Conv2d) and m.weight.requires_grad]
    hooks = [layer.register_forward_hook(counted.see) for layer in layers]
    yield counted
    for hook in hooks:
        hook.remove()


def step_of(method: str, pair: Pair, **changed: int) -> Step:
    return Step(pair, 2, 64, **{**({"critic_width": 8} if "critic_width" in SMALL.get(method, {}) else {}), **changed})


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("method", METHODS)
def test_parameters_and_macs(method: str, scene: str) -> None:
    pair = SCENES[scene]
    distiller, expected = case(method).build(pair), FORMULAS[method](step_of(method, pair))
    assert parameters(distiller) == expected.parameters
    with counting(distiller) as counted, torch.no_grad():
        distiller(view(pair))
    assert counted.macs == expected.macs


@pytest.mark.parametrize("method", METHODS)
def test_parameters_on_real_pairs(method: str) -> None:
    for pair in itertools.islice(networks.pairs().values(), 0, None, 6):
        if case(method).skip(pair) is None:
            assert parameters(case(method).build(pair)) == FORMULAS[method](step_of(method, pair)).parameters


@pytest.mark.parametrize("method", METHODS)
def test_parameters_at_default_values(method: str) -> None:
    given = {"w_adv": 0.01} if method == "sstkd" else {}  # its critic is off by default
    assert parameters(Case(METHODS[method], given).build(SAME)) == FORMULAS[method](Step(SAME, 2, 64)).parameters


def test_a_sum_has_those_of_its_parts() -> None:
    expected = FORMULAS["cirkd"](step_of("cirkd", MAIN)) + FORMULAS["mgd"](step_of("mgd", MAIN))
    assert parameters(sum_of("cirkd", "mgd").build()) == expected.parameters


def test_the_count_can_differ() -> None:
    """Numbers by hand: a formula that misses a layer, a bias or a call gives others."""
    step = Step(SAME, 2, 64)
    assert FORMULAS["mgd"](step) == Extra(2 * (9 * 64 * 64 + 64), 2 * 9 * 64 * 64 * 2 * 2 * 2)
    assert FORMULAS["fitnet"](step) == Extra(32 * 32, 32 * 32 * 2 * 16 * 16)
    narrow = Step(MAIN, 2, 64)
    assert FORMULAS["cirkd"](narrow).parameters == 16 * 32 + 2 * 32 + 32 * 32
    convolutions = (CLASSES * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) * 16 + 64 + 128 + 256 + 512 + 1
    attention = sum(2 * (c * c // 8 + c // 8) + c * c + c + 1 for c in (256, 512))
    assert FORMULAS["skd"](narrow).parameters == 2 * CLASSES + convolutions + attention
