"""Reads the items of a dataset in order, in this process or in several beside it, and sends them to a GPU ahead."""

import pickle
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.errors import text_of


def items(dataset: Dataset[Any], keys: Sequence[int], workers: int, pin: bool = False) -> Iterator[Any]:
    """The items at `keys`, in this order and the same for any number of processes.

    Args:
        dataset: gives tensors, or a tuple of them; can be pickled.
        keys: which.
        workers: processes that read ahead; 0 for none. They end with the iterator.
        pin: put tensors into page-locked memory, from which they are copied to a GPU without waiting.

    Raises:
        Exception: what the dataset raises, as it is; one that cannot be pickled becomes a RuntimeError.
    """
    read: DataLoader[Any] = DataLoader(
        _Guarded(dataset) if workers else dataset,
        batch_size=None,
        sampler=keys,
        num_workers=min(workers, len(keys)),
        worker_init_fn=_one_thread,
        pin_memory=pin,
        generator=torch.Generator(),  # else it draws from the stream of the whole process
    )
    for item in read:
        if isinstance(item, _Failure):
            raise item.error from RuntimeError(f"in a loader process:\n{item.where}")
        yield item


def copied_ahead(batches: Iterator[tuple[Tensor, ...]], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """Batches on a GPU; the next one is copied, on a stream of its own, while the GPU works on the one that is given.

    Args:
        batches: tensors in page-locked memory.
        device: a GPU.
    """
    own_stream: Any = torch.cuda.Stream  # untyped in torch
    stream = own_stream(device)
    given: tuple[tuple[Tensor, ...], Any] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            following = tuple(part.to(device, non_blocking=True) for part in batch), stream.record_event()
        if given is not None:
            yield _taken(*given)
        given = following
    if given is not None:
        yield _taken(*given)


def _taken(batch: tuple[Tensor, ...], copied: Any) -> tuple[Tensor, ...]:
    """The batch for the stream that computes: it waits for the copy, and the memory is kept until it is done."""
    computes: Any = torch.cuda.current_stream(batch[0].device)
    computes.wait_event(copied)
    for part in batch:
        part.record_stream(computes)
    return batch


@dataclass
class _Failure:
    error: Exception
    where: str


class _Guarded(Dataset[Any]):
    """Gives an error to the process that asked: torch would raise another one, with a traceback as its message."""

    def __init__(self, inner: Dataset[Any]) -> None:
        self.inner = inner

    def __getitem__(self, key: int) -> Any:
        try:
            return self.inner[key]
        except (Exception, SystemExit) as error:  # code of the user's own may raise anything
            return _Failure(_sent(error), traceback.format_exc())


def _sent(error: BaseException) -> Exception:
    """The error, if it stays itself on its way to another process."""
    try:
        same = type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:  # by whatever its class does when it is pickled
        same = False
    if same and isinstance(error, Exception):
        return error
    return RuntimeError(f"{type(error).__name__}: {text_of(error)}")


def _one_thread(worker: int) -> None:
    """A loader process uses one thread: they share the cores."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
