"""What runs say while they run, kept in a small process of its own that loads nothing heavy."""

from typing import Any

Progress = dict[str, Any]


class Board:
    """Actor: what runs have said since it was asked last, so that the launcher never disturbs a worker."""

    def __init__(self) -> None:
        self._said: dict[str, Progress] = {}
        self._give_way: set[str] = set()
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

    def ask_to_give_way(self, run_id: str) -> None:
        """A run shall stop at its next checkpoint, since it can have more workers."""
        self._give_way.add(run_id)

    def shall_give_way(self, run_id: str) -> bool:
        """Whether the run was asked to; it is asked once."""
        asked = run_id in self._give_way
        self._give_way.discard(run_id)
        return asked
