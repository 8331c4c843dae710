"""A network of the user's own: a class or function named `package.module:Name`, with or without taps."""

import contextlib
import importlib
import inspect
import random
import traceback
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from harness.borders import one_line
from harness.experiment.meanings import nearest
from harness.experiment.spec import Network, NetworkInput
from harness.models.hooked import HookedNet, TappedNet
from harness.models.tapnet import TapNet
from harness.models.unloaded import reading_nothing, without_weights

_CLASSES = ("num_classes", "classes", "n_classes", "nclass")
"""What libraries call the number of classes."""


def outside(network: Network, num_classes: int) -> TapNet:
    """The network with its taps.

    Raises:
        ValueError: it cannot be imported or called, or gives no module, or not those of its taps.
    """
    built = plain(network, num_classes)
    multiple = (network.input or NetworkInput()).multiple
    if network.taps is None:
        return TappedNet(built, multiple, num_classes)
    return HookedNet(built, network.taps, multiple, classes=num_classes)


def plain(network: Network, num_classes: int) -> nn.Module:
    """The network by itself: call what `architecture` names with the number of classes and the parameters.

    Its own random numbers are torch's, numpy's and Python's; all follow from the state of torch's generator.

    Raises:
        ValueError: it cannot be imported or called, gives no module, or one with parameters that cannot be trained.
    """
    maker = _imported(network.architecture)
    name, allowed = _classes(network.architecture, maker)
    for parameter in network.parameters:
        if allowed is not None and parameter not in allowed:
            raise ValueError(
                f"parameters.{parameter}: {network.architecture} takes no such parameter.{nearest(parameter, allowed)} "
                f"Allowed: {', '.join(allowed)}"
            )
    given = {**without_weights(maker, network.parameters), **network.parameters}
    try:
        with _seeded(), reading_nothing():
            built = maker(**{name: num_classes}, **given)
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"{network.architecture}({name}={num_classes}, ...) with parameters {network.parameters} fails: "
            f"{said(error)}"
        ) from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"{network.architecture} gives {type(built).__name__}; a network is a torch.nn.Module")
    _check_state(network.architecture, built)
    return built


def said(error: BaseException) -> str:
    """An error of the user's code in one line: its type, its words, and the line of code that it is from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and "/harness/" not in frame.filename]
    at = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {one_line(error, 500)}{at}"


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """numpy's and Python's generators start from torch's state; afterwards they are as before."""
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002 - the one that users' code draws from
    seed = torch.default_generator.initial_seed()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002


def _check_state(target: str, network: nn.Module) -> None:
    """Check that parameters and buffers are there and are of types that are trained and saved.

    Raises:
        ValueError: names the first one that is not.
    """
    for name, value in network.state_dict(keep_vars=True).items():
        if is_lazy(value):
            raise ValueError(
                f"{target}: {name} has no shape before the first pass (a lazy module). Run one in the constructor: "
                "self(torch.zeros(1, 3, 128, 128))"
            )
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{target}: {name} in its state is {type(value).__name__}; only tensors are saved")
        if value.is_complex() or (value.is_floating_point() and value.dtype != torch.float32) or value.is_meta:
            remedy = "keep real numbers (torch.view_as_real)" if value.is_complex() else "build it in float32"
            kind = "on the meta device" if value.is_meta else str(value.dtype).removeprefix("torch.")
            raise ValueError(f"{target}: {name} is {kind}; {remedy}. `train.precision` says what is computed in")
    if next(network.parameters(), None) is None:
        raise ValueError(f"{target} has no parameters")


def _imported(target: str) -> Any:
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"{target} cannot be imported: {said(error)}") from error
    if not callable(found):
        raise ValueError(f"{target}: {module} has no class or function {name}")
    return found


def _classes(target: str, maker: Any) -> tuple[str, list[str] | None]:
    """The parameter for the number of classes, and the names of the others; None if any name is taken.

    Raises:
        ValueError: there is none.
    """
    parameters = inspect.signature(maker).parameters
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    name = next((name for name in _CLASSES if name in names), _CLASSES[0] if any_name else None)
    if name is None:
        raise ValueError(
            f"{target}({', '.join(names)}) takes no number of classes; give it a parameter num_classes (or "
            f"{', '.join(_CLASSES[1:])})"
        )
    return name, None if any_name else [other for other in names if other != name]
