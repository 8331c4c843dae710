"""Where runs go when nodes fail and vanish, without Ray: the pool's own decisions."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.errors import WorkerLost
from harness.execution import pool as module
from harness.execution.messages import lost, not_on_nodes
from harness.execution.pool import Pool
from harness.experiment.resources import Resources
from tests.support import tiny


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A pool on nodes a and b, one worker each, whose actors are names; `room` can be changed."""
    made = Pool(Path("results"), Resources(), progress=None)
    monkeypatch.setattr(module, "room", lambda resources: dict(made.there))
    monkeypatch.setattr(module.ray, "kill", lambda handle: made.killed.append(handle))

    class Kind:
        def options(self, label_selector: Any) -> "Kind":
            made.selectors.append(label_selector)
            return self

        def remote(self, *arguments: Any) -> Any:
            return Handle(len(made.selectors))

    class Handle:
        def __init__(self, number: int) -> None:
            self.number, self.node = number, self

        def remote(self) -> str:
            return f"future {self.number}"

    monkeypatch.setattr(module.ray, "remote", lambda **options: lambda worker: Kind())
    made.there, made.killed, made.selectors = {"a": 1, "b": 1}, [], []
    return made


def look(pool: Pool, waiting: int) -> None:
    pool._looked = -100.0
    pool.refresh(waiting)


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
    assert pool.selectors[-1] == not_on_nodes({"a"})


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
    assert pool.selectors[-1] == not_on_nodes({"a"})
    pool.there = {"a": 1}
    look(pool, 5)
    pool._add()
    assert pool.selectors[-1] is None


def test_what_was_raised_says_where_and_whether_it_is_the_disk(tmp_path: Path) -> None:
    run = tiny.plan(tmp_path)[1]
    full = OSError(28, "No space left on device")
    assert lost(run, full, "a").error is full
    assert lost(run, OSError("the network is down"), "a").error is None
    outcome = lost(run, WorkerLost("rank 1: gone", ("b", "c")), None)
    assert (outcome.status, outcome.node, outcome.reason) == ("lost", "b", "rank 1: gone")
