"""The actors and tasks of a launcher: thin, so that the launcher loads no torch; `execution.worker` does the work."""

from typing import Any

from harness.execution.connection import this_node
from harness.execution.messages import Group

Progress = dict[str, Any]


class Board:
    """Actor: what runs have said since it was asked last, so that the launcher never disturbs a worker."""

    def __init__(self) -> None:
        self._said: dict[str, Progress] = {}
        self._complaints: dict[str, None] = {}
        self._seats: dict[str, dict[int, str]] = {}

    def post(self, run_id: str, progress: Progress) -> None:
        """Take a run's word."""
        self._said.setdefault(run_id, {}).update(progress)

    def drain(self) -> dict[str, Progress]:
        """What was said since the last call, by run_id."""
        said, self._said = self._said, {}
        return said

    def complain(self, text: str) -> None:
        """Note what a user should hear once, whichever run says it."""
        self._complaints.setdefault(text, None)

    def complaints(self) -> list[str]:
        """All of them, in the order in which they came."""
        return list(self._complaints)

    def sit(self, run_id: str, rank: int, node: str) -> None:
        """Note where a rank of a worker group is."""
        self._seats.setdefault(run_id, {})[rank] = node

    def seats(self, run_id: str) -> dict[int, str]:
        """Where the ranks of a run are, or were the last time."""
        return self._seats.get(run_id, {})


class Worker:
    """Actor: one process that keeps imports, dataset and teacher in memory and takes run after run."""

    def __init__(self, experiment: str, resources: str, board: Any) -> None:
        from harness.execution.worker import Warm

        self._warm = Warm(experiment, resources, board)

    def node(self) -> str:
        """Where this process is, once it is there."""
        return this_node()

    def attach(self, shelf: Any) -> None:
        """Share what can be shared with the other workers of this machine."""
        self._warm.attach(shelf)

    def run(self, spec: str, last_try: bool) -> str:
        """Bring one run to its row: "ok" or "failed". What a machine did wrong is raised unless it is the last try."""
        return self._warm.run(spec, last_try)


def group_run(group: Group, board: Any) -> str:
    """Task: one run as a Ray Train worker group: "ok" or "failed".

    Raises:
        Lost: a worker died, or its machine did something wrong.
        OSError: the disk is full.
    """
    from harness.execution.worker import run_group

    return run_group(group, board)
