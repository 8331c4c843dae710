"""Networks of one's own: bit-equal to the plain network, any size, trained, and errors that say what to write."""

import copy
import json
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from harness.experiment.load import load
from harness.experiment.plan import plan
from harness.experiment.spec import Network
from harness.models import build, load_into, load_state, save_state, state_sha256
from harness.results import content, paths, store
from harness.taps import TapInfo
from harness.testing import check_network
from tests.support import tiny

SOURCE = """
import torch
from torch import nn
import torch.nn.functional as F
from harness import Taps


class Net(nn.Module):
    def __init__(self, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.shallow = nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 4, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.neck = nn.Conv2d(2 * width, width, 1)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.unused = nn.Conv2d(3, 3, 1)

    def forward(self, image):
        return self.classifier(self.neck(self.deep(self.shallow(image))))


class Wrapping(nn.Module):
    def __init__(self, num_classes: int, part: str = "model") -> None:
        super().__init__()
        self.part = part
        self.add_module(part, Net(num_classes))

    def forward(self, image):
        return getattr(self, self.part)(image)


class Tapped(Net):
    def forward(self, image):
        shallow = self.shallow(image)
        deep = self.deep(shallow)
        decoder = self.neck(deep)
        logits = self.classifier(decoder)
        full = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return Taps({"stage1": shallow, "stage2": deep}, decoder, logits, full)


class Named(Net):
    def forward(self, image):
        return {"out": super().forward(image), "aux": None}


def classless(width: int = 8):
    return Net(3, width)


def twice(num_classes):
    net = Net(num_classes)
    net.deep = nn.Sequential(nn.Conv2d(8, 8, 1), net.deep)
    net.forward = lambda image: Net.forward(net, image) + Net.forward(net, image)
    return net


def no_network(num_classes):
    return 3
"""
PATHS = {"stage2": "deep", "stage1": "shallow", "logits": "classifier"}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module `mynet` with networks, importable."""
    (tmp_path / "mynet.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("mynet", None)


def spec(name: str = "Net", taps: dict[str, str] | None = None, **more: Any) -> Network:
    return Network(architecture=f"mynet:{name}", taps=taps, **more)


@pytest.mark.parametrize(("name", "taps"), [("Net", PATHS), ("Named", PATHS), ("Tapped", None)])
@pytest.mark.parametrize("training", [True, False])
def test_bit_equal_to_the_plain_network(own: Path, name: str, taps: dict[str, str] | None, training: bool) -> None:
    network = build(spec(name, taps), 3, seed=0).train(training)
    plain: nn.Module = network.network  # type: ignore[assignment]
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    found = network(image)
    shallow = plain.shallow(image)  # type: ignore[operator]
    deep = plain.deep(shallow)  # type: ignore[operator]
    decoder = plain.neck(deep)  # type: ignore[operator]
    logits = plain.classifier(decoder)  # type: ignore[operator]
    for got, expected in ((found.stages["stage1"], shallow), (found.stages["stage2"], deep)):
        assert torch.equal(got, expected)
    assert torch.equal(found.decoder, decoder) and torch.equal(found.logits, logits)
    assert torch.equal(found.full, F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False))
    assert list(found.stages) == ["stage1", "stage2"], "shallow to deep, whatever the file's order"
    info = network.info()
    assert info.stages == {"stage1": TapInfo(8, 4), "stage2": TapInfo(16, 16)}
    assert (info.decoder, info.logits) == (TapInfo(8, 16), TapInfo(3, 16))
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"network.unused.weight", "network.unused.bias"}, "or DDP would wait for their gradients"


def test_initial_weights_depend_on_the_seed_alone(own: Path) -> None:
    def weights(seed: int) -> Tensor:
        torch.rand(3)
        return build(spec(taps=PATHS), 3, seed).network.neck.weight  # type: ignore[return-value, union-attr]

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


def test_other_sizes_are_padded_and_cropped(own: Path) -> None:
    network = build(spec(taps=PATHS, input={"multiple": 32}), 3, seed=0).eval()
    image = torch.randn(1, 3, 50, 70, generator=torch.Generator().manual_seed(1))
    found = network(image)
    padded = network.network(F.pad(image, (0, 26, 0, 14), mode="replicate"))  # type: ignore[operator]
    assert found.full.shape == (1, 3, 50, 70) and found.logits.shape == (1, 3, 4, 5)
    assert torch.equal(found.logits, padded[..., :4, :5])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_is_a_network_of_its_own(own: Path, copied: Callable[[nn.Module], nn.Module]) -> None:
    network = build(spec(taps=PATHS), 3, seed=0).eval()
    other = copied(network)
    for parameter in other.parameters():
        parameter.data += 0.1
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    first, second = network(image), other(image)
    assert torch.equal(second.stages["stage1"], other.network.shallow(image))  # type: ignore[operator, union-attr]
    assert not torch.equal(first.stages["stage1"], second.stages["stage1"])


def test_its_state_loads_where_it_came_from(own: Path) -> None:
    """Weights saved from the plain module go into the network with taps."""
    network, other = build(spec(taps=PATHS), 3, seed=0), build(spec(taps=PATHS), 3, seed=1)
    load_into(other, network.network.state_dict(), "FILE")  # type: ignore[union-attr]
    assert torch.equal(other.network.neck.weight, network.network.neck.weight)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("part", ["model", "net", "network", "module"])
@pytest.mark.parametrize("wrapped", ["", "module.", "module._orig_mod."])
def test_a_part_called_like_a_wrapper_is_reloaded(own: Path, part: str, wrapped: str) -> None:
    inner = {name: f"{part}.{path}" for name, path in PATHS.items()}
    given = spec("Wrapping", inner, parameters={"part": part})
    network, other = build(given, 3, seed=0), build(given, 3, seed=1)
    path = own / "w.safetensors"
    digest = save_state({f"{wrapped}{name}": value for name, value in network.saved_state().items()}, path)
    load_into(other, load_state(path, digest), "FILE")
    assert state_sha256(other.state_dict()) == state_sha256(network.state_dict())
    if not wrapped:
        assert "stage1" in check_network(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (spec("Absent"), "mynet has no class or function Absent"),
        (spec(parameters={"widht": 4}, taps=PATHS), "takes no such parameter. Did you mean 'width'"),
        (spec("classless", taps=PATHS), "takes no number of classes; give it a parameter num_classes"),
        (spec("no_network", taps=PATHS), "gives int; a network is a torch.nn.Module"),
        (spec(), "forward returns Tensor. Return harness.Taps, or name its modules"),
        (spec(taps=PATHS | {"stage1": "shalow"}), "has no module 'shalow'. Did you mean 'shallow'"),
        (spec(taps={"stage1": "shallow", "decoder": "unused"}), "is called 0 times"),
        (spec("twice", taps=PATHS), "is called 2 times in a forward pass"),
        (spec(taps={"stage1": "shallow"}), "`logits` is needed"),
        (spec(taps={"logits": "classifier"}), "at least one stage is needed"),
        (spec(taps=PATHS | {"layer3": "deep"}), "unknown tap. Allowed: stem, stage1 to stage9"),
        (spec(taps=PATHS, encoder="resnet18"), "a network of your own has no encoder key"),
        (Network(architecture="fpn", encoder="resnet18", taps=PATHS), "only those of a network of your own are named"),
        (Network(architecture="fpn"), "fpn needs an encoder"),
        (Network(architecture="no_such_module:Net"), "no_such_module"),
        (Network(architecture="mynet:Net:x"), "package.module:Name"),
    ],
)
def test_mistakes_are_named(own: Path, given: Network, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(given, 3, seed=0)
    assert words in str(caught.value), caught.value


def pairs(student: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**tiny.TINY["pairs"][0], "student": student}]


@pytest.mark.slow
def test_it_is_trained_and_its_source_is_part_of_the_row(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = {"architecture": "mynet:Net", "taps": PATHS, "input": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    file = tiny.write(own, pairs=pairs(student), methods=["none", "kd", "cwd", "sstkd"])
    runs = plan(load(file))
    for run in runs:
        assert tiny.in_process(run, own / "r") == "ok", store.read_row(paths.run_path(own / "r", run.run_id))["message"]
    rows = [store.read_row(paths.run_path(own / "r", run.run_id)) for run in runs]
    assert {row["source_sha256"] for row in rows if row["role"] == "teacher"} == {None}
    (digest,) = {row["source_sha256"] for row in rows if row["role"] == "student"}
    assert digest == content.outside_sha256("none", "mynet:Net")
    (own / "mynet.py").write_text(SOURCE + "# changed\n")
    from harness.results import reuse

    found = reuse.standings(own / "r", None, lambda: None)
    states = {run.role: found[run.run_id] for run in runs}
    assert states["student"].state == "stale" and states["teacher"].state == "ok"
    assert states["student"].reasons[0].startswith("source files from outside ")


def test_a_given_teacher_needs_no_encoder_for_the_students_rates(own: Path) -> None:
    teacher = {"architecture": "mynet:Net", "taps": PATHS}
    state = build(Network.model_validate_json(json.dumps(teacher)), 8, seed=0).saved_state()
    torch.save(state, own / "teacher.pth")
    given = [{**tiny.TINY["pairs"][0], "teacher": {**teacher, "checkpoint": {"path": str(own / "teacher.pth")}}}]
    train = {**tiny.TINY["train"], "optimizer": {"name": "sgd", "lr": 0.01, "encoder_lr_factor": 0.1}}
    (first, *_) = plan(load(tiny.write(own, pairs=given, train=train, methods=["none", "kd"])))
    assert first.role == "teacher" and first.checkpoint is not None
    assert tiny.in_process(first, own / "r") == "ok", store.read_row(paths.run_path(own / "r", first.run_id))["message"]


def test_a_mistake_is_found_by_check(own: Path) -> None:
    student = {"architecture": "absent_module:Net", "taps": {"stage0": "a", "logits": "b"}}
    with pytest.raises(ValueError) as caught:
        load(tiny.write(own, pairs=pairs(student)))
    said = str(caught.value)
    assert "pairs.0.student.architecture: " in said and "absent_module" in said
    assert "pairs.0.student.taps.stage0: unknown tap" in said


def test_the_documented_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
    source, written = (text.split(f"```{kind}\n")[1].split("```")[0] for kind in ("python", "yaml"))
    (tmp_path / "mynet.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    network = Network.model_validate_json(json.dumps(yaml.safe_load(written)["student"]))
    assert build(network, 7, seed=0).info().stages == {"stage1": TapInfo(32, 4), "stage2": TapInfo(64, 8)}
    del sys.modules["mynet"]
