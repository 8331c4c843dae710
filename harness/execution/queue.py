"""Which run is next: balanced between methods, and suited to what a worker has in memory.

Runs are ordered in rounds: teachers first, then one seed after another, so that all methods have about the same number
of finished seeds at any time; trials of a search one point after another. Within a round a worker first gets runs whose
teacher and data it has in memory.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

from harness.experiment.alike import fed_alike
from harness.experiment.spec import Run

Key = tuple[str | None, str]
"""What a process keeps in memory between runs: the teacher's run_id (None if the method needs none) and the pair."""


def key_of(run: Run) -> Key:
    """What a process has in memory after a run."""
    return (run.teacher_run if run.method.needs_teacher else None, run.pair)


class Queue:
    """The pending runs.

    Args:
        waiting: in the plan's order.
        state: of every run of the experiment by run_id; read for the teachers, never changed.
    """

    def __init__(self, waiting: Sequence[Run], state: Mapping[str, str]) -> None:
        self._state = state
        self._rounds: dict[tuple[bool, int], dict[Key, deque[Run]]] = {}
        self._order: dict[tuple[bool, int], int] = {}
        self._count = len(waiting)
        self._barred: dict[str, set[str]] = {}
        for run in waiting:
            self._place(run).append(run)

    def __len__(self) -> int:
        return self._count

    @property
    def ready(self) -> int:
        """How many pending runs have their teacher, or need none."""
        groups = [runs for round_ in self._rounds.values() for runs in round_.values()]
        return sum(len(runs) for runs in groups if self._ready(runs[0]))

    def take(self, node: str, nodes: Collection[str], last: Key | None) -> Run | None:
        """The next run for a worker, removed from the queue; None if there is none for it now.

        Args:
            node: where the worker is.
            nodes: every node that has workers.
            last: what the worker has in memory.
        """
        for name, groups in self._rounds.items():
            ready = [key for key, runs in groups.items() if self._ready(runs[0])]
            # Stable: otherwise in the plan's order.
            for key in sorted(ready, key=lambda k: (k != last, k[0] != (last or (None,))[0])):
                run = self._first_allowed(groups[key], node, nodes)
                if run is not None:
                    self._removed(name, key, run)
                    return run
        return None

    def more(self, run: Run, most: int, allowed: Callable[[Run], bool]) -> list[Run]:
        """Up to `most` further runs that can be fed with what `run` is fed with, removed from the queue.

        Args:
            run: just taken.
            most: how many.
            allowed: which runs may be among them.
        """
        name, teacher, found = _round_of(run), key_of(run)[0], list[Run]()
        for key, waiting in [*self._rounds.get(name, {}).items()]:
            for other in [*waiting]:
                if len(found) == most:
                    return found
                same = key[0] is None or teacher is None or key[0] == teacher
                if same and self._ready(other) and allowed(other) and fed_alike(run, other):
                    teacher = teacher or key[0]
                    self._removed(name, key, other)
                    found.append(other)
        return found

    def put_back(self, run: Run, not_on: str | None = None) -> None:
        """Put a run back at the front; it is given to another node than `not_on` as long as there is one."""
        if not_on is not None:
            self._barred.setdefault(run.run_id, set()).add(not_on)
        self._place(run).appendleft(run)
        self._count += 1

    def barred(self, run_id: str) -> set[str]:
        """Nodes on which the run has failed."""
        return self._barred.get(run_id, set())

    def orphans(self) -> list[Run]:
        """The runs whose teacher failed, removed from the queue."""
        found: list[Run] = []
        for groups in self._rounds.values():
            for key in [k for k in groups if k[0] is not None and self._state[k[0]] in ("failed", "skipped")]:
                found += groups.pop(key)
        self._rounds = {name: groups for name, groups in self._rounds.items() if groups}
        self._count -= len(found)
        return found

    def _place(self, run: Run) -> deque[Run]:
        name = _round_of(run)
        if name not in self._rounds:
            self._order.setdefault(name, len(self._order))
            self._rounds[name] = {}
            self._rounds = dict(sorted(self._rounds.items(), key=lambda item: self._order[item[0]]))
        return self._rounds[name].setdefault(key_of(run), deque())

    def _removed(self, name: tuple[bool, int], key: Key, run: Run) -> None:
        groups = self._rounds[name]
        groups[key].remove(run)
        self._count -= 1
        if not groups[key]:
            del groups[key]
        if not groups:
            del self._rounds[name]

    def _ready(self, run: Run) -> bool:
        return run.teacher_run is None or not run.method.needs_teacher or self._state[run.teacher_run] == "ok"

    def _first_allowed(self, runs: Sequence[Run], node: str, nodes: Collection[str]) -> Run | None:
        for run in runs:
            barred = self._barred.get(run.run_id)
            if not barred or node not in barred or not set(nodes) - barred:
                return run
        return None


def _round_of(run: Run) -> tuple[bool, int]:
    if run.trial is not None:  # a point has its score when all search seeds have trained it
        return (True, run.trial.number)
    return (run.role == "student", run.seed if run.role == "student" else 0)
