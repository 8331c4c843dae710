"""A network of the user's own: a class or function named `package.module:Name`, with or without taps."""

import importlib
import inspect
from typing import Any

from torch import nn

from harness.experiment.method import nearest
from harness.experiment.spec import Network, NetworkInput
from harness.models.hooked import HookedNet, TappedNet
from harness.models.tapnet import TapNet

_CLASSES = ("num_classes", "classes", "n_classes", "nclass")
"""What libraries call the number of classes."""


def outside(network: Network, num_classes: int) -> TapNet:
    """The network with its taps.

    Raises:
        ValueError: it cannot be imported or called, or gives no module, or not those of its taps.
    """
    built = plain(network, num_classes)
    multiple = (network.input or NetworkInput()).multiple
    return TappedNet(built, multiple) if network.taps is None else HookedNet(built, network.taps, multiple)


def plain(network: Network, num_classes: int) -> nn.Module:
    """The network by itself: call what `architecture` names with the number of classes and the parameters.

    Raises:
        ValueError: it cannot be imported or called, or gives no module.
    """
    maker = _imported(network.architecture)
    name, allowed = _classes(network.architecture, maker)
    for parameter in network.parameters:
        if allowed is not None and parameter not in allowed:
            raise ValueError(
                f"parameters.{parameter}: {network.architecture} takes no such parameter.{nearest(parameter, allowed)} "
                f"Allowed: {', '.join(allowed)}"
            )
    built = maker(**{name: num_classes}, **network.parameters)
    if not isinstance(built, nn.Module):
        raise ValueError(f"{network.architecture} gives {type(built).__name__}; a network is a torch.nn.Module")
    return built


def _imported(target: str) -> Any:
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"{target} cannot be imported: {error}") from None
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
