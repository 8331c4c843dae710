"""Worker groups of Ray Train: one run on several workers; one of the two executors of `execution.launcher`."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.execution.actors import group_run
from harness.execution.messages import Group, Outcome, lost
from harness.execution.nodes import answers, bundle, no_node, room, selectors, this_node
from harness.execution.pool import REFRESH_SECONDS, SILENT_SECONDS, fresh, share
from harness.execution.queue import Queue
from harness.execution.sharing import on_node
from harness.experiment.resources import Resources
from harness.experiment.spec import Run

OF_ITS_GROUP = "another run of its worker group failed, which ends the group"


class Groups:
    """Worker groups for runs on several workers; a group trains one, or several in step.

    Args:
        directory: results folder of the experiment.
        resources: of a run.
        progress: handle of the `ProgressActor`.
    """

    def __init__(self, directory: Path, resources: Resources, progress: Any) -> None:
        self._directory, self._resources, self._progress = directory, resources, progress
        self._running: dict[Any, tuple[Run, ...]] = {}  # by future
        self._silent: dict[str, float] = {}  # nodes that did not answer, and until when they are not used
        self._attempts: Counter[str] = Counter()
        self._room: dict[str, int] = {}
        self._looked = -REFRESH_SECONDS
        self._shared: dict[str, Any] = {}
        self._asked: list[Any] = []  # placement groups, for a cluster that grows
        self._had_room = time.monotonic()
        here = NodeAffinitySchedulingStrategy(this_node(), soft=False)
        self._task = ray.remote(num_cpus=0, max_retries=0)(group_run).options(scheduling_strategy=here)

    @property
    def running(self) -> int:
        """How many runs are being executed."""
        return sum(map(len, self._running.values()))

    @property
    def slots(self) -> int:
        """How many runs can be executed at the same time."""
        most = self._resources.concurrent or 10**9
        return most if self._resources.autoscale else max(1, min(self._fit, most))

    @property
    def nodes(self) -> int:
        """How many nodes have room."""
        return len(self._room)

    @property
    def _fit(self) -> int:
        return sum(self._room.values()) // self._resources.workers

    def refresh(self, waiting: int, ready: int) -> None:
        """Query the nodes; they may have come or gone. A cluster that grows is asked for what the ready runs need."""
        now = time.monotonic()
        if now - self._looked < REFRESH_SECONDS:
            return
        found = room(self._resources)
        self._room = {node: fit for node, fit in found.items() if self._silent.get(node, 0.0) < now}
        self._looked = now
        if self._resources.autoscale:
            self._ask(min(self.slots, ready + len(self._running)) - self._fit)
            if not ready:
                self._leave_nodes()
            if self._fit or self._running:
                self._had_room = now
            elif now - self._had_room > 60 * self._resources.node_minutes:
                raise no_node(self._resources)

    def _ask(self, groups: int) -> None:
        """Let `groups` placement groups wait for nodes.

        One that has found nodes holds them, and has to go before a worker group can have them; so do the others, which
        would take them first. Nothing is asked for while a group is starting, for the same reason. Unlike
        `ray.autoscaler.sdk.request_resources` they vanish with this process, however it ends.
        """
        found = any(placement_group_table(group)["state"] == "CREATED" for group in self._asked)
        wanted = 0 if found or any(map(self._starting, self._running.values())) else max(0, groups)
        for group in self._asked[wanted:]:
            remove_placement_group(group)
        del self._asked[wanted:]
        (labels,) = selectors(self._resources)
        while len(self._asked) < wanted:
            count = self._resources.workers
            options: dict[str, Any] = {"bundle_label_selector": [labels] * count} if labels else {}
            self._asked.append(placement_group([bundle(self._resources)] * count, **options))

    def _nodes_of(self, runs: tuple[Run, ...]) -> dict[int, str]:
        nodes: dict[int, str] = ray.get(self._progress.nodes.remote(runs[0].run_id))
        return nodes

    def _starting(self, runs: tuple[Run, ...]) -> bool:
        return len(self._nodes_of(runs)) < self._resources.workers

    def _leave_nodes(self) -> None:
        """End what is shared on nodes that no group is on: a node with an actor is never idle for its autoscaler."""
        if any(map(self._starting, self._running.values())):
            return
        used = {node for runs in self._running.values() for node in self._nodes_of(runs).values()}
        for node in self._shared.keys() - used:
            ray.kill(self._shared.pop(node))

    def assign(self, queue: Queue, tries: Counter[str]) -> Iterator[Run]:
        """Start as many groups as there is room for, of one run or several that are fed with the same; yields these."""
        most = share(len(queue), self.slots, self._resources.together)
        while len(self._running) < min(self.slots, self._fit):
            run = queue.take("", (), None)
            if run is None:
                return
            others = [] if tries[run.run_id] else queue.more(run, most - 1, lambda other: fresh(other, queue, tries))
            self._start((run, *others), queue.barred(run.run_id))
            yield from (run, *others)

    def wait(self, seconds: float) -> Iterator[Outcome]:
        """The runs that end within so many seconds; returns as soon as one did."""
        if not self._running:
            time.sleep(seconds)
            return
        done, _ = ray.wait(list(self._running), timeout=seconds)
        for future in done:
            runs = self._running.pop(future)
            self._looked = -REFRESH_SECONDS
            several = len(runs) > 1
            try:
                answer = ray.get(future)
                yield from (Outcome(run, answer[run.run_id], OF_ITS_GROUP, beside_others=several) for run in runs)
            except ray.exceptions.RayError as error:
                # Ray notices late that a node is lost; until then a new group would wait for it.
                for node in set(self._nodes_of(runs).values()):
                    if not answers(node):
                        self._silent[node] = time.monotonic() + SILENT_SECONDS
                yield from (lost(run, error, None, beside_others=several) for run in runs)

    def _start(self, runs: tuple[Run, ...], barred: set[str]) -> None:
        elsewhere = sum(fit for node, fit in self._room.items() if node not in barred)
        self._attempts[runs[0].run_id] += 1
        group = Group(
            tuple(run.model_dump_json() for run in runs),
            str(self._directory),
            self._resources.model_dump_json(),
            f"{int(time.time())}-{self._attempts[runs[0].run_id]}",
            tuple(sorted(barred)) if elsewhere >= self._resources.workers else (),
        )
        self._progress.forget_nodes.remote(runs[0].run_id)
        for node in self._room:
            if node not in self._shared:
                self._shared[node] = on_node(node)
        self._running[self._task.remote(group, self._progress, self._shared)] = runs
