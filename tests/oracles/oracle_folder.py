"""A folder of numbers that the authors' code printed: INDEX.json (format 1) and the npz files it names.

A case has inputs and, for each convention, outputs: scalars (losses), "grad/INPUT" or "grad[LOSS]/INPUT", and what else
that code returned.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Inputs = dict[str, Tensor]
Hyper = Mapping[str, Any]

# What a convention's name may end in: hyper-parameters, which the index states in full beside it.
_SUFFIX = re.compile(r"-(?:(?:T|tau|scale|delta|up|width/)[\d.]+|b[\d.]+g[\d.]+)$")


@dataclass(frozen=True)
class Entry:
    """One convention of one case."""

    folder: Path
    case: Mapping[str, Any]
    convention: Mapping[str, Any]

    @property
    def method(self) -> str:
        return str(self.case["method"])

    @property
    def name(self) -> str:
        """Of the convention, as the index has it."""
        return str(self.convention["convention"])

    @property
    def stem(self) -> str:
        """Of the convention, without hyper-parameters."""
        return _SUFFIX.sub("", self.name)

    @property
    def hyper(self) -> Hyper:
        found: Hyper = self.convention["hyperparameters"]
        return found

    def inputs(self, dtype: torch.dtype = torch.float64) -> Inputs:
        """The case's inputs by name; those that are not whole numbers are leaves."""
        found = self._read(self.case["inputs"])
        return {name: x.to(dtype).requires_grad_() if x.is_floating_point() else x for name, x in found.items()}

    @cached_property
    def outputs(self) -> Inputs:
        """The convention's outputs by name, as they are stored."""
        return self._read(self.convention["outputs"])

    def _read(self, items: Mapping[str, Any]) -> Inputs:
        with np.load(self.folder / self.case["file"]) as file:
            arrays = {name: torch.from_numpy(file[item["key"]]) for name, item in items.items()}
        for name, item in items.items():
            assert list(arrays[name].shape) == item["shape"], f"{self}: {name}"
        return {name: x if x.is_floating_point() else x.long() for name, x in arrays.items()}

    def __str__(self) -> str:
        return f"{self.method}-{self.case['case']}-{self.name}"


def entries(folder: Path) -> list[Entry]:
    """All conventions of all cases."""
    index = json.loads((folder / "INDEX.json").read_text())
    assert index["format"] == 1, f"{folder}: format {index['format']} is not known"
    return [Entry(folder, case, convention) for case in index["cases"] for convention in case["conventions"]]


@dataclass
class Found:
    """What our code gives for an entry.

    Attributes:
        losses: by the name of the output; "grad/..." is of the only one, "grad[LOSS]/..." of that one.
        leaves: what gradients are taken for, by the name of the input.
        others: further outputs by name.
        order: size of the numbers that a loss near 0 is the difference of; rounding is in proportion to it.
        undefined: elements of leaves where the loss has no derivative; there a gradient need only be finite.
    """

    losses: dict[str, Tensor]
    leaves: Mapping[str, Tensor]
    others: dict[str, Tensor] = field(default_factory=dict)
    order: float = 0.0
    undefined: dict[str, Tensor] = field(default_factory=dict)

    def output(self, name: str) -> Tensor:
        """The output of that name.

        Raises:
            LookupError: there is none.
        """
        gradient = re.fullmatch(r"grad(?:\[(.*)\])?/(.*)", name)
        if gradient is None:
            if name in self.losses:
                return self.losses[name].detach()
            if name in self.others:
                return self.others[name].detach()
            raise LookupError(f"our code gives no {name}")
        of, leaf = gradient.groups()
        loss = self.losses[of] if of else next(iter(self.losses.values()))
        assert of or len(self.losses) == 1, f"{name}: of which loss?"
        if leaf not in self.leaves:
            raise LookupError(f"our code has no input {leaf}")
        x = self.leaves[leaf]
        (found,) = torch.autograd.grad(loss, x, retain_graph=True, allow_unused=True)
        return torch.zeros_like(x) if found is None else found


def check_loss(name: str, ours: Tensor, theirs: Tensor, order: float) -> None:
    """Alike to 1e-9; a loss below 1e-12 is a zero and its rounding."""
    a, b = float(ours), float(theirs)
    allowed = 1e-12 if abs(b) < 1e-12 else max(1e-9 * abs(b), 1e-14 * order)
    assert abs(a - b) <= allowed, f"{name}: ours {a!r}, theirs {b!r}"


def check_array(name: str, ours: Tensor, theirs: Tensor) -> None:
    """Alike to 1e-6 of the largest element, which is what float32 can store; below 1e-12 all is rounding."""
    assert ours.shape == theirs.shape, f"{name}: ours {tuple(ours.shape)}, theirs {tuple(theirs.shape)}"
    largest = float(theirs.abs().max())
    away = float((ours.double() - theirs.double()).abs().max())
    allowed = 1e-6 * largest if largest >= 1e-12 else 1e-12
    assert away <= allowed, f"{name}: differs by {away:.3g}, largest element {largest:.3g}"


def differences(index: Path, other: Path) -> Iterator[str]:
    """What cases of one folder do not have as the other has them; outputs may be stored in float32."""
    originals = {(e.method, e.case["case"], e.name): e for e in entries(other)}
    for entry in entries(index):
        original = originals.get((entry.method, entry.case["case"], entry.name))
        if original is None:
            yield f"{entry} is not in {other}"
            continue
        if {**entry.convention, "outputs": 0} != {**original.convention, "outputs": 0}:
            yield f"{entry} is described otherwise"
        ours, theirs = ({**e.inputs(), **e.outputs} for e in (entry, original))
        if ours.keys() != theirs.keys():
            yield f"{entry} has other arrays"
        for name, x in ours.items():
            y = theirs[name]
            y = y.to(x.dtype) if x.dtype == torch.float32 and x.ndim else y
            if not torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0)):
                yield f"{entry}: {name}"
