"""Items of a dataset are the same from any number of processes, and so are its errors."""

import contextlib
import os

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from harness.errors import machine_failed
from harness.training.loader import copied_ahead, items
from harness.training.ranks import Ranks
from tests.support.segmenters import Pixelwise, counted, data, split

HERE = os.getpid()
HWS = ((16, 24), (16, 24), (8, 8), (16, 24))


class TwoParts(Exception):
    def __init__(self, first: str, second: int) -> None:
        super().__init__(f"{first} {second}")


class Numbers(Dataset[torch.Tensor]):
    def __getitem__(self, key: int) -> torch.Tensor:
        return torch.tensor([key, os.getpid()])


class Failing(Dataset[torch.Tensor]):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getitem__(self, key: int) -> torch.Tensor:
        if key == 2:
            raise self.error
        return torch.tensor(key)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_items_come_in_order_from_any_number_of_processes(workers: int) -> None:
    keys = [5, 3, 8, 1, 1, 0, 9]
    found = list(items(Numbers(), keys, workers))
    assert [int(item[0]) for item in found] == keys
    processes = {int(item[1]) for item in found}
    assert processes == {HERE} if not workers else (len(processes) == workers and HERE not in processes)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_random_number_of_this_process_is_drawn(workers: int) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert len(list(items(Numbers(), range(4), workers))) == 4
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("error", [ValueError("a.png: not an image"), FileNotFoundError(2, "No such file", "a.png")])
def test_an_error_is_raised_as_it_is(error: Exception) -> None:
    found = []
    for workers in (0, 2):
        read = items(Failing(error), range(4), workers)
        assert [int(next(read)), int(next(read))] == [0, 1]
        with pytest.raises(type(error)) as caught:
            next(read)
        found.append((type(caught.value), str(caught.value)))
    assert found[0] == found[1]
    assert "in __getitem__" in str(caught.value.__cause__)  # where it was raised, for the traceback of the run


@pytest.mark.parametrize(
    "error", [RuntimeError("sizes differ"), TwoParts("sizes differ", 3), SystemExit("sizes differ")]
)
def test_an_error_of_the_users_data_is_not_the_machines(error: BaseException) -> None:
    """`DataLoader worker` in a message is how torch says that a loader process has died."""
    with pytest.raises(RuntimeError, match="sizes differ") as caught:
        list(items(Failing(error), range(4), 2))
    assert not machine_failed(caught.value) and "\n" not in str(caught.value)


@pytest.mark.gpu
def test_batches_on_a_gpu_are_those_that_were_read() -> None:
    device = torch.device("cuda")
    read = [
        (torch.full((512, 512), i, dtype=torch.uint8).pin_memory(), torch.tensor([i]).pin_memory()) for i in range(9)
    ]
    busy, found = torch.randn(2048, 2048, device=device), []
    for image, label in copied_ahead(iter(read), device):
        busy = (busy @ busy).tanh()  # the GPU is behind while the next ones are copied
        found.append((image.long().sum(), label))
    assert [(int(a), int(b)) for a, b in found] == [(i * 512 * 512, i) for i in range(9)]


class Part:
    """A tensor that notes what is done with it and when."""

    device = "cuda:0"

    def __init__(self, number: int, done: list[str]) -> None:
        self.number, self.done = number, done

    def to(self, device: object, non_blocking: bool) -> "Part":
        assert non_blocking
        self.done.append(f"copy {self.number}")
        return self

    def record_stream(self, stream: object) -> None:
        self.done.append(f"keep {self.number}")


class Stream:
    """A stream of a GPU that notes what it waits for."""

    def __init__(self, done: list[str]) -> None:
        self.done, self.copied = done, 0

    def record_event(self) -> int:
        self.copied += 1
        return self.copied - 1

    def wait_event(self, event: int) -> None:
        self.done.append(f"wait for {event}")


def test_the_next_batch_is_copied_before_a_step_which_waits_for_its_own_only(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(done))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(done))
    read = ((Part(number, done),) for number in range(3))
    for (part,) in copied_ahead(read, torch.device("cuda")):  # type: ignore[arg-type]
        done.append(f"step {part.number}")  # type: ignore[attr-defined]
    steps = [
        ["copy 0", "copy 1", "wait for 0", "keep 0", "step 0"],
        ["copy 2", "wait for 1", "keep 1", "step 1"],
        ["wait for 2", "keep 2", "step 2"],
    ]
    assert done == [each for step in steps for each in step]
    assert list(copied_ahead(iter(()), torch.device("cuda"))) == []


class Elsewhere:
    """A split that only other processes may read."""

    def __init__(self) -> None:
        self.samples = split(len(HWS), HWS)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        assert os.getpid() != HERE
        return self.samples[index]


def test_evaluation_reads_in_loader_processes_with_the_same_counts() -> None:
    want = counted(Pixelwise(), data([], split(len(HWS), HWS)), batch=2)
    beside = Ranks(torch.device("cpu"), loader_workers=2)
    got = counted(Pixelwise(), data([], Elsewhere()), batch=2, ranks=beside)
    assert want.confusion.sum() > 0
    np.testing.assert_array_equal(got.confusion, want.confusion)
