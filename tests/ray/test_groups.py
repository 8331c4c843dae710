"""Runs on several workers, killed and resumed. Marker `ray`: starts Ray on this machine."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from harness.execution.actors import ProgressActor
from harness.execution.groups import Groups
from harness.execution.launcher import run_all
from harness.execution.queue import Queue
from harness.execution.status import Status
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.results import paths, store
from tests.support import cluster, tiny

pytestmark = [pytest.mark.ray, *cluster.QUIET]

MEASURED = ("status", "workers", "dev_confusion", "val_confusion", "curve", "losses", "weights_sha256")
NETWORK = {"architecture": "fpn", "encoder": "tu-mobilenetv3_small_050", "parameters": {"decoder_dropout": 0.0}}
SETTINGS = ("train.steps=24", "train.eval_every=12", "train.checkpoint_every=4")


def plain_student(folder: Path) -> list[Run]:
    """One run that needs no teacher."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [{"name": "tiny", "teacher": NETWORK | {"steps": 1}, "student": NETWORK}]
    return [run for run in tiny.plan(folder, *SETTINGS, pairs=pairs, methods=["none"]) if run.role == "student"]


def row(experiment: Path, run: Run) -> dict[str, Any]:
    return store.read_row(paths.run_path(experiment, run.run_id))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """One cluster for all groups; through its dashboard Ray Train frees what a dead group had."""
    with cluster.nodes(1, cpus=3, include_dashboard=True, dashboard_port=0) as made:
        yield made.address


def test_a_killed_group_goes_on_with_the_same_bits(address: str, tmp_path: Path) -> None:
    (run,) = plain_student(tmp_path)
    resources = Resources(workers=2, bucket_mb=1, address=address)
    assert run_all([run], resources, tmp_path / "undisturbed", lambda status: None) == {run.run_id: "ok"}
    killed: list[int] = []

    def kill_once(status: Status) -> None:
        for progress in status.progress.values():
            if not killed and 5 <= (progress.step or 0) < 22:
                killed.append(progress.pid)
                os.kill(progress.pid, signal.SIGKILL)

    assert run_all([run], resources, tmp_path / "killed", kill_once) == {run.run_id: "ok"}
    assert killed
    expected, got = row(tmp_path / "undisturbed", run), row(tmp_path / "killed", run)
    assert {key: got[key] for key in MEASURED} == {key: expected[key] for key in MEASURED}
    assert (expected["resumed"], got["resumed"], got["worker_history"]) == (0, 1, None)


@pytest.mark.soak
def test_the_ranks_of_a_machine_read_data_and_teacher_once(address: str, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    teacher, _, run = tiny.plan(tmp_path)
    assert tiny.in_process(teacher, folder) == "ok"
    ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    try:
        progress = ray.remote(num_cpus=0)(ProgressActor).remote()
        groups = Groups(folder, Resources(workers=2, address=address), progress)
        queue = Queue([run], {teacher.run_id: "ok", run.run_id: "waiting"})
        groups.refresh(1, 1)
        assert list(groups.assign(queue, Counter())) == [run]
        outcomes = [outcome for _ in range(600) if groups.running for outcome in groups.wait(0.2)]
        assert [outcome.status for outcome in outcomes] == ["ok"], outcomes
        digest = row(folder, run)["teacher_sha256"]
        (shared,) = groups._shared.values()
        assert ray.get(shared.lookup.remote(f"weights {digest}"))[0] == "ready"
    finally:
        ray.shutdown()


def test_runs_of_one_group_in_step_have_the_bits_of_groups_of_their_own(address: str, tmp_path: Path) -> None:
    teacher, *runs = tiny.plan(tmp_path)
    found = []
    for together in (1, "auto"):
        folder = tmp_path / str(together)
        assert tiny.in_process(teacher, folder) == "ok"
        resources = Resources(workers=2, address=address, together=together)
        states = run_all([teacher, *runs], resources, folder, lambda status: None)
        assert set(states.values()) == {"ok"}
        found.append([row(folder, run) for run in runs])
    assert [each["together"] for each in found[1]] == [2, 2]
    for alone, beside in zip(*found, strict=True):
        assert {key: alone[key] for key in MEASURED} == {key: beside[key] for key in MEASURED}


def test_a_mistake_of_one_rank_is_not_tried_again(address: str, tmp_path: Path) -> None:
    """Three workers do not divide the batch: no other node would do better."""
    (run,) = plain_student(tmp_path)
    seen: list[Status] = []
    states = run_all([run], Resources(workers=3, address=address), tmp_path / "r", seen.append)
    assert states == {run.run_id: "failed"}
    message = row(tmp_path / "r", run)["message"]
    assert "4 does not divide into 3 workers x 1 accumulation steps" in message and message.startswith("rank ")
    assert f"traceback: failures/{run.run_id}.txt" in message
    assert "does not divide" in paths.failure_path(tmp_path / "r", run.run_id).read_text()
    assert seen[-1].notes == []
