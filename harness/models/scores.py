"""Which of the maps that a network from outside returns are its class scores, and whether its taps are maps."""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.taps import Taps

STEPS = 8
"""Operations between a classifier and the scores (resizing, a cast, a view) that are followed back."""
NESTED = 4
"""Depth of lists and mappings in an output that is looked into."""
_Maps = dict[str, Tensor]


def scores_of(
    output: Any, logits: Tensor | None, classes: int | None, chosen: MutableMapping[tuple[str, ...], str]
) -> Tensor:
    """The class scores in what a network returns.

    A tensor, `out` or `logits` of a mapping, and `.logits` of an object are the scores. Of several maps with a channel
    per class, they are the one that is the tap `logits`, itself or resized: the order of the maps says nothing (an
    auxiliary head's come first in PIDNet, last in others).

    Args:
        output: what the network returned.
        logits: the tap of this name, if there is one.
        classes: number of classes; None where it is not to be checked.
        chosen: filled with the name of the map that is taken, by the names of all maps of such an output.

    Raises:
        ValueError: there are none, or several that cannot be told apart; or they have not a channel per class.
    """
    maps = {name: x for name, x in _maps(_main(output)) if x.ndim == 4}
    fitting = {name: x for name, x in maps.items() if classes is None or x.shape[1] == classes}
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if not fitting:
        raise ValueError(
            f"the network returns {_described(output)}; it returns class scores (N, {classes or 'K'}, h, w), a mapping "
            "with `out` or `logits`, or harness.Taps"
        )
    key = tuple(fitting)
    if key not in chosen:
        same = [name for name, x in fitting.items() if logits is not None and _is_resized(x, logits)]
        if len(same) != 1:
            raise ValueError(
                f"the network returns {_described(output)}: {len(fitting)} of these may be the class scores, and the "
                f"tap `logits` {'is not named' if logits is None else f'is {len(same)} of them'}. Name as taps.logits "
                "the module whose output the scores are, or let its forward return these alone, or a mapping with `out`"
            )
        chosen[key] = same[0]
    return fitting[chosen[key]]


def require_maps(taps: Taps, classes: int, where: str) -> None:
    """Check the taps of a square image.

    Args:
        taps: with a gradient, in eval mode.
        classes: number of classes.
        where: begins the name of a tap in a message.

    Raises:
        ValueError: one is no map (N, C, H, W) of the image, has not a channel per class, or does not affect the scores.
    """
    maps = {**taps.stages, "decoder": taps.decoder, "logits": taps.logits}
    for name, x in (*maps.items(), ("full", taps.full)):
        shape = tuple(x.shape)
        if x.ndim != 4 or x.shape[2] != x.shape[3]:
            raise ValueError(
                f"{where}{name}: {shape} for an image of {tuple(taps.full.shape[-2:])}; a tap is a map (N, C, H, W) of "
                "the image, the channels before height and width. Name another module, or let the network's forward "
                "return harness.Taps"
            )
        if name in ("logits", "full") and x.shape[1] != classes:
            raise ValueError(
                f"{where}{name}: {shape}, but there are {classes} classes: one channel per class, as the number of "
                "classes that the network is built with says"
            )
    followed = {name: x for name, x in maps.items() if x.requires_grad and x is not taps.full}
    if not taps.full.requires_grad or not followed:
        return
    found = torch.autograd.grad(taps.full.sum(), list(followed.values()), retain_graph=True, allow_unused=True)
    idle = [name for name, gradient in zip(followed, found, strict=True) if gradient is None]
    if idle:
        raise ValueError(
            f"{where}{idle[0]}: this map does not affect the class scores (an auxiliary head, or a branch that is not "
            "used in evaluation). Name a module on the way to the scores"
        )


@contextmanager
def trained(network: nn.Module) -> Iterator[None]:
    """The network in train mode, with batch normalisation in eval mode; its state and the random numbers stay."""
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        network.train()
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()  # a map may have one cell only
        try:
            yield
        finally:
            network.load_state_dict(kept)
            network.eval()


def _main(output: Any) -> Any:
    """The part that is named as the scores, if one is."""
    if isinstance(output, Mapping):
        return next((output[name] for name in ("out", "logits") if output.get(name) is not None), output)
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


def _maps(output: Any, name: str = "", depth: int = NESTED) -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested lists and mappings, with their places."""
    if isinstance(output, Tensor):
        yield name, output
    elif isinstance(output, Mapping | list | tuple) and depth:
        for key, value in output.items() if isinstance(output, Mapping) else enumerate(output):
            yield from _maps(value, f"{name}[{key!r}]", depth - 1)


def _is_resized(scores: Tensor, logits: Tensor) -> bool:
    """Whether a map is the tap, itself or resized: by the operations that it came from, else by its values."""
    if scores is logits:
        return True
    if scores.grad_fn is not None and logits.grad_fn is not None:
        step: Any = scores.grad_fn
        for _ in range(STEPS):
            if step is logits.grad_fn:
                return True
            before = [function for function, _ in step.next_functions if function is not None]
            if len(before) != 1:
                return False
            step = before[0]
        return False
    if scores.is_meta:
        return False
    return any(
        torch.equal(scores, F.interpolate(logits, scores.shape[-2:], mode="bilinear", align_corners=corners))
        for corners in (False, True)
    )


def _described(output: Any) -> str:
    """Shapes of the tensors in an output, or its type."""
    found = [f"{name} {tuple(x.shape)}".strip() for name, x in _maps(output)]
    return ", ".join(found[:8]) if found else type(output).__name__
