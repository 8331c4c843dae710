"""A run's checkpoints: written atomically, optionally in the background, verified when read; the last few are kept.

A file is the bytes of `torch.save`, a mark, and the SHA-256 of those bytes: a partially written or corrupt file is
detected before it is used. It is read with weights_only=True, so that it cannot execute code.
"""

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.files import sweep
from harness.results.storage import Storage

State = dict[str, Any]
MARK = b"sstkdck1"
_TAIL = len(MARK) + hashlib.sha256().digest_size


class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    Args:
        place: the folder, or its storage; None keeps nothing.
        keep: how many are kept.
        background: write in another thread, from a copy in main memory, while the training continues.

    Example:
        >>> Checkpoints(None).load(lambda state: None)
    """

    def __init__(self, place: Path | Storage | None, keep: int = 1, background: bool = False) -> None:
        self._storage = Storage(place) if isinstance(place, Path) else place
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._pending: Future[None] | None = None

    def save(self, step: int, state: State) -> None:
        """Write the state after `step` steps; at most one write is running at a time.

        Raises:
            OSError: the storage is full or cannot be written; in the background, the previous write failed.
        """
        if self._storage is None:
            return
        if self._thread is None:
            self._write(step, state)
            return
        self.wait()
        self._pending = self._thread.submit(self._write, step, copied(state))

    def wait(self) -> None:
        """Wait until the current write is done.

        Raises:
            OSError: it failed.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def steps(self) -> list[int]:
        """The steps that have checkpoints, newest first."""
        if self._storage is None:
            return []
        names = (entry.name.removeprefix("step-").removesuffix(".pt") for entry in self._storage.entries())
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def load(self, refuse: Callable[[State], str | None], note: Callable[[str], None] = lambda text: None) -> Any:
        """The newest state that is valid and not refused; None if there is none. Newer ones are removed.

        Args:
            refuse: returns what is wrong with a state, or None.
            note: called with a sentence about each checkpoint that is not used.
        """
        found: State | None = None
        for step in self.steps():
            try:
                found = self.read(step)
                inside = found.get("step", step)
                problem = refuse(found) if inside == step else f"says that it is of step {str(inside)[:40]}"
            except FileNotFoundError:  # another process that executes this run has removed it
                continue
            except ValueError as error:
                problem = str(error)
            if problem is None:
                break
            found = None
            note(f"{self._name(step)} {problem}")
            self._storage.remove(_file(step))  # type: ignore[union-attr]
        if self._storage is not None and self._storage.folder is not None:
            sweep(self._storage.folder)
        return found

    def read(self, step: int) -> State:
        """The state after `step` steps.

        Raises:
            ValueError: it is damaged.
            FileNotFoundError: there is none.
        """
        assert self._storage is not None
        content = self._storage.read(_file(step))
        body, tail = content[:-_TAIL], content[-_TAIL:]
        if tail != MARK + hashlib.sha256(body).digest():
            raise ValueError("is corrupt or partially written")
        try:
            state: State = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        except Exception as error:  # complete, but torch cannot read it
            raise ValueError(f"cannot be read ({type(error).__name__})") from None
        if not isinstance(state, dict):
            raise ValueError(f"holds a {type(state).__name__}, not the state of a run")
        return state

    def drop(self) -> None:
        """Remove all of them: the run is finished."""
        self.wait()
        if self._storage is not None:
            self._storage.remove_folder()

    def _write(self, step: int, state: State) -> None:
        assert self._storage is not None
        # Serialised in memory first: then a full disk is an OSError, not an error of the format.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        buffer.write(MARK + hashlib.sha256(buffer.getbuffer()).digest())
        self._storage.write(_file(step), buffer.getvalue())
        for old in self.steps()[self._keep :]:
            self._storage.remove(_file(old))

    def _name(self, step: int) -> str:
        assert self._storage is not None
        return f"{self._storage.place}/{_file(step)}"


def _file(step: int) -> str:
    return f"step-{step:09d}.pt"


def copied(value: Any) -> Any:
    """Plain data (dicts, lists, tuples) with every tensor copied to main memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item) for item in value)
    return value
