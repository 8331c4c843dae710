"""The script that times a model elsewhere: it needs nothing of this project, and what it writes becomes a row."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import harness
from harness.results.exports import read_exports
from harness.results.latency import add_latency
from tests.support import tiny
from tests.support.commands import call, refused

pytestmark = [pytest.mark.torch, pytest.mark.slow]
ALONE = """
import runpy, sys
for name in ("torch", "harness", "onnx", "PIL", "cv2"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Results folder of the experiment, folder of the export, and its row."""
    folder = tmp_path_factory.mktemp("timed")
    _, run = tiny.plan(folder, methods=["none"])
    directory = folder / "results" / "tiny"
    assert tiny.in_process(run, directory) == "ok"
    words = ("--to", "onnx", "--size", "64x96", "--batch", "2", "--bench-script", "-o", folder / "export")
    call("export", directory, "none/0", *words)
    (row,) = read_exports(directory)
    return directory, folder / "export", row


def timed(folder: Path, output: Path, *more: str) -> dict[str, Any]:
    """What the script writes, in a process that cannot import what a device lacks."""
    words = [str(folder / "bench.py"), "--calls", "5", "-o", str(output), *more]
    subprocess.run([sys.executable, "-c", ALONE, *words], check=True, cwd=output.parent)
    said: dict[str, Any] = json.loads(output.read_text())
    return said


def test_the_script_needs_numpy_and_onnxruntime_alone_and_becomes_a_row(
    exported: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    directory, folder, own = exported
    said = timed(folder, tmp_path / "latency.json", "--name", "Board 3")
    assert said["agreement"] > 0.999 and len(said["latency_ms"]) == 5 and said["sha256"] == own["sha256"]
    lines = call("results", "add-latency", tmp_path / "latency.json", "--results", directory).stdout.splitlines()
    assert lines[0].startswith(f"{directory}: ") and "Board 3" in lines[0]
    (row,) = [each for each in read_exports(directory) if each["device"] == "Board 3"]
    assert row["latency_ms"] == np.median(said["latency_ms"]) and row["latency_calls"] == 5
    assert min(said["latency_ms"]) <= row["latency_ms_p90"] <= max(said["latency_ms"])
    assert row["device_agreement"] == said["agreement"] and row["student_latency_ms"] is None
    assert row["latency_hw"] == [64, 96] and row["threads"] == 1
    same = ("run_id", "weights_sha256", "target", "sha256", "miou", "student_miou", "size_bytes", "images", "size_hw")
    assert {name: row[name] for name in same} == {name: own[name] for name in same} and row["batch"] == 2
    add_latency(tmp_path / "latency.json", directory.parent)
    assert len(read_exports(directory)) == 2, "the same measurement twice is one row"


def test_inputs_have_the_labels_of_the_network(exported: tuple[Path, Path, dict[str, Any]]) -> None:
    directory, folder, own = exported
    with np.load(folder / "inputs.npz", allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    assert images.shape == (3, 64, 96, 3) and images.dtype == labels.dtype == np.uint8 and file.files
    student = harness.load_student(own["run_id"], directory)
    with torch.no_grad():
        wanted = student(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).argmax(1).numpy()
    assert (labels == wanted).mean() > 0.999


def test_channels_go_in_by_the_order_of_the_network(tmp_path: Path) -> None:
    train = {**tiny.TINY["train"], "normalize": "bgr-mean"}
    _, run = tiny.plan(tmp_path, methods=["none"], train=train)
    directory, folder = tmp_path / "results" / "tiny", tmp_path / "export"
    assert tiny.in_process(run, directory) == "ok"
    harness.export("none/0", "onnx", directory, folder, size_hw=(64, 96), batch=1, bench_script=True, limit=1)
    pixels = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = harness.load_student("none/0", directory)(pixels.permute(0, 3, 1, 2) / 255).argmax(1)
    np.savez(folder / "inputs.npz", images=pixels.numpy(), labels=labels.numpy(), batch=np.int64(1))
    assert timed(folder, tmp_path / "latency.json")["agreement"] > 0.999


def test_bytes_go_in_where_preprocessing_is_inside(exported: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    directory, _, own = exported
    harness.export(
        own["run_id"], "onnx", directory, tmp_path / "bytes", preprocessing=True, int8=True, bench_script=True, limit=1
    )
    assert timed(tmp_path / "bytes", tmp_path / "latency.json")["agreement"] == 1


def test_a_file_that_is_something_else_is_refused(exported: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    directory, folder, own = exported
    said = timed(folder, tmp_path / "latency.json")
    before = read_exports(directory)
    for change, message in (
        ({"kind": "other"}, "is no file of the bench.py"),
        ({"sha256": "0" * 64}, f"sha256 {'0' * 12}... is of no model exported below"),
        ({"latency_ms": [1.0, float("nan")]}, "latency_ms .*: has to be 1 to 100000 times in milliseconds"),
        ({"latency_ms": []}, "has to be 1 to 100000 times"),
        ({"latency_ms": [True]}, "has to be 1 to 100000 times"),
        ({"threads": 0}, "threads 0: has to be a number from 1 to 4096"),
        ({"device": "a\nb"}, "device .*: has to be a name of 1 to 100 printable"),
        ({"agreement": 1.5}, "agreement 1.5: has to be a share"),
        ({"hw": [64]}, "hw .*: has to be height and width"),
        ({"hw": [64, 64]}, "are not those of the export"),
        ({"batch": 1}, "are not those of the export"),
        ({"versions": {"numpy": 3}}, "versions .*: has to be versions by package"),
    ):
        (tmp_path / "changed.json").write_text(json.dumps(said | change))
        with pytest.raises(ValueError, match=message):
            add_latency(tmp_path / "changed.json", directory)
    for content in (b"{", b"\xff", b"[" * 100_000):
        (tmp_path / "changed.json").write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as JSON"):
            add_latency(tmp_path / "changed.json", directory)
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        add_latency(tmp_path / "absent.json", directory)
    assert read_exports(directory) == before
    changed = folder.parent / "changed"
    changed.mkdir()
    for path in folder.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    model = (changed / "model.onnx").read_bytes()
    (changed / "model.onnx").write_bytes(model.replace(own["run_id"].encode(), b"0" * len(own["run_id"])))
    timed(changed, tmp_path / "other.json")
    with pytest.raises(ValueError, match="is of no model exported below"):
        add_latency(tmp_path / "other.json", directory)


def test_the_script_refuses_what_it_cannot_do(exported: tuple[Path, Path, dict[str, Any]]) -> None:
    directory, folder, _ = exported
    for words, message in (
        (["--provider", "TensorrtExecutionProvider"], "this onnxruntime has"),
        (["--threads", "0"], "have to be 1 or more"),
    ):
        done = subprocess.run(
            [sys.executable, str(folder / "bench.py"), *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    said = refused("export", directory, "none/0", "--to", "openvino", "--bench-script")
    assert "--bench-script: times a graph by onnxruntime, and belongs to --to onnx; given --to openvino" in said
