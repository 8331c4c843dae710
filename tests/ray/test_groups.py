"""Runs on several workers: killed, and with workers that come and go. Marker `ray`: starts Ray on this machine."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harness.execution.launcher import run_all
from harness.execution.status import Status
from harness.experiment.resources import Resources, WorkerRange
from harness.experiment.spec import Run
from harness.results import paths, store
from tests.support import cluster, tiny

pytestmark = [pytest.mark.ray, *cluster.QUIET]

MEASURED = ("status", "workers", "dev_confusion", "val_confusion", "curve", "losses", "weights_sha256")
NETWORK = {"architecture": "fpn", "encoder": "tu-mobilenetv3_small_050", "parameters": {"decoder_dropout": 0.0}}
SETTINGS = ("train.steps=40", "train.eval_every=20", "train.checkpoint_every=4")


def plain_student(folder: Path) -> list[Run]:
    """One run that needs no teacher."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [{"name": "tiny", "teacher": NETWORK | {"steps": 1}, "student": NETWORK}]
    return [run for run in tiny.plan(folder, *SETTINGS, pairs=pairs, methods=["none"]) if run.role == "student"]


def row(experiment: Path, run: Run) -> dict[str, Any]:
    return store.read_row(paths.run_path(experiment, run.run_id))


def test_a_killed_group_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    (run,) = plain_student(tmp_path)
    resources = Resources(workers=2, bucket_mb=1)
    assert run_all([run], resources, tmp_path / "undisturbed", lambda status: None) == {run.run_id: "ok"}
    killed: list[int] = []

    def kill_once(status: Status) -> None:
        for progress in status.progress.values():
            if not killed and 9 <= progress.get("step", 0) < 36:
                killed.append(progress["pid"])
                os.kill(progress["pid"], signal.SIGKILL)

    assert run_all([run], resources, tmp_path / "killed", kill_once) == {run.run_id: "ok"}
    assert killed
    expected, got = row(tmp_path / "undisturbed", run), row(tmp_path / "killed", run)
    assert {key: got[key] for key in MEASURED} == {key: expected[key] for key in MEASURED}
    assert (expected["resumed"], got["resumed"], got["worker_history"]) == (0, 1, None)


def test_a_mistake_of_one_rank_is_not_tried_again(tmp_path: Path) -> None:
    """Three workers do not divide the batch: no other node would do better."""
    (run,) = plain_student(tmp_path)
    with cluster.nodes(1, cpus=3) as made:
        seen: list[Status] = []
        states = run_all([run], Resources(workers=3, address=made.address), tmp_path / "r", seen.append)
    assert states == {run.run_id: "failed"}
    assert "4 does not divide into 3 workers x 1 accumulation steps" in row(tmp_path / "r", run)["message"]
    assert seen[-1].notes == []


def test_workers_that_come_and_go(tmp_path: Path) -> None:
    """One worker at first, two when a node comes, one when it is lost again; the global batch is the same all along."""
    (run,) = plain_student(tmp_path)
    resources = Resources(workers=WorkerRange(min=1, max=2), max_failures=5)
    with cluster.nodes(1) as made:
        resources = resources.model_copy(update={"address": made.address})
        latest: list[Status] = []
        outcome: list[Any] = []
        thread = threading.Thread(
            target=lambda: outcome.append(run_all([run], resources, tmp_path / "r", latest.append)), daemon=True
        )
        thread.start()
        added: Any = None
        deadline = time.monotonic() + cluster.PATIENCE
        while thread.is_alive():
            assert time.monotonic() < deadline, latest[-1].notes
            time.sleep(0.1)
            step = latest[-1].progress.get(run.run_id, {}).get("step", 0) if latest else 0
            if added is None and step >= 2:
                added = made.add_node(num_cpus=1)
            seats = {entry["workers"] for entry in history(tmp_path / "r", run)}
            if added is not None and 2 in seats and added in made.worker_nodes and step < 36:
                made.remove_node(added, allow_graceful=False)
    assert outcome == [{run.run_id: "ok"}]
    found = row(tmp_path / "r", run)
    assert [entry["workers"] for entry in found["worker_history"]] in ([1, 2, 1], [1, 2])
    assert [entry["step"] for entry in found["losses"]] == list(range(1, 41))
    assert sum(found["dev_confusion"]) > 0


def history(experiment: Path, run: Run) -> list[dict[str, int]]:
    """The workers so far, from the run's checkpoint."""
    from harness.training.checkpoints import Checkpoints

    saved = Checkpoints(experiment / "checkpoints" / run.run_id)
    try:
        steps = saved.steps()
        return saved.read(steps[0])["log"]["workers"] if steps else []
    except (FileNotFoundError, ValueError):  # it is just being replaced
        return []
