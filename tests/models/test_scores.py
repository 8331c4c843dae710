"""Networks of one's own that return several maps, or odd ones: the scores are those of the declared tap, or an error."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from harness.experiment.spec import Network
from harness.models import build
from harness.testing import check_network

SOURCE = """
import numpy as np
import torch
from torch import nn
import torch.nn.functional as F
from harness import Taps


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.shallow = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())
        self.aux, self.head = nn.Conv2d(8, num_classes, 1), nn.Conv2d(12, num_classes, 1)
        self.token, self.last = nn.Identity(), nn.Identity()

    def both(self, x):
        shallow = self.shallow(x)
        return self.aux(shallow), self.head(self.deep(shallow))

    def forward(self, x):
        return self.both(x)[1]


def resized(scores, x, corners=False):
    return F.interpolate(scores, x.shape[-2:], mode="bilinear", align_corners=corners)


class AuxFirst(Net):
    def forward(self, x):
        aux, scores = self.both(x)
        return [aux, scores, scores.mean(1, keepdim=True)]


class AuxLast(Net):
    def forward(self, x):
        return self.both(x)[::-1]


class Named(Net):
    def forward(self, x):
        return dict(zip(("boundary", "prediction"), self.both(x)))


class Resized(Net):
    def forward(self, x):
        aux, scores = self.both(x)
        return resized(aux, x, True), [resized(scores, x, True)]


class OnlyInTraining(Net):
    def forward(self, x):
        return self.both(x) if self.training else self.both(x)[1]


class Summed(Net):
    def forward(self, x):
        aux, scores = self.both(x)
        return aux, resized(scores, aux) + aux


class OtherClasses(Net):
    def __init__(self, num_classes):
        super().__init__(21)


class ChannelsLast(Net):
    def forward(self, x):
        return self.head(self.last(self.deep(self.shallow(x)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class Tokens(Net):
    def forward(self, x):
        deep = self.deep(self.shallow(x))
        return self.head(self.token(deep.flatten(2)).view_as(deep))


class InPlace(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.shallow[2] = nn.ReLU(inplace=True)


class NoGradient(Net):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class Lazy(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.head = nn.LazyConv2d(num_classes, 1)


class Complex(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.weight = nn.Parameter(torch.ones(2, dtype=torch.complex64))


class Half(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.half()


class Broken(Net):
    def __init__(self, num_classes):
        self.shallow = 1 / 0


class TwoArguments(Net):
    def forward(self, x, y):
        return x


class Empty(nn.Module):
    def __init__(self, num_classes):
        super().__init__()


class OddTaps(Net):
    def forward(self, x):
        aux, scores = self.both(x)
        return Taps({"layer1": aux}, aux, scores, resized(scores, x))


class SmallTaps(Net):
    def forward(self, x):
        aux, scores = self.both(x)
        return Taps({"stage1": aux}, aux, scores, scores)


class Softmax(Net):
    def forward(self, x):
        return super().forward(x).softmax(1)


class NotMoved(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.factor = torch.ones(1)

    def forward(self, x):
        return super().forward(x) * self.factor


class OneSize(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.position = nn.Parameter(torch.zeros(1, 12, 16, 16))

    def forward(self, x):
        return self.head(self.deep(self.shallow(x)) + self.position)


class AlwaysTraining(Net):
    def train(self, mode=True):
        return super().train(True)


class FromNumpy(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor(np.random.randn(num_classes)))


class FromTheClock(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor(np.random.default_rng().normal(size=num_classes)))
"""
TAPS = {"stage1": "shallow", "stage2": "deep", "logits": "head"}


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "manymaps.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("manymaps", None)


def spec(name: str, **taps: str) -> Network:
    named = None if name.endswith("Taps") else {**TAPS, **taps}
    return Network(architecture=f"manymaps:{name}", taps=named)


@pytest.mark.parametrize("name", ["AuxFirst", "AuxLast", "Named", "Resized", "OnlyInTraining"])
def test_the_scores_are_those_of_the_declared_tap(name: str) -> None:
    for _ in range(2):  # the second is built without a dry run
        network = build(spec(name), 5, seed=0)
        frozen = {key for key, p in network.named_parameters() if not p.requires_grad}
        assert frozen == {"network.aux.weight", "network.aux.bias"}
        image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        for training in (True, False):
            with torch.no_grad():
                found = network.train(training)(image)
            corners = name == "Resized"
            expected = F.interpolate(found.logits, size=(64, 64), mode="bilinear", align_corners=corners)
            assert torch.equal(found.full, expected)
    check_network(spec(name))


def test_a_dry_run_leaves_the_state_as_it_is() -> None:
    first, second = (build(spec("OnlyInTraining"), 4, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (spec("Summed"), "2 of these may be the class scores, and the tap `logits` is 0 of them"),
        (Network(architecture="manymaps:AuxFirst", taps={"stage1": "shallow", "decoder": "deep"}), "is not named"),
        (spec("OnlyInTraining", logits="aux"), "taps.logits: this map does not affect the class scores"),
        (spec("Net", stage2="aux"), "taps.stage2: this map does not affect the class scores"),
        (spec("OtherClasses"), "(1, 21, 16, 16); it returns class scores (N, 5, h, w)"),
        (spec("ChannelsLast", stage2="last"), "taps.stage2: (1, 16, 16, 12) for an image of (128, 128)"),
        (spec("Tokens", stage2="token"), "gives (1, 12, 256); a tap is a map (N, C, H, W)"),
        (spec("InPlace", stage1="shallow.1"), "taps.stage1: what the module 'shallow.1' gives is changed in place"),
        (spec("NoGradient"), "its class scores have no gradient"),
        (spec("Lazy"), "head.weight has no shape before the first pass (a lazy module)"),
        (spec("Complex"), "weight is complex64; keep real numbers"),
        (spec("Half"), "shallow.0.weight is float16; build it in float32"),
        (spec("Broken"), "manymaps:Broken(num_classes=5, ...) with parameters {} fails: ZeroDivisionError"),
        (spec("TwoArguments"), "missing 1 required positional argument: 'y'"),
        (spec("Empty"), "manymaps:Empty has no parameters"),
        (spec("OddTaps"), "Taps.stages is a mapping of maps by name: stem, stage1 (shallow) to stage9"),
        (spec("SmallTaps"), "Taps.full is (1, 5, 16, 16) for an image of (128, 128)"),
    ],
)
def test_what_does_not_fit_is_said(given: Network, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(given, 5, seed=0)
    assert words in str(caught.value), caught.value


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Softmax", "`full` has probabilities"),
        ("NotMoved", "it does not move to another device"),
        ("OneSize", "it fails on images of 100x136"),
        ("AlwaysTraining", "its train() ignores `mode`"),
        ("FromTheClock", "with the same seed it starts from other weights each time (first: network.head.bias)"),
    ],
)
def test_what_check_network_finds(name: str, words: str) -> None:
    with pytest.raises(AssertionError) as caught:
        check_network(spec(name))
    assert words in str(caught.value), caught.value


def test_numpys_numbers_follow_from_the_seed_too() -> None:
    def bias(seed: int) -> torch.Tensor:
        return build(spec("FromNumpy"), 5, seed).state_dict()["network.head.bias"]

    assert torch.equal(bias(0), bias(0)) and not torch.equal(bias(0), bias(1))


def test_a_module_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "manymaps.py").write_text("width = undefined_name\n")
    with pytest.raises(ValueError, match=r"cannot be imported: NameError: .*manymaps.py, line 1"):
        build(spec("Net"), 5, seed=0)
