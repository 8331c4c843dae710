"""A budget of seconds through the command: steps are timed first, and a repeated or killed command plans the same runs."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.experiment.plan import REPEATS
from harness.results import paths, store
from harness.results.paths import times_folder
from tests.support import cluster, tiny

pytestmark = [pytest.mark.ray, *cluster.QUIET]


def test_an_experiment_of_equal_seconds(tmp_path: Path) -> None:
    # Many more steps than those of the warm-up: on busy cores one method's steps may be timed as several times as slow.
    train = {**tiny.TINY["train"], "steps": 60, "eval_every": 30}
    file = tiny.write(tmp_path, train=train, budget={"unit": "seconds"}, methods=["none", "kd"], seeds=[0])
    command = [sys.executable, "-m", "harness.cli", "run", str(file), "--results", str(tmp_path)]
    directory = tmp_path / "tiny"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + cluster.PATIENCE
    while len(store.finished(times_folder(directory))) < 3:  # the teacher's, and two of those that time steps
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait(cluster.PATIENCE)
    before = {path.name: path.read_bytes() for path in (times_folder(directory) / "runs").iterdir()}

    done = subprocess.run(command, capture_output=True, text=True, timeout=cluster.PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    timed = {path.name: path.read_bytes() for path in (times_folder(directory) / "runs").iterdir()}
    assert before.items() <= timed.items() and len(timed) == 1 + 2 * REPEATS
    rows = [store.read_row(paths.run_path(directory, run_id)) for run_id in store.finished(directory)]
    students = [row for row in rows if row["role"] == "student"]
    assert len(students) == 3 and {row["budget_unit"] for row in students} == {"seconds"}
    (seconds,) = {row["budget_amount"] for row in students}
    (plain,) = [row for row in students if row["method"] == "none" and row["control"] is None]
    assert plain["steps"] == 60 and seconds == pytest.approx(60e-3 * plain["budget_step_ms"])
    for row in students:
        if row["control"] is None:
            assert row["steps"] == int(1e3 * seconds / row["budget_step_ms"] + 1e-6)
    fewest = min(row["steps"] for row in students)
    assert [row["steps"] for row in students if row["control"] is not None] == [fewest]
    assert "none at equal steps" in done.stdout and " ms per step" in done.stdout

    began = time.time()
    again = subprocess.run(command, capture_output=True, text=True, timeout=cluster.PATIENCE, check=False)
    assert again.returncode == 0 and "none at equal steps" in again.stdout
    written = [path.stat().st_mtime for path in directory.rglob("*.parquet")]
    assert max(written) < began, "the second call only prints"
