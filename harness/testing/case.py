"""A distiller with its hyper-parameters, the input of every property."""

import inspect
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from harness.distillers import Distiller
from harness.distillers._sum import Sum
from harness.taps import NetworkInfo, Pair, Taps, View
from harness.testing.made_up import MAIN, SCENES, listed

Terms = dict[str, Tensor]
TASK_TERMS = ("task", "auxiliary")


@dataclass(frozen=True)
class Case:
    """The distiller to check.

    Attributes:
        kind: the distiller's class.
        parameters: hyper-parameters that differ from the defaults.
        waived: reasons for not checking something, by PROPERTY or PROPERTY:TERM.
    """

    kind: type[Distiller]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    waived: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The class and its non-default hyper-parameters."""
        values = ", ".join(f"{name}={value}" for name, value in self.parameters.items())
        return self.kind.__name__ + (f"({values})" if values else "")

    def keywords(self) -> dict[str, Any]:
        """All hyper-parameters by name, as passed to `skip` by the training."""
        declared = inspect.signature(self.kind).parameters.values()
        defaults = {p.name: p.default for p in declared if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}
        return {**defaults, **self.parameters}

    def skip(self, pair: Pair) -> str | None:
        """The reason why the method does not apply to a pair, or None."""
        try:
            reason = self.kind.skip(pair, **self.keywords())
        except Exception as error:
            raise AssertionError(f"skip raised {type(error).__name__}: {error}; it returns the reason") from error
        require(
            reason is None or (isinstance(reason, str) and reason.strip()),
            f"skip returned {reason!r}; it returns None or a reason",
        )
        return reason

    def waives(self, name: str, term: str) -> bool:
        """Whether the property `name` is waived for `term`."""
        return f"{name}:{term}" in self.waived

    def build(self, pair: Pair = MAIN, seed: int = 0) -> Distiller:
        """The distiller in train mode, with initial weights from `seed`."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.kind(pair, **self.parameters).train()

    def applies(self) -> None:
        """Raises ValueError if the method does not apply to the test pair."""
        try:
            reason = self.skip(MAIN)
        except AssertionError as error:
            raise AssertionError(f"{self.label}: property every-pair: {error}") from error
        if reason is not None:
            raise ValueError(
                f"{self.label} does not apply to the pair it is checked on: {reason}. Give hyper-parameters with "
                f"which it does. Taps of the student: {_described(MAIN.student)}; teacher's: {_described(MAIN.teacher)}"
            )

    def scenes(self) -> Iterator[tuple[str, Pair]]:
        """The synthetic pairs that the method applies to, with their descriptions."""
        yield from ((name, pair) for name, pair in SCENES.items() if self.skip(pair) is None)


def _described(network: NetworkInfo) -> str:
    taps = {**network.stages, "decoder": network.decoder}
    return ", ".join(f"{name} {tap.channels} channels" for name, tap in taps.items())


class Property(Protocol):
    """Raises AssertionError with the problem and its fix unless the case has the property."""

    def __call__(self, case: Case) -> None:
        """Check `case`."""


def require(condition: object, message: str) -> None:
    """Raise AssertionError with `message` unless `condition`, also under `python -O`."""
    if not condition:
        raise AssertionError(message)


def checked(distiller: Distiller, seen: View, where: str) -> Terms:
    """The distiller's terms of one step, after checking that they are valid.

    Args:
        distiller: the distiller to call.
        seen: the step.
        where: description of the step for messages.
    """
    terms: Terms = distiller(seen)
    require(isinstance(terms, dict), f"forward returned {type(terms).__name__}; it returns a dict of named terms")
    if type(distiller).needs_teacher:
        require(terms, f"forward returned no terms ({where}); a method without any says needs_teacher = False")
    prefix = r"[\w:.-]+\." if isinstance(distiller, Sum) else ""
    for name, value in terms.items():
        require(
            isinstance(name, str) and re.fullmatch(prefix + "[a-z][a-z0-9_]*", name),
            f"term {name!r}: names are lower case letters, digits and _, a letter first",
        )
        require(name not in TASK_TERMS, f"term {name!r} is a supervised loss's name; give it another")
        require(isinstance(value, Tensor), f"term {name} is a {type(value).__name__}; it must be a tensor")
        require(value.ndim == 0, f"term {name} has shape {tuple(value.shape)}; a term is a scalar: reduce it")
        require(
            value.dtype in (torch.float32, torch.float64),
            f"term {name} is {value.dtype} ({where}); compute it in float32 at least",
        )
        require(bool(torch.isfinite(value)), f"term {name} is {value.item()} ({where}); it must be finite")
    return terms


def total(terms: Terms) -> Tensor:
    """The sum of the terms."""
    return torch.stack(list(terms.values())).sum()


def numbers(terms: Terms) -> dict[str, float]:
    """The values of the terms."""
    return {name: float(value.detach()) for name, value in terms.items()}


def backward(distiller: Distiller, terms: Terms, student: Taps, where: str) -> None:
    """Compute the gradients of the sum of the terms, and check that they are finite."""
    if not terms:
        return
    for name, value in terms.items():
        require(value.requires_grad, f"term {name} has no gradient ({where}); return 0 times something trained, not 0")
    total(terms).backward()  # type: ignore[no-untyped-call]
    for tensor in (*listed(student), *distiller.parameters()):
        if tensor.grad is not None:
            require(
                bool(tensor.grad.isfinite().all()),
                f"a gradient of shape {tuple(tensor.grad.shape)} is not finite ({where}); a division, root or "
                "logarithm needs a floor inside it",
            )


def apart(distiller: Distiller) -> set[int]:
    """`id` of each parameter with an optimizer of its own."""
    return {id(p) for own in distiller.own_optimizers() for p in own.parameters}


def reaches(value: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether a term has a gradient in any of `tensors`."""
    if not tensors:
        return False
    found = torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True)
    return any(gradient is not None for gradient in found)


def own_terms(distiller: Distiller, terms: Terms) -> set[str]:
    """Names of the terms with a gradient in parameters that have an optimizer of their own."""
    parameters = [p for own in distiller.own_optimizers() for p in own.parameters]
    return {name for name, value in terms.items() if reaches(value, parameters)}


@contextmanager
def undisturbed(number: int) -> Iterator[None]:
    """Seed the global streams of `random`, numpy and torch with `number`, check that they stay unused, and restore."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002
    torch.default_generator.manual_seed(number)
    inside = _fingerprints()
    try:
        yield
        after = _fingerprints()
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
    moved = [name for name, value in after.items() if value != inside[name]]
    require(not moved, f"the global stream of {', '.join(moved)} moved; draw from view.generator")


def _fingerprints() -> dict[str, object]:
    return {
        "random": random.getstate(),
        "numpy": repr(np.random.get_state(legacy=False)),  # noqa: NPY002
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
