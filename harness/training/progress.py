"""What a run reports while it runs; plain data, so that it can be sent between processes. Loads no torch."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Progress:
    """One report of a run. A field is None where the report does not mention it.

    Attributes:
        began: the step at which the run started or resumed.
        step: steps done.
        steps: steps of the whole run.
        loss: sum of the mean terms since the previous report.
        terms: mean of each loss term since the previous report.
        dev_miou: at the last evaluation, in [0, 1].
        step_ms: median time of a training step.
        note: something that the user should know.
        device: `memory_mb` and, where known, `utilization` in percent.
        pid: the worker's process.
        node: Ray's id of the worker's node.
        ended: "ok", "failed" or "lost": the last report of this process.
    """

    began: int | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    terms: dict[str, float] | None = None
    dev_miou: float | None = None
    step_ms: float | None = None
    note: str | None = None
    device: dict[str, float | None] | None = None
    pid: int | None = None
    node: str | None = None
    ended: str | None = None

    def mentioned(self) -> dict[str, Any]:
        """The fields that are not None."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    def updated(self, later: "Progress") -> "Progress":
        """This report with everything that a later one mentions."""
        return Progress(**{**self.mentioned(), **later.mentioned()})
