"""What a run logs on its way: loss terms, learning curves, times."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.training.runtime import Runtime

Terms = dict[str, Tensor]


@dataclass
class Log:
    """What has been seen so far.

    Attributes:
        curve: dev mIoU by step.
        losses: learning rate and mean of each term by step.
        total: sum of |term| since step 0 on this rank, on the device.
        since: sum of each term since the last entry of `losses` on this rank, on the device.
        count: steps in `since`.
        workers: how many shared the run, and from which step on; an entry for each change.
    """

    curve: list[dict[str, float]] = field(default_factory=list)
    losses: list[dict[str, Any]] = field(default_factory=list)
    total: Terms = field(default_factory=dict)
    since: Terms = field(default_factory=dict)
    count: int = 0
    data_ms: list[float] = field(default_factory=list)
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    resumed: int = 0
    workers: list[dict[str, int]] = field(default_factory=list)

    def add(self, terms: Terms) -> None:
        """Take the terms of one step."""
        for name, value in terms.items():
            self.since[name] = self.since.get(name, 0) + value.double()
            self.total[name] = self.total.get(name, 0) + value.double().abs()
        self.count += 1

    def write_losses(self, runtime: Runtime, step: int, lr: float) -> None:
        """An entry of `losses`: means over the ranks and over the steps since the last one."""
        names = sorted(self.since)
        means = runtime.sum(torch.stack([self.since[name] for name in names])) / (self.count * runtime.workers)
        self.losses.append({"step": step, "lr": lr, "terms": dict(zip(names, means.tolist(), strict=True))})
        self.since, self.count = {}, 0

    def now(self) -> dict[str, Any]:
        """What a progress line shows."""
        terms = self.losses[-1]["terms"] if self.losses else {}
        dev_miou = self.curve[-1]["dev_miou"] if self.curve else None
        return {"loss": sum(terms.values()), "terms": terms, "dev_miou": dev_miou}

    def so_far(self) -> dict[str, Any]:
        """What the row of a run would say that ends here."""
        return {"curve": [*self.curve], "train_seconds": self.train_seconds, "eval_seconds": self.eval_seconds}

    def started(self, step: int, workers: int) -> None:
        """Note how many workers share the run from `step` on."""
        if not self.workers or self.workers[-1]["workers"] != workers:
            self.workers = [entry for entry in self.workers if entry["step"] < step]
            self.workers.append({"step": step, "workers": workers})
