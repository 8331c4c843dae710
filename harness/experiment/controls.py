"""The controls that tell what a method's own terms add: its response term by itself, as a method of its own.

Many methods add their terms to a plain distillation on class scores, with a weight that is their own: against `kd` at
weight 1 such a method is compared with another weight and without its terms at once.
"""

from collections.abc import Sequence
from typing import Any

from harness.experiment.method import Method, method_entry
from harness.experiment.signatures import plain
from harness.experiment.space import WEIGHTS

PLAIN_DISTILLATION = "kd"


def response_of(method: Method) -> Method | None:
    """The method without its own terms: plain distillation at its own weight, e.g. kd(weight=5.0).

    The response term is the other method's loss at these hyper-parameters (`tests/conformance/test_controls.py`), so
    training it as such and training the method with its own weights at 0 is the same. In a sum it is the only part that
    is plain distillation, or has a response term.

    Returns:
        None if the method has no response term, nothing but that, or several; also if its hyper-parameters are not
        known here.
    """
    try:
        found = [each for part in method.parts for each in _responses(part)]
        whole = method.name == PLAIN_DISTILLATION or (len(method.parts) == 1 and not _own(method))
    except (KeyError, ValueError):  # of another version, or not installed here
        return None
    return found[0] if len(found) == 1 and not whole else None


def baseline(method: Method) -> Method | None:
    """The method with the weights of its own terms at 0; None as for `response_of`. A sum has no such form."""
    if len(method.parts) > 1 or response_of(method) is None:
        return None
    return method.model_copy(update={"parameters": method.parameters | dict.fromkeys(_own(method), 0.0)})


def with_controls(methods: Sequence[Method]) -> tuple[Method, ...]:
    """The methods, then `kd` and the response terms of all methods, each once."""
    found = list(methods)
    if not any(method.name == PLAIN_DISTILLATION for method in methods):
        found.append(_complete(PLAIN_DISTILLATION, {}))
    for method in methods:
        control = response_of(method)
        if control is not None and control not in found:
            found.append(control)
    return tuple(found)


def fixed(control: Method, methods: Sequence[Method]) -> list[str]:
    """The hyper-parameters of an added control that a search leaves alone, since its method gives them."""
    return list(control.parameters) if any(response_of(method) == control for method in methods) else []


def described(methods: Sequence[Method]) -> dict[str, str]:
    """Which of the methods are controls, and of what, by label."""
    found: dict[str, list[str]] = {}
    for method in methods:
        if method.name in ("none", PLAIN_DISTILLATION):
            found[method.label] = ["no distillation" if method.name == "none" else "plain distillation"]
    taught: dict[str, list[str]] = {}
    for method in methods:
        control = response_of(method)
        if control is not None and control in methods:
            taught.setdefault(control.label, []).append(method.label)
    for label, names in taught.items():
        found.setdefault(label, []).append(f"the response term of {', '.join(names)}")
    return {label: ", ".join(texts) for label, texts in found.items()}


def own(methods: Sequence[Method], references: Sequence[str]) -> dict[str, str]:
    """By label of a method the label of its control, where that is among the methods and is no reference."""
    found = {method.label: response_of(method) for method in methods}
    there = {label: control.label for label, control in found.items() if control is not None and control in methods}
    return {label: control for label, control in there.items() if control not in references and label not in references}


def lacking(methods: Sequence[Method]) -> dict[str, str]:
    """By label of a method the label of its control, where that is not among the methods."""
    found = {method.label: response_of(method) for method in methods}
    return {label: control.label for label, control in found.items() if control is not None and control not in methods}


def _responses(part: Method) -> list[Method]:
    """Plain distillation in a part of a method: the part itself, or its response term if that is on."""
    if part.name == PLAIN_DISTILLATION:
        return [part]
    constants = method_entry(part.name).constants
    names = constants.get("response", {})
    if not names or not part.parameters[_weight(part)]:
        return []
    known = constants.get("response_values", {})
    given = {name: part.parameters[own] for name, own in names.items()}
    return [
        _complete(
            PLAIN_DISTILLATION, {name: known.get(value, value) if known else value for name, value in given.items()}
        )
    ]


def _weight(part: Method) -> str:
    """The hyper-parameter that weighs the response term."""
    constants = method_entry(part.name).constants
    return str(next(name for name in constants["response"].values() if name in constants.get("weights", WEIGHTS)))


def _own(part: Method) -> list[str]:
    """The weights of the terms that are on, but for the response term's."""
    constants = method_entry(part.name).constants
    response = _weight(part) if constants.get("response") else ""
    return [name for name in constants.get("weights", WEIGHTS) if name != response and part.parameters.get(name)]


def _complete(name: str, parameters: dict[str, Any]) -> Method:
    entry = method_entry(name)
    return Method(name=name, parameters=plain(entry, entry.parameters.model_validate(parameters)))
