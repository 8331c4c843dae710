"""Differences over the images of val: against the matrices themselves, and in every form of the table."""

import io
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.analysis.lines import BOOTSTRAP_SEED
from harness.analysis.stats import image_bootstrap
from harness.analysis.tables import IMAGES
from harness.cli.app import app
from harness.cli.events import Events
from harness.metrics import class_iou, hits_and_unions
from harness.report import write
from harness.report.write import write_report
from harness.results import store
from harness.results.paths import per_image_path
from harness.results.per_image import write_per_image
from tests.support.rows import make_experiment

METHODS = ["none", "kd"]


@pytest.fixture
def folder(tmp_path):
    """Two methods, two seeds; kd is right a little more often on every image. Returns the matrices by run_id, too."""
    rng, matrices = np.random.default_rng(0), {}
    for row in make_experiment(METHODS, seeds=2):
        if row["role"] == "student":
            counts = rng.integers(1, 40, (12, 6, 6)) + (90 if row["method"] == "kd" else 60) * np.eye(6, dtype=int)
            matrices[row["run_id"]] = counts
            path = per_image_path(tmp_path, row["run_id"])
            flat = counts.astype(np.int64).reshape(12, 36)
            image, cell = np.nonzero(flat)
            entries = np.stack([image, cell, flat[image, cell]], axis=1)
            row["per_image_sha256"] = write_per_image(path, entries, 12, row["run_id"], 6, "cd" * 32)
        store.write_run(tmp_path, row)
    return tmp_path, matrices


def test_the_difference_is_that_of_the_summed_matrices(folder):
    path, matrices = folder
    (text,) = [line for line in write_report(path, METHODS)["markdown"].read_text().splitlines() if "images," in line]

    def miou(method, seed):
        return np.mean(class_iou(matrices[f"{method}-{seed}-0123456789ab"].sum(0)))

    mean = 100 * np.mean([miou("kd", s) - miou("none", s) for s in (0, 1)])
    sides = [np.stack([hits_and_unions(matrices[f"{m}-{s}-0123456789ab"]) for s in (0, 1)]) for m in ("kd", "none")]
    d = image_bootstrap(*sides, np.random.default_rng(BOOTSTRAP_SEED))
    interval = f"[{100 * d.low:+.2f}, {100 * d.high:+.2f}]"
    assert text == f"- kd: {mean:+.2f} {interval} (12 images, 2 pairs of runs)"


def test_it_is_in_every_form_of_the_table(folder):
    paths = write_report(folder[0], METHODS)
    assert IMAGES in paths["html"].read_text() and "(12 images, 2 pairs of runs)" in paths["html"].read_text()
    assert "(12 images, 2 pairs of runs)" in paths["fairness"].read_text()
    for form in ("md", "latex", "html"):
        done = CliRunner().invoke(app, ["tables", str(folder[0]), "--format", form])
        assert done.exit_code == 0 and "(12 images, 2 pairs of runs)" in done.output, done.output
    assert "(12 images, 2 pairs of runs)" in CliRunner().invoke(app, ["tables", str(folder[0])]).output
    out = io.StringIO()
    Events(out, lambda _: None).table(write.table_of(folder[0], METHODS)[0])
    (event,) = map(json.loads, out.getvalue().splitlines())
    assert event["images"][0].startswith("kd: ") and event["images"][0].endswith("(12 images, 2 pairs of runs)")


def test_files_that_are_not_here_are_said_and_damaged_ones_are_refused(folder):
    path = per_image_path(folder[0], "kd-1-0123456789ab")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"kd-1-0123456789ab\.parquet: not readable"):
        write_report(folder[0], METHODS)
    path.unlink()
    assert "kd: per-image matrices are missing (" in write_report(folder[0], METHODS)["html"].read_text()


def test_without_such_files_nothing_is_said(tmp_path):
    for row in make_experiment(METHODS, seeds=2):
        store.write_run(tmp_path, row)
    assert IMAGES not in write_report(tmp_path, METHODS)["markdown"].read_text()
