"""What every quantiser needs: train images, and which layers stay as they are."""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.deployment.deployed import padded
from harness.deployment.graphs import as_bytes
from harness.deployment.source import Form, Source
from harness.training.batches import to_batch

Node = TypeVar("Node", bound=Hashable)


def inputs(source: Source, form: Form) -> Iterator[Tensor]:
    """What a graph is given for its calibration: train images, evenly spaced; for a graph of one size cut or padded."""
    assert form.calibration is not None
    train = source.data.train
    for place in range(form.calibration):
        pixels = torch.from_numpy(train[place * len(train) // form.calibration][0].copy())[None]
        image = to_batch(pixels, pixels[..., 0], source.info, torch.device("cpu")).image
        if form.size_hw is None:
            image = padded(image, source.network.multiple)
        else:
            height, width = form.size_hw
            image = image[..., :height, :width]
            missing = (0, width - image.shape[-1], 0, height - image.shape[-2])
            image = F.pad(image, missing, mode="replicate") if any(missing) else image
        image = image.expand(form.batch or 1, *image.shape[1:]).contiguous()
        yield as_bytes(image, source.info) if form.preprocessing else image


def outermost(
    layers: Collection[Node],
    first: Iterable[Node],
    last: Iterable[Node],
    after: Mapping[Node, Iterable[Node]],
    before: Mapping[Node, Iterable[Node]],
) -> set[Node]:
    """The layers that no other layer comes before, and those that none comes after, on some way through a graph.

    Ways are those of values: what reads only the size of a map has to be left out of `after` and `before`.

    Args:
        layers: the nodes that hold weights.
        first: nodes that read the graph's inputs.
        last: nodes that make its outputs.
        after: by node, those that read what it makes.
        before: by node, those whose results it reads.

    Raises:
        ValueError: these are all layers.
    """
    found = _reached(layers, first, after) | _reached(layers, last, before)
    if not set(layers) - found:
        raise ValueError("--int8: the network has no layer between its first and its last, which stay as they are")
    return found


def _reached(layers: Collection[Node], start: Iterable[Node], edges: Mapping[Node, Iterable[Node]]) -> set[Node]:
    """The first layers on every way from some nodes."""
    waiting, found, seen = list(start), set(), set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in layers:
            found.add(node)
        else:
            waiting += edges.get(node, ())
    return found
