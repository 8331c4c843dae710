"""Networks of one's own are built without weights that nobody named: neither by parameters, nor by defaults, nor inside."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models as torchvision_models

from harness.experiment import network_rules
from harness.experiment.spec import Network
from harness.files import sha256
from harness.models import build
from harness.testing import check_network

SOURCE = """
from pathlib import Path
import safetensors.torch
import timm
import torch
from torch import nn
from torchvision.models import resnet18


class Net(nn.Module):
    def __init__(self, num_classes, cfg=None, weights_backbone="DEFAULT", pretrained=True):
        super().__init__()
        assert not weights_backbone and not pretrained
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, x):
        return self.head(self.backbone(x))


class Torch(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes, None, None, False)
        torch.load(Path(__file__).with_name("w.pth"))


class Safetensors(Torch):
    def __init__(self, num_classes):
        safetensors.torch.load_file(Path(__file__).with_name("w.safetensors"))


class Timm(Torch):
    def __init__(self, num_classes):
        timm.create_model("resnet18", pretrained=True)


class Torchvision(Torch):
    def __init__(self, num_classes):
        resnet18(weights="DEFAULT")


class Hub(Torch):
    def __init__(self, num_classes):
        torch.hub.load_state_dict_from_url("https://example.org/w.pth")


class Constant(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes, None, None, False)
        with torch.no_grad():
            self.head.weight.copy_(torch.linspace(0, 1, self.head.weight.numel()).view_as(self.head.weight))


class Bodied(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.backbone = resnet18(weights=None)
        self.backbone.fc = nn.Identity()
        self.head = nn.Conv2d(512, num_classes, 1)

    def forward(self, x):
        b = self.backbone
        x = b.maxpool(b.relu(b.bn1(b.conv1(x))))
        return self.head(b.layer4(b.layer3(b.layer2(b.layer1(x)))))
"""
TAPS = {"stage1": "backbone", "logits": "head"}


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "loading.py").write_text(SOURCE)
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("loading", None)


def spec(name: str, **more: Any) -> Network:
    return Network.model_validate({"architecture": f"loading:{name}", "taps": TAPS} | more)


@pytest.mark.parametrize(
    "parameters",
    [
        {"weights": "DEFAULT"},
        {"weights_backbone": "IMAGENET1K_V1"},
        {"encoder_weights": "imagenet"},
        {"model_name": "hf_hub:timm/resnet18.a1_in1k"},
        {"model_name": "local-dir:/models/x"},
        {"backbone": {"use_pretrained_backbone": True}},
        {"cfg": {"backbone": {"init_cfg": {"type": "Pretrained"}}}},
        {"cfg": [{"ckpt": "w.pth"}]},
        {"cfg": [1, {"kwargs": {"Pretrained": True}}]},
        {"cfg": {"name": "w.safetensors"}},
        {"cfg": {"from": ["https://example.org/w"]}},
    ],
)
def test_parameters_that_load_are_refused_at_any_depth(parameters: dict[str, Any]) -> None:
    for architecture, encoder in (("loading:Net", None), ("fpn", "tu-resnet18")):
        found = [m for at, m in network_rules.problems(architecture, encoder, parameters) if at[0] == "parameters"]
        assert len(found) == 1 and "load no files and reach no network" in found[0]


@pytest.mark.parametrize(
    "parameters",
    [
        *({"weights_backbone": None}, {"pretrained": False}, {"use_checkpoint": True}, {"class_weights": [1.0, 2.0]}),
        *({"norm": "batch"}, {"cfg": {"act": "torch.nn.ReLU", "drop": 0.1}}),
    ],
)
def test_others_are_not(parameters: dict[str, Any]) -> None:
    assert not list(network_rules.problems("loading:Net", None, parameters))


def test_what_a_builder_loads_by_default_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert build(spec("Net"), 4, 0).info().logits.channels == 4
    taps = {"stage1": "backbone.3", "logits": "classifier.high_classifier"}
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("fetched"))
    build(spec("", architecture="torchvision.models.segmentation:lraspp_mobilenet_v3_large", taps=taps), 4, 0)


@pytest.mark.parametrize("name", ["Torch", "Safetensors", "Timm", "Torchvision", "Hub"])
def test_a_constructor_that_loads_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"loads weights while it is built. Build it without.*encoder_weights"):
        build(spec(name), 4, 0)
    assert torch.load(tmp_path / "w.pth")["a"].shape == (1,), "afterwards everything is as before"


def test_weights_that_are_the_same_for_every_seed_are_told() -> None:
    assert "1 tensors begin with the same values for every seed (head.weight)" in check_network(spec("Constant"))
    assert "for every seed" not in check_network(spec("Net"))


def test_encoder_weights_of_a_part_called_backbone(tmp_path: Path) -> None:
    torch.manual_seed(4)
    plain = torchvision_models.resnet18(weights=None).state_dict()
    path = tmp_path / "resnet18.pth"
    torch.save(plain, path)
    given = {"encoder_weights": {"path": str(path), "sha256": sha256(path)}}
    taps = {"stage1": "backbone.layer1", "stage2": "backbone.layer2", "logits": "head"}
    built = build(spec("Bodied", taps=taps, **given), 4, 0)
    own = built.loaded_encoder().state_dict()
    assert own and all(torch.equal(value, plain[name]) for name, value in own.items())
    with pytest.raises(ValueError, match=r"does not fit the encoder of loading:Net: 0 matched, 6 missing"):
        build(spec("Net", **given), 4, 0)
