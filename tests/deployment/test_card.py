"""The card beside an exported file: what it says was measured, its code works, and no text of a row breaks it."""

import dataclasses
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from harness.analysis.comparison import COLUMNS, quick_table
from harness.analysis.tables import Table
from harness.datasets import Data, DataInfo
from harness.deployment.card import card_of
from harness.deployment.export import TARGETS, Weights
from harness.deployment.source import Form, Source
from harness.experiment.spec import Network, Run
from harness.models import build
from harness.results import store
from tests.support import exported, tiny
from tests.support.rows import make_longer, make_row

pytestmark = pytest.mark.torch
NAMES = ("road", "sky", "a | b", "<b>x</b>", "line\nbreak", "---", "[x](http://y)", "`z`")
MEASURED: dict[str, Any] = {
    "target": "onnx", "size_hw": None, "batch": None, "preprocessing": False, "calibration": None, "every_layer": False, "split": "val",
    "images": 3, "miou": 0.61234, "student_miou": 0.61236, "agreement": 0.99991, "largest_difference": 1.2e-5,
    "size_bytes": 3 * 2**20, "versions": json.dumps({"onnx": "1.2", "torch": "3.4"}), "device": "CPU Some (model 2)",
    "threads": 2, "latency_hw": [64, 96], "latency_ms": 1.25, "latency_ms_p90": 1.5, "latency_calls": 100,
    "student_latency_ms": 3.75, "code_version": "1.0",
}  # fmt: skip


class Images(Sequence[Any]):
    """A split of which only the length is asked."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    planned = tiny.plan(tmp_path_factory.mktemp("planned"))
    return next(each for each in planned if each.method.name == "kd")


def source(run: Run, network: Any = None, bgr: bool = False, **changes: Any) -> Source:
    """Of a run of `kd`, as its row would be; random weights."""
    info = DataInfo(
        "made", 8, NAMES, tuple((k, 2 * k, 3 * k) for k in range(8)), (120.5, 110.0, 100.25), (60.0, 55.5, 50.0), "",
        "Images that are made.", bgr=bgr,
    )  # fmt: skip
    row = make_row(
        "kd", 0, run_id=run.run_id, weights_sha256="b" * 64, pair=run.pair, experiment="tiny", samples=None, **changes
    )
    network = network or build(run.network, 8, 0).eval()
    return Source(Path("/home/someone/results/tiny"), row, run, network, Data(info, (), (), Images()))


def rows(run: Run, gain: float = 0.03, seeds: int = 6, spread: float = 0.004, longer: float | None = None) -> list[Any]:
    """Of `none`, `kd` and a teacher; `kd` is better by `gain`, a longer control by `longer`."""
    found, draws = [make_row(role="teacher", pair=run.pair)], np.random.default_rng(0)
    for seed in range(seeds):
        luck = draws.normal(0, 0.01)
        for method, more in (("none", 0.0), ("kd", gain)):
            value = 0.5 + luck + more + draws.normal(0, spread)
            own = {"run_id": run.run_id} if method == "kd" and seed == 0 else {}
            found.append(make_row(method, seed, pair=run.pair, samples=None, dev_miou=value, **own))
    if longer is not None:
        more = [each | {"val_miou": each["val_miou"] + longer - 0.01} for each in make_longer(found[1:])]
        found += more
    return found


def table(given: list[Any]) -> Table:
    schema = pa.schema([store.SCHEMA.field(name) for name in COLUMNS])
    return quick_table(pa.Table.from_pylist([{name: each.get(name) for name in COLUMNS} for each in given], schema))


def card(run: Run, given: list[Any] | None = None, measured: dict[str, Any] | None = None, **changes: Any) -> str:
    found = source(run, **changes)
    compare = None if given is None else lambda directory: table(given)
    return card_of(found, MEASURED | (measured or {}), compare)


def code_of(text: str) -> str:
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(code)


def tables_of(text: str) -> list[list[list[str]]]:
    """The cells of every table."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [[re.split(r"(?<!\\)\|", line)[1:-1] for line in each.splitlines()] for each in found]


def labels_of(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> tuple[Any, Any]:
    """What the code makes of an image in a folder, and the image's pixels (H, W, 3)."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    monkeypatch.chdir(folder)
    known: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about their own parts
        exec(compile(code, "card", "exec"), known)
    return known["labels"], pixels


def wanted(of: Source, pixels: Any) -> Any:
    image = (torch.from_numpy(pixels).permute(2, 0, 1)[None] - torch.tensor(of.info.mean).view(1, 3, 1, 1)) / (
        torch.tensor(of.info.std).view(1, 3, 1, 1)
    )
    with torch.no_grad():
        return of.network(image.flip(1) if of.info.bgr else image).full.argmax(1).numpy()


BATCH, BYTES = Form((96, 128), 2), Form((96, 128), 1, True)
CASES = (
    *((to, Form(), bgr) for to in ("safetensors", "smp", "torch-export") for bgr in (False, True)),
    *(("onnx", BATCH, True), ("onnx", BYTES, True), ("onnx", Form(None, None, True), False)),
    *(
        ("openvino", BATCH, False),
        ("openvino", BYTES, False),
        ("executorch", BATCH, True),
        ("executorch", BYTES, False),
    ),
)


@pytest.mark.soak
@pytest.mark.parametrize(("to", "form", "bgr"), CASES, ids=str)
def test_the_code_loads_the_file(
    run: Run, to: str, form: Form, bgr: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = source(run, bgr=bgr)
    kind = TARGETS[to]
    if isinstance(kind, Weights):
        kind.write(found, tmp_path)
    else:
        kind.write(found, form, tmp_path)
    said = {"target": to, "size_hw": form.size_hw, "batch": form.batch, "preprocessing": form.preprocessing}
    code = code_of(card_of(found, MEASURED | said))
    assert all(len(line) <= 120 for line in code.splitlines() if not line.startswith("options ="))
    labels, pixels = labels_of(code, tmp_path, monkeypatch, (90, 120))
    expected = wanted(found, pixels)
    assert labels.shape == (form.batch or 1, 90, 120)
    assert (labels == expected).mean() > 0.999


@pytest.mark.soak
@pytest.mark.parametrize("pair", [("unet", "resnet18"), *exported.OTHERS], ids=str)
def test_the_code_loads_weights_of_every_library(
    run: Run, pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exported.source(*pair)
    assert made is not None
    network = Network(architecture=pair[0], encoder=pair[1])
    there = run.model_copy(update={"network": network})
    found = dataclasses.replace(source(run, made.network), run=there, data=made.data)
    kind = TARGETS["safetensors"]
    assert isinstance(kind, Weights)
    kind.write(found, tmp_path)
    said = MEASURED | {"target": "safetensors"}
    labels, pixels = labels_of(code_of(card_of(found, said)), tmp_path, monkeypatch, (90, 120))
    assert (labels == wanted(found, pixels)).mean() > 0.999


def test_the_head_is_what_a_hub_reads(run: Run) -> None:
    text = card(run, rows(run))
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["library_name"] == "onnx" and head["pipeline_tag"] == "image-segmentation"
    assert head["metrics"] == ["mean_iou"] and "knowledge-distillation" in head["tags"]
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"] == {"name": "texmosaic", "type": "texmosaic", "split": "val", "args": {"images": 3}}
    assert [each["value"] for each in result["metrics"]] == [0.61234]
    assert ModelCard(text).data.to_dict().keys() == head.keys()
    assert card(run, measured={"target": "smp"}).count("library_name: segmentation-models-pytorch") == 1


def test_no_licence_is_claimed(run: Run) -> None:
    text = card(run, rows(run))
    head = text.split("---\n")[1]
    assert "license" not in yaml.safe_load(head) and "# license: to be filled in" in head
    (said,) = re.findall(r"^## Licence: to be filled in\n\n(.*)\Z", text, re.MULTILINE | re.DOTALL)
    assert "No licence is claimed" in said
    assert all(
        word in said for word in ("the data (texmosaic)", "encoder", "random", "segmentation\\_models\\_pytorch")
    )


def test_texts_of_rows_and_data_break_nothing(run: Run) -> None:
    hostile = "x | y\n---\n# z <img src=q> [a](http://b)"
    text = card(run, rows(run), dataset=hostile)
    clean = card(run, rows(run))
    for one, other in zip(tables_of(text), tables_of(clean), strict=True):
        assert [len(line) for line in one] == [len(line) for line in other]
        assert len({len(line) for line in one}) == 1
    assert len(re.findall(r"^---$", text, re.MULTILINE)) == 2
    assert yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"][0]["dataset"]["type"]
    body = text.split("---\n", 2)[2].replace("\\<", "")
    assert "<" not in body.replace("#", "") and "](http" not in body
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert len(heads) == len([line for line in clean.splitlines() if line.startswith("#")])
    (classes,) = [each for each in tables_of(text) if each[0][0].strip() == "label"]
    assert len(classes) == 2 + 8 and classes[4][1] == " a \\| b "


def test_the_same_row_gives_the_same_bytes(run: Run) -> None:
    assert card(run, rows(run)) == card(run, rows(run)[::-1])


def test_no_path_and_no_secret_of_this_machine(run: Run) -> None:
    weights = {"path": "/home/someone/weights/own.pth", "sha256": "a" * 64}
    data = run.data.model_copy(update={"root": "/home/someone/data"})
    there = run.model_copy(
        update={"network": Network(**(run.network.model_dump() | {"encoder_weights": weights})), "data": data}
    )
    given = rows(run)
    given[1] = make_row(
        "none", 0, "failed", pair=run.pair, message="/home/someone/data/x.png is missing hf_" + "a1" * 17
    )
    text = card_of(
        dataclasses.replace(source(run), run=there), MEASURED | {"device": "/home/someone/cpu"}, lambda _: table(given)
    )
    assert "someone" not in text and "hf_a1" not in text and "failed (1 of 6)" in text
    assert "a file with SHA-256 aaaaaaaaaaaa" in text


def result_lines(text: str) -> dict[str, list[str]]:
    (found,) = [each for each in tables_of(text) if each[0][0].strip() == "method"]
    return {line[0].strip().partition(" (")[0]: [cell.strip() for cell in line] for line in found[2:]}


def test_results_are_those_of_the_projects_own_comparison(run: Run) -> None:
    given = rows(run, longer=0.01)
    (block,) = table(given).blocks
    text = card(run, given)
    lines = result_lines(text)
    assert list(lines) == ["none", "kd", "none at equal seconds"]
    kd = block.line("kd")
    assert kd is not None and kd.vs_none is not None and kd.miou is not None and kd.vs_none.significant
    assert lines["kd"][1:4] == [f"{kd.miou.mean:.2f} ± {kd.miou.deviation:.2f}", "6", kd.vs_none.text]
    assert lines["kd"][0].endswith("this network's") and lines["none"][3] == "–"
    assert "control: the student without distillation" in lines["none"][0]
    assert "control: the same, trained as long as the slowest method" in lines["none at equal seconds"][0]
    assert all(str(remark).split(":")[0] in text for remark in block.findings)


def claims(text: str) -> str:
    (found,) = re.findall(r"^## What may be said of it\n\n(.*?)^## ", text, re.MULTILINE | re.DOTALL)
    return str(found)


def test_a_difference_is_claimed_where_the_controls_support_it(run: Run) -> None:
    said = claims(card(run, rows(run, longer=0.01)))
    assert "Against none: +" in said and "leaves 0 out: a difference" in said
    assert "none at equal seconds" in said and "no interval" in said


def test_no_gain_is_claimed_where_longer_training_does_as_much(run: Run) -> None:
    said = claims(card(run, rows(run, longer=0.05)))
    assert "no gain by distillation is claimed" in said


def test_nothing_is_claimed_where_the_interval_holds_0(run: Run) -> None:
    said = claims(card(run, rows(run, gain=0.0, spread=0.01)))
    assert "holds 0: no difference is claimed" in said and "leaves 0 out" not in said


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_too_few_runs_have_no_interval(run: Run, seeds: int) -> None:
    text = card(run, rows(run, seeds=seeds))
    assert result_lines(text)["kd"][3] == f"too few runs (n={seeds})"
    assert "too few runs" in claims(text) and "leaves 0 out" not in claims(text)
    assert not re.search(r"[+-]\d+\.\d+ \[[+-]", text)


def test_a_control_that_is_not_there_is_said(run: Run) -> None:
    assert "how much longer training does was not measured" in claims(card(run, rows(run)))
    text = card(run, [each for each in rows(run) if each["method"] != "none" or each["role"] == "teacher"])
    assert "Against none: not measured" in claims(text)


def test_without_a_comparison_nothing_is_said_of_methods(run: Run) -> None:
    def refused(directory: Path) -> Table:
        raise ValueError(f"{directory}: rows with different recipe are not comparable")

    for compare in (None, refused, lambda directory: table(other(run))):
        text = card_of(source(run), MEASURED, compare)
        assert "not compared" in claims(text) and "someone" not in text and "leaves 0 out" not in text


def other(run: Run) -> list[Any]:
    """Rows of another pair alone."""
    return [each | {"pair": "other"} for each in rows(run)]


def test_what_was_not_measured_is_said(run: Run) -> None:
    nothing = dict.fromkeys(("miou", "student_miou", "agreement", "latency_ms", "student_latency_ms", "size_bytes"))
    text = card(run, rows(run), {**nothing, "miou": float("nan"), "device": None, "threads": None})
    assert "model-index" not in text and "nan" not in text and "None" not in text.replace(code_of(text), "")
    assert text.count("not measured") >= 6


def test_how_the_file_was_judged(run: Run) -> None:
    text = card(run, rows(run), {"calibration": 12, "images": 2, "size_hw": [512, 1024], "batch": 1})
    assert "61.23 % on 2 of 3 images of val" in text and "61.24 %" in text and "99.991 %" in text and "1.2e-05" in text
    assert "1.25 ms (median of 100; 90th percentile 1.50 ms)" in text and "2 threads, CPU Some (model 2)" in text
    assert "3.75 ms" in text and "3.0 MiB" in text and "int8, first and last layers float32, calibrated on 12" in text
    assert "512x1024" in text and "onnx 1.2, torch 3.4" in text
    assert "a class score differs by" in text
    assert "whether a difference is left in int8 was not compared here" in text
    assert "in int8 was not compared" not in card(run, rows(run), {})
    assert "a class score differs by" not in card(run, rows(run), {"largest_difference": None})


def test_a_teacher_is_called_one(run: Run, tmp_path: Path) -> None:
    teacher = tiny.plan(tmp_path)[0]
    found = source(run)
    found = dataclasses.replace(found, run=teacher, row={**found.row, "role": "teacher", "run_id": teacher.run_id})
    text = card_of(found, MEASURED, lambda _: table(rows(run)))
    assert "the pair's teacher" in text and "this network's" not in text
    assert "knowledge-distillation" not in yaml.safe_load(text.split("---\n")[1])["tags"]
