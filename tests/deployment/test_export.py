"""A trained network leaves as a file: what the file says is what the network says, by the file's own runtime."""

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import harness
from harness.deployment import calibration, graphs, judge
from harness.deployment import export as exporting
from harness.deployment import place as placing
from harness.deployment.export import TARGETS, Graphs
from harness.deployment.judge import Judged, require_equal
from harness.deployment.place import KIND
from harness.deployment.source import Form, Source
from harness.experiment.spec import Run
from harness.results import paths, store
from harness.results.exports import exports_folder, read_exports
from tests.support import exported, tiny
from tests.support.commands import ROOT, call, refused

pytestmark = [pytest.mark.torch, pytest.mark.slow]
HALF = (48, 80)  # sides that are no multiples of 32
INT8 = [name for name, kind in TARGETS.items() if isinstance(kind, Graphs) and kind.quantise]
ONE = ["--size", "64x64", "--batch", "1"]


Kept = Callable[..., tuple[dict[str, Any], Path]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """Folder of the experiment and its student, which sees images of 64x64."""
    folder = tmp_path_factory.mktemp("exported")
    teacher, run = tiny.plan(folder, methods=["none"])
    directory = folder / "results" / "tiny"
    del teacher
    assert tiny.in_process(run, directory) == "ok"
    return directory, run


def network(trained: tuple[Path, Run]) -> torch.nn.Module:
    """As it was trained: normalised images to scores."""
    return harness.load_student(trained[1].run_id, trained[0]).network


def images(*size: int) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def export(trained: tuple[Path, Run], to: str, output: Path, **options: Any) -> dict[str, Any]:
    if to == "executorch":  # takes one size
        options = {"size_hw": (64, 64), "batch": 1, **options}
    return harness.export(trained[1].run_id, to, trained[0], output, **options)


@pytest.fixture(scope="module")
def kept(trained: tuple[Path, Run], tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """One export of each kind, for the tests that only look at it."""
    made: dict[tuple[str, bool], tuple[dict[str, Any], Path]] = {}

    def get(to: str, int8: bool = False) -> tuple[dict[str, Any], Path]:
        if (to, int8) not in made:
            folder = tmp_path_factory.mktemp("kept") / "out"
            made[to, int8] = export(trained, to, folder, int8=int8), folder
        return made[to, int8]

    return get


def model_files(folder: Path) -> dict[str, bytes]:
    """Without the description and the card, which have times."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in ("export.json", "README.md")}


@pytest.mark.parametrize("to", TARGETS)
def test_a_file_says_what_the_network_says_and_has_a_row(trained: tuple[Path, Run], kept: Kept, to: str) -> None:
    found, folder = kept(to)
    row = store.read_row(paths.run_path(trained[0], trained[1].run_id))
    assert found["miou"] == pytest.approx(found["student_miou"], abs=1e-4)
    assert found["student_miou"] == row["val_miou"]
    assert found["agreement"] > 0.999 and found["largest_difference"] < 1e-3
    assert found["images"] == 3 and found["latency_ms"] > 0 and found["threads"] == 1
    assert found["size_bytes"] == sum(len(content) for content in model_files(folder).values())
    (row,) = [each for each in read_exports(trained[0]) if each["export_id"] == found["export_id"]]
    assert {name: row[name] for name in found} == found
    described = json.loads((folder / "export.json").read_text())
    assert described["run_id"] == trained[1].run_id and len(described["classes"]) == 8
    assert described["library"] == "segmentation_models_pytorch.FPN"
    card = (folder / "README.md").read_text()
    assert f"{100 * found['miou']:.2f}" in card and "Licence: to be filled in" in card


@pytest.mark.parametrize("to", [name for name in TARGETS if name != "torch-export"])
def test_two_processes_export_the_same_bytes(trained: tuple[Path, Run], kept: Kept, to: str, tmp_path: Path) -> None:
    """But for programs of torch, which writes a number of its own into each; OpenVINO numbers nodes in a process."""
    words = ["-m", "harness.cli", "export", str(trained[0]), "none/0", "--to", to, "--limit", "1"]
    words += [*(ONE if to == "executorch" else []), "-o"]
    for seed in ("1", "2") if to == "openvino" else ("1",):
        known = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, *words, str(tmp_path / seed)], cwd=ROOT, env=known, check=True)
    other = tmp_path / "2" if to == "openvino" else kept(to)[1]
    assert model_files(tmp_path / "1") == model_files(other) != {}


def test_smp_loads_the_folder_and_the_weights_by_itself(trained: tuple[Path, Run], kept: Kept) -> None:
    wanted = network(trained)(images(64, 96)).full
    loaded = smp.from_pretrained(str(kept("smp")[1])).eval()
    weights = kept("safetensors")[1] / "model.safetensors"
    options = {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}
    plain = smp.FPN("tu-mobilenetv3_small_050", encoder_weights=None, classes=8, **options).eval()
    plain.load_state_dict(load_file(weights), strict=True)
    with torch.no_grad():
        assert torch.equal(loaded(images(64, 96)), wanted)
        assert torch.equal(plain(images(64, 96)), wanted)
    with safe_open(weights, "pt") as file:
        described = json.loads(file.metadata()["sstkd-bench"])
    assert described["run_id"] == trained[1].run_id and described["channels"] == "RGB"


def test_graphs_take_any_number_of_images_of_any_size(trained: tuple[Path, Run], kept: Kept) -> None:
    import onnxruntime

    program = torch.export.load(kept("torch-export")[1] / "model.pt2").module()
    session = onnxruntime.InferenceSession(str(kept("onnx")[1] / "model.onnx"))
    for count, size in ((1, (64, 64)), (2, (128, 96)), (5, (96, 256))):
        image = images(*size).repeat(3, 1, 1, 1)[:count]
        wanted = network(trained)(image).full
        torch.testing.assert_close(program(image), wanted)
        (scores,) = session.run(["scores"], {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(scores), wanted, atol=1e-4, rtol=1e-4)


def test_a_graph_of_one_size_pads_inside(trained: tuple[Path, Run], tmp_path: Path) -> None:
    import onnxruntime

    row = export(trained, "onnx", tmp_path / "out", size_hw=HALF, batch=2)
    # In windows of that size both are judged, and images of 64x64 are padded to their width.
    assert row["agreement"] > 0.999 and row["latency_hw"] == [*HALF]
    assert row["student_miou"] == pytest.approx(row["miou"], abs=1e-3)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    (scores,) = session.run(["scores"], {"image": images(*HALF).numpy()})
    torch.testing.assert_close(torch.from_numpy(scores), network(trained)(images(*HALF)).full, atol=1e-4, rtol=1e-4)


def test_a_graph_that_keeps_the_size_of_its_example_is_not_kept(trained: tuple[Path, Run]) -> None:
    source = Source.of(trained[0], store.read_row(paths.run_path(trained[0], trained[1].run_id)))

    @torch.no_grad()
    def stubborn(image: torch.Tensor) -> torch.Tensor:
        if len(image) == 3:
            raise RuntimeError("Got: 3 Expected: 2")
        scores: torch.Tensor = source.network(image).full
        return scores + 1 if len(image) == 2 and image.shape[-1] == 64 else scores

    with pytest.raises(
        ValueError, match=r"onnx fails on fpn .*: ArithmeticError: 160x64 pixels give other scores .*--size 512x1024"
    ):
        graphs.require_free(stubborn, source, Form(), "onnx")
    with pytest.raises(ValueError, match=r"on images of 64x192 fails on fpn with .*Got: 3 Expected: 2.*--batch 1"):
        graphs.require_free(lambda image: stubborn(image) - float(image.shape[-1] == 64), source, Form(), "onnx")


def test_with_preprocessing_bytes_go_in_and_labels_come_out(trained: tuple[Path, Run], tmp_path: Path) -> None:
    import onnxruntime

    row = export(trained, "onnx", tmp_path / "out", preprocessing=True)
    assert row["largest_difference"] is None and row["agreement"] > 0.999
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    (labels,) = session.run(["labels"], {"image": pixels})
    student = harness.load_student(trained[1].run_id, trained[0])
    with torch.no_grad():
        wanted = student(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).argmax(1)
    assert labels.dtype == np.uint8 and (labels == wanted.numpy()).mean() > 0.999


@pytest.mark.parametrize("to", INT8)
def test_int8_says_what_it_loses_and_is_smaller(trained: tuple[Path, Run], kept: Kept, to: str) -> None:
    (whole, large), (small, folder) = kept(to), kept(to, int8=True)
    assert small["calibration"] == 12, "all there are"
    weights = [
        sum(len(content) for name, content in model_files(each).items() if name != "model.xml")
        for each in (large, folder)
    ]
    assert weights[1] < 0.6 * weights[0]
    assert (
        0.3 < small["agreement"] < 1
        and small["student_miou"] == store.read_row(paths.run_path(trained[0], trained[1].run_id))["val_miou"]
    )
    assert json.loads(small["versions"]).keys() - json.loads(whole["versions"]).keys() == set(TARGETS[to].quantisers)


@pytest.mark.parametrize("every", [False, True])
def test_int8_of_onnx_keeps_the_outermost_layers_and_the_description(
    trained: tuple[Path, Run], kept: Kept, every: bool, tmp_path: Path
) -> None:
    import onnx

    found, folder = kept("onnx", int8=True)
    if every:
        other, folder = found, tmp_path / "every"
        found = export(trained, "onnx", folder, int8=True, every_layer=True, limit=1)
        assert found["export_id"] != other["export_id"] and found["every_layer"]
    model = onnx.load(folder / "model.onnx")
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    constants = {each.name for each in model.graph.initializer}
    floats = [node.input[1] in constants for node in layers]  # the others' weights come out of DequantizeLinear
    assert floats == [place in (0, len(layers) - 1) and not every for place in range(len(layers))]
    assert {each.key: json.loads(each.value) for each in model.metadata_props}["run_id"] == trained[1].run_id


def test_int8_of_openvino_keeps_the_outermost_layers_and_the_description(trained: tuple[Path, Run], kept: Kept) -> None:
    _, folder = kept("openvino", int8=True)
    import openvino  # after the export, which keeps it from reporting

    model = openvino.Core().read_model(folder / "model.xml")
    layers = [op for op in model.get_ordered_ops() if op.get_type_name() in ("Convolution", "GroupConvolution")]
    floats = [op.input_value(0).get_node().get_type_name() != "FakeQuantize" for op in layers]
    assert floats[0] and floats[-1] and sum(floats) < 0.2 * len(floats)
    assert json.loads(model.get_rt_info(["sstkd-bench"]).astype(str))["run_id"] == trained[1].run_id


def test_a_size_that_is_read_from_a_map_is_no_way_through_the_network(tmp_path: Path) -> None:
    """A U-Net of any size resizes its maps to sizes that it reads from others."""
    import onnx

    found = exported.source("unet", "resnet18")
    assert found is not None
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    found = dataclasses.replace(found, data=dataclasses.replace(found.data, train=[(image, None) for image in pixels]))
    form = Form(calibration=2)
    for to in ("onnx", "openvino"):
        (tmp_path / to).mkdir()
        kind = TARGETS[to]
        assert isinstance(kind, Graphs) and kind.quantise is not None
        kind.write(found, form, tmp_path / to)
        kind.quantise(found, form, tmp_path / to)
    model = onnx.load(tmp_path / "onnx" / "model.onnx")
    assert {"Shape", "Resize"} <= {node.op_type for node in model.graph.node}
    constants = {each.name for each in model.graph.initializer}
    floats = [node.input[1] in constants for node in model.graph.node if node.op_type == "Conv"]
    assert floats == [True, *[False] * (len(floats) - 2), True]
    import openvino

    graph = openvino.Core().read_model(tmp_path / "openvino" / "model.xml")
    layers = [op for op in graph.get_ordered_ops() if op.get_type_name() == "Convolution"]
    assert [op.input_value(1).get_node().get_type_name() == "Constant" for op in layers] == floats


def test_openvino_reports_to_nobody(trained: tuple[Path, Run], tmp_path: Path) -> None:
    """Its packages report each import to their makers, and leave a number in the home folder."""
    words = ["-m", "harness.cli", "export", str(trained[0]), "none/0", "--to", "openvino", "--int8", "--limit", "1"]
    (tmp_path / "home").mkdir()
    known = {**os.environ, "HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, *words, "-o", str(tmp_path / "o")], cwd=ROOT, env=known, check=True)
    assert not (tmp_path / "home" / "intel").exists()


def test_which_layers_stay() -> None:
    """in -> a -> b -> c -> out, with b read past c, and d beside a."""
    after = {
        "in": ["a", "d"],
        "a": ["b"],
        "d": ["b"],
        "b": ["relu"],
        "relu": ["c", "add"],
        "c": ["add"],
        "add": ["out"],
    }
    before: dict[str, list[str]] = {}
    for name, readers in after.items():
        for reader in readers:
            before.setdefault(reader, []).append(name)
    assert calibration.outermost({*"abcde"}, ["in"], ["out"], after, before) == {"a", "d", "c", "b"}
    with pytest.raises(ValueError, match="no layer between its first and its last"):
        calibration.outermost({"a", "d", "c"}, ["in"], ["out"], after, before)


def test_calibration_sees_train_images_alone(
    trained: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source.of(trained[0], store.read_row(paths.run_path(trained[0], trained[1].run_id)))
    given = [each.numpy() for each in calibration.inputs(source, Form(calibration=4, preprocessing=True))]
    assert [each.shape for each in given] == [(1, 64, 64, 3)] * 4
    for place, each in enumerate(given):
        assert (each[0] == source.data.train[place * 12 // 4][0]).all()


def test_a_file_that_says_something_else_is_not_kept(
    trained: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_exports(trained[0])
    wrong = Judged(3, 0.5, 0.502, 0.9, 0.1)
    monkeypatch.setattr(exporting, "judged", lambda *args: wrong)
    with pytest.raises(ValueError, match=r"mIoU on 3 images of val is 50.00, that of the network 50.20"):
        export(trained, "safetensors", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [] and read_exports(trained[0]) == before
    require_equal(Judged(3, 0.5, 0.5009, 0.9, 0.1), "onnx")


def test_an_interrupted_export_leaves_the_earlier_one(
    trained: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(trained, "safetensors", tmp_path / "out", limit=1)
    rows, files = read_exports(trained[0]), sorted((tmp_path / "out").iterdir())

    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "latency", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(trained, "safetensors", tmp_path / "out")
    assert sorted((tmp_path / "out").iterdir()) == files
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and read_exports(trained[0]) == rows


@pytest.mark.parametrize("moved", [0, 1])
def test_what_an_interruption_leaves_at_the_place_can_be_replaced(
    trained: tuple[Path, Run], moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(trained, "smp", tmp_path / "out", limit=1)
    really, done = placing.os.replace, []

    def replace(a: Path, b: Path) -> None:
        if Path(b).parent == tmp_path / "out" and Path(b).name != "export.json":
            if len(done) == moved:
                raise KeyboardInterrupt
            done.append(b)
        really(a, b)

    monkeypatch.setattr(placing.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        export(trained, "safetensors", tmp_path / "out", limit=1)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["incomplete"]
    monkeypatch.undo()
    export(trained, "safetensors", tmp_path / "out", limit=1)
    files = ["README.md", "export.json", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files


def test_a_file_whose_scores_are_no_numbers_has_no_row(trained: tuple[Path, Run]) -> None:
    source = Source.of(trained[0], store.read_row(paths.run_path(trained[0], trained[1].run_id)))

    @torch.no_grad()
    def broken(image: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = source.network(image).full.clone()
        scores[..., 0, 0] = float("nan")
        return scores

    with pytest.raises(ValueError, match="class scores of image 0 of val are not finite numbers"):
        judge.judged(source, broken, Form(), None)


def test_what_is_not_offered_is_said(
    trained: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    (foreign / "export.json").write_text(json.dumps({"kind": KIND, "files": []}))
    for options, message in (
        ({"to": "tflite"}, "--to tflite: allowed are safetensors, smp, torch-export, onnx, openvino, executorch"),
        ({"to": "smp", "batch": 1}, "--to smp: these are weights, without a size, a batch or preprocessing"),
        ({"to": "smp", "int8": True}, "--int8: --to smp has no quantised form; allowed are onnx, openvino, exe"),
        ({"to": "onnx", "size_hw": (0, 5)}, r"--size \(0, 5\): height and width are needed, from 1 to 16384"),
        ({"to": "executorch", "batch": 1}, "--to executorch: a program reserves the memory of its largest input"),
        ({"to": "onnx", "batch": 2000}, "--batch 2000: has to be from 1 to 1024"),
        ({"to": "safetensors", "output": trained[0] / "exports"}, "lies among the results of tiny"),
        ({"to": "safetensors", "output": trained[0] / "weights" / "new"}, "lies among the results of tiny"),
        (
            {"to": "torch-export", "int8": True},
            "--int8: --to torch-export has no quantised form; allowed are onnx, openvino, exe",
        ),
        ({"to": "onnx", "every_layer": True}, "--every-layer: belongs to --int8; give both or neither"),
        ({"to": "onnx", "limit": 0}, "--limit 0: has to be 1 or more"),
        ({"to": "onnx", "int8": True, "calibrate": 0}, "--calibrate 0: has to be 1 or more"),
        (
            {"to": "safetensors", "output": foreign},
            r"holds something else than one export \(thesis\.txt\), which is not replaced",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            harness.export(trained[1].run_id, results=trained[0], **{"output": tmp_path / "out", **options})
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(ValueError, match=r"onnxruntime is not installed: pip install 'sstkd-bench\[export\]'"):
        export(trained, "onnx", tmp_path / "out")
    assert (foreign / "thesis.txt").read_text() == "mine" and not (tmp_path / "out").exists()


def test_the_command_names_the_files_and_what_they_are_worth(trained: tuple[Path, Run], tmp_path: Path) -> None:
    said = call("export", trained[0], "none/0", "--to", "onnx", "--size", "64x64", "--batch", "1", "--limit", "2")
    place = trained[0] / "exports" / "files" / f"{trained[1].run_id}-onnx-64x64-batch1"
    lines = said.stdout.splitlines()
    assert lines[0].startswith(f"{place}: onnx, ") and (place / "model.onnx").is_file()
    assert "on 2 images of val, as trained" in lines[1] and "ms for an image of 64x64" in lines[2]
    for size in ("64", "0x64", "64x"):
        assert f"--size {size}: height and width are needed" in refused(
            "export", trained[0], "none/0", "--to", "onnx", "--size", size
        )
    assert "--batch 0: a number of images is needed" in refused(
        "export", trained[0], "none/0", "--to", "onnx", "--batch", "0"
    )
    assert list(exports_folder(trained[0]).glob(".*")) == []


def test_only_the_files_of_an_earlier_export_are_replaced(
    trained: tuple[Path, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    export(trained, "smp", Path("."), limit=1)
    export(trained, "safetensors", tmp_path / "link", limit=1)
    files = ["README.md", "export.json", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == files
    (tmp_path / "real" / "int8").mkdir()
    with pytest.raises(ValueError, match=r"holds something else than one export \(int8\), which"):
        export(trained, "safetensors", tmp_path / "real", limit=1)
    assert (tmp_path / "real" / "model.safetensors").is_file() and (tmp_path / "real" / "int8").is_dir()


def test_no_file_holds_a_path_of_this_machine(trained: tuple[Path, Run], kept: Kept) -> None:
    for to in TARGETS:
        for path in kept(to)[1].iterdir():
            content = path.read_bytes()
            if path.suffix == ".pt2":
                with zipfile.ZipFile(path) as archive:
                    content = b"".join(archive.read(name) for name in archive.namelist())
            for place in (str(ROOT), str(trained[0]), torch.__file__.rpartition("/")[0]):
                assert place.encode() not in content, (path, place)


def test_all_students_of_an_experiment_are_exported(trained: tuple[Path, Run], tmp_path: Path) -> None:
    file, results = trained[0].parent.parent / "tiny.yaml", trained[0].parent
    two = ("--all", "--set", "methods=[none, kd]", "--results", results, "--to", "safetensors", "--limit", "1")
    lines = call("export", file, *two, "-o", tmp_path / "files").stdout.splitlines()
    assert lines[0] == "1 of 2 students have not finished and are left out" and lines[1] == "none seed 0"
    assert [path.name for path in (tmp_path / "files").iterdir()] == [f"{trained[1].run_id}-safetensors"]
    other = ("--all", "--set", "methods=[none]", "--set", "seeds=[7]", "--results", results, "--to", "smp")
    assert "none of the 1 students of" in refused("export", file, *other)
    assert "--set belongs to --all" in refused("export", trained[0], "none/0", "--to", "smp", "--set", "seeds=[7]")
