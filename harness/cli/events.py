"""Progress as JSON, one object per line, for programs; the events are described in docs/results.md."""

import json
import math
import time
from collections.abc import Collection, Mapping
from typing import Any, TextIO

from harness.analysis.columns import HEADER, cells
from harness.analysis.tables import Table
from harness.execution.status import Looker, Status, Why
from harness.experiment.spec import Run
from harness.training.progress import Progress

EACH_SECONDS = 1.0  # between two reports of one run, at least
REPORTED = ("step", "steps", "loss", "terms", "dev_miou", "step_ms", "device", "node")


class Events:
    """Write what happens: `with Events(sys.stdout) as show: run_all(..., on_update=show)`.

    Args:
        stream: where the lines go; nothing else may.
        why: asked for the reason when a run fails.
    """

    def __init__(self, stream: TextIO, why: Why = lambda run_id: None) -> None:
        self._stream = stream
        self._why = why
        self._began = time.monotonic()
        self._looker = Looker()
        self._said: dict[str, tuple[float, Any]] = {}  # when a run was last reported, and at which step

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def __call__(self, status: Status) -> None:
        """Write the events since the last call."""
        changes, now = self._looker.look(status), time.monotonic()
        for note in changes.notes:
            self.say(note)
        if changes.doing:
            self.say(changes.doing)
        if changes.begun or changes.ended or status.running:
            eta = {"elapsed_seconds": round(now - self._began, 3), "eta_seconds": status.eta_seconds()}
            for _, run in changes.begun:
                self.write("start", **run.named, **eta)
            for run_id, run in status.running.items():
                self._report(run_id, run, status, now, eta)
            for run_id, run in changes.ended:
                message = self._why(run_id) if status.state[run_id] == "failed" else None
                self.write("end", **run.named, **_reported(run_id, status), message=message, **eta)
        self._said = {run_id: said for run_id, said in self._said.items() if run_id in status.running}

    def say(self, text: str) -> None:
        """A message for the user."""
        self.write("note", text=text)

    def _report(self, run_id: str, run: Run, status: Status, now: float, eta: Mapping[str, Any]) -> None:
        """A run's progress, where there is some."""
        step = status.progress.get(run_id, Progress()).step
        when, before = self._said.get(run_id, (-math.inf, None))
        if step is not None and step != before and now - when >= EACH_SECONDS:
            self._said[run_id] = (now, step)
            self.write("progress", **run.named, **_reported(run_id, status), **eta)

    def table(self, table: Table) -> None:
        """The comparison: an event for each pair, with the cells that the terminal would show."""
        for block in table.blocks:
            self.write(
                "table",
                pair=block.pair,
                dataset=block.dataset,
                columns=HEADER,
                rows=[cells(line) for line in block.methods],
                **{section.name: section.json for section in block.sections},
            )

    def done(self, states: Collection[str], interrupted: bool = False) -> None:
        """The last event: how many runs are in which state. An interrupted command continues when it is repeated."""
        counts = dict.fromkeys(("ok", "failed", "skipped", "waiting"), 0)
        for state in states:
            counts[state] += 1
        elapsed = round(time.monotonic() - self._began, 3)
        self.write("done", counts=counts, interrupted=interrupted, elapsed_seconds=elapsed)

    def write(self, event: str, **values: Any) -> None:
        """One line; numbers that JSON does not have are null."""
        self._stream.write(json.dumps(_finite({"event": event, **values}), allow_nan=False) + "\n")
        self._stream.flush()


def _reported(run_id: str, status: Status) -> dict[str, Any]:
    progress = status.progress.get(run_id, Progress())
    return {"state": status.state[run_id], **{key: getattr(progress, key) for key in REPORTED}}


def _finite(value: Any) -> Any:
    """The value with null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
