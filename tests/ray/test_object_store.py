"""An experiment whose rows, weights and checkpoints are in a bucket. Marker `ray`: starts Ray on this machine."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from harness.execution.launcher import run_all
from harness.execution.status import Status
from harness.experiment.resources import Checkpointing, Resources
from harness.results import paths, store
from harness.results.pull import pull
from harness.results.storage import Storage
from tests.support import cluster, s3, tiny

pytestmark = [pytest.mark.ray, *cluster.QUIET]

MEASURED = ("status", "dev_confusion", "val_confusion", "curve", "losses", "weights_sha256", "teacher_sha256")


def rows(experiment: Path) -> dict[str, dict[str, Any]]:
    return tiny.measured(experiment, MEASURED)


def test_a_killed_experiment_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "machine"))
    runs = tiny.plan(tmp_path, "train.steps=20", "train.eval_every=10", methods=["none", "kd"])
    for run in runs:
        tiny.in_process(run, tmp_path / "plain")
    killed: list[int] = []

    def kill_once(status: Status) -> None:
        for run_id, progress in status.progress.items():
            if not killed and status.state[run_id] == "running" and 5 <= (progress.step or 0) < 16:
                killed.append(progress.pid)
                os.kill(progress.pid, signal.SIGKILL)

    with s3.server() as uri:
        resources = Resources(storage=uri, checkpoints=Checkpointing(keep=2, background=True))
        here = tmp_path / "here" / "tiny"
        assert set(run_all(runs, resources, here, kill_once).values()) == {"ok"}
        assert killed
        assert rows(here) == rows(tmp_path / "plain")
        assert max(store.read_row(paths.run_path(here, run.run_id))["resumed"] for run in runs) >= 1
        bucket = Storage(uri).below("tiny")
        assert len(bucket.entries("runs")) == len(bucket.entries("weights")) == 3
        assert not any(bucket.entries(f"checkpoints/{run.run_id}") for run in runs)
        assert not (here / "weights").exists() and pull(bucket, here, weights=True).weights == 3
        # Another machine has all of it at once, and nothing to run: no cluster is asked.
        other = tmp_path / "other" / "tiny"
        nowhere = resources.model_copy(update={"address": "127.0.0.1:1"})
        assert set(run_all(runs, nowhere, other, lambda status: None).values()) == {"ok"}
        assert rows(other) == rows(here)
