"""What docs/reference-methods.md says of a method is so in a step of it: its terms, what it reads, its ranges."""

import inspect
from typing import Any

import pytest
import torch

from harness.distillers import METHODS
from harness.taps import NetworkInfo, Pair, TapInfo, Taps, View
from tests.support.equations import EQUATIONS
from tests.support.reference_methods import checked, terms

STAGES = {"stem": 4, "stage1": 4, "stage2": 8, "stage3": 6}
CHANNELS = {**STAGES, "decoder": 8, "logits": 3}
KNOWN = {tap: TapInfo(width, 4) for tap, width in CHANNELS.items()}
NETWORK = NetworkInfo({tap: KNOWN[tap] for tap in STAGES}, KNOWN["decoder"], KNOWN["logits"])
PAIR = Pair(NETWORK, NETWORK, 3)
STEP = 1e-3
"""Beyond the end of a range."""


def with_every_term(name: str) -> dict[str, Any]:
    """Parameters; a narrow critic is faster."""
    known = inspect.signature(METHODS[name]).parameters
    narrow = {"critic_width": 2} if "critic_width" in known else {}
    return {key: 1.0 for key in METHODS[name].weights if key in known} | narrow


def taps(seed: int, changed: str = "") -> Taps:
    """Of one network; the map `changed` has other values."""
    maps = {}
    for place, (tap, width) in enumerate(CHANNELS.items()):
        stream = torch.Generator().manual_seed(100 * seed + place + (50 if tap == changed else 0))
        maps[tap] = torch.randn(2, width, 16, 16, generator=stream)
    return Taps({tap: maps[tap] for tap in STAGES}, maps["decoder"], maps["logits"], maps["logits"])


def step(name: str, student: str = "", teacher: str = "", labels: int = 0) -> dict[str, float]:
    """The terms of a first step in which these maps are others, and the labels those of another seed."""
    torch.manual_seed(0)
    distiller = METHODS[name](PAIR, **with_every_term(name))
    found = torch.randint(3, (2, 64, 64), generator=torch.Generator().manual_seed(labels))
    view = View(taps(0, student), taps(1, teacher), found, 0.0, torch.Generator().manual_seed(0))
    return {term: float(value.detach()) for term, value in distiller(view).items()}


@pytest.mark.parametrize("name", METHODS)
def test_terms_are_those_of_a_step(name: str) -> None:
    assert terms(name) == list(step(name))


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_reads_and_nothing_else_changes_its_terms(name: str) -> None:
    before = step(name)
    by_student = [tap for tap in CHANNELS if step(name, student=tap) != before]
    by_teacher = [tap for tap in CHANNELS if step(name, teacher=tap) != before]
    read = ["stage3" if tap == "last" else tap for tap in EQUATIONS[name].reads if tap != "labels"]
    assert by_student == by_teacher == sorted(read, key=list(CHANNELS).index)
    assert (step(name, labels=1) != before) == ("labels" in EQUATIONS[name].reads)


def ends() -> list[Any]:
    """Method, parameter, a value at or beyond an end of its range, and whether it is allowed."""
    found = []
    for name in METHODS:
        for key, bound in checked(name).items():
            low, high = (
                bound.get("minimum", bound.get("exclusiveMinimum")),
                bound.get("maximum", bound.get("exclusiveMaximum")),
            )
            assert low is not None
            cases = {low: "minimum" in bound, low - STEP: False, low + STEP: True}
            if high is not None:
                cases |= {high: "maximum" in bound, high - STEP: True, high + STEP: False}
            found += [
                pytest.param(name, key, value, allowed, id=f"{name}-{key}-{value}") for value, allowed in cases.items()
            ]
    return found


@pytest.mark.parametrize(("name", "key", "value", "allowed"), ends())
def test_a_range_ends_where_the_page_says(name: str, key: str, value: float, allowed: bool) -> None:
    parameters = {**with_every_term(name), key: float(value)}
    if allowed:
        METHODS[name](PAIR, **parameters)
    else:
        with pytest.raises(ValueError):
            METHODS[name](PAIR, **parameters)


def test_every_number_of_a_method_has_a_range() -> None:
    for name, kind in METHODS.items():
        numbers = {key for key, each in inspect.signature(kind).parameters.items() if isinstance(each.default, float)}
        assert numbers == checked(name).keys(), name
