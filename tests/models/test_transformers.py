"""Networks of the library transformers: equal to the library's own, at any size, with maps where methods want them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from harness.experiment.spec import Network
from harness.experiment.weights import Weights
from harness.files import sha256
from harness.models import build, load_into, load_state, save_state, state_sha256
from harness.models.transformers_nets import FLOOR, KINDS, cut, put_together
from harness.taps import TapInfo
from tests.support.small_transformers import SMALL

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
    plain.load_state_dict(network.network.state_dict())
    image = image_of(network.multiple, network.multiple)
    with torch.no_grad():
        found, expected = network(image).full, expected_of(plain, image)
    if architecture in ("mask2former", "eomt", "eomt-dinov3"):
        torch.testing.assert_close(found.exp() - FLOOR, expected, rtol=1e-4, atol=1e-5)
    else:
        assert torch.equal(found, expected)
    assert expected.std() > 0


CONVNEXT = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "hidden_size": 16}
SPECS = {
    **{name: Network(architecture=name, encoder=encoder, parameters=given) for name, (encoder, given) in SMALL.items()},
    "convnext": Network(architecture="upernet-transformers", encoder="convnext-tiny", parameters=CONVNEXT),
}


def shifted(network: Any) -> Any:
    """The network with buffers that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(3)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(generator=generator)
    return network.eval()


@pytest.mark.parametrize("name", SPECS)
def test_files_of_the_library_are_checkpoints_and_ours_are_its_files(name: str, tmp_path: Path) -> None:
    """The library renames tensors as it saves and loads them."""
    network, other, again = (build(SPECS[name], 5, seed) for seed in (0, 1, 2))
    shifted(network).network.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    before = torch.random.get_rng_state()
    load_into(other, load_state(path, sha256(path)), "FILE")
    assert torch.equal(before, torch.random.get_rng_state())
    image = image_of(network.multiple, network.multiple)
    with torch.no_grad():
        expected = network(image).full
        assert torch.equal(other.eval()(image).full, expected)
    ours = tmp_path / "ours.safetensors"
    digest = save_state(network.saved_state(), ours)
    assert load_file(ours).keys() == load_file(path).keys(), "so that later versions of the library read them"
    theirs, info = type(network.network).from_pretrained(
        None, config=network.network.config, state_dict=load_file(ours), output_loading_info=True
    )
    assert not any(info.values())
    assert state_sha256(theirs.state_dict()) == state_sha256(network.network.state_dict())
    for state in (load_state(ours, digest), network.network.state_dict(), network.state_dict()):
        load_into(again, {f"module.{name}": value for name, value in state.items()}, "FILE")
        assert state_sha256(again.state_dict()) == state_sha256(network.state_dict())


@pytest.mark.parametrize("name", [name for name in SPECS if not name.startswith("eomt")])
def test_the_librarys_file_of_an_encoder_is_its_weights(name: str, tmp_path: Path) -> None:
    network = shifted(build(SPECS[name], 5, 0))
    network.loaded_encoder().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    given = SPECS[name].model_copy(update={"encoder_weights": Weights(path=str(path), sha256=sha256(path))})
    found = build(given, 5, 1).loaded_encoder().state_dict()
    assert state_sha256(found) == state_sha256(network.loaded_encoder().state_dict())


def test_a_file_of_the_library_that_does_not_fit_is_counted(tmp_path: Path) -> None:
    network = built("segformer-transformers")
    state = network.saved_state()
    name = "decode_head.linear_c.0.proj.bias"
    for changed, words in (
        ({n: v for n, v in state.items() if n != name}, "123 matched, 1 missing, 0 unexpected, 0 reshaped"),
        (state | {"more.weight": torch.zeros(1)}, "124 matched, 0 missing, 1 unexpected, 0 reshaped"),
        (
            state | {name: torch.zeros(3)},
            "0 unexpected, 1 reshaped (network.decode_head.linear_projections.0.proj.bias",
        ),
        (state | {name: torch.zeros(16, dtype=torch.int64)}, "123 matched, 1 missing"),
    ):
        with pytest.raises(ValueError) as caught:
            load_into(network, changed, "FILE")
        assert words in str(caught.value) and "\n" not in str(caught.value)


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


@pytest.mark.parametrize("architecture", SMALL)
def test_a_copy_is_a_network_of_its_own(architecture: str) -> None:
    network = built(architecture).eval()
    other, image = copy.deepcopy(network), image_of(network.multiple, network.multiple)
    with torch.no_grad():
        other.network.get_submodule(network._kind.encoder).apply(_doubled)
        first, second = network(image), other(image)
        del network
        third = other(image)
    assert torch.equal(second.full, third.full)
    for name, stage in first.stages.items():
        assert not torch.equal(stage, second.stages[name])


def _doubled(module: torch.nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        parameter += 0.1


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


@pytest.mark.parametrize(
    ("architecture", "parameters", "words"),
    [
        ("dpt-transformers", {"backbone_out_indices": [0, 1, 2]}, "backbone_out_indices has 4 numbers"),
        ("dpt-transformers", {"backbone_out_indices": [0, 1, 1, 2]}, "4 different blocks, 0 to 3"),
        ("dpt-transformers", {"backbone_out_indices": [-1, 1, 2, 3]}, "4 different blocks, 0 to 3"),
        ("dpt-transformers", {"backbone_out_indices": [0, 1, 2, 4]}, "4 different blocks, 0 to 3"),
        ("dpt-transformers", {"backbone_out_indices": [0, 1, 2, 2.5]}, "these parameters do not fit together"),
        ("dpt-transformers", {"neck_hidden_sizes": [8] * 5}, "neck_hidden_sizes has 4 numbers"),
        ("dpt-transformers", {"reassemble_factors": []}, "reassemble_factors has 4 numbers"),
        ("dpt-transformers", {"image_size": 8}, "patch_size is at least 1 and at most image_size; given 16 and 8"),
        ("eomt", {"patch_size": 0}, "patch_size is at least 1"),
        ("eomt-dinov3", {"image_size": 0}, "at most image_size; given 16 and 0"),
        ("eomt", {"patch_size": -4}, "patch_size is at least 1"),
        ("upernet-transformers", {"patch_size": 0}, "patch_size is at least 1"),
        ("segformer-transformers", {"reshape_last_stage": False}, "no such parameter here: 'reshape_last_stage'"),
    ],
)
def test_numbers_that_the_library_takes_on_trust(architecture: str, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        built(architecture, **parameters)
    assert words in str(caught.value)


def test_stages_of_dpt_are_from_shallow_to_deep_whatever_the_order() -> None:
    image = image_of(32, 32)
    maps = [built("dpt-transformers", backbone_out_indices=i).eval()(image) for i in ([0, 1, 2, 3], [3, 0, 2, 1])]
    assert torch.equal(maps[0].full, maps[1].full)
    for name, stage in maps[0].stages.items():
        assert torch.equal(stage, maps[1].stages[name])


def test_an_unknown_encoder_and_a_missing_library_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="Did you mean 'mit-b0'"):
        build(Network(architecture="segformer-transformers", encoder="mit_b0"), 5, seed=0)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'sstkd-bench\[transformers\]'"):
        built("mask2former")
    assert transformers.__version__
