"""STLNet's modules where the released code fails, and what they keep in memory. Its numbers: tests/oracles."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sstkd.stlnet import PTFEM, STL, TEM, QCO1d, QCO2d

WIDTH = 8


class Sizes(TorchDispatchMode):
    """Notes the most elements of any tensor that an operation gives."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.largest = max([self.largest, *(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))])
        return out


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def modules():
    torch.manual_seed(0)
    return {
        "qco 1d": (QCO1d(4, WIDTH), WIDTH),
        "qco 1d, 2 levels": (QCO1d(2, WIDTH), WIDTH),
        "tem, 256 levels": (TEM(256, WIDTH), WIDTH),
        "qco 2d": (QCO2d(2, 8, WIDTH), WIDTH),
        "ptfem": (PTFEM(8, WIDTH), 2 * WIDTH),
        "stl": (STL(3, 16, WIDTH), 3),
    }


@pytest.mark.parametrize("name", modules())
@pytest.mark.parametrize("kind", ["constant", "zeros", "single position", "one row", "some zeros"])
def test_no_nan_out_of_finite_input(name, kind):
    module, channels = modules()[name]
    hw = {"single position": (1, 1), "one row": (1, 7)}.get(kind, (9, 13))
    x = random(2, channels, *hw)
    if kind in ("constant", "zeros"):
        x = torch.full_like(x, 0.7 if kind == "constant" else 0.0)
    elif kind == "some zeros":
        x[:, :, :4] = 0.0
    x.requires_grad_()
    for mode in (True, False):
        out = module.train(mode)(x)
        out = out[0] if isinstance(out, tuple) else out
        assert out.isfinite().all()
        gradients = torch.autograd.grad(out.square().sum(), [x, *module.parameters()])
        assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("hw", [(1, 1), (5, 6), (7, 30), (16, 16), (24, 48), (32, 64), (65, 33)])
def test_every_size(hw):
    x = random(1, WIDTH, *hw)
    for scale in (1, 2, 3, 6):
        assert QCO2d(scale, 8, WIDTH).eval()(x).shape == (1, WIDTH // 2, scale, scale)
    assert TEM(8, WIDTH).eval()(x).shape == x.shape
    assert PTFEM(8, WIDTH).eval()(torch.cat((x, x), 1)).shape == x.shape
    assert STL(WIDTH, 8, WIDTH).eval()(x).shape == (1, 3 * WIDTH, *hw)


@pytest.mark.parametrize(
    ("scale", "side", "pooled"), [(1, 16, 16), (1, 7, 7), (1, 23, 16), (3, 48, 48), (3, 71, 48), (6, 17, 12), (6, 4, 6)]
)
def test_sides_are_pooled_to_what_the_levels_and_the_grid_divide(scale, side, pooled):
    assert QCO2d(scale, 8, WIDTH)._side(side) == pooled


def test_no_table_of_positions_times_levels():
    levels, positions = 128, 32 * 32
    for module in (TEM(levels, 4), QCO2d(1, 32, 4)):
        x = random(1, 4, 32, 32).requires_grad_()
        with Sizes() as sizes:
            module(x).square().sum().backward()
        assert 4 * positions <= sizes.largest < positions * levels / 4


def test_the_enhanced_map_is_not_kept_for_the_backward_pass():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(weakref.ref(t)) or t, lambda t: t):
        module = TEM(16, 32)
        x = random(1, 32, 40, 40).requires_grad_()
        found = module(x)
    sizes = [t().numel() for t in kept if t() is not None]
    # Input and the two convolutions' maps at most, and none of them is the result.
    assert found.numel() == x.numel()
    assert all(t() is None or t().data_ptr() != found.data_ptr() for t in kept)
    assert max(sizes) <= x.numel()


def test_half_precision_counts_in_float32():
    module = TEM(8, WIDTH).eval()
    x = random(1, WIDTH, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        statistic, assignment = module.qco(x)
        out = module(x)
    assert assignment.lower_weight.dtype == torch.float32 and statistic.isfinite().all()
    torch.testing.assert_close(out.float(), module(x), rtol=0.2, atol=0.2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QCO1d(1), "levels is 1"),
        (lambda: TEM(8, 6), "width 6"),
        (lambda: QCO2d(0), "scale is 0"),
        (lambda: QCO2d(2, 8, 0), "width 0"),
        (lambda: QCO1d(8.5), "levels is 8.5"),
        (lambda: QCO2d(1.5), "scale is 1.5"),
        (lambda: QCO1d(8, WIDTH)(torch.zeros(0, WIDTH, 8, 8)), "not empty"),
        (lambda: QCO2d(2, 8, WIDTH)(torch.zeros(WIDTH, 8, 8)), "the map must be"),
        (lambda: PTFEM(8, WIDTH)(torch.zeros(0, 2 * WIDTH, 8, 8)), "not empty"),
        (lambda: STL(3, 8, WIDTH)(torch.zeros(0, 3, 8, 8)), "not empty"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
