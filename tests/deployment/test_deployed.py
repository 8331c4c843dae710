"""What is exported is the network: padding that is fixed, hooks that are still read after a trace, whole multiples."""

from typing import Any

import pytest
import torch
from timm.layers import Conv2dSame

from harness.datasets import DataInfo
from harness.deployment.deployed import Deployed, on_multiples, with_fixed_padding
from harness.deployment.graphs import as_bytes
from harness.experiment.spec import Network
from harness.models import build

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def info(bgr: bool = False) -> DataInfo:
    names, colours = ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2))
    return DataInfo("made", 3, names, colours, (120.0, 110.0, 100.0), (60.0, 55.0, 50.0), "", "", bgr=bgr)


def images(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("depth", [3, 5])
def test_fixed_padding_is_what_the_network_would_pad(depth: int) -> None:
    options: dict[str, Any] = {"encoder_depth": depth, "decoder_channels": [8, 8, 8, 8, 8][:depth]}
    network = build(Network(architecture="unet", encoder="tu-tf_efficientnet_lite0", parameters=options), 3, 0).eval()
    computed = [name for name, module in network.named_modules() if isinstance(module, Conv2dSame)]
    side = network.multiple
    with torch.no_grad():
        wanted = [network(images(rows * side, columns * side)).full for rows, columns in ((4, 4), (5, 8), (3, 7))]
        with_fixed_padding(network)
        found = [network(images(rows * side, columns * side)).full for rows, columns in ((4, 4), (5, 8), (3, 7))]
    assert len(computed) == 5
    left = [name for name, module in network.named_modules() if isinstance(module, Conv2dSame)]
    assert left == [f"{name}.convolution" for name in computed]
    for one, other in zip(wanted, found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("architecture", ["lraspp", "segformer-transformers"])
def test_a_network_is_the_same_after_it_was_traced_twice(architecture: str) -> None:
    encoder = {"lraspp": "mobilenet_v3_large", "segformer-transformers": "mit-b0"}[architecture]
    network = build(Network(architecture=architecture, encoder=encoder), 3, 0).eval()
    with torch.no_grad():
        wanted = network(images(64, 96)).full
        for _ in range(2):
            program = torch.export.export(Deployed(network, info()), (images(64, 96),))
        assert torch.equal(network(images(64, 96)).full, wanted)
        torch.testing.assert_close(program.module()(images(64, 96)), wanted)


def test_images_of_other_sizes_are_padded_as_by_the_network() -> None:
    network = build(Network(architecture="unet", encoder="resnet18"), 3, 0).eval()

    @torch.no_grad()
    def run(image: torch.Tensor) -> torch.Tensor:
        assert not any(side % network.multiple for side in image.shape[-2:])
        scores: torch.Tensor = network(image).full
        return scores

    with torch.no_grad():
        assert torch.equal(on_multiples(run, network.multiple)(images(50, 70)), network(images(50, 70)).full)


@pytest.mark.parametrize("bgr", [False, True])
def test_bytes_come_back_from_normalised_images(bgr: bool) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 1).T.reshape(1, 16, 16, 3)
    pixels = pixels.roll(1, -2) * torch.tensor([1, 3, 5], dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (info().mean, info().std))
    normalised = (pixels.permute(0, 3, 1, 2) - mean) / std
    assert torch.equal(as_bytes(normalised.flip(1) if bgr else normalised, info(bgr)), pixels)
