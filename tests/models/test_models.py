"""SegNet against the plain segmentation-models-pytorch network, and what loads weights into it."""

import pickle
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.experiment.spec import Network
from harness.experiment.weights import Weights
from harness.files import sha256
from harness.models import ARCHITECTURES, SegNet, build, load_into, load_state, save_state, state_sha256

ENCODERS = ["resnet18", "mobilenet_v2", "efficientnet-b0", "mit_b0", "tu-convnext_atto", "tu-mobilenetv3_small_050"]
REFUSED = {
    ("unetplusplus", "mit_b0"): "UnetPlusPlus is not support encoder_name=mit_b0",
    ("linknet", "mit_b0"): "Encoder `mit_b0` is not supported for Linknet",
}
LIBRARY = [name for name, made in ARCHITECTURES.items() if isinstance(made, type)]  # of segmentation-models-pytorch
COMBINATIONS = [(a, e) for a in LIBRARY for e in ENCODERS if (a, e) not in REFUSED]
SMALL = "tu-mobilenetv3_small_050"
TRIED = [c if "fpn" in c or "resnet18" in c else pytest.param(*c, marks=pytest.mark.slow) for c in COMBINATIONS]
"""Every architecture with one encoder and every encoder with one architecture; CI tries all."""
CLASSES = 5


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test here may reach for the network, even where the error would be swallowed."""
    attempts: list[Any] = []

    def refuse(*address: Any, **options: Any) -> None:
        attempts.append(address)
        raise OSError("tests are offline")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert attempts == []


def side_of(architecture: str) -> int:
    return 128 if architecture == "pan" else 64  # PAN pools its deepest map three times


def plain(architecture: str, encoder: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[architecture](encoder_name=encoder, encoder_weights=None, classes=CLASSES)


def image_of(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


def network(architecture: str = "fpn", encoder: str = SMALL, **more: Any) -> Network:
    return Network(architecture=architecture, encoder=encoder, **more)


def renamed(model: nn.Module) -> dict[str, Tensor]:
    """The plain network's state under the wrapper's names."""
    return {k.replace("segmentation_head.", "head."): v for k, v in model.state_dict().items()}


@pytest.mark.parametrize(("architecture", "encoder"), TRIED)
def test_bit_identical_to_the_plain_network(architecture: str, encoder: str) -> None:
    model = plain(architecture, encoder)
    wrapped = SegNet(model)
    image = image_of(side_of(architecture), side_of(architecture))

    model.train()
    before = buffers(model)
    with torch.no_grad():
        torch.manual_seed(7)
        expected, after, stream = model(image), buffers(model), torch.get_rng_state()
        for name, value in model.named_buffers():
            value.copy_(before[name])
        torch.manual_seed(7)
        found = wrapped(image).full
    assert torch.equal(found, expected), "train mode"
    assert torch.equal(torch.get_rng_state(), stream), "draws something else"
    moved = any(not torch.equal(after[name], before[name]) for name in after)
    assert moved == any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert all(torch.equal(value, after[name]) for name, value in model.named_buffers()), "running statistics"

    model.eval()
    with torch.no_grad():
        taps, expected = wrapped(image), model(image)
    assert torch.equal(taps.full, expected), "eval mode"
    assert expected.std() > 0
    info = wrapped.info()
    measured = {name: (x.shape[1], image.shape[-1] / x.shape[3]) for name, x in taps.stages.items()}
    assert {name: (tap.channels, tap.stride) for name, tap in info.stages.items()} == measured
    assert (info.decoder.channels, info.decoder.stride) == (
        taps.decoder.shape[1],
        image.shape[2] / taps.decoder.shape[2],
    )
    assert (info.logits.channels, info.logits.stride) == (CLASSES, image.shape[2] / taps.logits.shape[2])
    assert "stage1" in taps.stages and info.stages["stage1"].stride == 4


def test_a_state_dict_of_the_library_is_taken() -> None:
    """As smp.Unet(...).state_dict() names its tensors, which have another name for the head."""
    theirs, ours = plain("unet", SMALL, seed=1), build(network("unet"), CLASSES, 0)
    load_into(ours, theirs.state_dict(), "FILE")
    image = image_of(64, 64)
    with torch.no_grad():
        assert torch.equal(ours.eval()(image).full, theirs.eval()(image))


@pytest.mark.parametrize(("architecture", "encoder"), REFUSED)
def test_combinations_that_the_library_refuses_say_so(architecture: str, encoder: str) -> None:
    with pytest.raises(ValueError, match="cannot be built") as caught:
        build(network(architecture, encoder), CLASSES, 0)
    assert REFUSED[architecture, encoder] in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [("fpn", "resnet18"), ("segformer", "mit_b0"), ("deeplabv3plus", SMALL), ("pan", SMALL)],
)
def test_gradients_equal_those_of_the_plain_network(architecture: str, encoder: str) -> None:
    model = plain(architecture, encoder).train()
    image = image_of(side_of(architecture), side_of(architecture))
    weights = torch.randn(2, CLASSES, *image.shape[2:], generator=torch.Generator().manual_seed(3))
    gradients = []
    for forward in (model, lambda x: SegNet(model)(x).full):
        torch.manual_seed(5)
        model.zero_grad()
        (forward(image) * weights).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    assert all(torch.equal(gradients[1][name], value) for name, value in gradients[0].items())


@pytest.mark.parametrize(
    ("architecture", "encoder", "stages", "logits_stride", "decoder_channels"),
    [
        ("fpn", "resnet18", {"stem": (64, 2), "stage1": (64, 4), "stage2": (128, 8), "stage3": (256, 16), "stage4": (512, 32)}, 4, 128),
        ("deeplabv3", "resnet18", {"stem": (64, 2), "stage1": (64, 4), "stage2": (128, 8), "stage3": (256, 8), "stage4": (512, 8)}, 8, 256),
        ("pspnet", "resnet18", {"stem": (64, 2), "stage1": (64, 4), "stage2": (128, 8)}, 8, 512),
        ("segformer", "mit_b0", {"stage1": (32, 4), "stage2": (64, 8), "stage3": (160, 16), "stage4": (256, 32)}, 4, 256),
        ("unet", "tu-convnext_atto", {"stage1": (40, 4), "stage2": (80, 8), "stage3": (160, 16), "stage4": (320, 32)}, 1, 16),
    ],
)  # fmt: skip
def test_tap_names_widths_and_strides(
    architecture: str, encoder: str, stages: dict[str, tuple[int, int]], logits_stride: int, decoder_channels: int
) -> None:
    built = build(network(architecture, encoder), CLASSES, 0)
    info = built.info()
    assert {name: (tap.channels, tap.stride) for name, tap in info.stages.items()} == stages
    assert list(info.stages) == list(stages), "shallow to deep"
    assert (info.logits.channels, info.logits.stride) == (CLASSES, logits_stride)
    assert (info.decoder.channels, info.decoder.stride) == (decoder_channels, logits_stride)


@pytest.mark.parametrize(
    ("architecture", "multiple"), [("fpn", 32), ("deeplabv3", 8), ("deeplabv3plus", 16), ("segformer", 32)]
)
@pytest.mark.parametrize(("height", "width"), [(50, 70), (64, 41), (33, 64)])
def test_odd_sizes_are_padded_and_cropped(architecture: str, multiple: int, height: int, width: int) -> None:
    model = plain(architecture, "resnet18").eval()
    wrapped = SegNet(model)
    image = image_of(height, width, 1)
    # Border values repeated at the bottom and right, by indexing instead of F.pad.
    rows = torch.arange(-(-height // multiple) * multiple).clamp(max=height - 1)
    columns = torch.arange(-(-width // multiple) * multiple).clamp(max=width - 1)
    with torch.no_grad():
        taps = wrapped(image)
        expected = model(image[:, :, rows][..., columns])
    assert taps.full.shape[-2:] == (height, width)
    assert torch.equal(taps.full, expected[..., :height, :width])
    strides = {name: tap.stride for name, tap in wrapped.info().stages.items()}
    for name, x in taps.stages.items():
        assert tuple(x.shape[-2:]) == (-(-height // strides[name]), -(-width // strides[name])), name
    stride = wrapped.info().logits.stride
    assert (
        tuple(taps.logits.shape[-2:]) == tuple(taps.decoder.shape[-2:]) == (-(-height // stride), -(-width // stride))
    )


def test_networks_that_pad_differently_give_maps_of_the_same_area() -> None:
    """At 100 px a stride-32 network pads to 128, a stride-8 one to 104: cell k of both is the same place."""
    coarse, fine = SegNet(plain("fpn", "resnet18").eval()), SegNet(plain("deeplabv3", "resnet18").eval())
    with torch.no_grad():
        one, other = coarse(image_of(100, 100, 1)), fine(image_of(100, 100, 1))
    assert one.stages["stage2"].shape == other.stages["stage2"].shape == (1, 128, 13, 13)


def test_frozen_are_the_parameters_behind_the_last_stage_read_and_no_others() -> None:
    built = build(network("pspnet", "resnet18"), CLASSES, 0)
    frozen = {name for name, p in built.named_parameters() if not p.requires_grad}
    assert frozen == {
        name for name, _ in built.named_parameters() if name.startswith(("encoder.layer3", "encoder.layer4"))
    }
    assert len(frozen) == 30


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("pspnet", "mit_b0"),
        ("pspnet", SMALL),
        ("fpn", SMALL),
        ("unet", "mit_b0"),
        ("upernet", "tu-convnext_atto"),
        ("pan", SMALL),
    ],
)
def test_trainable_is_exactly_what_gets_a_gradient_in_training(architecture: str, encoder: str) -> None:
    built = build(network(architecture, encoder), CLASSES, 0)
    assert built.training and all(p.grad is None for p in built.parameters())
    trainable = {name for name, p in built.named_parameters() if p.requires_grad}
    built.requires_grad_(True)
    built(image_of(side_of(architecture), side_of(architecture))).full.square().sum().backward()
    assert trainable == {name for name, p in built.named_parameters() if p.grad is not None}


def test_building_runs_no_statistics_and_equals_the_library_at_the_same_seed() -> None:
    built = build(network("unet", SMALL), CLASSES, 11)
    expected = renamed(plain("unet", SMALL, seed=11))
    assert built.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in built.state_dict().items())


def test_weights_depend_on_the_seed_alone_and_no_global_stream_moves() -> None:
    torch.manual_seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    first = state_sha256(build(network(), CLASSES, 3).state_dict())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert random.getstate() == states[2]
    torch.manual_seed(2)
    assert state_sha256(build(network(), CLASSES, 3).state_dict()) == first
    assert state_sha256(build(network(), CLASSES, 4).state_dict()) != first


def test_info_keeps_the_mode_and_the_statistics() -> None:
    built = build(network(), CLASSES, 0).train()
    before = state_sha256(built.state_dict())
    built.info()
    assert built.training and state_sha256(built.state_dict()) == before
    built.eval().info()
    assert not built.training


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 4, 64, 64)])
def test_other_images_than_rgb_batches_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\); given") as caught:
        SegNet(plain("fpn", SMALL))(torch.zeros(shape))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "fragments"),
    [
        ({"architecture": "deeplab3"}, ["'deeplab3'", "Did you mean 'deeplabv3'?", "Allowed: unet, "]),
        ({"encoder": "resnet81"}, ["'resnet81'", "Did you mean 'resnet18'?", "tu-NAME", "mit_b0"]),
        ({"encoder": "tu-convnext_ato"}, ["tu-convnext_ato", "Did you mean 'tu-convnext_atto'?"]),
        ({"encoder": "tu-vit_tiny_patch16_224"}, ["tu-vit_tiny_patch16_224 ", "cannot be built", "Unsupported"]),
        ({"encoder": "tu-swin_tiny_patch4_window7_224"}, ["128x128", "(224)", "{img_size: 128, strict_img_size: false}"]),
        (
            {"encoder": "resnet18", "parameters": {"encoder_dept": 4}},
            ["'encoder_dept'", "Did you mean 'encoder_depth'?", "Allowed: encoder_depth, "],
        ),
        ({"parameters": {"no_such_argument": 4}}, ["cannot be built", "no_such_argument"]),
        ({"parameters": {"classes": 4}}, ["no parameter 'classes'"]),
        ({"parameters": {"in_channels": 4}}, ["no parameter 'in_channels'"]),
        ({"parameters": {"encoder_weights": "imagenet"}}, ["load no files", "Give the file as encoder_weights: {path:"]),
        ({"parameters": {"activation": "sigmoid"}}, ["no parameter 'activation'"]),
        ({"parameters": {"aux_params": {"classes": 2}}}, ["no parameter 'aux_params'"]),
        ({"encoder": "resnet18", "parameters": {"encoder_depth": 9}}, ["'encoder_depth': 9", "range [1, 5], got 9"]),
        ({"parameters": {"upsampling": 8}}, ["(256, 256) for an image of (128, 128)", "`upsampling`"]),
    ],
)  # fmt: skip
def test_what_cannot_be_built_names_what_was_given_and_what_is_allowed(
    given: dict[str, Any], fragments: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        build(network(**given), CLASSES, 0)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.slow
def test_the_remedy_for_a_backbone_of_fixed_size_works() -> None:
    parameters = {"img_size": 128, "strict_img_size": False}
    built = build(network("fpn", "tu-swin_tiny_patch4_window7_224", parameters=parameters), CLASSES, 0).eval()
    with torch.no_grad():
        assert built(image_of(96, 70, 1)).full.shape == (1, CLASSES, 96, 70)


# Weights


def shifted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values that no initialisation has."""
    return {k: v + 0.25 if v.is_floating_point() else v for k, v in state.items()}


def given(path: Path) -> Weights:
    return Weights(path=str(path), sha256=sha256(path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("encoder", [SMALL, "mobilenet_v2"])
def test_encoder_weights_are_loaded(tmp_path: Path, encoder: str, suffix: str) -> None:
    state = shifted(plain("fpn", encoder, seed=9).encoder.state_dict())
    path = tmp_path / f"encoder{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    built = build(network("fpn", encoder, encoder_weights=given(path)), CLASSES, 0)
    found = built.encoder.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    rest = plain("fpn", encoder, seed=0).decoder.state_dict()
    assert all(torch.equal(built.decoder.state_dict()[name], value) for name, value in rest.items()), "stream moved"


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18", "mobilenetv3_small_050", "pvt_v2_b0"])
def test_a_timm_model_file_fits_its_backbone(tmp_path: Path, name: str) -> None:
    """timm's models with feature maps rename stages.0.x to stages_0.x; files of whole models have the plain names."""
    whole = timm.create_model(name, pretrained=False)
    whole.load_state_dict(shifted(whole.state_dict()))
    path = tmp_path / "model.safetensors"
    save_file(whole.state_dict(), path)
    built = build(network("fpn", f"tu-{name}", encoder_weights=given(path)), CLASSES, 0).eval()
    image = image_of(64, 64)
    with torch.no_grad():
        expected = whole.eval().forward_features(image)
        found = built(image).stages["stage4"]
    assert expected.std() > 0
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_file(plain("fpn", "resnet18").encoder.state_dict(), path)
    with pytest.raises(
        ValueError,
        match=r"does not fit the encoder mobilenet_v2: 0 matched, 260 missing, 120 unexpected, 0 reshaped \(missing ~ ",
    ):
        build(network("fpn", "mobilenet_v2", encoder_weights=given(path)), CLASSES, 0)
    with pytest.raises(
        ValueError,
        match=r"97 matched, 165 missing, 0 unexpected, 23 reshaped \(layer1.0.conv1.weight is 64x64x3x3 in the file and 64x64x1x1 in the network",
    ):
        build(network("fpn", "resnet50", encoder_weights=given(path)), CLASSES, 0)


def test_one_missing_tensor_is_refused(tmp_path: Path) -> None:
    state = plain("fpn", SMALL).encoder.state_dict()
    path = tmp_path / "encoder.safetensors"
    last = [name for name in state if name.endswith("running_var")][-1]
    save_file({name: value for name, value in state.items() if name != last}, path)
    with pytest.raises(ValueError, match="239 matched, 1 missing, 0 unexpected, 0 reshaped") as caught:
        build(network(encoder_weights=given(path)), CLASSES, 0)
    assert last in str(caught.value)


def test_missing_and_exchanged_files_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    nowhere = Weights(path=str(path), sha256="0" * 64)
    with pytest.raises(ValueError, match=r"weight file is missing.*no random weights") as caught:
        build(network(encoder_weights=nowhere), CLASSES, 0)
    assert str(path) in str(caught.value)
    save_file(plain("fpn", SMALL).encoder.state_dict(), path)
    with pytest.raises(ValueError, match="expected " + "0" * 64) as caught:
        build(network(encoder_weights=nowhere), CLASSES, 0)
    assert sha256(path) in str(caught.value)


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_pickle_that_executes_code_is_refused(tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    for name, write in {"legacy.pt": pickle.dump, "zip.pt": torch.save}.items():
        path = tmp_path / name
        with path.open("wb") as file:
            write({"weight": Payload(trace)}, file)
        with pytest.raises(ValueError, match="cannot be read as weights"):
            load_state(path, sha256(path))
        assert not trace.exists()
    pickle.loads((tmp_path / "legacy.pt").read_bytes())
    assert trace.exists(), "the payload is live: only the loader kept it from running"


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("seed", range(12))
def test_rubbish_is_refused(tmp_path: Path, name: str, seed: int) -> None:
    path = tmp_path / name
    rng = np.random.default_rng(seed)
    start = [b"", b"\x80\x02", b"PK\x03\x04", b"\x80\x02}q\x00"][seed % 4]
    path.write_bytes(start + rng.bytes([0, 1, 40, 4000][seed // 3]))
    with pytest.raises(ValueError, match=str(path)):
        load_state(path, sha256(path))


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"state_dict": {"a": "b"}}, torch.zeros(3)])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match="is not a state dict"):
        load_state(path, sha256(path))


def test_save_then_load_keeps_every_bit_and_leaves_no_other_file(tmp_path: Path) -> None:
    one, other = build(network(), CLASSES, 1), build(network(), CLASSES, 2)
    state = shifted(one.state_dict())
    path = tmp_path / "deep" / "weights.safetensors"
    digest = save_state(state, path)
    assert digest == sha256(path) == save_state(state, path)
    assert [p.name for p in path.parent.iterdir()] == ["weights.safetensors"]
    assert path.stat().st_mode & 0o777 == 0o644
    load_into(other, load_state(path, digest), str(path))
    assert state_sha256(other.state_dict()) == state_sha256(state)


def test_assigned_weights_are_the_memory_they_came_in_where_the_types_agree() -> None:
    one, other = build(network(), CLASSES, 1), build(network(), CLASSES, 2)
    state = shifted(one.state_dict())
    load_into(other, state, "x", assign=True)
    own = other.state_dict()
    assert all(own[name].data_ptr() == value.data_ptr() for name, value in state.items() if value.numel())
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    load_into(other, halves, "x", assign=True)  # half precision in the file makes no half-precision network
    assert {value.dtype for value in other.state_dict().values()} == {value.dtype for value in state.values()}


def test_load_into_wants_an_exact_fit() -> None:
    built = build(network(), CLASSES, 0)
    before = state_sha256(built.state_dict())
    state = dict(built.state_dict())
    name = "head.0.bias"
    for changed, fragment in [
        (
            {k: v for k, v in state.items() if k != name},
            f"{len(state) - 1} matched, 1 missing, 0 unexpected, 0 reshaped (missing: {name})",
        ),
        (
            state | {"more": torch.zeros(1)},
            f"{len(state)} matched, 0 missing, 1 unexpected, 0 reshaped (unexpected: more)",
        ),
        (
            state | {name: torch.zeros(CLASSES + 1)},
            f"0 unexpected, 1 reshaped ({name} is {CLASSES + 1} in the file and {CLASSES} in the network)",
        ),
    ]:
        with pytest.raises(ValueError) as caught:
            load_into(built, changed, "teacher.safetensors")
        assert fragment in str(caught.value) and "teacher.safetensors" in str(caught.value)
    assert state_sha256(built.state_dict()) == before


def test_state_hash_sees_names_values_types_and_shapes_but_no_layout() -> None:
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    base = state_sha256({"a": x, "b": torch.tensor(1)})
    assert base == state_sha256({"b": torch.tensor(1), "a": x.contiguous(memory_format=torch.channels_last)})
    others = [
        {"a": x + 1, "b": torch.tensor(1)},
        {"c": x, "b": torch.tensor(1)},
        {"a": x.reshape(1, 2, 4, 3), "b": torch.tensor(1)},
        {"a": x.view(torch.int32), "b": torch.tensor(1)},
        {"a": x},
    ]
    assert len({base, *map(state_sha256, others)}) == 6


def test_every_listed_encoder_is_one_of_the_library() -> None:
    names = smp.encoders.get_encoder_names()
    assert all(name in names or timm.is_model(name.removeprefix("tu-")) for name in ENCODERS)
