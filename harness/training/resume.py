"""What a run remembers while it runs, and how all of it goes into a checkpoint and comes back.

Random streams need no place here: every one starts anew from (seed, name, step, rank), so the step is all there is to
remember of them, and of the position in the data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.distillers import Distiller
from harness.experiment.spec import Run
from harness.models import SegNet
from harness.training.cost import StepClock
from harness.training.log import Log
from harness.training.optimizers import Optimizers
from harness.training.runtime import Runtime


@dataclass
class Trained:
    """What changes from step to step, apart from the log."""

    student: SegNet
    distiller: Distiller
    optimizers: Optimizers
    scaler: torch.amp.GradScaler

    def state(self) -> dict[str, Any]:
        """All of it as plain data and tensors."""
        return {
            "student": self.student.state_dict(),
            "distiller": self.distiller.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.student.load_state_dict(state["student"])
        self.distiller.load_state_dict(state["distiller"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.scaler.load_state_dict(state["scaler"])


def save(runtime: Runtime, run: Run, data_hash: str, step: int, trained: Trained, log: Log, clock: StepClock) -> None:
    """Write the run's checkpoint after `step` steps. Called by every rank; rank 0 writes."""
    names = sorted(log.since)
    partial = torch.stack([log.since[name] for name in names]) if names else torch.zeros(0, dtype=torch.float64)
    ranks = runtime.gather(partial[None].to(runtime.device))
    if runtime.rank == 0:
        seen = {**vars(log), "since": {"names": names, "ranks": ranks.cpu()}}
        known = {"run_id": run.run_id, "data_hash": data_hash, "step": step, "step_ms": clock.history()}
        runtime.checkpoints.save(step, {**known, **trained.state(), "log": seen})


def resume(runtime: Runtime, run: Run, data_hash: str, trained: Trained) -> tuple[int, Log, StepClock]:
    """Take up the run's checkpoint if there is one: the next step, what was logged, and the clock."""
    state = runtime.load(run.run_id, data_hash)
    if state is None:
        log = Log()
        log.started(0, runtime.workers)
        return 0, log, StepClock(runtime.device)
    trained.restore(state)
    since = state["log"].pop("since")
    log = Log(**state["log"])
    own = _share(since["ranks"], runtime)
    log.since = {name: own[i].to(runtime.device) for i, name in enumerate(since["names"])}
    log.total = {name: value.to(runtime.device) for name, value in log.total.items()}
    log.resumed += 1
    log.started(int(state["step"]), runtime.workers)
    return int(state["step"]), log, StepClock(runtime.device, state["step_ms"])


def _share(ranks: Tensor, runtime: Runtime) -> Tensor:
    """This rank's row of sums (ranks, terms); with another number of ranks than then all of them are rank 0's."""
    if len(ranks) == runtime.workers:
        return ranks[runtime.rank]
    whole = ranks.sum(0) * (runtime.workers / len(ranks))
    return whole if runtime.rank == 0 else torch.zeros_like(whole)


class SaveTimer:
    """When a checkpoint is due by the clock. All ranks ask, rank 0's clock decides.

    The ranks agree only when one may be due, since every agreement makes them wait for each other: the next step to ask
    at follows from the time a step took so far.

    Args:
        runtime: where the run runs.
        minutes: between checkpoints; None: never.
        step: the first one of this session.
        clock: seconds, rising.
    """

    FIRST = 10  # steps until the time of a step is known a little

    def __init__(self, runtime: Runtime, minutes: float | None, step: int, clock: Callable[[], float]) -> None:
        self._runtime, self._clock = runtime, clock
        self._seconds = None if minutes is None else 60 * minutes
        self._began = self._saved = clock()
        self._first, self._next = step, step + self.FIRST

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        if self._seconds is None or step < self._next:
            return False
        now = self._clock()
        each = max((now - self._began) / (step - self._first), 1e-6)
        left = self._seconds - (now - self._saved)
        due, left = left <= each / 2, self._seconds if left <= each / 2 else left
        due_now, ahead = self._runtime.agreed([float(due), left / each])
        self._next = step + max(1, round(ahead))
        if due_now:
            self._saved = now
        return bool(due_now)
