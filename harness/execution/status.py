"""The state of an experiment's runs; an update costs the same however many runs there are."""

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.experiment.spec import Run
from harness.training.progress import Progress

Why = Callable[[str], str | None]
"""Why a run failed, by its run_id; None if not known."""


ENDED = ("ok", "failed", "skipped")
RECENT = 15  # a kind of run is estimated from the median of so many step times


class Status:
    """The state of every run, for a display.

    Args:
        runs: every run of the experiment.
        state: "waiting", "running", "ok", "failed" or "skipped" by run_id.

    Attributes:
        runs: as given.
        state: by run_id; changed by `change` only.
        counts: how many runs are in each state.
        running: the runs that run now, by run_id, in the order in which they began.
        ended: the runs that ended in this session, in that order.
        progress: the last report of runs that run or ended in this session.
        slots: how many runs can be executed at the same time.
        nodes: how many machines have slots.
        notes: messages for the user, each to be shown once.
        doing: what the launcher does before the first run, such as starting Ray.
        since: when each running run began or resumed, in seconds since 1970.
    """

    def __init__(self, runs: Sequence[Run], state: Mapping[str, str]) -> None:
        self.runs = runs
        self.state = dict(state)
        self.counts = Counter(self.state[run.run_id] for run in runs)
        self.running: dict[str, Run] = {}
        self.ended: list[Run] = []
        self.progress: dict[str, Progress] = {}
        self.slots = 1
        self.nodes = 1
        self.notes: list[str] = []
        self.doing = ""
        self.since: dict[str, float] = {}
        self._forgotten = 0
        self._kind: dict[str, tuple[str, str, str]] = {}
        self._steps: dict[str, int] = {}
        self._left: Counter[tuple[str, str, str]] = Counter()  # steps of waiting runs
        self._longest: dict[tuple[str, str, str], int] = {}  # steps of the longest run of a kind
        self._times: dict[tuple[str, str, str], deque[float]] = {}
        for run in runs:
            self.know(run, self.state[run.run_id])

    @property
    def total(self) -> int:
        """How many runs there are."""
        return sum(self.counts.values())

    def know(self, run: Run, state: str) -> None:
        """Keep what is needed of a run that `counts` counts."""
        kind, steps = (run.pair, run.role, run.label), 0 if run.checkpoint is not None else run.train.steps
        self.state[run.run_id], self._kind[run.run_id], self._steps[run.run_id] = state, kind, steps
        self._longest[kind] = max(steps, self._longest.get(kind, 0))
        if state == "waiting":
            self._left[kind] += steps

    def change(self, run: Run, state: str) -> None:
        """Set the state of a run."""
        before = self.state[run.run_id]
        if before == state:
            return
        self.counts[before] -= 1
        self.counts[state] += 1
        self.state[run.run_id] = state
        steps, kind = self._steps[run.run_id], self._kind[run.run_id]
        self._left[kind] += steps * ((state == "waiting") - (before == "waiting"))
        if state == "running":
            self.running[run.run_id] = run
            self.since[run.run_id] = time.time()
            self.doing = ""
        elif before == "running":
            del self.running[run.run_id], self.since[run.run_id]
        if state in ENDED:
            self.ended.append(run)

    def report(self, run_id: str, progress: Progress) -> None:
        """Take a report of a run."""
        self.progress[run_id] = self.progress.get(run_id, Progress()).updated(progress)
        if progress.step_ms:
            self._times.setdefault(self._kind[run_id], deque(maxlen=RECENT)).append(progress.step_ms)

    def forget(self) -> None:
        """Drop the progress of runs that have ended; call it after each display."""
        for run in self.ended[self._forgotten :]:
            self.progress.pop(run.run_id, None)
        self._forgotten = len(self.ended)

    def eta_seconds(self) -> float | None:
        """Estimated seconds until all runs are finished, from measured step times; None before the first is known."""
        known = {kind: statistics.median(times) for kind, times in self._times.items()}
        if not known:
            return None
        typical = statistics.median(known.values())
        total, longest = 0.0, 0.0
        for kind, steps in self._left.items():
            if steps:
                ms = known.get(kind, typical)
                total += steps * ms / 1e3
                longest = max(longest, self._longest[kind] * ms / 1e3)
        for run_id in self.running:
            p = self.progress.get(run_id, Progress())
            ms = p.step_ms or known.get(self._kind[run_id], typical)
            own = (self._steps[run_id] - (p.step or 0)) * ms / 1e3
            total, longest = total + own, max(longest, own)
        return max(total / self.slots, longest)  # a single run cannot be divided


@dataclass(frozen=True)
class Changes:
    """Notes, the runs that began or ended, each with its run_id, and what is done before the first run."""

    notes: list[str]
    begun: list[tuple[str, Run]]
    ended: list[tuple[str, Run]]
    doing: str = ""


class Looker:
    """Finds what has changed since the last look; costs as much as there are runs that run or have just ended."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._notes = 0
        self._ended = 0
        self._running: set[str] = set()
        self._doing = ""

    def look(self, status: Status) -> Changes:
        """The changes since the last call. A run that both began and ended since then is in both lists."""
        if status is not self._status:  # a command launches several times: teachers, step times, the final runs
            self._status, self._notes, self._ended, self._running = status, 0, 0, set()
        notes = status.notes[self._notes :]
        ended = [(run.run_id, run) for run in status.ended[self._ended :]]
        missed = [item for item in ended if item[0] not in self._running and item[0] in status.progress]
        begun = missed + [item for item in status.running.items() if item[0] not in self._running]
        self._notes, self._ended, self._running = len(status.notes), len(status.ended), set(status.running)
        doing, self._doing = "" if status.doing == self._doing else status.doing, status.doing
        return Changes(notes, begun, ended, doing)
