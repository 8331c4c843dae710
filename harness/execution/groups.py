"""Worker groups of Ray Train: one run on several workers; one of the two executors of `execution.launcher`."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.execution.actors import group_run
from harness.execution.connection import answers, room, this_node
from harness.execution.messages import Group, Outcome, lost
from harness.execution.pool import REFRESH_SECONDS, SILENT_SECONDS
from harness.execution.queue import Queue
from harness.experiment.resources import Resources
from harness.experiment.spec import Run


class Groups:
    """Worker groups for runs on several workers.

    Args:
        directory: results folder of the experiment.
        resources: of a run.
        progress: handle of the `ProgressActor`.
    """

    def __init__(self, directory: Path, resources: Resources, progress: Any) -> None:
        self._directory, self._resources, self._progress = directory, resources, progress
        self._running: dict[Any, Run] = {}  # by future
        self._silent: dict[str, float] = {}  # nodes that did not answer, and until when they are not used
        self._attempts: Counter[str] = Counter()
        self._room: dict[str, int] = {}
        self._looked = -REFRESH_SECONDS
        here = NodeAffinitySchedulingStrategy(this_node(), soft=False)
        self._task = ray.remote(num_cpus=0, max_retries=0)(group_run).options(scheduling_strategy=here)

    @property
    def running(self) -> int:
        """How many runs are being executed."""
        return len(self._running)

    @property
    def slots(self) -> int:
        """How many runs can be executed at the same time."""
        return max(1, min(sum(self._room.values()) // self._resources.workers, self._resources.concurrent or 10**9))

    @property
    def nodes(self) -> int:
        """How many nodes have room."""
        return len(self._room)

    def refresh(self, waiting: int) -> None:
        """Query the nodes; they may have come or gone."""
        now = time.monotonic()
        if now - self._looked >= REFRESH_SECONDS:
            found = room(self._resources)
            self._room = {node: fit for node, fit in found.items() if self._silent.get(node, 0.0) < now}
            self._looked = now

    def assign(self, queue: Queue, tries: Counter[str]) -> Iterator[Run]:
        """Start as many groups as there is room for; yields the runs that start."""
        workers = self._resources.workers
        while self.running < self.slots and sum(self._room.values()) >= workers * (self.running + 1):
            run = queue.take("", (), None)
            if run is None:
                return
            self._start(run, queue.barred(run.run_id))
            yield run

    def wait(self, seconds: float) -> Iterator[Outcome]:
        """The runs that end within so many seconds; returns as soon as one did."""
        if not self._running:
            time.sleep(seconds)
            return
        done, _ = ray.wait(list(self._running), timeout=seconds)
        for future in done:
            run = self._running.pop(future)
            self._looked = -REFRESH_SECONDS
            try:
                yield Outcome(run, ray.get(future))
            except ray.exceptions.RayError as error:
                # Ray notices late that a node is lost; until then a new group would wait for it.
                for node in set(ray.get(self._progress.nodes.remote(run.run_id)).values()):
                    if not answers(node):
                        self._silent[node] = time.monotonic() + SILENT_SECONDS
                yield lost(run, error, None)

    def _start(self, run: Run, barred: set[str]) -> None:
        elsewhere = sum(fit for node, fit in self._room.items() if node not in barred)
        self._attempts[run.run_id] += 1
        group = Group(
            run.model_dump_json(),
            str(self._directory),
            self._resources.model_dump_json(),
            f"{int(time.time())}-{self._attempts[run.run_id]}",
            tuple(sorted(barred)) if elsewhere >= self._resources.workers else (),
        )
        self._running[self._task.remote(group, self._progress)] = run
