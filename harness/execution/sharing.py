"""What the workers of one machine share through Ray's object store: teachers' weights, and data made in memory.

Each machine has one `SharedObjects` actor. It owns the objects, so that they outlive the worker that made them. Arrays
are read from the object store without a copy and cannot be written.
"""

import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Packed = tuple[bytes, list[NDArray[np.uint8]]]

MAKING_SECONDS = 120.0  # a worker that takes longer is assumed dead, and the next one makes the object
POLL_SECONDS = 0.05


class SharedObjects:
    """Actor: which objects exist, and which are being made."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._since: dict[str, float] = {}

    def lookup(self, key: str) -> tuple[str, list[Any]]:
        """("ready", [reference]); else ("make", []) or ("wait", []), which is what the caller should do."""
        if key in self._made:
            return "ready", [self._made[key]]
        now = time.monotonic()
        if now - self._since.get(key, -MAKING_SECONDS) >= MAKING_SECONDS:
            self._since[key] = now
            return "make", []
        return "wait", []

    def put(self, key: str, packed_value: Packed | None) -> list[Any]:
        """Keep a copy of an object, and return [reference]. None: making it failed, and others may try."""
        self._since.pop(key, None)
        if packed_value is None:
            return []
        self._made[key] = ray.put(packed_value)
        return [self._made[key]]


def on_node(node: str) -> Any:
    """A new `SharedObjects` actor on a node; it ends with this process."""
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0)(SharedObjects).options(scheduling_strategy=here).remote()


def packed(value: Any) -> Packed:
    """A value as its pickle without the arrays, and the arrays as bytes: the actor needs no class of the value."""
    buffers: list[pickle.PickleBuffer] = []
    frame = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return frame, [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]


def unpacked(packed_value: Packed) -> Any:
    """The value; its arrays are views. Only for what workers of the same command have packed."""
    frame, buffers = packed_value
    return pickle.loads(frame, buffers=buffers)


def sharer(shared: Any) -> Callable[[str, Callable[[], Any]], Any]:
    """`share(key, make)`: the first process of the machine that asks makes the object, the others get a view of it.

    Args:
        shared: handle of the `SharedObjects` actor.
    """

    def share(key: str, make: Callable[[], Any]) -> Any:
        try:
            answer, held = ray.get(shared.lookup.remote(key))
            while answer == "wait":
                time.sleep(POLL_SECONDS)
                answer, held = ray.get(shared.lookup.remote(key))
            if answer == "ready":
                return unpacked(ray.get(held[0]))
        except ray.exceptions.RayError:  # the actor or the object is lost: do without
            return make()
        try:
            value = make()
        except BaseException:
            shared.put.remote(key, None)
            raise
        try:
            held = ray.get(shared.put.remote(key, packed(value)))
            return unpacked(ray.get(held[0]))  # the view, so that this process too holds the memory once
        except ray.exceptions.RayError:  # the object store is full
            return value

    return share
