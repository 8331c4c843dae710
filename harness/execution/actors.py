"""The actors and tasks of a launcher. Light: the launcher must not load torch, which `execution.worker` does."""

from typing import Any

from harness.execution.imports import quick_imports
from harness.execution.messages import Group
from harness.execution.nodes import this_node
from harness.training.progress import Progress


class ProgressActor:
    """Actor: collects the progress of all runs, so that the launcher asks one process and disturbs no worker."""

    def __init__(self) -> None:
        self._progress: dict[str, Progress] = {}
        self._notes: dict[str, None] = {}
        self._nodes: dict[str, dict[int, str]] = {}

    def post(self, run_id: str, progress: Progress) -> None:
        """Take a report of a run."""
        self._progress[run_id] = self._progress.get(run_id, Progress()).updated(progress)

    def drain(self) -> dict[str, Progress]:
        """What was reported since the last call, by run_id."""
        progress, self._progress = self._progress, {}
        return progress

    def add_note(self, text: str) -> None:
        """Take a message for the user; the same text of several runs counts once."""
        self._notes.setdefault(text, None)

    def notes(self) -> list[str]:
        """All messages so far, oldest first."""
        return list(self._notes)

    def set_node(self, run_id: str, rank: int, node: str) -> None:
        """Note on which node a rank of a worker group is."""
        self._nodes.setdefault(run_id, {})[rank] = node

    def forget_nodes(self, run_id: str) -> None:
        """A new attempt begins."""
        self._nodes.pop(run_id, None)

    def nodes(self, run_id: str) -> dict[int, str]:
        """The nodes of a run's ranks in its last attempt."""
        return self._nodes.get(run_id, {})


class Worker:
    """Actor: one process that keeps imports, dataset and teacher in memory and executes runs, one after another or in
    step."""

    def __init__(self, directory: str, resources: str, progress: Any) -> None:
        with quick_imports():
            from harness.execution.worker import WarmWorker
        self._worker = WarmWorker(directory, resources, progress)

    def node(self) -> str:
        """The node of this process; answers once the process has started."""
        return this_node()

    def attach(self, shared: Any) -> None:
        """Share data and teachers with the other workers of this machine."""
        self._worker.attach(shared)

    def run(self, specs: list[str], last_try: bool) -> dict[str, str]:
        """Finish runs that are fed with the same, as `WarmWorker.run`."""
        return self._worker.run(specs, last_try)


def group_run(group: Group, progress: Any, shared: dict[str, Any]) -> dict[str, str]:
    """Task: runs as a Ray Train worker group, as `run_group`.

    Raises:
        WorkerLost: a worker died, or its machine failed.
        OSError: the disk is full.
    """
    from harness.execution.ray_train import run_group

    return run_group(group, progress, shared)
