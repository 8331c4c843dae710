"""What a training step is fed with: the batch, and what the teacher says of it.

Runs that see the same batches and the same teacher can be fed together (`harness.training.together`): then both are
made once per step.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.datasets import Data, DataInfo
from harness.experiment.alike import fed_alike
from harness.experiment.spec import Run
from harness.models import TapNet
from harness.taps import Taps
from harness.training.batches import Batch, accumulation_steps, batch_of, training_batches
from harness.training.build import converted
from harness.training.cost import Span
from harness.training.precision import teach
from harness.training.runtime import Runtime


@dataclass(frozen=True)
class Need:
    """What a run asks for before a step.

    Attributes:
        step: which.
        run: the run.
        runtime: where it is executed.
        data: its dataset, as normalised for its network.
        teacher: None for a method that needs none.
        shown: the data as normalised for the teacher.
        memory: bytes of weights, gradients and an optimizer's averages that the run holds between its steps.
    """

    step: int
    run: Run
    runtime: Runtime
    data: Data
    teacher: TapNet | None
    shown: DataInfo
    memory: int


@dataclass(frozen=True)
class Piece:
    """A micro-batch: images (n, 3, H, W), labels (n, H, W), and the teacher's taps if they were asked for."""

    image: Tensor
    label: Tensor
    taught: Taps | None

    def tensors(self) -> list[Tensor]:
        """All of them."""
        taps = self.taught
        of_teacher = [] if taps is None else [*taps.stages.values(), taps.decoder, taps.logits, taps.full]
        return [self.image, self.label, *of_teacher]


class _Watched:
    """A micro-batch in the hands of a run, and what shows whether the run writes to it.

    Args:
        piece: the micro-batch.
        values: also compare values with copies: a view of numpy, or `.data`, escapes the tensors' own counters.
    """

    def __init__(self, piece: Piece, values: bool) -> None:
        self._tensors = piece.tensors()
        self._versions = [tensor._version for tensor in self._tensors]
        self._copies = [tensor.clone() for tensor in self._tensors] if values else []

    def written(self) -> bool:
        if [tensor._version for tensor in self._tensors] != self._versions:
            return True
        return any(not _same(now, before) for now, before in zip(self._tensors, self._copies, strict=False))


def _same(now: Tensor, before: Tensor) -> bool:
    """Whether values are the same; a teacher's may be NaN, which equals nothing."""
    return bool(((now == before) | ((now != now) & (before != before))).all())


class Fed:
    """A step's batch on this rank.

    Args:
        batch: images and labels.
        pieces: its micro-batches, in order.
        data_ms: milliseconds of waiting for the batch.
        ahead: measures the teacher's pass, which is then made before the step and kept, for several runs.
        runs: that are fed with it.
        beside: runs that are in training in this process.
        values: look closely at what runs do to it.
    """

    def __init__(
        self,
        batch: Batch,
        pieces: Iterator[Piece],
        data_ms: float,
        ahead: Span | None = None,
        runs: int = 1,
        beside: int = 1,
        values: bool = False,
    ) -> None:
        self.label, self.data_ms, self.ahead, self.runs, self.beside = batch.label, data_ms, ahead, runs, beside
        self._pieces: Iterator[Piece] | list[Piece] = pieces
        self._values, self._kept = values, ahead is not None
        self.by_device = ahead is not None and batch.image.device.type == "cuda"
        """Whether seconds are the device's, which works for several runs in turn without this process's waiting."""
        self._watched: list[_Watched] = []
        if ahead is not None:
            with ahead:
                self._pieces = list(pieces)

    def seconds(self, taught: bool) -> float:
        """What was spent before the step, on this process's clock, for a run that is taught or not."""
        return self.data_ms / 1e3 + (self.ahead.seconds if taught and self.ahead is not None else 0.0)

    def pieces(self) -> Iterator[Piece]:
        """The micro-batches; what a run does to them is seen by `written`."""
        self._watched = []
        for piece in self._pieces:
            if not self._kept:
                self._watched = [one for one in self._watched if one.written()]
            self._watched.append(_Watched(piece, self._values))
            yield piece

    def written(self) -> bool:
        """Whether the run that has had `pieces` last has written to one of them."""
        return any(one.written() for one in self._watched)


class Feed:
    """Batches of steps, and the teacher's taps of them.

    Args:
        needs: the first of each run; the runs see the same batches, and those with a teacher the same one.
        stop: the step after the last one.

    Raises:
        ValueError: the runs see different batches or teachers.
    """

    CLOSELY = 50
    """Every so many steps several runs are watched more closely; so is the first."""

    def __init__(self, needs: Sequence[Need], stop: int) -> None:
        one = next((need for need in needs if need.teacher is not None), needs[0])
        for other in needs:
            if other is not one and not fed_alike(one.run, other.run):
                raise ValueError(f"{one.run.label} and {other.run.label} see different batches or teachers")
        self._need, self._recipe, self._many, self._stop = one, one.run.train, len(needs) > 1, stop
        self._accumulate = accumulation_steps(self._recipe, one.runtime.workers)
        self._teacher = None if one.teacher is None else compiled(one.teacher, self._recipe.compile)
        self._batches: Iterator[Batch] | None = None
        self._next, self._passes = min(need.step for need in needs), 0

    def at(self, step: int, taught: bool, runs: int = 1, beside: int = 1) -> Fed:
        """The batch of a step, and the teacher's taps of it if `taught`.

        Args:
            step: mostly the next one; any other is possible.
            taught: whether one of the runs has a teacher.
            runs: that are fed with it.
            beside: runs that are in training in this process.
        """
        began = time.perf_counter()
        batch = self._batch(step)
        waited = (time.perf_counter() - began) * 1e3
        ahead = Span(self._need.runtime.device) if self._many else None
        closely = self._many and (step % self.CLOSELY == 0 or self._passes == 0)
        return Fed(batch, self._divided(batch, taught), waited, ahead, runs, beside, closely)

    def close(self) -> None:
        """End the processes that prepare batches."""
        self._batches = None

    def _batch(self, step: int) -> Batch:
        need = self._need
        data = need.data.train, need.data.info, need.run, need.runtime
        if step < self._next:
            return batch_of(*data, step)
        if step > self._next or self._batches is None:
            self._batches = training_batches(*data, step, self._stop)
        self._next = step + 1
        try:
            batch = next(self._batches)
        except BaseException:
            self.close()  # a generator that has raised gives nothing any more
            raise
        if self._next == self._stop:
            self.close()
        return batch

    def _divided(self, batch: Batch, taught: bool) -> Iterator[Piece]:
        for image, label in zip(batch.image.chunk(self._accumulate), batch.label.chunk(self._accumulate), strict=True):
            yield Piece(image, label, self._taps(image) if taught else None)

    def _taps(self, image: Tensor) -> Taps:
        assert self._teacher is not None
        first, version = self._passes == 0, image._version
        state = _random_state(image.device) if first else None
        self._passes += 1
        taps = teach(self._teacher, converted(image, self._need.data.info, self._need.shown), self._recipe)
        if image._version != version:
            raise ValueError("the teacher writes into the images it is given, which the student gets too")
        if state is not None and not torch.equal(state, _random_state(image.device)):
            raise ValueError("the teacher draws random numbers: what it teaches would differ from pass to pass")
        return taps


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def compiled(network: TapNet, wanted: bool) -> nn.Module:
    """The network, compiled by torch if that is wanted."""
    return torch.compile(network) if wanted else network  # type: ignore[return-value]
