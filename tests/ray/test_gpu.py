"""What only a GPU can show: AMP with a scaler, event clocks, NCCL. Marker `gpu`."""

from pathlib import Path

import pytest
import torch

from harness.execution.launcher import run_all
from harness.experiment.resources import Resources
from harness.results import paths, store
from harness.training.execute import execute
from harness.training.runtime import Runtime
from tests.support import tiny

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("option", ["train.channels_last=true", "train.compile=true", "train.accumulate=2"])
def test_every_precision_trains_on_cuda(tmp_path: Path, precision: str, option: str) -> None:
    for run in tiny.plan(tmp_path, option, f"train.precision={precision}", methods=["none", "kd", "cwd", "sstkd"]):
        directory = paths.checkpoint_directory(tmp_path, run.run_id)
        execute(run, Runtime.local(directory, device=torch.device("cuda")), tmp_path)
        row = store.read_row(paths.run_path(tmp_path, run.run_id))
        assert row["message"] == ""
        assert row["device"] == torch.cuda.get_device_name() and row["step_ms"] > 0 and row["peak_memory_mb"] > 0


def test_cuda_agrees_with_the_cpu_at_the_first_steps(tmp_path: Path) -> None:
    """fp32 without TF32: the first losses agree to 1e-3; later ones drift with the order of summation."""
    losses = []
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        folder.mkdir()
        run = tiny.plan(folder, "train.steps=2", "train.optimizer={name: sgd, lr: 0.001}")[1]
        directory = paths.checkpoint_directory(folder, run.run_id)
        execute(run, Runtime.local(directory, device=torch.device(device)), folder)
        losses.append([p["terms"]["task"] for p in store.read_row(paths.run_path(folder, run.run_id))["losses"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.ray
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_nccl_workers_train(tmp_path: Path) -> None:
    runs = tiny.plan(tmp_path)
    assert set(run_all(runs, Resources(workers=2, gpus_per_worker=1.0), tmp_path, lambda status: None).values()) == {
        "ok"
    }
    assert store.read_row(paths.run_path(tmp_path, runs[1].run_id))["workers"] == 2
