"""Ends of processes: in the middle of training in this process, and of a worker under Ray."""

import os
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from harness.execution.status import Status


class Killed(BaseException):
    """Stands for the end of the process: nothing in the product catches it."""


@contextmanager
def killed_at(turn: int) -> Iterator[None]:
    """Within it the process ends in the `turn`-th training step of all runs, counted from 1."""
    from harness.training.log import Log

    count, real = 0, Log.add

    def dying(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == turn:
            raise Killed
        real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "add", dying)
        with pytest.raises(Killed):
            yield


class KillOnce:
    """For `run_all`: SIGKILLs a worker in the middle of a run of six steps, by the pid it wrote down itself.

    Args:
        which: of the runs that are running, those whose worker may be killed.
    """

    def __init__(self, which: Callable[[Status], Collection[str]] = lambda status: status.running) -> None:
        self.which, self.seen, self.killed = which, list[Status](), list[int]()

    def __call__(self, status: Status) -> None:
        self.seen.append(status)
        for run_id in self.which(status):
            progress = status.progress.get(run_id)
            if not self.killed and progress is not None and 2 <= (progress.step or 0) < 6:
                os.kill(progress.pid or 0, signal.SIGKILL)
                self.killed.append(progress.pid or 0)
