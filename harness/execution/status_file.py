"""What a running command says of itself in its results folder, for `sstkd-bench status`. Loads no torch and no Ray."""

import json
import math
import os
import platform
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.execution.status import Status
from harness.files import write_atomic
from harness.results.paths import status_path
from harness.training.progress import Progress

EACH_SECONDS = 10.0  # between two writings while nothing begins or ends
CHANGE_SECONDS = 2.0  # ... at least
OLD_SECONDS = 60.0
"""A command that has not written for so long may have ended."""
NOTES = 20
LONGEST = 10_000_000
REPORTED = ("step", "steps", "loss", "dev_miou", "step_ms", "node", "pid")


class StatusFile:
    """Writes the file now and then.

    Args:
        directory: the results folder.
    """

    def __init__(self, directory: Path) -> None:
        self._path = status_path(directory)
        self._began = time.time()
        self._last = -math.inf
        self._seen: object = None
        self._noted = False

    def update(self, status: Status, ended: bool = False) -> None:
        """Write if it is time, or if runs have begun or ended since the last writing."""
        now, seen = time.monotonic(), (status.doing, dict(status.counts), tuple(status.running), len(status.notes))
        wait = CHANGE_SECONDS if seen != self._seen else EACH_SECONDS
        if not (ended or now - self._last >= wait):
            return
        self._last, self._seen = now, seen
        try:
            if other := _other(self._path.parent):
                self._note(status, f"{other} works in {self._path.parent} too; `sstkd-bench status` shows that one")
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, json.dumps(self._content(status, ended)))
        except OSError as error:  # the runs are what counts; a disk that is full ends them by themselves
            self._note(status, f"{self._path} cannot be written ({error}): `sstkd-bench status` shows old values")

    def _note(self, status: Status, text: str) -> None:
        """Once; what stands in the way may go."""
        if not self._noted:
            self._noted = True
            status.notes.append(text)

    def _content(self, status: Status, ended: bool) -> dict[str, Any]:
        running = []
        for run_id, run in status.running.items():
            report = status.progress.get(run_id, Progress())
            named = run.named | {"trial": None if run.trial is None else run.trial.number}
            running.append(
                {**named, "since": status.since[run_id], **{k: _finite(getattr(report, k)) for k in REPORTED}}
            )
        return {
            "pid": os.getpid(),
            "process_began": process_began(os.getpid()),
            "host": platform.node(),
            "began": self._began,
            "written": time.time(),
            "ended": ended,
            "doing": status.doing,
            "counts": dict(status.counts),
            "slots": status.slots,
            "nodes": status.nodes,
            "eta_seconds": _finite(status.eta_seconds()),
            "running": running,
            "notes": status.notes[-NOTES:],
        }


def read(directory: Path) -> dict[str, Any] | None:
    """What the file says; None if there is none.

    Raises:
        ValueError: it is not one that this package wrote.
        OSError: it cannot be read.
    """
    path = status_path(directory)
    wrong = ValueError(f"{path}: not a status that a run wrote; delete it, the next run writes it anew")
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise wrong
        with path.open(errors="replace") as file:
            text = file.read(LONGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found: Any = json.loads(text) if len(text) <= LONGEST else None
    except (ValueError, RecursionError):
        raise wrong from None
    kinds = {"pid": int, "host": str, "began": float, "written": float, "ended": bool, "doing": str, "running": list}
    fits = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in kinds.items())
    if not fits or not all(isinstance(each, dict) for each in found["running"]):
        raise wrong
    content: dict[str, Any] = found
    return content


def is_alive(found: Mapping[str, Any]) -> bool | None:
    """Whether the process that wrote the file runs; None if it is on another machine."""
    if found["host"] != platform.node():
        return None
    if found["pid"] <= 0:
        return False
    try:
        os.kill(found["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return process_began(found["pid"]) == found.get("process_began")


def _other(directory: Path) -> str:
    """The command of another process that writes the status of this folder now; empty if there is none."""
    try:
        found = read(directory)
    except (ValueError, OSError):  # it is written anew
        return ""
    if found is None or found["ended"] or (found["pid"], found["host"]) == (os.getpid(), platform.node()):
        return ""
    alive = is_alive(found)
    if alive is None:
        alive = 0 <= time.time() - found["written"] < OLD_SECONDS
    return f"process {found['pid']} on {found['host']}" if alive else ""


def process_began(pid: int) -> str | None:
    """When a process began, as the kernel counts; distinguishes it from a later one with the same number.

    None for one that has ended and that nobody has asked how, too.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):  # not Linux, or it has ended
        return None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
