"""What a method says of its response term is so: the same loss as plain distillation at the method's weight."""

from typing import Any

import pytest

from harness.distillers import METHODS
from harness.experiment.controls import baseline, response_of
from harness.experiment.method import Method, method_entry
from harness.testing.case import numbers, own_terms
from harness.testing.made_up import MAIN, view
from tests.conformance.methods import SMALL, case

SEVERAL = [name for name in METHODS if len(method_entry(name).constants.get("weights", ("weight",))) > 1]
OTHERWISE: list[tuple[str, dict[str, Any]]] = [
    ("skd", {"convention": "canonical"}),
    ("skd", {"convention": "cirkd"}),
    ("ifvd", {"convention": "canonical"}),
    ("kt", {"tau": 2.0}),
    ("sstkd", {"temperature": 3.0}),
]

NEVER_OFF = ("at", "fitnet", "ifvd")
"""Methods that are nothing without their own term."""


def given(name: str, changed: dict[str, Any]) -> dict[str, Any]:
    """Parameters with which every term is on."""
    entry = method_entry(name)
    values = {key: field.default for key, field in entry.parameters.model_fields.items()}
    values |= SMALL.get(name, {}) | changed
    return values | {key: values[key] or 0.5 for key in entry.constants["weights"]}


def terms(name: str, parameters: dict[str, Any]) -> dict[str, float]:
    """Values of the student's terms on made-up maps."""
    distiller = case(name, **parameters).build(MAIN)
    found = distiller(view(MAIN))
    critics = own_terms(distiller, found)
    return {key: value for key, value in numbers(found).items() if key not in critics}


@pytest.mark.parametrize(("name", "changed"), [*((name, {}) for name in SEVERAL), *OTHERWISE])
def test_the_response_term_is_the_other_methods_loss(name: str, changed: dict[str, Any]) -> None:
    values, entry = given(name, changed), method_entry(name)
    response, weights = entry.constants.get("response", {}), entry.constants["weights"]
    own = [key for key in weights if key not in response.values()]
    method = Method(name=name, parameters=values)
    control = response_of(method)
    before, after = terms(name, values), terms(name, values | {key: 2 * values[key] for key in own})
    kept = {key: value for key, value in before.items() if after[key] == pytest.approx(value, rel=1e-5)}
    if not response:
        assert not kept and control is None
        return
    assert len(own) == len(weights) - 1 and control is not None
    (value,) = kept.values()
    (other,) = terms(control.name, control.parameters).values()
    assert value == pytest.approx(other, rel=1e-5), f"{name}: its response term is not {control.label}"
    # Where every own term may be off, what is left is that term.
    alone = baseline(method)
    assert alone is not None and [alone.parameters[key] for key in own] == [0] * len(own)
    if name in NEVER_OFF:
        with pytest.raises(ValueError, match="above 0"):
            terms(name, alone.parameters)
    else:
        assert terms(name, alone.parameters) == pytest.approx(kept, rel=1e-5)


@pytest.mark.parametrize("name", SEVERAL)
def test_no_plain_distillation_is_left_undeclared(name: str) -> None:
    """A weight whose term is that of kd, in any of its reductions, is named."""
    entry, values = method_entry(name), given(name, {})
    if entry.constants.get("response"):
        return
    losses = [
        terms("kd", {"weight": 1.0, "temperature": t, "convention": convention})["kd"]
        for convention in ("canonical", "ifvd", "mmrazor")
        for t in (1.0, values.get("tau", 1.0))
    ]
    found = terms(name, values | dict.fromkeys(entry.constants["weights"], 1.0))
    assert not [(key, value) for key, value in found.items() if any(value == pytest.approx(x) for x in losses)]


def test_every_method_with_several_terms_is_looked_at() -> None:
    assert {"sstkd", "skd", "ifvd", "cirkd", "af-dcd", "kt", "dsd", "at", "fitnet", "mgd"} <= set(SEVERAL)
