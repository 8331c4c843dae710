"""The search space of a method: the learning rate, and what of the method's hyper-parameters a search changes.

Tied, it has one more dimension: a common factor of the loss weights. Untied, it has the method's declared `space`. What
the experiment file gives is fixed in both. A trial has a value for every dimension. Its point has only the values with
an effect: hyper-parameters of a term that is off in this trial are left out.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.experiment.method import Method, method_entry

LR = "optimizer.lr"
"""The learning rate among a point's values; no parameter of a method has such a name."""
FACTOR = "loss weights"
"""The common factor of the loss weights among a point's values; no parameter of a method has such a name."""
FACTORS = (0.1, 10.0)
"""Lowest and highest common factor, the same for every method: a tenth to ten times the published loss weights."""
WEIGHTS = ("weight",)
"""The loss weights of a method that names none."""
OFF_SHARE = 0.25
"""Share of the points in which a term that may be off is off."""
DIGITS = 6
"""Significant digits of a value, so that it is the same on every machine and can be written down."""


@dataclass(frozen=True)
class Dimension:
    """One hyper-parameter.

    Attributes:
        name: `LR`, `FACTOR`, a parameter, or METHOD.PARAMETER in a sum.
        low, high: log-uniform between these.
        optional: 0 is tried too; the term is then off.
        needs: without effect where this other parameter is 0.
        tied: of `FACTOR` the parameters that it multiplies, each with its published value.
    """

    name: str
    low: float
    high: float
    optional: bool = False
    needs: str | None = None
    tied: tuple[tuple[str, float], ...] = ()

    def at(self, u: float) -> float:
        """The value at a place `u` in [0, 1)."""
        if self.optional:
            if u < OFF_SHARE:
                return 0.0
            u = (u - OFF_SHARE) / (1 - OFF_SHARE)
        return self.inside(self.low * (self.high / self.low) ** u)

    def inside(self, value: float) -> float:
        """The value rounded and moved into the range; 0 stays where the term may be off."""
        if self.optional and value == 0:
            return 0.0
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


Space = tuple[Dimension, ...]


def tied_space_of(method: Method, given: Collection[str], lr: tuple[float, float]) -> Space:
    """The learning rate, then the common factor of all loss weights that are not given and not 0, if there are any.

    Arguments as for `space_of`. A sum of methods has one factor.
    """
    tied = [
        ("" if part is method else f"{part.name}.") + name
        for part in method.parts
        for name in method_entry(part.name).constants.get("weights", WEIGHTS)
    ]
    values = [(name, method.parameters.get(name)) for name in tied if name not in given]
    weights = tuple((name, float(value)) for name, value in values if value)
    return (Dimension(LR, *lr), *([Dimension(FACTOR, *FACTORS, tied=weights)] if weights else []))


def space_of(method: Method, given: Collection[str], lr: tuple[float, float]) -> Space:
    """The learning rate, then what the method, or each of a sum, declares, in that order.

    Args:
        method: with all its parameters.
        given: names of the parameters that the file fixes.
        lr: lowest and highest learning rate.
    """
    found = [Dimension(LR, *lr)]
    for part in method.parts:
        constants = method_entry(part.name).constants
        before = "" if part is method else f"{part.name}."
        searched = {name for name in constants.get("space", {}) if before + name not in given}
        for name, (low, high) in constants.get("space", {}).items():
            needs = constants.get("needs", {}).get(name)
            off = needs is not None and needs not in searched and not part.parameters[needs]
            if name in searched and not off:
                optional = name in constants.get("optional", ())
                found.append(Dimension(before + name, low, high, optional, before + needs if needs else None))
    return tuple(found)


def values_at(space: Space, unit: Sequence[float]) -> dict[str, float]:
    """A value for every dimension, at a point of the unit cube with at least as many coordinates."""
    return {each.name: each.at(float(u)) for each, u in zip(space, unit, strict=False)}


def point_of(space: Space, values: Mapping[str, float]) -> dict[str, float]:
    """The values that have an effect."""
    return {each.name: values[each.name] for each in space if each.needs is None or values.get(each.needs, 1.0)}


def settings_of(space: Space, point: Mapping[str, float]) -> dict[str, float]:
    """A point with the value of every single hyper-parameter in place of the common factor."""
    settings: dict[str, float] = {}
    for each in space:
        if each.tied and each.name in point:
            settings |= {name: _times(point[each.name], value) for name, value in each.tied}
        elif each.name in point:
            settings[each.name] = point[each.name]
    return settings


def _times(factor: float, value: float) -> float:
    """More digits than those of a factor, so that it can be read from the product; less than a float has."""
    return value if factor == 1 else float(f"{factor * value:.{2 * DIGITS}g}")


def with_point(method: Method, point: Mapping[str, float]) -> Method:
    """The method with the settings of a point; what they leave out stays as it is."""
    changed = {name: value for name, value in point.items() if name != LR}
    return method.model_copy(update={"parameters": method.parameters | changed})


def values_in(space: Space, parameters: Mapping[str, Any], lr: float) -> dict[str, float]:
    """The values of the dimensions in a run's parameters."""

    def value(each: Dimension) -> float:
        if each.tied:
            name, published = each.tied[0]
            return float(f"{parameters[name] / published:.{DIGITS}g}")
        return float(lr if each.name == LR else parameters[each.name])

    return {each.name: value(each) for each in space}
