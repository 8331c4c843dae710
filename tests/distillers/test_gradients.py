"""Gradients of every loss by finite differences, and on maps of other layouts in memory."""

import pytest
import torch

from harness.distillers._ops import cwd_loss, kd_loss
from harness.distillers.af_dcd import omni_contrast
from harness.distillers.at import at_loss
from harness.distillers.cirkd import memory_loss, minibatch_loss
from harness.distillers.dist import relations
from harness.distillers.dsd import csd_loss, psd_loss
from harness.distillers.freekd import freekd_loss
from harness.distillers.ifvd import ifv_loss
from harness.distillers.kt import kt_loss
from harness.distillers.skd import pairwise_loss


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rows(x):
    return x.movedim(1, 3).flatten(0, 2)


LABELS = torch.randint(0, 3, (2, 8, 12), generator=torch.Generator().manual_seed(0)).index_fill(
    1, torch.tensor([2]), 255
)
# Of maps (2, 4, h, w). The pair-wise term but for its canonical form, whose norms are constants to the gradient.
SMOOTH = {
    "kd": lambda x, y: kd_loss(x, y, 2.0),
    "cwd": lambda x, y: cwd_loss(x, y, 2.0),
    "at": at_loss,
    "psd": lambda x, y: psd_loss([x, x[:, :2]], [y, y[:, 2:]]),
    "csd": lambda x, y: csd_loss(x, y, 2.0),
    "dist": lambda x, y: sum(relations(x, y, 2.0)),
    "pairwise": lambda x, y: pairwise_loss(x, y, convention="cirkd"),
    "ifv": lambda x, y: ifv_loss(x, y, LABELS, 3),
    "contrast": lambda x, y: omni_contrast(x, y, 2, 2, (2, 2), 0.5),
    "minibatch": lambda x, y: minibatch_loss(x, y, 0.5),
    "pooled": lambda x, y: minibatch_loss(x, y, 0.5, 2),
    "memory": lambda x, y: memory_loss(*map(rows, (x, y)), random(5, 4), 0.5, 2.0, torch.arange(len(rows(x))) % 3 > 0),
    "freekd": lambda x, y: freekd_loss(x, y, random(4, 2, 4)),
    **{
        f"kt-{divergence}": lambda x, y, divergence=divergence: kt_loss(x, y, divergence, 2.0, 0.1)
        for divergence in ("kl", "mse", "l1", "huber")
    },
}


@pytest.mark.parametrize("hw", [(4, 4), (3, 5)])
@pytest.mark.parametrize("loss", SMOOTH)
def test_gradients_by_finite_differences(loss, hw):
    student, teacher = random(2, 4, *hw).requires_grad_(), random(2, 4, *hw, seed=1)
    assert torch.autograd.gradcheck(lambda x: SMOOTH[loss](x, teacher), student)


@pytest.mark.parametrize("hw", [(4, 4), (3, 5)])
@pytest.mark.parametrize("loss", SMOOTH)
def test_the_layout_in_memory_is_no_matter(loss, hw):
    """Channels last, as a convolution may give it, and columns before rows."""
    student, teacher = random(2, 4, *hw).requires_grad_(), random(2, 4, *hw, seed=1)
    expected = SMOOTH[loss](student, teacher)
    (slope,) = torch.autograd.grad(expected, student)
    for order in ((0, 2, 3, 1), (0, 1, 3, 2)):
        back = [order.index(dim) for dim in range(4)]
        strided = student.detach().permute(order).contiguous().permute(back).requires_grad_()
        assert torch.equal(strided, student) and not strided.is_contiguous()
        found = SMOOTH[loss](strided, teacher)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(torch.autograd.grad(found, strided)[0], slope, rtol=1e-10, atol=1e-14)
