"""kd_loss and cwd_loss where the authors' code gives no number: peaked maps, half precision, maps of two sizes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.distillers._ops import cwd_loss, kd_loss, match_size


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", [kd_loss, cwd_loss])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_peaked_maps_give_the_number_and_no_nan(loss: Callable[..., Tensor], dtype: torch.dtype) -> None:
    """softmax().log() gives -inf * 0 = NaN here; the divergence is the gap of the two peaks."""
    size = (1, 2, 1, 1) if loss is kd_loss else (1, 1, 1, 2)
    teacher = torch.tensor([1000.0, 0.0], dtype=dtype).view(size)
    student = torch.tensor([0.0, 1000.0], dtype=dtype).view(size).requires_grad_(True)
    value = loss(student, teacher, 1.0)
    value.backward()
    assert value.item() == pytest.approx(1000.0, rel=1e-6)
    assert student.grad is not None and student.grad.isfinite().all()
    assert float(loss(teacher, teacher, 1.0)) == 0.0


@pytest.mark.parametrize("loss", [kd_loss, cwd_loss])
def test_gradient_by_finite_differences_and_its_sign(loss: Callable[..., Tensor]) -> None:
    teacher, student = random(2, 3, 2, 4, seed=0), random(2, 3, 2, 4, seed=1).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, 2.0), (student,))
    before = loss(student, teacher, 2.0)
    before.backward()
    with torch.no_grad():
        assert loss(student - 0.1 * student.grad, teacher, 2.0) < before


@pytest.mark.parametrize("loss", [kd_loss, cwd_loss])
def test_half_precision_maps_are_summed_in_float32(loss: Callable[..., Tensor]) -> None:
    student, teacher = (random(2, 5, 40, 40, seed=i).bfloat16() for i in range(2))
    found = loss(student, teacher, 4.0)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(loss(student.double(), teacher.double(), 4.0)), rel=1e-5)


def test_sizes_are_matched_with_half_pixel_centres() -> None:
    """Two cells spread over four: their centres lie between the outer and inner ones, not on the outer."""
    x, like = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), torch.zeros(1, 3, 1, 4)
    assert match_size(x, like).flatten().tolist() == pytest.approx([0.0, 0.25, 0.75, 1.0])
    assert match_size(x, x) is x
