"""Where runs go when nodes fail and vanish, without Ray: the pool's own decisions."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.errors import WorkerLost
from harness.execution import pool as module
from harness.execution.messages import lost
from harness.execution.nodes import NODE_ID
from harness.execution.pool import Pool
from harness.execution.queue import Queue
from harness.experiment.resources import Resources
from tests.support import tiny


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A pool on nodes a and b, one worker each, whose actors are names; `room` can be changed."""
    made = Pool(Path("results"), Resources(), progress=None)
    monkeypatch.setattr(module, "room", lambda resources: dict(made.there))
    monkeypatch.setattr(module.ray, "kill", lambda handle: made.killed.append(handle))

    class Kind:
        def remote(self, *arguments: Any) -> Any:
            return Handle(len(made.selectors))

    class Handle:
        def __init__(self, number: int) -> None:
            self.number, self.node = number, self

        def remote(self) -> str:
            return f"future {self.number}"

    def remote(**options: Any) -> Any:
        made.selectors.append(options.get("label_selector"))
        return lambda worker: Kind()

    monkeypatch.setattr(module.ray, "remote", remote)
    monkeypatch.setattr(module, "free", lambda resources: made.unused)
    monkeypatch.setattr(module, "draining", lambda: made.leaving)
    made.there, made.killed, made.selectors = {"a": 1, "b": 1}, [], []
    made.unused, made.leaving = 9, set()
    return made


def look(pool: Pool, waiting: int, ready: int = 0) -> None:
    pool._looked = -100.0
    pool.refresh(waiting, ready)


def not_on(node: str) -> dict[str, str]:
    return {NODE_ID: f"!in({node})"}


def test_no_more_actors_than_there_is_room_or_need_for(pool: Pool) -> None:
    look(pool, 1)
    assert len(pool._actors) == 1
    look(pool, 9)
    assert len(pool._actors) == 2 and pool.slots == pool.nodes == 2
    assert pool.selectors == [None, None]


def test_a_replacement_avoids_the_node_that_failed(pool: Pool) -> None:
    look(pool, 1)
    pool._actors[0].node = "a"
    pool._end(pool._actors[0])
    pool._add(not_on="a")
    assert pool.selectors[-1] == not_on("a")


def test_a_replacement_that_can_come_up_nowhere_any_more_is_made_anew(pool: Pool) -> None:
    """The only other node is lost before it comes up: it would wait for ever, and the runs with it."""
    look(pool, 1)
    pool._end(pool._actors[0])
    pool._add(not_on="a")
    waiting = pool._actors[0].handle
    pool.there = {"a": 1}
    look(pool, 1)
    assert pool.killed[-1] is waiting
    assert len(pool._actors) == 1 and pool.selectors[-1] is None


def test_a_node_that_only_fails_is_left_out_while_there_are_others(pool: Pool) -> None:
    look(pool, 1)
    pool._faults = Counter({"a": module.BAD_NODE})
    pool._add()
    assert pool.selectors[-1] == not_on("a")
    pool.there = {"a": 1}
    look(pool, 5)
    pool._add()
    assert pool.selectors[-1] is None


def test_others_keep_what_they_use(pool: Pool) -> None:
    pool.there, pool.unused = {"a": 8}, 2
    look(pool, 9)
    assert len(pool._actors) == pool.slots == 2
    pool.unused = 0
    look(pool, 9)
    assert len(pool._actors) == 2
    pool.unused = 3
    look(pool, 9)
    assert len(pool._actors) == 5


def test_a_cluster_that_grows_is_asked_for_what_could_begin(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool._resources, pool.there, pool.unused = Resources(autoscale=True, concurrent=3), {}, 0
    look(pool, waiting=12, ready=1)  # the teacher first
    assert len(pool._actors) == 1 and pool.slots == 3
    look(pool, waiting=11, ready=11)
    assert len(pool._actors) == 3
    look(pool, waiting=2, ready=2)
    assert len(pool._actors) == 2 and len(pool.killed) == 1  # it waits for a node that nobody needs any more


def test_runs_in_step_are_one_worker(pool: Pool) -> None:
    pool._resources, pool.there = Resources(autoscale=True, concurrent=8, together="auto"), {"a": 1}
    look(pool, 6, 6)
    first, *others = pool._actors
    for actor in others:
        pool._end(actor)
    first.node, first.future, first.runs = "a", "busy", ("one",) * 6  # type: ignore[assignment]
    look(pool, 0, 0)
    assert pool.running == 6 and len(pool._actors) == 1


def test_what_is_shared_on_a_node_ends_with_its_last_worker(pool: Pool) -> None:
    """A node with any actor on it is never idle for an autoscaler."""
    pool.there = {"a": 2}
    look(pool, 2)
    for actor in pool._actors:
        actor.node = "a"
    pool._shared["a"] = "shared"
    one, other = pool._actors
    pool._end(one)
    assert pool.killed == [one.handle]
    pool._end(other)
    assert pool.killed == [one.handle, other.handle, "shared"] and not pool._shared


def test_a_node_that_never_comes_is_said(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    pool._resources, pool.there, pool._had_node = Resources(autoscale=True, concurrent=3, node_minutes=2.0), {}, now
    look(pool, 5, 5)
    now = 1119.0
    look(pool, 5, 5)
    pool._actors[0].node, pool._actors[0].future = "a", "busy"
    now = 1500.0
    look(pool, 5, 5)
    pool._actors[0].node = None
    now = 1619.0
    look(pool, 5, 5)
    now = 1621.0
    with pytest.raises(ValueError, match="no node for a worker with 1 CPUs, 0 GPUs has come within 2 minutes"):
        look(pool, 5, 5)


@pytest.mark.parametrize("autoscale", [False, True])
def test_idle_workers_are_given_back_after_a_while(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, autoscale: bool
) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    pool._resources = Resources(autoscale=autoscale, concurrent=2)
    look(pool, 2, 2)
    for actor, node in zip(pool._actors, "ab", strict=True):
        actor.node, actor.future, actor.idle_since = node, None, 0.0
    pool._actors[1].runs, pool._actors[1].idle_since, pool._actors[1].future = ("one",), None, "busy"  # type: ignore[assignment]
    now = module.IDLE_SECONDS
    look(pool, 0)
    assert not pool.killed
    now += 1.0
    look(pool, 1, 0)  # a run that waits for the teacher which is being trained
    assert len(pool.killed) == autoscale
    look(pool, 0)
    assert len(pool.killed) == 1 and [actor.node for actor in pool._actors] == ["b"]
    look(pool, 0)
    assert len(pool.killed) == 1


def test_a_node_that_is_taken_away_gets_no_run(pool: Pool, tmp_path: Path) -> None:
    runs = tiny.plan(tmp_path)[:1]
    queue = Queue(runs, {run.run_id: "waiting" for run in runs})
    look(pool, 1)
    pool._actors[0].node, pool._actors[0].future = "a", None
    pool._leaving = {"a"}
    assert not list(pool.assign(queue, Counter())) and queue.ready == len(queue) == 1
    pool.leaving, pool.there = {"a"}, {"b": 1}
    look(pool, 1)
    assert len(pool.killed) == len(pool._actors) == 1 and pool._actors[0].node is None


@pytest.mark.parametrize(
    ("waiting", "slots", "together", "most"),
    [(8, 2, "auto", 4), (9, 2, "auto", 5), (3, 8, "auto", 1), (40, 2, 6, 6), (40, 2, 1, 1), (0, 0, "auto", 1)],
)
def test_runs_are_shared_out_so_that_all_workers_have_some(
    waiting: int, slots: int, together: int | str, most: int
) -> None:
    assert module.share(waiting, slots, together) == most


def test_a_run_that_was_lost_is_tried_by_itself(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool._resources = Resources(together="auto")
    _, *runs = tiny.plan(tmp_path, methods=["none", "kd", "cwd", "dist"])
    state = {run.run_id: "ok" for run in tiny.plan(tmp_path)[:1]}
    queue = Queue(runs, state | {run.run_id: "waiting" for run in runs})
    sent: list[tuple[int, bool]] = []

    class Handle:
        def __init__(self) -> None:
            self.run = self

        def remote(self, specs: list[str], last_try: bool) -> str:
            sent.append((len(specs), last_try))
            return "future"

    pool.there = {"a": 1}
    pool._room = {"a": 1}
    tries = Counter({runs[1].run_id: 2})
    for _ in range(2):
        pool._actors = [module._Actor(Handle(), None, node="a")]
        assert list(pool.assign(queue, tries)) and pool.running == sent[-1][0]
    assert sent == [(3, False), (1, True)] and len(queue) == 0


def test_runs_that_are_lost_together_are_each_known_to_have_been(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Any of them may have been the cause, so each has a try by itself, whatever `max_failures` says."""

    def gone(future: Any) -> Any:
        raise module.ray.exceptions.RayError("gone")

    monkeypatch.setattr(module.ray, "get", gone)
    _, *runs = tiny.plan(tmp_path)
    for many in (runs, runs[:1]):
        look(pool, 1)
        actor = pool._actors[0]
        actor.node, actor.runs = "a", tuple(many)
        assert [outcome.beside_others for outcome in pool._settle(actor, "future")] == [len(many) > 1] * len(many)


def test_what_was_raised_says_where_and_whether_it_is_the_disk(tmp_path: Path) -> None:
    run = tiny.plan(tmp_path)[1]
    full = OSError(28, "No space left on device")
    assert lost(run, full, "a").error is full
    assert lost(run, OSError("the network is down"), "a").error is None
    outcome = lost(run, WorkerLost("rank 1: gone", ("b", "c")), None)
    assert (outcome.status, outcome.node, outcome.reason) == ("lost", "b", "rank 1: gone")
