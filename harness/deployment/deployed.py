"""A trained network as one graph: images to class scores, or an image's bytes to its labels."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from timm.layers.padding import get_same_padding
from torch import Tensor, nn

from harness.datasets import DataInfo
from harness.models import TapNet

Runner = Callable[[Tensor], Tensor]
"""Normalised images (N, 3, H, W) on the CPU to class scores (N, K, H, W)."""


class Deployed(nn.Module):
    """What is exported: the network without its taps.

    Args:
        network: trained; it is copied.
        info: mean, standard deviation and order of channels of the images that it takes.
        preprocessing: take bytes and give labels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: TapNet, info: DataInfo, preprocessing: bool = False) -> None:
        super().__init__()
        self.network = with_fixed_padding(deepcopy(network).eval())
        self.preprocessing, self._bgr = preprocessing, info.bgr
        for name, values in (("mean", info.mean), ("std", info.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Class scores of images; with `preprocessing`, their labels.

        Args:
            image: normalised float32 images (N, 3, H, W); with `preprocessing` RGB bytes (N, H, W, 3).

        Returns:
            Scores (N, K, H, W); with `preprocessing` uint8 labels (N, H, W), int64 for more than 256 classes.
        """
        if self.preprocessing:
            image = (image.permute(0, 3, 1, 2).to(torch.float32) - self.mean) / self.std
            image = image.flip(1) if self._bgr else image
        scores: Tensor = self.network(image).full
        if not self.preprocessing:
            return scores
        return scores.argmax(1).to(torch.uint8 if scores.shape[1] <= 256 else torch.int64)


class _FixedPadding(nn.Module):
    """A convolution after padding that does not depend on the image's size.

    Args:
        convolution: without padding of its own.
        padding: left, right, top, bottom.
    """

    def __init__(self, convolution: nn.Conv2d, padding: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.convolution, self.padding = convolution, padding

    def forward(self, x: Tensor) -> Tensor:
        c = self.convolution
        return F.conv2d(F.pad(x, self.padding), c.weight, c.bias, c.stride, 0, c.dilation, c.groups)


def with_fixed_padding(network: TapNet) -> TapNet:
    """Replace convolutions whose padding follows from the map's size by ones that always pad as much.

    TensorFlow's "same" padding is computed at run time. For maps of sides that divide by the stride, as those of an
    image whose sides are multiples of `network.multiple`, it is always the same; as a formula it makes a graph of
    dynamic size slow to build (minutes) and to run. Where sizes give different paddings, it stays, but for
    layers that the scores do not depend on, which are padded so that they take any map.
    """
    found: dict[str, list[tuple[int, int, int, int]]] = {}
    convolutions = [(name, module) for name, module in network.named_modules() if isinstance(module, Conv2dSame)]
    if not convolutions:
        return network

    def note(name: str, convolution: nn.Conv2d, size: torch.Size) -> None:
        rows, columns = (
            get_same_padding(*each)
            for each in zip(size[-2:], convolution.kernel_size, convolution.stride, convolution.dilation, strict=True)
        )
        padding = columns // 2, columns - columns // 2, rows // 2, rows - rows // 2
        found.setdefault(name, []).append(padding)

    handles = [
        module.register_forward_pre_hook(lambda module, given, name=name: note(name, module, given[0].shape))
        for name, module in convolutions
    ]
    side, stream = network.dry_image().shape[-1], torch.Generator().manual_seed(0)
    sizes = [side + more * network.multiple for more in range(4)]
    images = [torch.randn(1, 3, size, size, generator=stream) for size in sizes]
    with torch.no_grad():
        wanted = [network(image).full for image in images]
    for handle in handles:
        handle.remove()
    for name, module in convolutions:
        above, _, last = name.rpartition(".")
        paddings = set(found.get(name, ()))
        rows, columns = (d * (k - 1) // 2 for k, d in zip(module.kernel_size, module.dilation, strict=True))
        padding = paddings.pop() if len(paddings) == 1 else (columns, columns, rows, rows)
        setattr(network.get_submodule(above), last, _FixedPadding(module, padding))
        with torch.no_grad():
            if any(not torch.equal(network(image).full, scores) for image, scores in zip(images, wanted, strict=True)):
                setattr(network.get_submodule(above), last, module)
    return network


def on_multiples(run: Runner, multiple: int) -> Runner:
    """A runner for images of any size, of one for sides that are multiples of `multiple`.

    Images are padded by their border at the bottom and on the right, where the scores are cut off, as `TapNet` does.
    """

    return lambda image: run(padded(image, multiple))[..., : image.shape[-2], : image.shape[-1]]


def padded(image: Tensor, multiple: int) -> Tensor:
    """Images (N, 3, H, W) with the border repeated at the bottom and on the right, to multiples of `multiple`."""
    bottom, right = (-side % multiple for side in image.shape[-2:])
    return F.pad(image, (0, right, 0, bottom), mode="replicate") if bottom or right else image


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the libraries print and warn about their own parts."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
