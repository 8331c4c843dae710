"""The state of a run, how it is saved to a checkpoint, and how the run resumes from it.

Random streams are not saved: each one is derived from (seed, name, step, rank), so the step is enough. It also gives
the position in the data.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.distillers import Distiller
from harness.experiment.spec import Run
from harness.models import TapNet
from harness.training.average import Average
from harness.training.checkpoints import State, copied
from harness.training.cost import StepClock
from harness.training.log import Log
from harness.training.named import Named
from harness.training.optimizers import IMPLEMENTATION, Optimizers
from harness.training.progress import Progress
from harness.training.ranks import Ranks
from harness.training.runtime import Runtime


@dataclass
class Trained:
    """What changes in a step, apart from the log."""

    student: TapNet
    distiller: Distiller
    optimizers: Optimizers
    scaler: torch.amp.GradScaler
    average: Average | None = None

    def state(self) -> dict[str, Any]:
        """All of it as plain data and tensors."""
        return {
            "student": self.student.state_dict(),
            "distiller": self.distiller.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "scaler": self.scaler.state_dict(),
            **({} if self.average is None else self.average.state()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Load what `state` returned."""
        self.student.load_state_dict(state["student"])
        self.distiller.load_state_dict(state["distiller"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.restore(state)


def save(runtime: Runtime, run: Run, data_hash: str, step: int, trained: Trained, log: Log, clock: StepClock) -> None:
    """Write the run's checkpoint after `step` steps. Called by every rank; rank 0 writes."""
    since = log.since.scalars()
    names = sorted(since)
    partial = torch.stack([since[name] for name in names]) if names else torch.zeros(0, dtype=torch.float64)
    ranks = runtime.gather(partial[None].to(runtime.device))
    if runtime.rank == 0:
        seen = {**vars(log), "since": {"names": names, "ranks": ranks.cpu()}, "total": log.total.scalars()}
        known = {"run_id": run.run_id, "data_hash": data_hash, "step": step, "step_ms": clock.history()}
        runtime.checkpoints.save(step, {**known, **trained.state(), "log": seen})


def resume(runtime: Runtime, run: Run, data_hash: str, trained: Trained) -> tuple[int, Log, StepClock]:
    """Resume from the run's checkpoint if there is one: the next step, the log, and the clock.

    A checkpoint that makes no sense is not used, and a note says so.
    """
    fresh: list[State] = []

    def refuse(state: State) -> str | None:
        if state.get("run_id") != run.run_id:
            return "is of another run"
        if state.get("data_hash") != data_hash:
            return "is of other data: files have changed"
        try:
            _require_sense(state, run.train.steps, trained)
            fresh[:] = fresh or [copied(trained.state())]
            trained.restore(state)
            _logged(state, runtime)
        except Exception as error:  # its seal is right, so anything may be inside; the note says what was wrong
            for before in fresh:
                trained.restore(before)
            return f"does not make sense ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        return None

    def note(text: str) -> None:
        runtime.on_progress(Progress(note=f"{text}; resuming from an earlier one, or from step 0"))

    state: State | None = runtime.checkpoints.load(refuse, note) if runtime.rank == 0 else None
    (step,) = runtime.agreed([state["step"] if state is not None else -1])
    if runtime.rank != 0 and step >= 0:
        state = runtime.checkpoints.read(int(step))
        trained.restore(state)
    if state is None:
        log = Log()
        log.started(0, runtime.workers)
        return 0, log, StepClock(runtime.device)
    log = _logged(state, runtime)
    log.resumed += 1
    log.started(int(state["step"]), runtime.workers)
    return int(state["step"]), log, StepClock(runtime.device, state["step_ms"])


def _logged(state: State, runtime: Runtime) -> Log:
    """The log in a checkpoint, with this rank's share of the sums."""
    saved = dict(state["log"])
    since, total = saved.pop("since"), Named.of(saved.pop("total"))
    log = Log(**saved)
    own = _share(since["ranks"], runtime)
    log.since = Named.of({name: own[i].to(runtime.device) for i, name in enumerate(since["names"])})
    log.total = total.each(lambda values: values.to(runtime.device))
    return log


def _require_sense(state: State, steps: int, trained: Trained) -> None:
    """Check what loading does not: the step, finite weights, the shapes of an optimizer's averages, the log's kinds.

    Raises:
        ValueError: what does not make sense.
        Exception: any other, where the state has another structure.
    """
    step, log = state["step"], state["log"]
    if type(step) is not int or not 0 < step <= steps:
        raise ValueError(f"step {step!r} of {steps}")
    for name, value in trained.student.state_dict().items():
        found = state["student"][name]
        if found.dtype != value.dtype or not bool(found.isfinite().all()):
            raise ValueError(f"weights of another type, or not finite: {name}")
    for name, value in ({} if trained.average is None else trained.average.state()).get("average", {}).items():
        found = state["average"][name]
        if found.dtype != value.dtype or not bool(found.isfinite().all()):
            raise ValueError(f"averaged weights of another type, or not finite: {name}")
    for name, _ in trained.distiller.named_parameters():
        if not bool(state["distiller"][name].isfinite().all()):
            raise ValueError(f"weights of the method that are not finite: {name}")
    for own, saved in zip(trained.optimizers.each(), state["optimizers"], strict=True):
        if _settings(own.state_dict(), trained.optimizers.scheduled) != _settings(saved, trained.optimizers.scheduled):
            raise ValueError("an optimizer with other settings")
        parameters = [p for group in own.param_groups for p in group["params"]]
        for index, values in saved["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor) and not (
                    _fits(value.shape, parameters[index].shape) and bool(value.isfinite().all())
                ):
                    raise ValueError(f"an optimizer's {name} of another shape, or not finite")
    for name, default in vars(Log()).items():
        kind = (int, float) if isinstance(default, float) else dict if isinstance(default, Named) else type(default)
        if not isinstance(log.get(name, default), kind):  # an earlier version's lacks some
            raise ValueError(f"a log whose {name} is a {type(log.get(name)).__name__}")
    if not all(isinstance(ms, float) and 0 <= ms < float("inf") for ms in (*state["step_ms"], *log["data_ms"])):
        raise ValueError("times that are no numbers")
    if not all({"step", "dev_miou"} <= point.keys() for point in log["curve"]):
        raise ValueError("a curve of other points")


def _settings(optimizer: State, scheduled: Collection[str]) -> list[State]:
    """Parameters and settings of an optimizer but for its implementation and what the schedule sets."""
    left_out = {*scheduled, *IMPLEMENTATION}
    return [{key: value for key, value in group.items() if key not in left_out} for group in optimizer["param_groups"]]


def _fits(shape: torch.Size, parameter: torch.Size) -> bool:
    """Whether a value belongs to a parameter: one number, one per element, or one per row or column (Adafactor)."""
    same = len(shape) == len(parameter) and all(a in (1, b) for a, b in zip(shape, parameter, strict=True))
    return not shape or same


def _share(ranks: Tensor, runtime: Ranks) -> Tensor:
    """This rank's row of sums (ranks, terms); if the number of ranks has changed, rank 0 takes all of them."""
    if len(ranks) == runtime.workers:
        return ranks[runtime.rank]
    whole = ranks.sum(0) * (runtime.workers / len(ranks))
    return whole if runtime.rank == 0 else torch.zeros_like(whole)


class Leave:
    """Whether a run must yield the machine of one of its ranks. All ranks call it and get the same answer.

    Args:
        runtime: of the run.
        step: the first one of this process.
        clock: monotonic, in seconds.
    """

    SECONDS = 10.0  # between two times at which several ranks agree, for which they wait for each other

    def __init__(self, runtime: Runtime, step: int, clock: Callable[[], float]) -> None:
        self._runtime, self._when = runtime, SaveTimer(runtime, self.SECONDS / 60, step, clock, first=1)

    def asked(self, step: int) -> bool:
        """Whether it must, after `step` steps."""
        if self._runtime.workers == 1:
            return self._runtime.leaves()
        if not self._when.due(step):
            return False
        leaving = torch.tensor([float(self._runtime.leaves())], device=self._runtime.device)
        return bool(self._runtime.sum(leaving) > 0)


class SaveTimer:
    """When a checkpoint is due by the clock. All ranks call it, rank 0's clock decides.

    Agreeing makes the ranks wait for each other, so they do it only when a checkpoint may be due: the next step at
    which they agree is estimated from the time per step so far.

    Args:
        runtime: of the run.
        minutes: between checkpoints; None: never.
        step: the first one of this process.
        clock: monotonic, in seconds.
        first: steps until the ranks agree first; by then the time per step is roughly known.
    """

    def __init__(
        self, runtime: Runtime, minutes: float | None, step: int, clock: Callable[[], float], first: int = 10
    ) -> None:
        self._runtime, self._clock = runtime, clock
        self._seconds = None if minutes is None else 60 * minutes
        self._began = self._saved = clock()
        self._first, self._next = step, step + first

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
