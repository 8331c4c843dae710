"""Networks of torchvision and plain transformers of timm: bit-equal to the libraries' own, at any size."""

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor
from torchvision.models import segmentation

from harness.experiment.spec import Network
from harness.models import build
from harness.taps import TapInfo

NARROW = {"embed_dim": 48, "num_heads": 3}
DPT = {"intermediate_channels": [16, 16, 16, 16], "fusion_channels": 16}
TORCHVISION = {
    ("lraspp", "mobilenet_v3_large"): segmentation.lraspp_mobilenet_v3_large,
    ("deeplabv3-torchvision", "mobilenet_v3_large"): segmentation.deeplabv3_mobilenet_v3_large,
    ("fcn-torchvision", "resnet50"): segmentation.fcn_resnet50,
    ("deeplabv3-torchvision", "resnet50"): segmentation.deeplabv3_resnet50,
}
TRIED = [key if key[1].startswith("mobile") else pytest.param(*key, marks=pytest.mark.slow) for key in TORCHVISION]
TRANSFORMERS = {  # patch, by backbone
    "tu-vit_tiny_patch16_224": 16,
    "tu-vit_small_patch14_dinov2": 14,
    "tu-vit_small_patch14_reg4_dinov2": 14,
    "tu-vit_small_patch16_dinov3": 16,
    "tu-vit_base_patch16_siglip_224": 16,
    "tu-eva02_tiny_patch14_224": 14,
}


def image_of(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height))


def built(architecture: str, encoder: str, **parameters: Any) -> Any:
    return build(Network(architecture=architecture, encoder=encoder, parameters=parameters), 5, seed=0)


@pytest.mark.parametrize(("architecture", "encoder"), TRIED)
@pytest.mark.parametrize("size", [(64, 96), (50, 70)])
def test_torchvision_bit_equal_to_the_plain_network(architecture: str, encoder: str, size: tuple[int, int]) -> None:
    network = built(architecture, encoder).eval()
    plain = TORCHVISION[architecture, encoder](weights=None, weights_backbone=None, num_classes=5).eval()
    plain.load_state_dict(network.saved_state())
    with torch.no_grad():
        found, expected = network(image_of(*size)), plain(image_of(*size))["out"]
    assert torch.equal(found.full, expected) and expected.std() > 0
    assert list(found.stages) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    strides = [tap.stride for tap in network.info().stages.values()]
    assert strides == sorted(strides) and strides[0] == 2 and strides[1] == 4
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("encoder", ["tu-vit_tiny_patch16_224", "tu-vit_small_patch16_dinov3"])
def test_dpt_bit_equal_to_the_plain_network(encoder: str) -> None:
    options = {**NARROW, "decoder_intermediate_channels": (16,) * 4, "decoder_fusion_channels": 16}
    network = built(
        "dpt", encoder, **{key: list(x) if isinstance(x, tuple) else x for key, x in options.items()}
    ).eval()
    plain = smp.DPT(encoder, encoder_weights=None, classes=5, dynamic_img_size=True, **options).eval()
    plain.load_state_dict(
        {k.replace("head.head.", "segmentation_head.head."): v for k, v in network.state_dict().items()}
    )
    with torch.no_grad():
        found, expected = network(image_of(64, 96)), plain(image_of(64, 96))
    assert torch.equal(found.full, expected) and expected.std() > 0
    assert network.info().logits == TapInfo(5, 2)


@pytest.mark.parametrize("encoder", TRANSFORMERS)
@pytest.mark.parametrize(("architecture", "options"), [("vit-linear", {}), ("vit-multilevel", {}), ("vit-dpt", DPT)])
def test_a_plain_transformer_gives_maps_at_any_size(encoder: str, architecture: str, options: dict[str, Any]) -> None:
    patch = TRANSFORMERS[encoder]
    network = built(architecture, encoder, **NARROW, **options).train()
    found = network(image_of(50, 70))
    cells = (-(-50 // patch), -(-70 // patch))
    assert found.full.shape == (2, 5, 50, 70)
    assert list(found.stages) == ["stage1", "stage2", "stage3", "stage4"]
    assert all(x.shape == (2, 48, *cells) for x in found.stages.values())
    assert set(network.info().stages.values()) == {TapInfo(48, patch)}
    found.full.square().mean().backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained), "DistributedDataParallel would wait"


def test_the_stages_are_the_maps_after_quarters_of_the_blocks() -> None:
    network = built("vit-linear", "tu-vit_tiny_patch16_224", **NARROW).eval()
    model, image = network.encoder.model, image_of(64, 96)
    after: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, given, output: after.append(output))
    with torch.no_grad():
        found = network(image)
        tokens = [model.norm(after[i])[:, 1:] for i in (2, 5, 8, 11)]
    for stage, expected in zip(found.stages.values(), tokens, strict=True):
        assert torch.equal(stage, expected.transpose(1, 2).reshape(2, 48, 4, 6))
    assert torch.equal(found.decoder, network.norm(found.stages["stage4"]))


@pytest.mark.parametrize(
    ("architecture", "encoder", "words"),
    [
        ("vit-linear", "resnet18", "the encoder is a plain vision transformer of timm, tu-NAME"),
        ("vit-dpt", "tu-vit_tiny_patch16_223", "Did you mean 'tu-vit_tiny_patch16_224'"),
        ("lraspp", "mobilenet_v3_larg", "Did you mean 'mobilenet_v3_large'"),
    ],
)
def test_other_encoders_are_refused(architecture: str, encoder: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        built(architecture, encoder)
    assert words in str(caught.value)
