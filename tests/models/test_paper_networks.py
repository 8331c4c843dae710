"""The networks of the distillation papers: published sizes, taps, auxiliary head, pretrained weights, training."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from harness.distillers.none import NoDistillation
from harness.experiment.spec import Network
from harness.experiment.weights import Weights
from harness.files import sha256
from harness.models import ARCHITECTURES, SegNet, build
from harness.results import paths
from harness.taps import Pair
from harness.training.loop import train
from harness.training.runtime import Runtime
from harness.training.step import KDStep
from tests.support import tiny

CLASSES = 19
# architecture, encoder, parameters; published millions of parameters; published or computed GMACs at 512x1024
PUBLISHED = [
    ("pspnet-papers", "tu-resnet101", {}, 70.43, 562.1),
    ("pspnet-papers", "tu-resnet18", {}, 13.07, 123.3),
    ("pspnet-papers", "tu-resnet18", {"half_width": True}, 3.27, 30.9),
    ("deeplabv3-cirkd", "tu-resnet101", {}, 79.08, None),
    ("deeplabv3-cirkd", "tu-resnet18", {}, 22.76, None),
    ("deeplabv3-cirkd", "tu-resnet101", {"head_width": 256}, 61.1, None),
    ("deeplabv3-cirkd", "tu-resnet18", {"head_width": 128}, 13.6, None),
]
SMALL = [("pspnet-papers", {"half_width": True}), ("deeplabv3-cirkd", {"head_width": 16})]


def network(architecture: str, encoder: str = "tu-resnet18", **more: Any) -> Network:
    return Network(architecture=architecture, encoder=encoder, **more)


def small(architecture: str, parameters: dict[str, Any], classes: int = 5) -> SegNet:
    return build(network(architecture, parameters=parameters), classes, 0)


def image_of(height: int, width: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(height + width))


@pytest.mark.parametrize(("architecture", "encoder", "parameters", "millions", "giga"), PUBLISHED)
def test_published_sizes(
    architecture: str, encoder: str, parameters: dict[str, Any], millions: float, giga: float | None
) -> None:
    with torch.device("meta"):
        parts = ARCHITECTURES[architecture](encoder, None, CLASSES, **parameters)
        modules = [parts.encoder, parts.decoder, parts.segmentation_head, parts.auxiliary]
        for module in modules:
            module.eval()
        with FlopCounterMode(display=False) as counter:
            features = parts.encoder(torch.zeros(1, 3, 512, 1024))
            scores = parts.segmentation_head(parts.decoder(features))
            parts.auxiliary(features[-2])
    number = sum(p.numel() for module in modules for p in module.parameters())
    assert number / 1e6 == pytest.approx(millions, abs=0.02)
    if giga is not None:
        assert counter.get_total_flops() / 2e9 == pytest.approx(giga, rel=0.01)
    assert scores.shape == (1, CLASSES, 512, 1024)
    assert [512 // x.shape[-2] for x in features[1:]] == [2, 4, 8, 8, 8]


def test_dilations_are_the_papers() -> None:
    """Layer 3 by 2 and layer 4 by 4, first blocks too; CIRKD's keeps the preceding dilation there."""
    for architecture, parameters, first in (("pspnet-papers", {"half_width": True}, (2, 4)), (*SMALL[1], (1, 2))):
        encoder = small(architecture, parameters).encoder.model
        for name, begins, rate in (("layer3", first[0], 2), ("layer4", first[1], 4)):
            found = [
                m.dilation[0] for m in encoder[name].modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] == 3
            ]
            assert found == [begins, *[rate] * (len(found) - 1)]


@pytest.mark.parametrize(("architecture", "parameters"), SMALL)
def test_taps_and_the_auxiliary_scores(architecture: str, parameters: dict[str, Any]) -> None:
    model = small(architecture, parameters)
    image = image_of(64, 72)
    taps = model.train()(image)
    assert taps.aux.shape == (2, 5, 8, 9)
    assert taps.full.shape == (2, 5, 64, 72) and taps.logits.shape == (2, 5, 8, 9)
    assert taps.detach().aux.grad_fn is None
    assert model.eval()(image).aux is None
    measured = {name: (x.shape[1], 64 // x.shape[2]) for name, x in taps.stages.items()}
    assert {name: (tap.channels, tap.stride) for name, tap in model.info().stages.items()} == measured
    assert [stride for _, stride in measured.values()][-4:] == [4, 8, 8, 8]
    without = small(architecture, {**parameters, "auxiliary": False})
    assert without.auxiliary is None and without.train()(image).aux is None
    # The head's up-sampling: bilinear with aligned corners, from maps of stride 8.
    with torch.no_grad():
        taps = model.eval()(image)
        full = F.interpolate(taps.logits, (64, 72), mode="bilinear", align_corners=True)
    torch.testing.assert_close(taps.full, full)


@pytest.mark.parametrize(("architecture", "parameters"), SMALL)
def test_the_auxiliary_loss(architecture: str, parameters: dict[str, Any]) -> None:
    model = small(architecture, parameters)
    image, label = image_of(48, 40), torch.randint(0, 5, (2, 48, 40))
    label[0, :5] = 255
    valid = (label != 255).sum().float()
    pair = Pair(model.info(), model.info(), 5, 255)

    def terms(weight: float) -> dict[str, Tensor]:
        step = KDStep(model, NoDistillation(pair), 255, weight).train()
        torch.manual_seed(0)
        return step(image, label, None, valid, 0.0, torch.Generator())

    found = terms(0.4)
    torch.manual_seed(0)
    aux = F.interpolate(model.train()(image).aux, (48, 40), mode="bilinear", align_corners=True)
    expected = 0.4 * F.cross_entropy(aux, label, ignore_index=255)
    torch.testing.assert_close(found["auxiliary"], expected, rtol=1e-5, atol=0)
    assert set(found) == {"task", "auxiliary"}
    assert set(terms(0.0)) == {"task"}
    assert not any(p.requires_grad for p in model.auxiliary.parameters()), "idle parameters"


@pytest.mark.parametrize(("architecture", "parameters"), SMALL)
@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.4, 0.0])
def test_a_run_trains_it(tmp_path: Path, architecture: str, parameters: dict[str, Any], weight: float) -> None:
    student = {"architecture": architecture, "encoder": "tu-resnet18", "parameters": parameters}
    changes = {"pairs": [{**tiny.TINY["pairs"][0], "student": student}], "methods": ["none"]}
    settings = [f"train.auxiliary_weight={weight}", "train.steps=2", "train.batch_size=2", "train.eval_every=2"]
    run = next(r for r in tiny.plan(tmp_path, *settings, **changes) if r.role == "student")
    runtime = Runtime.local(paths.checkpoint_directory(tmp_path, run.run_id), device=torch.device("cpu"))
    result = train(run, runtime, tmp_path)
    assert result is not None
    assert ("auxiliary" in result.columns["losses"][0]["terms"]) == (weight > 0)
    assert 0 <= result.columns["val_miou"] <= 1


@pytest.mark.parametrize(
    ("encoder", "parameters", "message"),
    [
        ("resnet18", {}, "the encoder is a ResNet, rebuilt with a deep stem.*Did you mean 'tu-resnet18'"),
        ("tu-resnet18", {"half_width": 1}, "half_width is true or false; given 1"),
        ("tu-resnet18", {"head_width": 0}, "head_width is a number of channels"),
        ("tu-resnet18", {"width": 3}, "takes no parameter 'width'"),
    ],
)
def test_what_cannot_be_built(encoder: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(network("pspnet-papers", encoder, parameters=parameters), 5, 0)


# Weights


def given(path: Path) -> Weights:
    return Weights(path=str(path), sha256=sha256(path))


def shifted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v + 0.25 if v.is_floating_point() else v for k, v in state.items()}


PAPERS_STEM = {
    "conv1.0": "conv1",
    "conv1.1": "bn1",
    "conv1.3": "conv2",
    "conv1.4": "bn2",
    "conv1.6": "conv3",
    "bn1": "bn3",
}


@pytest.mark.parametrize("style", ["timm", "papers"])
def test_imagenet_weights_load_from_a_path(tmp_path: Path, style: str) -> None:
    whole = timm.create_model("resnet18", stem_type="deep", stem_width=64, pretrained=False)
    state = shifted(whole.state_dict())
    named = dict(state)
    if style == "papers":
        named = {}
        for name, value in state.items():
            prefix = next((p for p in PAPERS_STEM if name.startswith(p + ".")), None)
            named[PAPERS_STEM[prefix] + name.removeprefix(prefix) if prefix else name] = value
        assert "conv3.weight" in named and "conv1.0.weight" not in named
    path = tmp_path / "imagenet.safetensors"
    save_file(named, path)
    for architecture in ("pspnet-papers", "deeplabv3-cirkd"):
        built = build(network(architecture, encoder_weights=given(path)), 5, 0)
        found = {name.removeprefix("model."): value for name, value in built.encoder.state_dict().items()}
        assert len(found) > 100
        assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_a_stem_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    message = (
        "the stem differs. The file has one 7x7 convolution from 3 to 64 channels, the network needs three 3x3 convolutions "
        "from 3 to 64, 64, 128 channels"
    )
    with pytest.raises(ValueError, match=message) as caught:
        build(network("pspnet-papers", encoder_weights=given(path)), 5, 0)
    assert str(path) in str(caught.value) and "resnet101s" in str(caught.value)
    with pytest.raises(ValueError, match="needs three 3x3 convolutions from 3 to 32, 32, 64 channels"):
        build(network("pspnet-papers", parameters={"half_width": True}, encoder_weights=given(path)), 5, 0)


@pytest.mark.parametrize(
    ("architecture", "encoder", "file", "options", "number", "first"),
    [
        ("pspnet-papers", "tu-resnet18", "resnet34", {"stem_type": "deep", "stem_width": 64}, 80, "layer1.2.bn1.bias"),
        ("unet", "tu-resnet50", "resnet101", {}, 255, "layer3.10.bn1.bias"),
        ("unet", "tu-resnet18", "resnet34", {}, 80, "layer1.2.bn1.bias"),
    ],
)
def test_weights_of_a_deeper_encoder_are_refused(
    tmp_path: Path, architecture: str, encoder: str, file: str, options: dict[str, Any], number: int, first: str
) -> None:
    """Every tensor of the encoder is in the file, and the rest of the file is a part of the same stages."""
    path = tmp_path / "deeper.safetensors"
    save_file(timm.create_model(file, pretrained=False, **options).state_dict(), path)
    message = rf"fit the encoder {encoder}: \d+ matched, 0 missing, {number} unexpected, 0 reshaped \(unexpected: {first}, .*Give weights of this very encoder"
    with pytest.raises(ValueError, match=message):
        build(network(architecture, encoder, encoder_weights=given(path)), 5, 0)


@pytest.mark.parametrize("encoder", ["resnet18", "efficientnet_b0", "convnext_atto"])
@pytest.mark.parametrize("depth", [3, 5])
def test_classifier_and_stages_that_are_not_read_may_be_left_over(tmp_path: Path, encoder: str, depth: int) -> None:
    state = shifted(timm.create_model(encoder, pretrained=False).state_dict())
    path = tmp_path / "whole.safetensors"
    save_file(state, path)
    parameters = {"encoder_depth": depth, "decoder_channels": [8] * depth}
    loaded = build(network("unet", f"tu-{encoder}", encoder_weights=given(path), parameters=parameters), 5, 0).encoder
    first = next(iter(loaded.state_dict().values()))
    assert any(torch.equal(first, value) for value in state.values())


def test_the_prefix_of_data_parallel_is_taken_off(tmp_path: Path) -> None:
    whole = timm.create_model("resnet18", stem_type="deep", stem_width=64, pretrained=False)
    state = shifted(whole.state_dict())
    path = tmp_path / "parallel.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    built = build(network("pspnet-papers", encoder_weights=given(path)), 5, 0)
    assert torch.equal(built.encoder.state_dict()["model.layer4.1.bn2.bias"], state["layer4.1.bn2.bias"])
