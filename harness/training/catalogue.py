"""Describes every method on one pair: terms, extra parameters and cost."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.distillers import METHODS
from harness.experiment.load import load
from harness.experiment.method import Method
from harness.experiment.recipe import Train
from harness.experiment.spec import Network
from harness.models import build
from harness.taps import Pair
from harness.training.build import build_method
from harness.training.cost import parameters
from harness.training.estimate import TIMED, WARM_UP, step_seconds_of

BATCH = 2
PLAIN = "none"


@dataclass(frozen=True)
class Facts:
    """One method on one pair.

    Attributes:
        name: in METHODS.
        reason: why it does not apply to the pair; None if it does.
        terms: names of the loss terms at the defaults.
        extra_parameters: number of parameters trained with the student and discarded afterwards.
        buffers_mb: MiB of its buffers, such as queues, which are part of every checkpoint.
        relative_step: time of a training step relative to the student without distillation; None if not measured.
    """

    name: str
    reason: str | None = None
    terms: tuple[str, ...] = ()
    extra_parameters: int = 0
    buffers_mb: float = 0.0
    relative_step: float | None = None


def network(text: str) -> Network:
    """`ARCHITECTURE/ENCODER` as a network.

    Raises:
        ValueError: it has another form.
    """
    architecture, slash, encoder = text.partition("/")
    if not (architecture and slash and encoder):
        raise ValueError(f"{text!r} is not a network; write ARCHITECTURE/ENCODER, such as unet/tu-resnet18d")
    return Network(architecture=architecture, encoder=encoder)


def networks(pair: str) -> tuple[Network, Network]:
    """Teacher and student of `TEACHER:STUDENT`, or of an experiment file's first pair.

    Raises:
        ValueError: it is neither.
    """
    if pair.endswith((".yaml", ".yml")):
        first = load(Path(pair)).pairs[0]
        return first.teacher, first.student
    teacher, colon, student = pair.partition(":")
    if not colon:
        raise ValueError(f"--pair {pair}: write TEACHER:STUDENT, each ARCHITECTURE/ENCODER, or name an experiment file")
    return network(teacher), network(student)


def describe(teacher: Network, student: Network, num_classes: int, side: int, measure: bool) -> Iterator[Facts]:
    """Every method on a pair of randomly initialised networks, `none` first; sets torch to one thread.

    Args:
        teacher: the pair's teacher; its encoder weights are not loaded.
        student: the pair's student; its encoder weights are not loaded.
        num_classes: K.
        side: side of the square images, (2, 3, side, side).
        measure: also time a few steps of each method.

    Raises:
        ValueError: a network cannot be built.
    """
    torch.set_num_threads(1)
    if side < 32:
        raise ValueError(f"side: at least 32 pixels; given {side}")
    theirs, ours = (build(n.model_copy(update={"encoder_weights": None}), num_classes, 0) for n in (teacher, student))
    theirs.eval().requires_grad_(False)
    pair = Pair(ours.info(), theirs.info(), num_classes)
    stream = torch.Generator().manual_seed(0)
    image = torch.randn(BATCH, 3, side, side, generator=stream)
    label = torch.randint(num_classes, (BATCH, side, side), generator=stream)
    batches: list[tuple[Tensor, Tensor]] = [(image, label)] * (WARM_UP + TIMED if measure else 1)
    plain, recipe = None, Train(steps=1, batch_size=BATCH)
    for name, kind in METHODS.items():
        reason = kind.skip(pair)
        if reason is not None:
            yield Facts(name, reason)
            continue
        distiller = build_method(Method(name=name), pair, 0)
        seen = theirs if kind.needs_teacher else None
        seconds, terms = step_seconds_of(ours, seen, distiller, batches, pair.ignore_index, recipe)
        ours.zero_grad(set_to_none=True)
        plain = seconds if name == PLAIN else plain
        yield Facts(
            name,
            terms=terms,
            extra_parameters=parameters(distiller),
            buffers_mb=sum(b.numel() * b.element_size() for b in distiller.buffers()) / 2**20,
            relative_step=seconds / plain if measure and plain else None,
        )
