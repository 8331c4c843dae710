"""The experiment files that are shipped: each is valid, and each trains for real on trees in the datasets' own layout."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import harness
from harness.experiment.load import load
from harness.experiment.plan import outline, plan
from harness.experiment.spec import Network
from harness.models import build
from harness.results import paths, store
from harness.taps import NetworkInfo, Pair
from harness.training.build import build_method, load_data
from harness.training.execute import execute
from harness.training.runtime import Runtime
from tests.support import trees

FOLDER = Path(harness.__file__).parent.parent / "experiments"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
PAPERS = ("cityscapes", "cityscapes_cirkd", "voc2012", "voc2012_cirkd", "ade20k", "ade20k_cirkd")
ROOTS = {"CITYSCAPES": "cityscapes", "VOC2012": "voc2012", "ADE20K": "ade20k", "CAMVID": "camvid"}
# Steps, crops and batches that a CPU can do; networks, losses, data and everything else are the file's own.
SMALL = [
    "train.steps=4",
    "train.batch_size=2",
    "train.augment.crop_hw=[48, 64]",
    "train.eval_every=4",
    "train.eval_batch_size=1",
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Environment: a tree per dataset, and weights of the papers' encoders (random here)."""
    folder = tmp_path_factory.mktemp("places")
    variables = {"SSTKD_BENCH_CACHE": str(folder / "remembered"), "WEIGHTS": str(folder / "weights")}
    for variable, name in ROOTS.items():
        (folder / name).mkdir()
        trees.WRITE[name](folder / name)
        variables[variable] = str(folder / name)
    (folder / "weights").mkdir()
    for depth in (18, 101):
        network = build(Network(architecture="pspnet-papers", encoder=f"tu-resnet{depth}"), 19, 0)
        torch.save(network.encoder.state_dict(), folder / "weights" / f"resnet{depth}-imagenet.pth")
    for name in re.findall(r"\$\{WEIGHTS\}/(\S+\.safetensors)", (FOLDER / "backbones.yaml").read_text()):
        (folder / "weights" / name).write_bytes(name.encode())  # only named by its digest here
    patch = pytest.MonkeyPatch()
    for variable, value in variables.items():
        patch.setenv(variable, value)
    yield variables
    patch.undo()


def slow_unless(*few: str) -> list[Any]:
    """The papers' files; the others are tried by `.ci/run` alone."""
    return [pytest.param(file, marks=() if file in few else pytest.mark.slow) for file in PAPERS]


_INFO: dict[tuple[str, int], NetworkInfo] = {}


def info_of(network: Network, classes: int) -> NetworkInfo:
    """Built once: methods and seeds share networks."""
    without = network.model_copy(update={"encoder_weights": None, "checkpoint": None})
    key = without.model_dump_json(), classes
    if key not in _INFO:
        _INFO[key] = build(without, classes, 0).info()
    return _INFO[key]


@pytest.mark.parametrize("file", FILES)
def test_it_is_valid(file, places):
    experiment = load(FOLDER / file, ["seeds=[0]"])
    runs = outline(experiment)
    assert experiment.name == file.removesuffix(".yaml").replace("_", "-")
    assert len(runs) == len({run.run_id for run in runs})


@pytest.mark.parametrize("file", [pytest.param("backbones_small", marks=pytest.mark.slow), *slow_unless("cityscapes")])
def test_every_method_applies(file, places):
    experiment = load(FOLDER / f"{file}.yaml", ["seeds=[0]"])
    for run in outline(experiment):
        if run.teacher is None:
            continue
        found = load_data(run.data).info
        student, teacher = (info_of(network, found.num_classes) for network in (run.network, run.teacher))
        build_method(run.method, Pair(student, teacher, found.num_classes, found.ignore_index), run.seed)


@pytest.mark.parametrize("file", ["backbones", "backbones_small"])
def test_a_grid_has_twelve_pairs_over_architectures_and_encoders(file, places):
    experiment = load(FOLDER / f"{file}.yaml")
    assert len({pair.name for pair in experiment.pairs}) == len(experiment.pairs) >= 12
    networks = [network for pair in experiment.pairs for network in (pair.teacher, pair.student)]
    architectures = {network.architecture.split("-")[0] for network in networks}
    assert {"pspnet", "deeplabv3", "deeplabv3plus", "fpn", "upernet", "segformer"} <= architectures
    encoders = " ".join(network.encoder for network in networks)
    assert all(kind in encoders for kind in ("resnet", "efficientnet", "mobilenet", "convnext", "mit_"))


def test_the_study_of_weights_is_of_two_datasets_by_one_file():
    texmosaic = ["name=sensitivity-texmosaic", "data={name: texmosaic, parameters: {equalize: false}}"]
    both = [load(FOLDER / "sensitivity.yaml", changes) for changes in ([], texmosaic)]
    assert [experiment.data.name for experiment in both] == ["landcover", "texmosaic"]
    assert both[1].data.parameters["equalize"] is False
    runs = [{run.run_id for run in outline(experiment)} for experiment in both]
    labels = [method.label for method in both[0].methods]
    # A teacher, and 38 lines with 5 seeds; none for as long is not known before steps are timed.
    assert len(set(labels)) == len(labels) == 38 and both[0].budget.longer
    assert [len(each) for each in runs] == [191, 191] and not runs[0] & runs[1]


@pytest.mark.parametrize("file", slow_unless())
def test_it_takes_four_real_steps(file, places, tmp_path):
    """With its own networks, a teacher of 101 layers, on Cityscapes; elsewhere the same teacher has 18 layers."""
    encoder = ["encoder=tu-resnet18", "encoder_weights.path=${WEIGHTS}/resnet18-imagenet.pth"]
    changes = [] if file.startswith("cityscapes") else [f"pairs.0.teacher.{change}" for change in encoder]
    overrides = [*SMALL, "seeds=[0]", "methods=[none, kd]", "controls=false", "train.checkpoint_every=4", *changes]
    experiment = load(FOLDER / f"{file}.yaml", overrides)
    runs = [run for run in plan(experiment) if run.pair == experiment.pairs[0].name]
    runs = [run for run in runs if run.role == "teacher" or run.method.name == "kd"]
    for run in runs:
        runtime = Runtime.local(tmp_path / run.run_id, device=torch.device("cpu"), threads=torch.get_num_threads())
        assert execute(run, runtime, tmp_path) == "ok", store.read_row(paths.run_path(tmp_path, run.run_id))["message"]
    rows = [store.read_row(paths.run_path(tmp_path, run.run_id)) for run in runs]
    assert [row["role"] for row in rows] == ["teacher", "student"]
    for row in rows:
        assert row["steps"] == 4 and row["losses"][-1]["step"] == 4 and sum(row["val_confusion"]) > 0
        assert row["per_image_sha256"] is not None and row["data_ms"] > 0
        assert all(
            sample["image"] is None and sample["label"] is None for sample in row["samples"]
        )  # not ours to share
    assert len({row["data_hash"] for row in rows}) == 1


@pytest.mark.parametrize("file", PAPERS)
def test_it_is_the_papers_recipe(file, places):
    train = load(FOLDER / f"{file}.yaml").train
    ours = (train.steps, train.batch_size, train.optimizer.lr, train.optimizer.weight_decay, train.optimizer.momentum)
    cirkd = file.endswith("_cirkd")
    assert ours == ((40000, 16, 0.02, 1e-4, 0.9) if cirkd else (40000, 8, 0.01, 5e-4, 0.9))
    assert train.augment.crop_hw == ((512, 1024) if file == "cityscapes_cirkd" else (512, 512))
    assert train.normalize == "bgr-mean" and (train.schedule.name, train.schedule.power) == ("poly", 0.9)
    assert train.auxiliary_weight == 0.4 and train.augment.flip and train.augment.jitter == 0


def test_a_missing_folder_is_named_with_its_key(places, monkeypatch):
    monkeypatch.delenv("CITYSCAPES")
    with pytest.raises(ValueError, match=r"cityscapes.yaml:\d+: metadata.experiment.data.root: .*CITYSCAPES"):
        load(FOLDER / "cityscapes.yaml")
    assert "WEIGHTS" in os.environ
