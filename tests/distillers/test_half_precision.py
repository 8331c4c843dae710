"""Under autocast every method computes the loss it computes in float32, where half precision is least forgiving.

Features are large, so that sums over positions leave the range of float16, and the student is near the teacher, so that
a difference of two products in half precision is rounding and nothing else.
"""

import copy

import pytest
import torch
from torch import Tensor

from harness.distillers import METHODS
from harness.taps import Taps, View
from harness.testing.case import numbers, total
from harness.testing.made_up import SAME, assembled, labels, listed, maps, stream
from tests.conformance.methods import case

SIZE = (1, 192, 192)
LARGE, SPREAD, NEAR = 40.0, 3.0, 0.01
WITH_TEACHER = [name for name, kind in METHODS.items() if kind.needs_teacher]


def large(taps: Taps) -> Taps:
    """Features as after a rectifier, far from 0; scores as they are."""
    stages = {name: LARGE + SPREAD * x for name, x in taps.stages.items()}
    return assembled(stages, LARGE + SPREAD * taps.decoder, taps.logits, SIZE)


def near(taps: Taps, generator: torch.Generator) -> Taps:
    def moved(x: Tensor) -> Tensor:
        return x + NEAR * x.std() * torch.randn(x.shape, generator=generator)

    stages = {name: moved(x) for name, x in taps.stages.items()}
    return assembled(stages, moved(taps.decoder), moved(taps.logits), SIZE)


def cast(taps: Taps, dtype: torch.dtype, trained: bool) -> Taps:
    stages = {name: x.detach().to(dtype).requires_grad_(trained) for name, x in taps.stages.items()}
    decoder, logits = (x.detach().to(dtype).requires_grad_(trained) for x in (taps.decoder, taps.logits))
    return assembled(stages, decoder, logits, SIZE)


def gradient(taps: Taps) -> Tensor:
    return torch.cat([(torch.zeros_like(x) if x.grad is None else x.grad).double().flatten() for x in listed(taps)])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", WITH_TEACHER)
def test_terms_and_gradients_are_those_of_float32(method: str, dtype: torch.dtype) -> None:
    teacher = large(maps(SAME.teacher, SIZE, seed=1))
    # What both see is rounded beforehand, so that only the method's own arithmetic differs.
    given = [cast(x, dtype, trained=False) for x in (near(teacher, stream(3)), teacher)]
    built = case(method).build(SAME)
    found = []
    for half in (False, True):
        student, taught = given if half else [cast(x, torch.float32, trained=False) for x in given]
        student = cast(student, student.decoder.dtype, trained=True)
        with torch.autocast("cpu", dtype, enabled=half):
            terms = copy.deepcopy(built)(View(student, taught, labels(SIZE), 0.5, stream(5)))
        total(terms).backward()  # type: ignore[no-untyped-call]
        found.append((numbers(terms), gradient(student)))
    (exact, slope), (rounded, steep) = found
    assert rounded == pytest.approx(exact, rel=0.02, abs=1e-20)
    assert torch.cosine_similarity(slope, steep, dim=0) > 0.99
