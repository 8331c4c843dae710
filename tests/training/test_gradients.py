"""Norms of the terms' gradients: their values, and that to log them changes nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harness.experiment.load import load
from harness.results import paths, store
from harness.training.gradients import norms
from tests.support import tiny

SAME = ("dev_confusion", "val_confusion", "curve", "losses", "weights_sha256")


def test_the_norm_is_that_of_the_gradient_of_the_term_alone() -> None:
    torch.manual_seed(0)
    student, other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), nn.Linear(2, 1)
    frozen = student[2].bias.requires_grad_(False)
    images = torch.randn(5, 3)
    out = student(images)
    terms = {"task": out.square().mean(), "far": 100 * out.abs().sum(), "critic": other(out.detach()).mean()}
    found = norms(terms, student, scale=64.0)
    assert set(found) == {"task", "far"}  # the critic's own loss does not reach the student
    assert all(each.grad is None for each in student.parameters())
    for name in found:
        student.zero_grad()
        again = student(images)
        value = again.square().mean() if name == "task" else 100 * again.abs().sum()
        value.backward()
        expected = torch.cat([each.grad.ravel() for each in student.parameters() if each is not frozen]).norm()
        torch.testing.assert_close(found[name], expected)
    sum(terms.values()).backward()  # the graph is still there


def test_a_run_that_logs_them_has_the_same_bits(tmp_path: Path) -> None:
    rows = {}
    for every in ("null", "2"):
        runs = tiny.plan(tmp_path, f"train.gradients_every={every}", "train.steps=4", "train.accumulate=2")
        for run in runs:
            if run.role == "teacher" or run.method.name == "kd":
                assert tiny.in_process(run, tmp_path / every) == "ok"
        rows[every] = store.read_row(paths.run_path(tmp_path / every, runs[-1].run_id))
    without, logged = rows["null"], rows["2"]
    assert all(without[name] == logged[name] for name in SAME)
    assert without["gradients"] is None and without["run_id"] == logged["run_id"]
    assert [entry["step"] for entry in logged["gradients"]] == [1, 3]
    for entry in logged["gradients"]:
        assert set(dict(entry["terms"])) == {"task", "kd"} and min(dict(entry["terms"]).values()) > 0
    assert np.isfinite(list(dict(logged["gradients"][0]["terms"]).values())).all()


def test_a_compiled_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gradients_every: a compiled step"):
        load(tiny.write(tmp_path), ["train.gradients_every=2", "train.compile=true"])
