"""What the workers of a machine share. Marker `ray`: starts Ray on this machine."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from harness.execution import sharing as module
from harness.execution.sharing import SharedObjects, packed, sharer, unpacked
from tests.support import cluster

pytestmark = [pytest.mark.ray, *cluster.QUIET]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests


class Asker:
    """Actor: a process that asks for a thing and writes down when it had to make it."""

    def __init__(self, shelf: Any) -> None:
        self.share = sharer(shelf)

    def ask(self, notes: str, fails: bool = False) -> tuple[float, bool]:
        """(sum of the thing, whether it can be written)."""

        def make() -> Any:
            with open(notes, "a") as file:
                file.write("made\n")
            if fails:
                raise ValueError("cannot be made")
            return {"x": np.full(1_000_000, 2.0), "name": "thing"}

        value = self.share("thing", make)
        return float(value["x"].sum()), bool(value["x"].flags.writeable)

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def shelf(one_ray: None) -> Any:
    return ray.remote(num_cpus=0)(SharedObjects).remote()


def asker(shelf: Any) -> Any:
    return ray.remote(num_cpus=0)(Asker).remote(shelf)


def made(notes: Path) -> int:
    return notes.read_text().count("made")


@pytest.mark.smoke
def test_a_thing_is_made_once_and_outlives_its_maker(shelf: Any, tmp_path: Path) -> None:
    notes, askers = tmp_path / "notes", [asker(shelf) for _ in range(3)]
    assert ray.get([each.ask.remote(str(notes)) for each in askers]) == [(2e6, False)] * 3  # views, all of them
    assert made(notes) == 1
    for each in askers:
        os.kill(ray.get(each.pid.remote()), signal.SIGKILL)
    assert ray.get(asker(shelf).ask.remote(str(notes))) == (2e6, False)
    assert made(notes) == 1


def test_what_could_not_be_made_is_made_by_the_next(shelf: Any, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with pytest.raises(ValueError, match="cannot be made"):
        ray.get(asker(shelf).ask.remote(str(notes), True))
    assert ray.get(asker(shelf).ask.remote(str(notes))) == (2e6, False)
    assert made(notes) == 2


def test_without_its_shelf_a_worker_makes_it_itself(shelf: Any, tmp_path: Path) -> None:
    lonely = asker(shelf)
    ray.get(lonely.pid.remote())
    ray.kill(shelf)
    assert ray.get(lonely.ask.remote(str(tmp_path / "notes"))) == (2e6, True)


def test_a_maker_that_does_not_come_back_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    shelf = SharedObjects()
    assert [shelf.lookup("x")[0], shelf.lookup("x")[0]] == ["make", "wait"]
    now[0] = module.MAKING_SECONDS
    assert [shelf.lookup("x")[0], shelf.lookup("x")[0], shelf.lookup("y")[0]] == ["make", "wait", "make"]


def test_packing_gives_the_value_and_keeps_arrays_apart() -> None:
    value = {"a": np.arange(5), "b": [np.zeros((2, 3), np.uint8), "text"]}
    frame, buffers = packed(value)
    assert sum(buffer.nbytes for buffer in buffers) == 5 * 8 + 6 and len(frame) < 500
    again = unpacked((frame, buffers))
    assert np.array_equal(again["a"], value["a"]) and again["b"][1] == "text"
    assert np.shares_memory(again["a"], buffers[0])
