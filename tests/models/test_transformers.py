"""Networks of the library transformers: equal to the library's own, at any size, with maps where methods want them."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from harness.experiment.spec import Network
from harness.models import build
from harness.models.transformers_nets import FLOOR, KINDS, cut, put_together
from harness.taps import TapInfo

SWIN = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4, "drop_path_rate": 0.0}
MASKS = {
    "hidden_dim": 32,
    "mask_feature_size": 32,
    "feature_size": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "dim_feedforward": 16,
    "encoder_feedforward_dim": 16,
    "num_queries": 7,
}
VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64}
EOMT = {**VIT, "num_blocks": 2, "num_queries": 7}
DPT = {
    **VIT,
    "intermediate_size": 32,
    "backbone_out_indices": [0, 1, 2, 3],
    "image_size": 32,
    "neck_hidden_sizes": [8, 8, 8, 8],
    "fusion_hidden_size": 16,
}
MIT = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2]}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "segformer-transformers": ("mit-b0", {**MIT, "decoder_hidden_size": 16}),
    "upernet-transformers": ("swin-tiny", {**SWIN, "hidden_size": 16, "auxiliary_channels": 8}),
    "dpt-transformers": ("vit-base", DPT),
    "mask2former": ("swin-tiny", {**SWIN, **MASKS}),
    "eomt": ("dinov2-small", EOMT),
    "eomt-dinov3": ("dinov3-small", {**EOMT, "intermediate_size": 32}),
}
STRIDES = {
    "segformer-transformers": ([4, 8, 16, 32], TapInfo(16, 4), TapInfo(5, 4)),
    "upernet-transformers": ([4, 8, 16, 32], TapInfo(16, 4), TapInfo(5, 4)),
    "dpt-transformers": ([16] * 4, TapInfo(16, 2), TapInfo(5, 2)),
    "mask2former": ([4, 8, 16, 32], TapInfo(32, 4), TapInfo(5, 4)),
    "eomt": ([16] * 4, TapInfo(32, 4), TapInfo(5, 4)),
    "eomt-dinov3": ([16] * 4, TapInfo(32, 4), TapInfo(5, 4)),
}


def built(architecture: str, **more: Any) -> Any:
    encoder, parameters = SMALL[architecture]
    return build(Network(architecture=architecture, encoder=encoder, parameters={**parameters, **more}), 5, seed=0)


def image_of(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height))


def expected_of(plain: Any, image: Tensor) -> Tensor:
    """Class scores at the image's size as the library's post-processing makes them."""
    output = plain(pixel_values=image)
    if hasattr(output, "logits"):
        scores = output.logits
        return torch.nn.functional.interpolate(scores, image.shape[-2:], mode="bilinear", align_corners=False)
    classes = output.class_queries_logits.softmax(-1)[..., :-1]
    scores = (classes[..., None, None] * output.masks_queries_logits.sigmoid()[:, :, None]).sum(1)
    return torch.nn.functional.interpolate(scores, image.shape[-2:], mode="bilinear", align_corners=False)


def test_every_kind_is_tried() -> None:
    assert set(SMALL) == set(STRIDES) == set(KINDS)


@pytest.mark.parametrize("architecture", SMALL)
def test_scores_are_those_of_the_library(architecture: str) -> None:
    network = built(architecture).eval()
    plain = type(network.network)(network.network.config).eval()
    plain.load_state_dict(network.saved_state())
    image = image_of(network.multiple, network.multiple)
    with torch.no_grad():
        found, expected = network(image).full, expected_of(plain, image)
    if architecture in ("mask2former", "eomt", "eomt-dinov3"):
        torch.testing.assert_close(found.exp() - FLOOR, expected, rtol=1e-4, atol=1e-5)
    else:
        assert torch.equal(found, expected)
    assert expected.std() > 0


@pytest.mark.parametrize("architecture", SMALL)
def test_maps_at_any_size_and_gradients(architecture: str) -> None:
    network = built(architecture).train()
    found = network(image_of(50, 70))
    assert found.full.shape == (2, 5, 50, 70)
    strides, decoder, logits = STRIDES[architecture]
    info = network.info()
    assert [tap.stride for tap in info.stages.values()] == strides
    assert (info.decoder, info.logits) == (decoder, logits)
    assert list(found.stages) == ["stage1", "stage2", "stage3", "stage4"]
    for stage, stride in zip(found.stages.values(), strides, strict=True):
        assert stage.shape[-2:] == (-(-50 // stride), -(-70 // stride))
    found.full.square().mean().backward()
    trained = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not trained, "DistributedDataParallel would wait"


@pytest.mark.parametrize("architecture", ["dpt-transformers", "eomt", "eomt-dinov3"])
def test_an_image_is_seen_in_tiles(architecture: str) -> None:
    network = built(architecture).eval()
    side = network.multiple
    image = image_of(side, 2 * side)
    with torch.no_grad():
        whole, left, right = network(image), network(image[..., :side]), network(image[..., side:])
    torch.testing.assert_close(whole.full, torch.cat([left.full, right.full], -1))
    for name, stage in whole.stages.items():
        torch.testing.assert_close(stage, torch.cat([left.stages[name], right.stages[name]], -1))


def test_tiles_are_put_together_again() -> None:
    image = torch.arange(2 * 3 * 8 * 12.0).reshape(2, 3, 8, 12)
    tiles = cut(image, 4)
    assert tiles.shape == (12, 3, 4, 4) and torch.equal(tiles[1], image[0, :, :4, 4:8])
    assert torch.equal(put_together(tiles, 2, 3), image)


@pytest.mark.parametrize("architecture", SMALL)
def test_published_encoders_have_the_librarys_shapes(architecture: str) -> None:
    """Of every encoder, on the meta device, which takes no memory."""
    for encoder in KINDS[architecture].encoders:
        with torch.device("meta"):
            network = build_meta(architecture, encoder)
        assert sum(p.numel() for p in network.parameters()) > 3e6


def build_meta(architecture: str, encoder: str) -> Any:
    from harness.models.build import ARCHITECTURES

    return ARCHITECTURES[architecture](encoder_name=encoder, encoder_weights=None, classes=19)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"embed_dims": 4}, "Did you mean 'embed_dim'"),
        ({"backbone": 4}, "no such parameter"),
        ({"_name_or_path": 1}, "no such parameter"),
        ({"depths": "x"}, "depths is a list of numbers; given 'x'"),
        ({"depths": [1, "../x"]}, "depths is a list of numbers"),
        ({"embed_dim": 4.5}, "embed_dim is a whole number; given 4.5"),
        ({"embed_dim": True}, "embed_dim is a whole number"),
        ({"depths": [1, 1]}, "cannot be built"),
        ({"num_heads": [0, 0, 0, 0]}, "these parameters do not fit together"),
        ({"window_size": [7]}, "window_size is a whole number"),
    ],
)
def test_parameters_are_numbers_of_the_configuration(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        built("upernet-transformers", **parameters)
    assert words in str(caught.value)


def test_an_unknown_encoder_and_a_missing_library_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="Did you mean 'mit-b0'"):
        build(Network(architecture="segformer-transformers", encoder="mit_b0"), 5, seed=0)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'sstkd-bench\[transformers\]'"):
        built("mask2former")
    assert transformers.__version__
