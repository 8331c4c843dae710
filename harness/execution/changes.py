"""What is new in a status that is looked at again and again."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.execution.status import Status
from harness.experiment.spec import Run

Why = Callable[[str], str | None]
"""Why a run failed, by its run_id; None when it is not known."""


@dataclass(frozen=True)
class Changes:
    """Notes, and the runs that began or ended, each with its run_id."""

    notes: list[str]
    begun: list[tuple[str, Run]]
    ended: list[tuple[str, Run]]


class Looker:
    """Remembers what it has seen; a look costs as much as there are runs that run or have just ended."""

    def __init__(self) -> None:
        self._notes = 0
        self._ended = 0
        self._running: set[str] = set()

    def look(self, status: Status) -> Changes:
        """The changes since the last call. A run that both began and ended since then is in both lists."""
        notes = status.notes[self._notes :]
        ended = [(run.run_id, run) for run in status.ended[self._ended :]]
        missed = [item for item in ended if item[0] not in self._running and item[0] in status.progress]
        begun = missed + [item for item in status.running.items() if item[0] not in self._running]
        self._notes, self._ended, self._running = len(status.notes), len(status.ended), set(status.running)
        return Changes(notes, begun, ended)
