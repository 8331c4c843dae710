"""A pool of warm actors, each of which executes one run at a time, or several in step that are fed with the same.

One of the two executors of `execution.launcher`.

It only knows where runs are: `execution.queue` decides which is next, the launcher what follows from how one ended.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from harness.execution.actors import Worker
from harness.execution.messages import Outcome, lost
from harness.execution.nodes import draining, free, no_node, placed, room
from harness.execution.queue import Key, Queue, key_of
from harness.execution.sharing import on_node
from harness.experiment.resources import Resources
from harness.experiment.spec import Run

REFRESH_SECONDS = 2.0  # between two queries of the nodes
MOST_FALSE_STARTS = 5  # workers in a row that fail to start
SILENT_SECONDS = 60.0  # that a node which did not answer is not used; by then Ray knows whether it is lost
IDLE_SECONDS = 30.0  # after which a worker that nothing waits for is given back
BAD_NODE = 3  # failures in a row after which a node gets no more runs, as long as there are others


@dataclass
class _Actor:
    handle: Any
    future: Any  # of the run, or of the node's id while it starts; None when it is idle
    avoids: frozenset[str] = frozenset()  # nodes it must not start on
    node: str | None = None
    last: Key | None = None
    runs: tuple[Run, ...] = ()
    idle_since: float | None = None


def share(waiting: int, slots: int, together: int | str) -> int:
    """How many runs one worker takes at most: so that all workers have some, and not more than `together`."""
    fair = max(1, -(-waiting // max(1, slots)))
    return fair if together == "auto" else min(fair, int(together))


def fresh(run: Run, queue: Queue, tries: Counter[str]) -> bool:
    """Whether no attempt at the run was lost, so that it may be executed beside others."""
    return not tries[run.run_id] and not queue.barred(run.run_id)


class Pool:
    """Warm actors for runs on one worker, as many as fit and are needed.

    Args:
        directory: results folder of the experiment.
        resources: of a run.
        progress: handle of the `ProgressActor`.
    """

    def __init__(self, directory: Path, resources: Resources, progress: Any) -> None:
        self._resources = resources
        self._arguments = (str(directory), resources.model_dump_json(), progress)
        self._actors: list[_Actor] = []
        self._shared: dict[str, Any] = {}
        self._false_starts = 0
        self._faults: Counter[str] = Counter()
        self._room: dict[str, int] = {}
        self._most = 0
        self._leaving: Collection[str] = ()
        self._looked = -REFRESH_SECONDS
        self._had_node = time.monotonic()

    @property
    def running(self) -> int:
        """How many runs are being executed."""
        return sum(len(actor.runs) for actor in self._actors)

    @property
    def slots(self) -> int:
        """How many workers there can be at the same time."""
        most = 10**9 if self._resources.concurrent is None else self._resources.concurrent
        return most if self._resources.autoscale else min(self._most, most)

    @property
    def nodes(self) -> int:
        """How many nodes have room."""
        return len(self._room)

    def refresh(self, waiting: int, ready: int) -> None:
        """Start as many actors as there is room and need for, and end those that are not needed any more.

        Nodes may have come or gone. An actor that has no room yet is what makes a cluster grow; it vanishes with this
        process, as a request for nodes would not.
        """
        now = time.monotonic()
        if now - self._looked >= REFRESH_SECONDS:
            self._look(now)
        busy = sum(bool(actor.runs) for actor in self._actors)  # with several runs each, where they are in step
        wanted = max(1, min(self.slots, (ready if self._resources.autoscale else waiting) + busy))
        while len(self._actors) < wanted:
            self._add()
        if self._resources.autoscale or not waiting:
            self._give_back(len(self._actors) - wanted, now)

    def _look(self, now: float) -> None:
        self._room, self._leaving, self._looked = room(self._resources), draining(), now
        for actor in [a for a in self._actors if a.node is None and a.avoids and not set(self._room) - a.avoids]:
            self._end(actor)  # the nodes it waits for are gone
        for actor in [a for a in self._actors if a.future is None and a.node in self._leaving]:
            self._end(actor)
        # Actors that are starting may have their room already.
        self._most = min(sum(self._room.values()), len(self._actors) + free(self._resources))
        if any(actor.node is not None for actor in self._actors):
            self._had_node = now
        elif self._resources.autoscale and now - self._had_node > 60 * self._resources.node_minutes:
            raise no_node(self._resources)

    def _give_back(self, count: int, now: float) -> None:
        """End up to `count` actors that wait for a node, or have been idle for a while."""
        for_nothing = [a for a in self._actors if a.node is None and self._resources.autoscale]
        idle = [a for a in self._actors if a.idle_since is not None and now - a.idle_since > IDLE_SECONDS]
        for actor in [*for_nothing, *idle][: max(0, count)]:
            self._end(actor)

    def assign(self, queue: Queue, tries: Counter[str]) -> Iterator[Run]:
        """Give idle actors their next run, or several that are fed with the same; yields the runs that start.

        A run that was lost before is executed by itself: the others may have been the cause, by the memory they took.
        """
        nodes = {actor.node for actor in self._actors if actor.node is not None}
        most = share(len(queue), self.slots, self._resources.together)
        for actor in self._actors:
            if actor.future is None and actor.node is not None and actor.node not in self._leaving:
                run = queue.take(actor.node, nodes, actor.last)
                if run is not None:
                    again = tries[run.run_id]
                    others = [] if again else queue.more(run, most - 1, lambda other: fresh(other, queue, tries))
                    actor.runs, last_try = (run, *others), again >= self._resources.max_failures
                    actor.idle_since = None
                    actor.future = actor.handle.run.remote([each.model_dump_json() for each in actor.runs], last_try)
                    actor.last = max(map(key_of, actor.runs), key=lambda key: key[0] is not None)
                    yield from actor.runs

    def wait(self, seconds: float) -> Iterator[Outcome]:
        """The runs that end within so many seconds; returns as soon as one did."""
        futures = {actor.future: actor for actor in self._actors if actor.future is not None}
        if not futures:
            time.sleep(seconds)
            return
        done, _ = ray.wait(list(futures), num_returns=1, timeout=seconds)
        for future in done:
            actor = futures[future]
            yield from self._settle(actor, future)

    def _settle(self, actor: _Actor, future: Any) -> list[Outcome]:
        runs, actor.runs, actor.future, actor.idle_since = actor.runs, (), None, time.monotonic()
        try:
            answer: Any = ray.get(future)  # the node's id, or how each run ended
        except ray.exceptions.RayError as error:
            self._end(actor)  # the process is dead or in doubt: the next run gets a new one
            if not runs:
                self._failed_to_start(error)
                return []
            if actor.node is not None:
                self._faults[actor.node] += 1
                self._add(not_on=actor.node)
            return [lost(run, error, actor.node, beside_others=len(runs) > 1) for run in runs]
        if not runs:
            self._started(actor, answer)
            return []
        self._faults.pop(str(actor.node), None)
        if "yielded" in answer.values():
            self._looked = -REFRESH_SECONDS  # its node gets no more runs
        return [Outcome(run, answer[run.run_id]) for run in runs]

    def _add(self, not_on: str | None = None) -> None:
        """Start an actor; where possible on another node than `not_on`, and on none that has failed repeatedly."""
        busy = Counter(actor.node for actor in self._actors)
        avoid = {node for node, faults in self._faults.items() if faults >= BAD_NODE}
        if not_on is not None and any(fit > busy[node] for node, fit in self._room.items() if node != not_on):
            avoid.add(not_on)
        if not set(self._room) - avoid:
            avoid = set()
        handle = ray.remote(**placed(self._resources, avoid))(Worker).remote(*self._arguments)
        self._actors.append(_Actor(handle, handle.node.remote(), frozenset(avoid)))

    def _started(self, actor: _Actor, node: str) -> None:
        self._false_starts, actor.node = 0, node
        if node not in self._shared:
            self._shared[node] = on_node(node)
        actor.handle.attach.remote(self._shared[node])

    def _end(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        ray.kill(actor.handle)
        node = actor.node
        if node in self._shared and all(other.node != node for other in self._actors):
            ray.kill(self._shared.pop(node))  # a node with an actor is never idle for its autoscaler

    def _failed_to_start(self, error: Exception) -> None:
        self._false_starts += 1
        if self._false_starts >= MOST_FALSE_STARTS:
            reason = " ".join(str(getattr(error, "cause", None) or error).split())[:500]
            raise ValueError(
                f"resources: {self._false_starts} workers in a row did not start: {reason}. Every node needs this "
                "package, and access to the results folder unless resources.storage is set."
            )
