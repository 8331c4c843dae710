"""Optimizer, schedule, average and task loss of one recipe together: an interrupted run ends with the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.experiment.spec import Run
from harness.models import load_state
from harness.results import paths, store
from harness.results.paths import weights_path
from harness.training.average import Average
from harness.training.checkpoints import Checkpoints
from tests.support import tiny

SAME = ("dev_confusion", "val_confusion", "curve", "losses", "weights_sha256")
DATA = {"name": "texmosaic", "parameters": {"size": 64, "train": 4, "dev": 2, "val": 1}}
RECIPE = {
    "steps": 6,
    "batch_size": 2,
    "optimizer": {"name": "NAdam", "lr": 0.002, "betas": [0.8, 0.99], "encoder_lr_factor": 0.5},
    "schedule": {"name": "OneCycleLR", "warmup_steps": 1},
    "loss": ["dice", {"name": "ohem", "min_kept": 100, "weight": 0.5}],
    "ema": 0.5,
    "eval_every": 2,
    "checkpoint_every": 2,
}


class Killed(BaseException):
    """Stands for the end of the process."""


def student(folder: Path, **changes: Any) -> Run:
    return tiny.plan(folder, data=DATA, methods=["none"], train={**RECIPE, **changes})[1]


def row(run: Run, folder: Path) -> dict[str, Any]:
    assert tiny.in_process(run, folder) == "ok"
    return store.read_row(paths.run_path(folder, run.run_id))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, row(student(folder), folder)


@pytest.mark.slow
@pytest.mark.parametrize("last", [3, 5])
def test_resumed_from_a_checkpoint_it_has_the_same_bits(
    tmp_path: Path, whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    run, update = student(tmp_path), Average.update

    def dies(self: Average, step: int) -> None:
        if step == last:
            raise Killed
        update(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Average, "update", dies)
        with pytest.raises(Killed):
            tiny.in_process(run, tmp_path)
    again = row(run, tmp_path)
    assert again["resumed"] == 1
    for key in SAME:
        assert again[key] == whole[1][key], key


def test_what_is_saved_and_evaluated_is_the_average(
    tmp_path: Path, whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trained weights are those without an average; the saved ones are their average."""
    each: list[dict[str, torch.Tensor]] = []
    update = Average.update

    def watched(self: Average, step: int) -> None:
        each.append({name: p.detach().clone() for name, p in self._weights.items()})
        update(self, step)

    monkeypatch.setattr(Average, "update", watched)
    run = student(tmp_path)
    assert row(run, tmp_path)["weights_sha256"] == whole[1]["weights_sha256"]
    saved = load_state(weights_path(tmp_path, run.run_id), str(whole[1]["weights_sha256"]))
    for name, value in each[0].items():
        average = value
        for step in each[1:]:
            average = 0.5 * average + 0.5 * step[name]
        torch.testing.assert_close(saved[name], average)
    plain = row(student(tmp_path, ema=None), tmp_path)
    assert [point["terms"] for point in plain["losses"]] == [point["terms"] for point in whole[1]["losses"]]
    assert plain["weights_sha256"] != whole[1]["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["nan", "missing", "dtype"])
def test_a_damaged_average_starts_the_run_again(
    tmp_path: Path, whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    run, read = student(tmp_path), Checkpoints.read

    def damaged(self: Checkpoints, step: int) -> dict[str, Any]:
        state = read(self, step)
        name = next(iter(state["average"]))
        if damage == "missing":
            del state["average"]
        elif damage == "nan":
            state["average"][name].view(-1)[:1].fill_(float("nan"))
        else:
            state["average"][name] = state["average"][name].half()
        return state

    def dies(self: Average, step: int) -> None:
        if step == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Average, "update", dies)
        with pytest.raises(Killed):
            tiny.in_process(run, tmp_path)
    monkeypatch.setattr(Checkpoints, "read", damaged)
    again = row(run, tmp_path)
    assert again["resumed"] == 0 and again["weights_sha256"] == whole[1]["weights_sha256"]
