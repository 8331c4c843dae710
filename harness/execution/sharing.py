"""What the processes of one machine share through Ray's object store: teachers' weights, and data made in memory.

Each machine has one `Shelf` actor, which owns the objects, so that they outlive the worker that made them. Arrays come
out of the object store without a copy and cannot be written.
"""

import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

Parcel = tuple[bytes, list[NDArray[np.uint8]]]

MAKING_SECONDS = 120.0  # whoever takes longer is taken for dead, and the next one makes it too
POLL_SECONDS = 0.05


class Shelf:
    """Actor: who makes a thing, and where it is when it is made."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._since: dict[str, float] = {}

    def look(self, key: str) -> tuple[str, list[Any]]:
        """("here", [reference]), or whether the caller is to "make" it or to "wait"."""
        if key in self._made:
            return "here", [self._made[key]]
        now = time.monotonic()
        if now - self._since.get(key, -MAKING_SECONDS) >= MAKING_SECONDS:
            self._since[key] = now
            return "make", []
        return "wait", []

    def put(self, key: str, parcel: Parcel | None) -> list[Any]:
        """Keep a copy of what was made, and return [reference]. None: it could not be made, and others may try."""
        self._since.pop(key, None)
        if parcel is None:
            return []
        self._made[key] = ray.put(parcel)
        return [self._made[key]]


def packed(value: Any) -> Parcel:
    """A value as its pickle without the arrays, and these as bytes: a shelf need not know what it keeps."""
    buffers: list[pickle.PickleBuffer] = []
    frame = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return frame, [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]


def unpacked(parcel: Parcel) -> Any:
    """The value; its arrays are views of the parcel's. Only for what workers of the same command have packed."""
    frame, buffers = parcel
    return pickle.loads(frame, buffers=buffers)


def sharer(shelf: Any) -> Callable[[str, Callable[[], Any]], Any]:
    """`share(key, make)` over a machine's shelf: the first process that asks makes it, the others have a view of that.

    Args:
        shelf: handle of the `Shelf` actor.
    """

    def share(key: str, make: Callable[[], Any]) -> Any:
        try:
            answer, held = ray.get(shelf.look.remote(key))
            while answer == "wait":
                time.sleep(POLL_SECONDS)
                answer, held = ray.get(shelf.look.remote(key))
            if answer == "here":
                return unpacked(ray.get(held[0]))
        except ray.exceptions.RayError:  # the shelf or the object is lost with its process: do without
            return make()
        try:
            value = make()
        except BaseException:
            shelf.put.remote(key, None)
            raise
        try:
            held = ray.get(shelf.put.remote(key, packed(value)))
            return unpacked(ray.get(held[0]))  # the view, so that this process too holds the memory once
        except ray.exceptions.RayError:  # the object store is full
            return value

    return share
