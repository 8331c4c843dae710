"""The state of a run, how it is saved to a checkpoint, and how the run resumes from it.

Random streams are not saved: each one is derived from (seed, name, step, rank), so the step is enough. It also gives
the position in the data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.distillers import Distiller
from harness.experiment.spec import Run
from harness.models import SegNet
from harness.training.checkpoints import State
from harness.training.cost import StepClock
from harness.training.log import Log
from harness.training.optimizers import Optimizers
from harness.training.progress import Progress
from harness.training.ranks import Ranks
from harness.training.runtime import Runtime


@dataclass
class Trained:
    """What changes in a step, apart from the log."""

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
        """Load what `state` returned."""
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
    """Resume from the run's checkpoint if there is one: the next step, the log, and the clock."""
    state = _loaded(runtime, run.run_id, data_hash)
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


def _loaded(runtime: Runtime, run_id: str, data_hash: str) -> State | None:
    """The run's checkpoint; None if none can be read that is of this run and data: the run starts from step 0."""

    def refuse(state: State) -> str | None:
        if state["run_id"] != run_id:
            return "is of another run"
        return None if state["data_hash"] == data_hash else "is of other data: files have changed"

    def note(text: str) -> None:
        runtime.on_progress(Progress(note=f"{text}; resuming from an earlier one, or from step 0"))

    state: State | None = runtime.checkpoints.load(refuse, note) if runtime.rank == 0 else None
    (step,) = runtime.agreed([state["step"] if state is not None else -1])
    return runtime.checkpoints.read(int(step)) if runtime.rank != 0 and step >= 0 else state


def _share(ranks: Tensor, runtime: Ranks) -> Tensor:
    """This rank's row of sums (ranks, terms); if the number of ranks has changed, rank 0 takes all of them."""
    if len(ranks) == runtime.workers:
        return ranks[runtime.rank]
    whole = ranks.sum(0) * (runtime.workers / len(ranks))
    return whole if runtime.rank == 0 else torch.zeros_like(whole)


class SaveTimer:
    """When a checkpoint is due by the clock. All ranks call it, rank 0's clock decides.

    Agreeing makes the ranks wait for each other, so they do it only when a checkpoint may be due: the next step at
    which they agree is estimated from the time per step so far.

    Args:
        runtime: of the run.
        minutes: between checkpoints; None: never.
        step: the first one of this process.
        clock: monotonic, in seconds.
    """

    FIRST = 10  # steps until the time per step is roughly known

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
