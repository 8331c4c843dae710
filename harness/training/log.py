"""What a run logs while it trains: loss terms, learning curves, times."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.training.cost import StepClock
from harness.training.named import Named
from harness.training.progress import Progress
from harness.training.ranks import Ranks

if TYPE_CHECKING:
    from harness.training.feed import Fed

Terms = dict[str, Tensor]


@dataclass
class Log:
    """What has been logged so far.

    Attributes:
        curve: dev mIoU by step.
        losses: learning rate and mean of each term by step.
        gradients: mean norm over the ranks of each term's gradient, by step.
        total: sum of |term| since step 0 on this rank, on the device.
        since: sum of each term since the last entry of `losses` on this rank, on the device.
        count: steps in `since`.
        together: most runs that were in training in the process at a time, this one included.
        shared_seconds: of `train_seconds`, what was spent for several runs at once.
        workers: number of workers and the step from which it holds; an entry for each change.
    """

    curve: list[dict[str, float]] = field(default_factory=list)
    losses: list[dict[str, Any]] = field(default_factory=list)
    gradients: list[dict[str, Any]] = field(default_factory=list)
    total: Named = field(default_factory=Named)
    since: Named = field(default_factory=Named)
    count: int = 0
    data_ms: list[float] = field(default_factory=list)
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    resumed: int = 0
    together: int = 1
    shared_seconds: float = 0.0
    workers: list[dict[str, int]] = field(default_factory=list)

    def fed(self, fed: "Fed", seconds: float) -> None:
        """Add what a step was fed with, and the seconds that this took before the step."""
        self.data_ms.append(fed.data_ms)
        self.together = max(self.together, fed.beside)
        if not fed.by_device:
            self.train_seconds += seconds
            self.shared_seconds += seconds if fed.runs > 1 else 0.0

    def spent(self, seconds: float, by_device: bool, clock: StepClock, waits: bool) -> None:
        """Add the seconds of a step: this process's, or the device's where it works for several runs in turn.

        Args:
            seconds: of this process.
            by_device: as `Fed`'s.
            clock: of the steps.
            waits: the device has come to the end of the step, so that its times can be read.
        """
        if not by_device:
            self.train_seconds += seconds
        elif waits:
            taken, shared = clock.taken()
            self.train_seconds += taken
            self.shared_seconds += shared

    def add(self, terms: Named) -> None:
        """Add the terms of one step."""
        terms = terms.each(torch.Tensor.double)
        self.since = self.since.with_those(terms, torch.add)
        self.total = self.total.with_those(terms.each(torch.abs), torch.add)
        self.count += 1

    def write_losses(self, ranks: Ranks, step: int, lr: float) -> None:
        """An entry of `losses`: means over the ranks and over the steps since the last one."""
        since = self.since.scalars()
        names = sorted(since)
        means = ranks.sum(torch.stack([since[name] for name in names])) / (self.count * ranks.workers)
        self.losses.append({"step": step, "lr": lr, "terms": dict(zip(names, means.tolist(), strict=True))})
        self.since, self.count = Named(), 0

    def write_gradients(self, ranks: Ranks, step: int, norms: Terms) -> None:
        """An entry of `gradients`: means over the ranks."""
        names = sorted(norms)
        means = ranks.sum(torch.stack([norms[name].double() for name in names])) / ranks.workers
        self.gradients.append({"step": step, "terms": dict(zip(names, means.tolist(), strict=True))})

    def progress(self, step: int, steps: int, step_ms: float | None) -> Progress:
        """The report after `step` of `steps` steps, with the latest losses and dev mIoU."""
        terms = self.losses[-1]["terms"] if self.losses else {}
        dev_miou = self.curve[-1]["dev_miou"] if self.curve else None
        return Progress(
            step=step, steps=steps, loss=sum(terms.values()), terms=terms, dev_miou=dev_miou, step_ms=step_ms
        )

    def so_far(self) -> dict[str, Any]:
        """Columns of the row if the run ended now."""
        return {"curve": [*self.curve], "train_seconds": self.train_seconds, "eval_seconds": self.eval_seconds}

    def started(self, step: int, workers: int) -> None:
        """Note the number of workers from `step` on."""
        if not self.workers or self.workers[-1]["workers"] != workers:
            self.workers = [entry for entry in self.workers if entry["step"] < step]
            self.workers.append({"step": step, "workers": workers})
