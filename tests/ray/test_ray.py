"""The same run by every way to launch it, and what happens when processes die. Marker `ray`: starts Ray on this machine."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.execution import status_file
from harness.execution.launcher import run_all
from harness.execution.status import Status
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.results import paths, store
from tests.support import cluster, tiny
from tests.support.kills import KillOnce

pytestmark = [pytest.mark.ray, *cluster.QUIET]

MEASURED = ("dev_confusion", "val_confusion", "dev_miou", "curve", "losses", "weights_sha256", "student_init_sha256")


def rows(experiment: Path) -> dict[str, dict[str, Any]]:
    """Measured columns by run_id."""
    return tiny.measured(experiment, (*MEASURED, "message"))


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Run], dict[str, dict[str, Any]]]:
    """The tiny experiment run one after the other in this process."""
    folder = tmp_path_factory.mktemp("local")
    runs = tiny.plan(folder, methods=["none", "kd", "sstkd"])
    for run in runs:
        tiny.in_process(run, folder)
    return runs, rows(folder)


@pytest.mark.smoke
def test_warm_actors_give_the_same_bits_and_a_killed_one_costs_nothing(
    in_process: tuple[list[Run], dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    """SIGKILL one actor in the middle of a run, by the pid it wrote down itself; the others go on."""
    runs, expected = in_process
    kill_once = KillOnce()
    for _ in range(3):  # a run of six steps may end before it is seen: try again from nothing
        states = run_all(runs, Resources(), tmp_path, kill_once)
        assert rows(tmp_path) == expected
        if kill_once.killed:
            break
        for path in (tmp_path / "runs").glob("*.parquet"):
            path.unlink()
    assert kill_once.killed and set(states.values()) == {"ok"} and kill_once.seen[-1].eta_seconds() == 0
    (note,) = kill_once.seen[-1].notes
    assert "resumed, since its worker or machine failed" in note and "pair tiny, " in note and ", seed 0" in note
    # What another terminal is shown; the command has ended.
    assert (status_file.read(tmp_path) or {})["ended"] is True
    # Every row is there: nothing is started, and Ray is not even needed.
    assert run_all(runs, Resources(address="127.0.0.1:1"), tmp_path, kill_once) == states


@pytest.mark.parametrize("killing", [False, True])
def test_runs_in_step_give_the_same_bits_and_a_killed_worker_costs_nothing(
    in_process: tuple[list[Run], dict[str, dict[str, Any]]], tmp_path: Path, killing: bool
) -> None:
    """One worker trains all students of the seed at once; after its end each of them is resumed by itself."""
    runs, expected = in_process

    def students(status: Status) -> list[str]:
        found = [run_id for run_id in status.running if run_id != runs[0].run_id]
        return found if killing and len(found) == 3 else []

    kill_once = KillOnce(students)
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        states = run_all(runs, Resources(concurrent=1, together="auto"), folder, kill_once)
        assert rows(folder) == expected and set(states.values()) == {"ok"}
        if kill_once.killed or not killing:
            break
    assert bool(kill_once.killed) == killing
    most = {row["together"] for row in tiny.measured(folder, ("together", "role")).values() if row["role"] == "student"}
    assert killing or most == {3}
    assert len(kill_once.seen[-1].notes) == (3 if killing else 0)


@pytest.mark.smoke
def test_two_gloo_workers_agree_with_one(tmp_path: Path) -> None:
    """Same global batch, statistics over both ranks: metrics and losses agree to 1e-5."""
    network = {"architecture": "fpn", "encoder": "tu-mobilenetv3_small_050", "parameters": {"decoder_dropout": 0.0}}
    pairs = [{"name": "tiny", "teacher": network | {"steps": 3}, "student": network}]
    # A larger step would amplify the rounding of another order of summation within few steps, not test more.
    overrides = ("train.optimizer={name: sgd, lr: 0.001}", "train.steps=4", "train.eval_every=2")
    runs = tiny.plan(tmp_path, *overrides, pairs=pairs, methods=["none", "kd"])
    one, two = tmp_path / "one", tmp_path / "two"
    runs = [run for run in runs if run.role == "teacher" or run.method.name == "kd"]
    for run in runs:
        assert tiny.in_process(run, one) == "ok"
    # The teacher must be the same file: only the students are trained by two workers.
    for folder in ("runs", "weights"):
        (two / folder).mkdir(parents=True)
        for path in (one / folder).glob(f"{runs[0].run_id}.*"):
            (two / folder / path.name).write_bytes(path.read_bytes())
    assert set(run_all(runs, Resources(workers=2), two, lambda status: None).values()) == {"ok"}
    for run in runs[1:]:
        a, b = (store.read_row(paths.run_path(folder, run.run_id)) for folder in (one, two))
        assert b["workers"] == 2
        assert sum(b["dev_confusion"]) == sum(a["dev_confusion"])  # no pixel is counted twice
        for left, right in zip(a["losses"], b["losses"], strict=True):
            assert right["terms"] == pytest.approx(left["terms"], rel=1e-5)
        assert b["dev_miou"] == pytest.approx(a["dev_miou"], abs=1e-5)


def test_a_cluster_that_is_not_there_is_an_error_at_once(in_process: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:1: nothing answers there"):
        run_all(in_process[0], Resources(address="127.0.0.1:1"), tmp_path, lambda status: None)


# Enough steps to be ended; one worker, whose start is what takes the time.
LONGER = ("train.steps=40", "train.eval_every=20", "train.checkpoint_every=5", "resources.concurrent=1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The rows of more steps, in this process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for run in tiny.plan(folder, *LONGER, methods=["none"]):
        tiny.in_process(run, folder)
    return rows(folder)


@pytest.mark.smoke
def test_the_command_can_be_ended_and_repeated(undisturbed: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """End it in the middle of a run; the same command resumes and gives the rows of an undisturbed one.

    SIGTERM, as at the end of a Slurm job, is tested there.
    """
    command = [sys.executable, "-m", "harness.cli", "run", str(tiny.write(tmp_path, methods=["none"]))]
    command += ["--results", str(tmp_path / "results"), *(word for value in LONGER for word in ("--set", value))]
    experiment = tmp_path / "results" / "tiny"
    for end in (signal.SIGINT, signal.SIGKILL):
        before = saved(experiment)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + cluster.PATIENCE
        while not saved(experiment) - before:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.1)
        process.send_signal(end)
        said, _ = process.communicate(timeout=cluster.PATIENCE)
        assert process.returncode == (-9 if end == signal.SIGKILL else 130), said
        if end != signal.SIGKILL:
            assert "re-run the same command to resume" in said and "Traceback" not in said
    again = subprocess.run(command, capture_output=True, text=True, timeout=cluster.PATIENCE, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert rows(experiment) == undisturbed


def saved(experiment: Path) -> set[Path]:
    """The checkpoints there are."""
    return set(experiment.glob("checkpoints/*/step-*.pt"))
