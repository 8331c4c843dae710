"""The state of a search's trials, for a display and for `sstkd-bench status`."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.execution.status import Status
from harness.experiment.spec import Run
from harness.search.outcome import Outcome


@dataclass(frozen=True)
class TrialUpdate:
    """A trial has begun or ended.

    Attributes:
        pair, method: of the study.
        trial: the number of its point.
        seed: its search seed.
        status: "running" at the beginning, then that of its row.
        dev_miou: in [0, 1]; None if there is none.
        seconds: of training and evaluation.
        message: of its row.
    """

    pair: str
    method: str
    trial: int
    seed: int
    status: str
    dev_miou: float | None
    seconds: float
    message: str


class TrialStatus(Status):
    """As `Status`; which runs the trials are is known only as they begin.

    Args:
        outcomes: of the search so far.
    """

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        super().__init__([], {})
        for outcome in outcomes:
            self.counts.update(trial.status for trial in outcome.trials)
            if not outcome.complete:
                self.counts["waiting"] += outcome.wanted - len(outcome.trials)

    def begin(self, run: Run) -> None:
        """A trial begins or resumes."""
        self.know(run, "waiting")
        self.change(run, "running")

    def eta_seconds(self) -> None:
        """Not known: trials may be ended early."""
