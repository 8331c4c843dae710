"""check_network: a sound network is described in one screen; each fault is found and named."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness.testing import check_network
from harness.testing.network import _moves

SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.shallow = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.classifier = nn.Conv2d(16, num_classes, 1)
        self.idle = nn.Conv2d(3, 3, 1)

    def forward(self, image):
        return self.classifier(self.deep(self.shallow(image)))


class OneClassMore(Net):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes + 1)


class Random(Net):
    def forward(self, image):
        return super().forward(image + torch.rand_like(image))


class LooksBeside(Net):
    def forward(self, image):
        return super().forward(image - image.mean(dim=0, keepdim=True))


class IdleInTraining(Net):
    def forward(self, image):
        return super().forward(image if self.training else self.idle(image))


class NotFinite(Net):
    def forward(self, image):
        return super().forward(image * (float("nan") if len(image) > 1 else 1.0))
"""
TAPS = {"stage1": "shallow", "stage2": "deep", "logits": "classifier"}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "ownnet.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("ownnet", None)


def test_a_sound_network_in_one_screen(own: None) -> None:
    said = check_network({"architecture": "ownnet:Net", "taps": TAPS, "input": {"multiple": 8}})
    lines = said.splitlines()
    assert lines[0].startswith("ownnet:Net: ") and "2 tensors that do not affect the scores are frozen" in lines[0]
    assert lines[1] == "sides: multiples of 8; others are padded and cropped"
    assert [line.split() for line in lines[2:6]] == [
        ["stage1", "8", "channels", "stride", "4"],
        ["stage2", "16", "channels", "stride", "8"],
        ["decoder", "16", "channels", "stride", "8"],
        ["logits", "7", "channels", "stride", "8"],
    ]
    assert lines[6].startswith("methods that apply to two of it: none, kd, ") and len(lines) < 25


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("OneClassMore", "returns (1, 8, 16, 16); it returns class scores (N, 7, h, w)"),
        ("Random", "something random is left on"),
        ("LooksBeside", "depend on the others in its batch"),
        ("IdleInTraining", "2 trained parameters get no gradient in train mode (first: network.idle."),
        ("NotFinite", "has values that are not finite"),
    ],
)
def test_each_fault_is_named(own: None, name: str, words: str) -> None:
    with pytest.raises((AssertionError, ValueError)) as caught:
        check_network({"architecture": f"ownnet:{name}", "taps": TAPS})
    assert words in str(caught.value)


def test_networks_by_name_are_sound() -> None:
    said = check_network({"architecture": "fpn", "encoder": "tu-mobilenetv3_small_050"})
    assert said.startswith("fpn: ") and "stage4" in said


@pytest.mark.parametrize(("raised", "refused"), [(NotImplementedError, False), (RuntimeError, True)])
def test_an_operation_that_needs_numbers_is_no_tensor_left_behind(raised: type[Exception], refused: bool) -> None:
    class Network(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise raised("nothing for this device")

    with pytest.raises(AssertionError, match="another device") if refused else contextlib.nullcontext():
        _moves(None, Network(), 3)  # type: ignore[arg-type]
