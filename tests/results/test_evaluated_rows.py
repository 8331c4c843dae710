"""`train.evaluation` in whole runs: what it adds to the row and beside it, and what it leaves as it was."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.experiment.spec import Run
from harness.metrics import miou
from harness.results import paths, per_image, store
from harness.training.build import load_data
from harness.training.execute import execute
from harness.training.runtime import Runtime
from tests.support import tiny

SAME = ("dev_confusion", "val_confusion", "dev_miou", "val_miou", "curve", "losses", "weights_sha256", "samples")
SHORT = ("train.steps=2", "train.eval_every=1")


def finish(experiment: Path, run: Run) -> dict[str, Any]:
    runtime = Runtime.local(paths.checkpoint_directory(experiment, run.run_id), device=torch.device("cpu"))
    execute(run, runtime, experiment)
    row = store.read_row(paths.run_path(experiment, run.run_id))
    assert row["status"] == "ok", row["message"]
    return row


def student(folder: Path, evaluation: str, *overrides: str) -> Run:
    return tiny.plan(folder, *SHORT, *overrides, f"train.evaluation={evaluation}", methods=["none"])[1]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("plain")
    return finish(folder, tiny.plan(folder, *SHORT, methods=["none"])[1])


def test_what_is_counted_besides_changes_nothing_else(tmp_path: Path, plain: dict[str, Any]) -> None:
    run = student(tmp_path, "{boundary: 2, per_image: true}")
    row = finish(tmp_path, run)
    assert {name: row[name] for name in SAME} == {name: plain[name] for name in SAME}
    for name in ("dev_boundary_confusion", "val_boundary_confusion", "per_image_sha256"):
        assert plain[name] is None and row[name] is not None
    for split in ("dev", "val"):
        part, whole = np.array(row[f"{split}_boundary_confusion"]), np.array(row[f"{split}_confusion"])
        assert (part <= whole).all() and 0 < part.sum() < whole.sum()


def test_the_matrices_of_single_images_add_up_to_the_rows(tmp_path: Path) -> None:
    run = student(tmp_path, "{per_image: true}")
    path = paths.per_image_path(tmp_path, run.run_id)
    path.parent.mkdir()
    path.write_bytes(b"of an earlier attempt")
    row = finish(tmp_path, run)
    images = per_image.read_per_image(path, sha256=row["per_image_sha256"])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == row["per_image_sha256"]
    assert images.shape == (3, row["num_classes"], row["num_classes"])
    assert all(image.any() for image in images)
    np.testing.assert_array_equal(images.sum(0).ravel(), row["val_confusion"])
    assert row["dev_boundary_confusion"] is None


def test_a_run_that_keeps_no_images_writes_no_file(tmp_path: Path) -> None:
    finish(tmp_path, student(tmp_path, "{boundary: 1}"))
    assert not (tmp_path / "per_image").exists()


@pytest.mark.parametrize("evaluation", ["{window_hw: [40, 48]}", "{scales: [0.75, 1.0], flip: true}"])
def test_windows_and_scales_reach_the_curve_the_row_and_the_pictures(
    tmp_path: Path, plain: dict[str, Any], evaluation: str
) -> None:
    # Four samples, which the row has pictures of, shown one by one as for the pictures.
    run = student(tmp_path, evaluation, "train.eval_batch_size=1", "data.parameters.dev=4")
    row = finish(tmp_path, run)
    assert {name: row[name] for name in ("losses", "weights_sha256")} == {
        name: plain[name] for name in ("losses", "weights_sha256")
    }
    assert row["val_confusion"] != plain["val_confusion"]
    classes = row["num_classes"]
    assert row["curve"][-1]["dev_miou"] == row["dev_miou"] == miou(np.reshape(row["dev_confusion"], (classes, classes)))
    data = load_data(run.data)
    table = np.zeros((classes, classes), np.int64)
    for sample in row["samples"]:
        said, label = np.array(Image.open(io.BytesIO(sample["prediction"]))), data.dev[sample["index"]][1]
        np.add.at(table, (label[label != 255], said[label != 255]), 1)
    np.testing.assert_array_equal(table.ravel(), row["dev_confusion"])
