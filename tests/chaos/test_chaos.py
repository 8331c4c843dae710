"""Whatever dies, and whenever: the same command ends with the rows of an undisturbed experiment, each once.

Two kills per kind, or `--kills N` (`make soak`: ten); where they hit is drawn from `--chaos-seed`, which a failure prints.
"""

import errno
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from harness.execution.launcher import run_all
from harness.execution.status import Status
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.results import paths, store
from harness.training.execute import execute
from harness.training.progress import Progress
from harness.training.runtime import Runtime
from tests.support import cluster, tiny

pytestmark = [pytest.mark.chaos, *cluster.QUIET]

SETTINGS = ("train.steps=24", "train.eval_every=12", "train.checkpoint_every=2")
# fitnet trains a module of its own, which is part of a checkpoint.
CHANGES = {"methods": ["none", "fitnet"], "seeds": [0, 1]}
# When, where and how fast.
NOT_MEASURED = {
    *("started_at", "finished_at", "wall_seconds", "train_seconds", "eval_seconds", "step_ms", "step_ms_p90"),
    *("data_ms", "peak_memory_mb", "student_latency_ms", "resumed"),
}
ALL_MEASURED = [name for name in store.SCHEMA.names if name not in NOT_MEASURED]
MEASURED = ("status", "dev_confusion", "val_confusion", "curve", "losses", "weights_sha256", "student_init_sha256")


def plan(folder: Path) -> list[Run]:
    folder.mkdir(parents=True, exist_ok=True)
    return tiny.plan(folder, *SETTINGS, **CHANGES)


def wide_plan(folder: Path) -> list[Run]:
    first = tiny.TINY["pairs"][0]
    pairs = [{**first, "name": f"pair{i}", "teacher": {**first["teacher"], "seed": i}} for i in range(2)]
    settings = ("train.steps=12", "train.eval_every=6", "train.checkpoint_every=2")
    return tiny.plan(folder, *settings, pairs=pairs, seeds=[0, 1], methods=["none", "kd", "fitnet"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The experiment in one process, one run after the other."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for run in plan(folder):
        assert tiny.in_process(run, folder) == "ok"
    return tiny.measured(folder, MEASURED)


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--kills"))


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    seed = request.config.getoption("--chaos-seed")
    seed = int(time.time()) if seed is None else int(seed)
    print(f"--chaos-seed {seed}")
    return random.Random(seed)


def assert_nothing_lost_or_doubled(
    experiment: Path, expected: dict[str, dict[str, Any]], columns: Collection[str] = MEASURED
) -> None:
    found = tiny.measured(experiment, columns)
    assert found.keys() == expected.keys()
    other = {(i, name) for i in found for name in columns if found[i][name] != expected[i][name]}
    assert other == set(), "these are not the same"
    # A partially written file, which a kill in the middle of writing leaves, is hidden, read by nobody, and swept later.
    names = {path.name for path in (experiment / "runs").iterdir() if not re.fullmatch(r"\..+\.tmp", path.name)}
    assert names == {f"{i}.parquet" for i in expected}


class Targets:
    """Where each run of an experiment is hit next: at a random step beyond the one it was last hit at."""

    def __init__(self, dice: random.Random, ahead: int = 8) -> None:
        self.dice, self.ahead = dice, ahead
        self.at: dict[str, int] = {}

    def anew(self) -> None:
        """The next experiment begins: its runs have the same run_ids, and are at their first step again."""
        self.at.clear()

    def hit(self, status: Status) -> tuple[str, Progress] | None:
        for run_id, progress in list(status.progress.items()):  # another thread may be changing it
            target = self.at.setdefault(run_id, self.dice.randint(1, self.ahead))
            if (
                status.state[run_id] == "running"
                and progress.step is not None
                and progress.steps is not None
                and target <= progress.step < progress.steps
            ):
                self.at[run_id] = progress.step + self.dice.randint(2, self.ahead)
                return run_id, progress
        return None


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Ray's test cluster is moved on the main thread only; the experiment has another."""
    outcome: list[Any] = []

    def go() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    return thread, outcome


def test_killed_workers_and_lost_nodes(kills: int, dice: random.Random, tmp_path: Path) -> None:
    """In one experiment SIGKILL processes by the pid they wrote down and lose nodes, each in the middle of a run.

    Two pairs, three methods and two seeds on three nodes; all that a row has is that of one process, but for times.
    """
    runs = wide_plan(tmp_path)
    assert len(runs) == 2 + 2 * 3 * 2
    for run in runs:
        assert tiny.in_process(run, tmp_path / "one") == "ok"
    expected, pending = tiny.measured(tmp_path / "one", ALL_MEASURED), ["process", "node"] * kills
    with cluster.nodes(3) as made:
        targets, dead = Targets(dice), set[int]()
        for number in range(kills):
            experiment, latest = tmp_path / str(number), list[Status]()
            targets.anew()
            resources = Resources(address=made.address, max_failures=2 * kills)
            thread, outcome = in_thread(lambda to=experiment, s=resources, u=latest: run_all(runs, s, to, u.append))
            deadline = time.monotonic() + cluster.PATIENCE
            while thread.is_alive():
                assert time.monotonic() < deadline, latest[-1].notes
                time.sleep(0.02)
                if not pending or not latest or (hit := targets.hit(latest[-1])) is None:
                    continue
                node = next((node for node in made.worker_nodes if node.node_id == hit[1].node), None)
                if node is None or hit[1].pid in dead:  # what was said before it was lost
                    continue
                if pending.pop(0) == "process":
                    dead.add(hit[1].pid)
                    os.kill(hit[1].pid, signal.SIGKILL)
                else:
                    made.remove_node(node, allow_graceful=False)
                    cluster.add_node(made)
            assert not isinstance(outcome[0], BaseException), outcome
            assert_nothing_lost_or_doubled(experiment, expected, ALL_MEASURED)
            if not pending:
                return
    pytest.fail(f"{pending} were left after {kills} experiments: runs end before they are hit")


def command(folder: Path, address: str) -> list[str]:
    """The command line of the experiment, on a cluster that outlives it."""
    file = folder / "tiny.yaml"
    file.write_text(yaml.dump({**tiny.TINY, **CHANGES, "resources": {"address": address, "max_failures": 99}}))
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    return [sys.executable, "-m", "harness.cli", "run", str(file), "--results", str(folder / "results"), *sets]


def kill_until_done(
    kills: Sequence[Callable[[Any], None]],
    dice: random.Random,
    tmp_path: Path,
    address: str,
    undisturbed: dict[str, Any],
) -> None:
    """Start the command, kill at a random moment after some progress, start it again; at the end let it finish."""
    pending = list(kills)
    for number in range(len(kills)):
        folder = tmp_path / str(number)
        folder.mkdir()
        line, experiment = command(folder, address), folder / "results" / "tiny"
        while True:
            process = subprocess.Popen(
                line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **cluster.GIVE_UP}
            )
            before = reached(experiment)
            deadline = time.monotonic() + cluster.PATIENCE
            while process.poll() is None and (not pending or reached(experiment) == before):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            if process.poll() is not None:
                break
            time.sleep(dice.uniform(0, 0.5))
            pending.pop(0)(process)
            process.wait(timeout=cluster.PATIENCE)
        said, _ = process.communicate()
        assert process.returncode == 0, said
        assert_nothing_lost_or_doubled(experiment, undisturbed)
        if not pending:
            return
    pytest.fail(f"{len(pending)} of {len(kills)} kills were left after as many experiments")


def reached(experiment: Path) -> set[str]:
    """Rows and checkpoints there are."""
    return {str(path) for path in [*experiment.glob("runs/*.parquet"), *experiment.glob("checkpoints/*/step-*.pt")]}


def test_killed_drivers_and_restarted_heads(
    kills: int, dice: random.Random, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """In turn: SIGKILL the command on a cluster that goes on, and lose the head with all its workers.

    The same command takes over; when the head is lost it ends, and resumes on a new one.
    """
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a short path: sockets are in it
        head = cluster.Head(Path(folder))
        head.start()

        def lose(process: subprocess.Popen[str]) -> None:
            head.kill()
            said, _ = process.communicate(timeout=cluster.PATIENCE)
            # No usage error, but that nobody answers, of one that was connecting; 0 if it had just finished.
            assert process.returncode != 2 or "nothing answers there" in said, said
            head.start()

        try:
            kill_until_done([subprocess.Popen.kill, lose] * kills, dice, tmp_path, head.address, undisturbed)
        finally:
            head.kill()


class Died(BaseException):
    """Stands for the end of the process: nothing in the product catches it."""


def test_half_written_checkpoints(kills: int, dice: random.Random, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """The process dies at a random step, and the last checkpoint is cut, overwritten or gone as a whole."""
    runs = plan(tmp_path)
    assert tiny.in_process(runs[0], tmp_path) == "ok"
    students = [run for run in runs if run.role == "student"]
    count, number = 0, 0
    while count < kills:
        run, number = students[number % len(students)], number + 1
        paths.run_path(tmp_path, run.run_id).unlink(missing_ok=True)
        for _ in range(2):
            last = dice.randint(4, 22)

            def die(progress: Progress, last: int = last) -> None:
                if (progress.step or 0) >= last:
                    raise Died

            with pytest.raises(Died):
                tiny.in_process(run, tmp_path, on_progress=die)
            saved = sorted(paths.checkpoint_directory(tmp_path, run.run_id).glob("step-*.pt"))
            if saved and dice.random() < 0.7:
                damage(saved[-1], dice)
                count += 1
        assert tiny.in_process(run, tmp_path) == "ok"
        assert tiny.measured(tmp_path, MEASURED)[run.run_id] == undisturbed[run.run_id]


def damage(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    kind = dice.choice(["cut", "flip", "zeros", "gone"])
    if kind == "gone":
        path.unlink()
        return
    if kind == "cut":
        del content[dice.randrange(len(content)) :]
    elif kind == "flip":
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    else:  # blocks that never reached the disk
        begin = dice.randrange(len(content))
        content[begin:] = bytes(len(content) - begin)
    path.write_bytes(content)


@pytest.mark.parametrize("background", [False, True])
def test_a_storage_that_is_full(
    kills: int,
    dice: random.Random,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    background: bool,
) -> None:
    """A random write finds no space: the run stops, loses nothing, and goes on when there is space again."""
    from harness import files
    from harness.training.checkpoints import Checkpoints

    runs, real = plan(tmp_path), os.fsync
    left = [10**9]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    count, number = 0, 0
    assert tiny.in_process(runs[0], tmp_path) == "ok"
    students = [run for run in runs if run.role == "student"]
    while count < kills:
        run, number = students[number % len(students)], number + 1
        paths.run_path(tmp_path, run.run_id).unlink(missing_ok=True)
        folder = paths.checkpoint_directory(tmp_path, run.run_id)
        outcome: str | int | None = None
        while outcome != "ok":
            left[0] = dice.randint(0, 25) if count < kills else 10**9
            try:
                runtime = Runtime.local(Checkpoints(folder, background=background), device=torch.device("cpu"))
                outcome = execute(run, runtime, tmp_path)
            except OSError as error:
                outcome = error.errno
                count += 1
            assert outcome in ("ok", errno.ENOSPC)
            assert not list(tmp_path.rglob(".*.tmp"))  # it would take the space that is missing
        assert tiny.measured(tmp_path, MEASURED)[run.run_id] == undisturbed[run.run_id]
