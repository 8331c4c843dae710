"""The actors and tasks of a launcher: thin, so that it loads no torch itself; `execution.worker` does the work."""

from typing import Any

from harness.execution.connection import this_node
from harness.execution.messages import Group


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
    """Task: one run as a Ray Train worker group: "ok", "failed", or "gave way".

    Raises:
        Lost: a worker died, or its machine did something wrong.
        OSError: the disk is full.
    """
    from harness.execution.worker import run_group

    return run_group(group, board)
