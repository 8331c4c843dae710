"""Which run is next, what is known of all of them, and when a checkpoint is due: no Ray, no training."""

import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest

from harness.execution.launcher import run_all
from harness.execution.queue import Queue, key_of
from harness.execution.status import Status
from harness.execution.workspace import Workspace
from harness.experiment.alike import fed_alike
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.results import paths, store
from harness.training.log import Log
from harness.training.progress import Progress
from harness.training.resume import SaveTimer
from harness.training.runtime import Runtime
from tests.support import tiny
from tests.support.rows import make_row

NODES = ("a", "b")


def plan(folder: Path, pairs: int = 2, seeds: int = 3, methods: tuple[str, ...] = ("none", "kd", "cwd")) -> list[Run]:
    first = tiny.TINY["pairs"][0]
    made = [{**first, "name": f"p{i}", "teacher": {**first["teacher"], "seed": i}} for i in range(pairs)]
    return tiny.plan(folder, pairs=made, seeds=list(range(seeds)), methods=list(methods))


def queue_of(runs: list[Run]) -> tuple[Queue, dict[str, str]]:
    state = {run.run_id: "waiting" for run in runs}
    return Queue(runs, state), state


def drained(queue: Queue, state: dict[str, str], last: Any = None, node: str = "a") -> list[Run]:
    """The order in which one worker that finishes everything at once takes the runs."""
    order = []
    while (run := queue.take(node, NODES, last)) is not None:
        state[run.run_id], last = "ok", key_of(run)
        order.append(run)
    return order


def test_teachers_come_first_and_seeds_one_after_the_other(tmp_path: Path) -> None:
    runs = plan(tmp_path)
    queue, state = queue_of(runs)
    order = drained(queue, state)
    assert [run.role for run in order[:2]] == ["teacher", "teacher"]
    assert sorted(run.run_id for run in order) == sorted(run.run_id for run in runs)
    assert [run.seed for run in order[2:]] == [0] * 6 + [1] * 6 + [2] * 6
    assert len(queue) == 0


def test_whenever_it_stops_the_methods_are_at_most_one_seed_apart(tmp_path: Path) -> None:
    runs = plan(tmp_path, pairs=1, seeds=5)
    queue, state = queue_of(runs)
    done = {"none": 0, "kd": 0, "cwd": 0}
    for run in drained(queue, state)[1:]:
        done[run.method.name] += 1
        assert max(done.values()) - min(done.values()) <= 1


def test_a_worker_stays_with_its_teacher_within_a_seed(tmp_path: Path) -> None:
    runs = plan(tmp_path)
    queue, state = queue_of(runs)
    order = drained(queue, state)[2:]
    changes = sum(a.teacher_run != b.teacher_run for a, b in itertools.pairwise(order))
    assert changes <= 3 * 2  # of 17 steps from one run to the next


def test_two_workers_take_different_teachers(tmp_path: Path) -> None:
    runs = plan(tmp_path, seeds=1, methods=("none", "kd", "cwd"))
    queue, state = queue_of(runs)
    teachers = [queue.take("a", NODES, None), queue.take("b", NODES, None)]
    assert all(teachers)
    for run in teachers:
        state[run.run_id] = "ok"
    last = {"a": (teachers[0].run_id, "p0"), "b": (teachers[1].run_id, "p1")}
    taken: dict[str, list[Run]] = {"a": [], "b": []}
    for _ in range(2):
        for node in ("a", "b"):
            run = queue.take(node, NODES, last[node])
            taken[node].append(run)
    assert {run.pair for run in taken["a"]} == {"p0"} and {run.pair for run in taken["b"]} == {"p1"}


def test_students_wait_for_their_teacher_and_only_they(tmp_path: Path) -> None:
    runs = plan(tmp_path, seeds=2)
    queue, state = queue_of(runs)
    first, second = queue.take("a", NODES, None), queue.take("a", NODES, None)
    assert first.role == second.role == "teacher"
    before = [queue.take("a", NODES, None) for _ in range(4)]  # the baseline needs no teacher, for any seed
    assert [run.method.name for run in before] == ["none"] * 4
    assert queue.take("a", NODES, None) is None and len(queue) == 8
    state[first.run_id] = "ok"
    assert queue.take("a", NODES, None).teacher_run == first.run_id


def test_orphans_leave_the_queue(tmp_path: Path) -> None:
    runs = plan(tmp_path, seeds=2)
    queue, state = queue_of(runs)
    teachers = [queue.take("a", NODES, None) for _ in range(2)]
    state[teachers[0].run_id], state[teachers[1].run_id] = "failed", "ok"
    orphans = queue.orphans()
    assert {run.teacher_run for run in orphans} == {teachers[0].run_id} and len(orphans) == 4
    assert queue.orphans() == []
    assert len(drained(queue, state)) == len(runs) - 2 - 4 and len(queue) == 0


def test_a_run_that_failed_goes_to_another_node_if_there_is_one(tmp_path: Path) -> None:
    runs = plan(tmp_path, pairs=1, seeds=1)
    queue, _ = queue_of(runs)
    teacher = queue.take("a", NODES, None)
    queue.put_back(teacher, "a")
    assert queue.take("a", NODES, None).method.name == "none"  # something else meanwhile
    assert queue.take("b", NODES, None) is teacher
    queue.put_back(teacher, "b")
    assert queue.barred(teacher.run_id) == {"a", "b"}
    assert queue.take("a", NODES, None) is teacher  # it has failed on all of them: any will do
    queue.put_back(teacher)
    assert queue.take("b", ("b",), None) is teacher


def anyone(run: Run) -> bool:
    return True


def test_runs_of_a_seed_with_the_same_teacher_go_together(tmp_path: Path) -> None:
    runs = plan(tmp_path, seeds=2)
    queue, state = queue_of(runs)
    teachers = [queue.take("a", NODES, None) for _ in range(2)]
    assert queue.more(teachers[0], 9, anyone) == [], "a teacher's batches are its own"
    for run in teachers:
        state[run.run_id] = "ok"
    first = queue.take("a", NODES, None)
    found = queue.more(first, 9, anyone)
    assert {(run.pair, run.seed) for run in (first, *found)} == {(first.pair, 0)}
    assert [run.method.name for run in (first, *found)] == ["none", "kd", "cwd"]
    second = queue.take("a", NODES, None)
    assert queue.more(second, 1, lambda run: run.method.name != "kd")[0].method.name == "cwd"
    assert len(queue) == len(runs) - 2 - 3 - 2
    assert len(drained(queue, state)) == len(runs) - 2 - 3 - 2 and len(queue) == 0


def test_those_whose_teacher_is_not_ready_are_left(tmp_path: Path) -> None:
    queue, _ = queue_of(plan(tmp_path, pairs=1, seeds=1))
    queue.take("a", NODES, None)
    assert queue.more(queue.take("a", NODES, None), 9, anyone) == []


def test_of_several_teachers_one_is_taught_by_at_a_time(tmp_path: Path) -> None:
    runs = tiny.plan(tmp_path, "pairs.0.teacher.seeds=[0, 1]", methods=["none", "kd", "cwd"])
    queue, state = queue_of(runs)
    for _ in range(2):
        state[queue.take("a", NODES, None).run_id] = "ok"
    first = queue.take("a", NODES, None)
    found = [first, *queue.more(first, 9, anyone)]
    assert [run.method.name for run in found] == ["none", "kd", "cwd"] and len({r.teacher_run for r in found[1:]}) == 1


@pytest.mark.parametrize(
    "change",
    [
        "train.batch_size=2",
        "train.augment.flip=false",
        "train.precision=bf16",
        "pairs.0.student.parameters.decoder_dropout=0.1",
        "data.parameters.train=13",
        "seeds=[1]",
        "protocol.version=1.1",
    ],
)
def test_what_changes_the_batches_parts_runs(tmp_path: Path, change: str) -> None:
    one, other = tiny.plan(tmp_path)[2], tiny.plan(tmp_path, change)[2]
    assert fed_alike(one, one) and not fed_alike(one, other) and not fed_alike(other, one)
    same = tiny.plan(tmp_path, "train.optimizer.lr=0.1", "train.steps=9", "train.loss=dice", "train.ema=0.9")[1]
    assert fed_alike(one, same), "another method, and a recipe that leaves the batches as they are"


def test_a_run_that_was_put_back_comes_before_later_seeds(tmp_path: Path) -> None:
    runs = plan(tmp_path, pairs=1, seeds=3, methods=("none",))
    queue, _ = queue_of(runs)
    taken = [queue.take("a", NODES, None) for _ in range(2)]
    assert [run.role for run in taken] == ["teacher", "student"]
    queue.put_back(taken[1])
    assert queue.take("a", NODES, None) is taken[1]


# What is known of all of them


def status_of(runs: list[Run]) -> Status:
    return Status(runs, {run.run_id: "waiting" for run in runs})


def test_the_counts_follow_every_change(tmp_path: Path) -> None:
    runs = plan(tmp_path)
    status = status_of(runs)
    for run in runs[:5]:
        status.change(run, "running")
    for run, state in zip(runs[:3], ("ok", "failed", "waiting"), strict=True):
        status.change(run, state)
    status.change(runs[3], "running")  # no change
    assert {key: n for key, n in status.counts.items() if n} == {"ok": 1, "failed": 1, "running": 2, "waiting": 16}
    assert list(status.running) == [run.run_id for run in runs[3:5]]
    assert status.ended == runs[:2]
    assert [status.state[run.run_id] for run in runs[:3]] == ["ok", "failed", "waiting"]


def test_the_estimate_is_what_is_left_at_the_measured_times(tmp_path: Path) -> None:
    runs = plan(tmp_path, pairs=1, seeds=2, methods=("none", "kd"))  # a teacher of 3 steps, four students of 6
    status = status_of(runs)
    assert status.eta_seconds() is None
    teacher, none, kd = runs[:3]
    status.change(teacher, "ok")
    status.change(none, "running")
    status.report(none.run_id, Progress(step=2, step_ms=500.0))
    # 4 steps of this run, 6 of the other `none`; `kd` is not known yet and assumed equal: 12 more.
    assert status.eta_seconds() == pytest.approx((4 + 6 + 12) * 0.5)
    status.change(kd, "running")
    status.report(kd.run_id, Progress(step=6, step_ms=1000.0))
    assert status.eta_seconds() == pytest.approx((4 + 6) * 0.5 + 6 * 1.0)
    status.slots = 4
    assert status.eta_seconds() == pytest.approx(6.0)  # one run cannot be divided
    for run in runs:
        status.change(run, "ok")
    assert status.eta_seconds() == 0


def test_progress_of_ended_runs_is_dropped(tmp_path: Path) -> None:
    runs = plan(tmp_path)
    status = status_of(runs)
    for run in runs[:2]:
        status.report(run.run_id, Progress(step=1, step_ms=1.0))
    status.change(runs[0], "ok")
    status.forget()
    assert set(status.progress) == {runs[1].run_id}


# When a checkpoint is due by the clock


def saves(minutes: float | None, seconds_per_step: float, steps: int, start: int = 0) -> list[int]:
    now = 1000.0
    timer = SaveTimer(Runtime.local(), minutes, start, lambda: now)
    found = []
    for step in range(start + 1, start + steps + 1):
        now += seconds_per_step
        if timer.due(step):
            found.append(step)
    return found


@pytest.mark.parametrize(("seconds", "every"), [(1.0, 120), (0.1, 1200), (10.0, 12)])
@pytest.mark.parametrize("start", [0, 77])
def test_checkpoints_by_the_clock(seconds: float, every: int, start: int) -> None:
    found = saves(2.0, seconds, 5 * every + 3, start)
    assert found == pytest.approx([start + every * (i + 1) for i in range(5)], abs=2)


def test_no_minutes_no_checkpoints_by_the_clock() -> None:
    assert saves(None, 1.0, 1000) == []


def test_a_step_that_takes_longer_than_the_interval(tmp_path: Path) -> None:
    assert saves(0.5, 60.0, 14) == [10, 11, 12, 13, 14]


def test_workers_are_noted_where_their_number_changes() -> None:
    log = Log()
    for step, workers in ((0, 4), (10, 4), (20, 2), (30, 4)):
        log.started(step, workers)
    assert log.workers == [{"step": 0, "workers": 4}, {"step": 20, "workers": 2}, {"step": 30, "workers": 4}]
    log.started(20, 1)  # resumed from an older checkpoint
    assert log.workers == [{"step": 0, "workers": 4}, {"step": 20, "workers": 1}]


# Files at a storage


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, Workspace, Path]:
    """The same experiment as two machines see it, and the storage."""
    resources = Resources(storage=str(tmp_path / "storage"))
    made = []
    for machine in ("one", "two"):
        monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / machine))
        made.append(Workspace(Path("/somewhere/results/tiny"), resources))
    return made[0], made[1], tmp_path / "storage" / "tiny"


def test_what_one_machine_publishes_another_fetches(homes: tuple[Workspace, Workspace, Path], tmp_path: Path) -> None:
    one, two, storage = homes
    teacher, _, kd = tiny.plan(tmp_path)
    with pytest.raises(FileNotFoundError, match=teacher.run_id):
        two.fetch(kd)
    for content in (b"first", b"trained again"):
        row = {**make_row("none", 0), "run_id": teacher.run_id, "weights_sha256": content.hex()}
        paths.run_path(one.folder, teacher.run_id).unlink(missing_ok=True)
        store.write_run(one.folder, row)
        (one.folder / "weights").mkdir(exist_ok=True)
        (one.folder / "weights" / f"{teacher.run_id}.safetensors").write_bytes(content)
        one.publish(teacher.run_id)
        assert sorted(path.parent.name for path in storage.rglob("*.*")) == ["runs", "weights"]
        two.fetch(kd)
        assert (two.folder / "weights" / f"{teacher.run_id}.safetensors").read_bytes() == content
        assert store.finished(two.folder) == {teacher.run_id: "ok"}
    assert two.status(teacher.run_id) == "ok" and two.status(kd.run_id) is None


def test_an_own_row_from_before_is_not_in_the_way(homes: tuple[Workspace, Workspace, Path], tmp_path: Path) -> None:
    """Its row at the storage was deleted so that it runs again."""
    one, _, _ = homes
    none = tiny.plan(tmp_path)[1]
    store.write_run(one.folder, {**make_row("none", 0), "run_id": none.run_id})
    one.fetch(none)
    assert store.finished(one.folder) == {}


def test_without_a_storage_the_results_folder_is_all_there_is(tmp_path: Path) -> None:
    home = Workspace(tmp_path, Resources())
    home.fetch(tiny.plan(tmp_path)[2])
    home.publish("0123")
    home.offer("0123", tmp_path)
    assert home.folder == tmp_path and home.storage is None
    home.checkpoints("0123").save(3, {"step": 3})
    assert (tmp_path / "checkpoints" / "0123" / "step-000000003.pt").is_file()


def test_a_teacher_whose_weights_are_gone_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    runs = tiny.plan(tmp_path)
    store.write_run(tmp_path, {**make_row("none", 0), "run_id": runs[0].run_id})
    with pytest.raises(ValueError, match=r"the teacher's weights are missing, although its row says ok\. Restore"):
        run_all(runs, Resources(address="127.0.0.1:1"), tmp_path, lambda status: None)


@pytest.mark.parametrize("with_storage", [False, True])
def test_what_a_killed_writer_left_is_swept_and_what_another_still_writes_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_storage: bool
) -> None:
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "cache"))
    experiment = tmp_path / "results" / "tiny"
    resources = Resources(storage=str(tmp_path / "storage") if with_storage else None)
    home, runs = Workspace(experiment, resources), tiny.plan(tmp_path)
    for run in runs:
        store.write_run(experiment, {**make_row("none", 0), "run_id": run.run_id})
    bases = {experiment, home.folder, Path(home.place.place)}
    assert len(bases) == (3 if with_storage else 1)
    old, young = [[b / f / n for b in bases for f in ("runs", "weights", "per_image")] for n in (".a.tmp", ".b.tmp")]
    for path in (*old, *young):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    for path in old:
        os.utime(path, (time.time() - 3600,) * 2)
    assert set(run_all(runs, resources, experiment, lambda status: None).values()) == {"ok"}
    assert set(tmp_path.rglob(".*.tmp")) == set(young)
