"""Quantisation and counting: STLNet's numbers, dense formulas, constants, order of levels.

stlnet_qco_1d.npz in tests/oracles holds input, weights and results (float64) of the released QCO_1d of STLNet at a
sixteenth of its width, 8 levels.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sstkd.quantize import assign, counts, interpolate, refine_levels, uniform_levels

PATH = Path(__file__).parents[1] / "oracles" / "stlnet_qco_1d.npz"


def random(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense_hat(intensity, levels):
    """(P, N) weights of linear interpolation between levels, from the formula."""
    rows = []
    for s in intensity:
        row = []
        for n, level in enumerate(levels):
            if (n == 0 and s <= level) or (n == len(levels) - 1 and s >= level):
                row.append(torch.ones_like(s))
            elif n > 0 and levels[n - 1] < s <= level:
                row.append((s - levels[n - 1]) / (level - levels[n - 1]))
            elif n < len(levels) - 1 and level <= s < levels[n + 1]:
                row.append((levels[n + 1] - s) / (levels[n + 1] - level))
            else:
                row.append(torch.zeros_like(s))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_stlnet_released_numbers():
    oracle = {name: torch.from_numpy(value) for name, value in np.load(PATH).items()}

    def norm(y, name):
        statistics = oracle[f"{name}.running_mean"], oracle[f"{name}.running_var"]
        return F.batch_norm(y, *statistics, oracle[f"{name}.weight"], oracle[f"{name}.bias"], eps=1e-5)

    x = oracle["x"].requires_grad_()
    y = F.leaky_relu(norm(F.conv2d(x, oracle["sd.conv1.0.conv.weight"], padding=1), "sd.conv1.0.bn"), 0.01)
    y = F.conv2d(y, oracle["sd.conv2.conv.weight"])
    mean = y.mean((2, 3))
    intensity = F.cosine_similarity(mean[:, :, None], y.flatten(2), dim=1)

    levels = uniform_levels(intensity, 8)
    assignment = assign(intensity, levels, "stlnet")
    share = counts(assignment, 8)
    lower, low, high = assignment
    dense = torch.zeros(2, 256, 8, dtype=torch.float64)
    dense = dense.scatter(2, lower[..., None], low[..., None]).scatter(2, lower[..., None] + 1, high[..., None])
    torch.testing.assert_close(dense, oracle["quant"], rtol=0, atol=1e-12)
    total = oracle["quant"].sum(1)
    torch.testing.assert_close(share, total / total.sum(1, keepdim=True), rtol=0, atol=1e-12)

    # The rest of the released operator, to reach its output and, through levels and counts, its gradient.
    z = F.leaky_relu(F.conv1d(torch.stack((levels, share), 1), oracle["sd.f1.0.conv.weight"]), 0.01)
    z = F.relu(F.conv1d(z, oracle["sd.f2.conv.weight"]))
    z = torch.cat((z, mean[..., None].expand(-1, -1, 8)), 1)
    out = F.relu(norm(F.conv1d(z, oracle["sd.out.conv.weight"]), "sd.out.bn"))
    torch.testing.assert_close(out, oracle["out"], rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad((out * oracle["cotangent"]).sum(), x)
    torch.testing.assert_close(gradient, oracle["grad/x"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [2, 3, 32])
def test_uniform_levels_are_bin_centres(number):
    s = random(2, 3, 50)
    levels = uniform_levels(s, number)
    for row, got in zip(s.flatten(0, 1), levels.flatten(0, 1), strict=True):
        want = [row.min() + (2 * n + 1) / (2 * number) * (row.max() - row.min()) for n in range(number)]
        torch.testing.assert_close(got, torch.stack(want), rtol=0, atol=1e-14)


@pytest.mark.parametrize("number", [2, 3, 7])
@pytest.mark.parametrize("kernel", ["hat", "stlnet"])
def test_assignment_and_counts_against_dense_formulas(number, kernel):
    s = random(1, 40)
    levels = uniform_levels(s, number)
    if kernel == "hat":
        levels = refine_levels(s, levels, 2, 0.5)
        dense = dense_hat(s[0], levels[0])
    else:
        distance = (s[0][:, None] - levels[0]).abs()
        dense = torch.where(distance < levels[0, 1] - levels[0, 0], 1 - distance, 0.0)
    assignment = assign(s, levels, kernel)
    torch.testing.assert_close(counts(assignment, number)[0], dense.sum(0) / dense.sum())
    values = random(1, number, seed=1)
    torch.testing.assert_close(interpolate(assignment, values)[0], dense @ values[0])
    if kernel == "hat":
        torch.testing.assert_close(dense.sum(1), torch.ones(40, dtype=torch.float64))


def test_interpolating_the_levels_gives_the_intensity_between_them():
    s = random(4, 60)
    levels = uniform_levels(s, 16)
    back = interpolate(assign(s, levels), levels)
    torch.testing.assert_close(back, s.clamp(levels[:, :1], levels[:, -1:]))


def test_refinement_is_lloyds_rule():
    s = random(30)
    levels = uniform_levels(s, 5)
    want = levels.tolist()
    for _ in range(3):
        nearest = [min(range(5), key=lambda n: abs(want[n] - v)) for v in s.tolist()]
        cells = [[v for v, m in zip(s.tolist(), nearest, strict=True) if m == n] for n in range(5)]
        want = [sum(c) / len(c) if c else old for c, old in zip(cells, want, strict=True)]
    torch.testing.assert_close(refine_levels(s, levels, 3), torch.tensor(want, dtype=torch.float64))


def test_refinement_lowers_the_quantisation_error_and_keeps_levels_apart():
    s = random(50, 200).pow(4)
    levels = uniform_levels(s, 16)
    refined = refine_levels(s, levels, 4, 0.5)

    def error(grid):
        return (s[..., None] - grid[:, None]).abs().amin(-1).square().mean()

    assert error(refined) < 0.8 * error(levels)
    assert ((refined.diff() / levels.diff()) >= 0.5**4 - 1e-9).all()


def test_empty_cells_keep_their_level():
    s = torch.tensor([0.0, 0.0, 1.0])
    levels = refine_levels(s, uniform_levels(s, 4), 1)
    torch.testing.assert_close(levels, torch.tensor([0.0, 0.375, 0.625, 1.0]))


@pytest.mark.parametrize("value", [0.0, 1.0, -0.7, 1e-30, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("number", [2, 31, 32])
def test_constant_rows(value, dtype, number):
    s = torch.full((2, 9), value, dtype=dtype, requires_grad=True)
    levels = uniform_levels(s, number)
    assert (levels.diff() > 0).all()
    levels = refine_levels(s, levels, 2, 0.5)
    assignment = assign(s, levels)
    share = counts(assignment, number)
    torch.testing.assert_close(share.sum(-1), torch.ones(2, dtype=dtype))
    middle = (share * torch.arange(number, dtype=dtype)).sum(-1)
    torch.testing.assert_close(middle, torch.full((2,), (number - 1) / 2, dtype=dtype), rtol=0, atol=0.5)
    interpolate(assignment, share).sum().backward()
    assert s.grad.isfinite().all()


def test_flat_rows_are_not_stretched_beyond_min_range():
    s = torch.tensor([[0.5, 0.501]], dtype=torch.float64)
    levels = uniform_levels(s, 10, min_range=0.1)
    torch.testing.assert_close(levels[0, 1] - levels[0, 0], torch.tensor(0.01, dtype=torch.float64))
    torch.testing.assert_close(levels.mean(-1), s.mean(-1))


def test_gradient():
    s = random(2, 12).requires_grad_()

    def everything(v):
        levels = refine_levels(v, uniform_levels(v, 4), 2, 0.5)
        assignment = assign(v, levels)
        share = counts(assignment, 4)
        return levels, share, interpolate(assignment, share.cumsum(-1))

    assert torch.autograd.gradcheck(everything, s)


def test_bad_input():
    s = torch.zeros(2, 5)
    with pytest.raises(ValueError, match="number of levels is 1"):
        uniform_levels(s, 1)
    with pytest.raises(ValueError, match="min_range"):
        uniform_levels(s, 4, -1.0)
    with pytest.raises(ValueError, match="P >= 1"):
        uniform_levels(torch.zeros(2, 0), 4)
    levels = uniform_levels(s, 4)
    with pytest.raises(ValueError, match="iterations is -1"):
        refine_levels(s, levels, -1)
    with pytest.raises(ValueError, match="relaxation is 0"):
        refine_levels(s, levels, 1, 0)
    with pytest.raises(ValueError, match="leading dimensions"):
        assign(s[0], levels)
    with pytest.raises(ValueError, match="N >= 2"):
        assign(s, levels[:, :1])
    with pytest.raises(ValueError, match="'hat', 'stlnet'"):
        assign(s, levels, "rbf")
