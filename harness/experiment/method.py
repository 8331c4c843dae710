"""A method as an experiment file names it, and its entry in the METHODS table."""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from harness.borders import quoted
from harness.experiment import signatures
from harness.experiment.meanings import nearest
from harness.experiment.recipe import Spec


class Method(Spec):
    """One distiller with its hyper-parameters, defaults filled in; or a sum of several distillers' terms."""

    name: Annotated[str, Field(max_length=1000)]
    """A name of the METHODS table, `package.module:Class`, or several of them joined by `+`."""
    parameters: dict[str, Any] = {}
    """By name; in a sum by `METHOD.NAME`."""

    @property
    def parts(self) -> tuple["Method", ...]:
        """The distillers of a sum, each with its own parameters; a single method is its only part."""
        names = self.name.split("+")
        if len(names) == 1:
            return (self,)
        if "none" in names:
            raise ValueError(f"{self.name}: `none` has no terms to add; leave it out of the sum")
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: a sum has each method once; add the weights")
        own: dict[str, dict[str, Any]] = {name: {} for name in names}
        for key, value in self.parameters.items():
            name, _, parameter = key.rpartition(".")
            if name not in own:
                raise ValueError(f"{key} is not a parameter of {self.name}; write it as METHOD.NAME")
            own[name][parameter] = value
        return tuple(Method(name=name, parameters=values) for name, values in own.items())

    @classmethod
    def summed(cls, parts: Sequence["Method"]) -> "Method":
        """The sum of `parts`; a single part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        parts = sorted(parts, key=lambda part: part.name)  # a sum is one method in any order
        parameters = {f"{part.name}.{key}": value for part in parts for key, value in part.parameters.items()}
        return cls(name="+".join(part.name for part in parts), parameters=parameters)

    @property
    def label(self) -> str:
        """Short unique name in tables: the parameters that differ from the defaults follow the name."""
        changed = []
        for part in self.parts:
            fields = method_entry(part.name).parameters.model_fields
            before = f"{part.name}." if part is not self else ""
            changed += [
                f"{before}{k}={compact(v)}"
                for k, v in part.parameters.items()
                if fields[k].is_required() or _jsonable(fields[k].default) != v
            ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name

    @property
    def caveat(self) -> str | None:
        """A remark on the method's values that every table must show; None if there is none."""
        found = {part.name: method_entry(part.name).constants.get("caveat") for part in self.parts}
        named = [f"{name}: {text}" if len(found) > 1 else text for name, text in found.items() if text]
        return "; ".join(named) or None

    def chosen_on(self, dataset: str, searched: bool = False) -> tuple[str, ...]:
        """The hyper-parameters whose values are defaults that this project chose on `dataset`.

        Those at 0 are left out: a term that is off is not tuned.

        Args:
            dataset: name of the dataset.
            searched: whether the values are from a search, which begins at the defaults and has its ranges around them.
        """
        found = []
        for part in self.parts:
            entry = method_entry(part.name)
            before = f"{part.name}." if part is not self else ""
            for name, where in entry.constants.get("chosen", {}).items():
                default = _jsonable(entry.parameters.model_fields[name].default)
                left_out = default if name in entry.constants.get("added", ()) else None
                value = _jsonable(part.parameters.get(name, left_out))
                if where == dataset and value and (searched or value == default):
                    found.append(before + name)
        return tuple(found)

    @property
    def needs_teacher(self) -> bool:
        """False if the training loop may skip the teacher."""
        return any(method_entry(part.name).constants.get("needs_teacher", True) for part in self.parts)


def as_method(value: Any) -> Any:
    """The full form of `kd`, `{cwd: {tau: 1}}` or `[kd, sstkd]` (a sum)."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, list):
        parts = [Method.model_validate_json(json.dumps(as_method(item))) for item in value]
        if len(parts) < 2 or any("+" in part.name for part in parts):
            raise ValueError("a sum is a list of two or more methods, each by itself: [kd, {cwd: {tau: 1}}]")
        return Method.summed(parts).model_dump()
    if not isinstance(value, dict) or (len(value) != 1 and "name" not in value):
        raise ValueError("one method is `name` or `{name: {parameter: value}}`, a sum is a list of these")
    if "name" not in value:
        ((name, parameters),) = value.items()
        return {"name": name, "parameters": {} if parameters is None else parameters}
    return value


def method_entry(name: str) -> signatures.Entry:
    """The METHODS entry of `name`, or of `package.module:Class`.

    Raises:
        ValueError: there is no such method.
    """
    if ":" in name:
        return signatures.entry(name)
    return _known(name, signatures.table("harness.distillers", "METHODS"), "method")


def dataset_entry(name: str) -> signatures.Entry:
    """The DATASETS entry of `name`, or of `package.module:Class`.

    Raises:
        ValueError: there is no such dataset.
    """
    if ":" in name:
        return _outside_entry(name, "datasets")
    return _known(name, signatures.table("harness.datasets", "DATASETS"), "dataset")


def loss_entry(name: str) -> signatures.Entry:
    """The keyword arguments of a task loss from outside, `package.module:function`.

    Raises:
        ValueError: there is no such function, or it is of Python's own library.
    """
    return _outside_entry(name, "losses")


def _outside_entry(name: str, what: str) -> signatures.Entry:
    if name.partition(":")[0].partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"'{quoted(name)}' is of Python's own library, which has no {what}")
    return signatures.entry(name)


def _known(name: str, table: dict[str, signatures.Entry], what: str) -> signatures.Entry:
    if name in table:
        return table[name]
    raise ValueError(f"unknown {what} '{quoted(name)}'.{nearest(name, table)} Allowed: {', '.join(sorted(table))}")


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):  # thousands of runs ask
        return value
    return json.loads(json.dumps(value))


def compact(value: Any) -> str:
    """A parameter's value as labels show it: JSON without spaces and quotes."""
    return json.dumps(value, separators=(",", ":")).replace('"', "")
