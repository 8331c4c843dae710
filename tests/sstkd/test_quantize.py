"""Quantisation and counting: dense formulas, constants, order of levels. STLNet's numbers: tests/oracles."""

import pytest
import torch

from sstkd.quantize import (
    assign,
    cooccurrence,
    counts,
    interpolate,
    interpolate_vectors,
    refine_levels,
    stlnet_statistic,
    uniform_levels,
)


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


@pytest.mark.parametrize("number", [2, 3, 8, 256])
@pytest.mark.parametrize("min_range", [0.0, 3.0])
def test_the_fast_statistic_is_the_dense_one(number, min_range):
    s, to_levels, to_share = random(2, 500) - 0.4, random(2, number, seed=1), random(2, number, seed=2)
    results = []
    for fast in (True, False):
        x = s.clone().requires_grad_()
        if fast:
            levels, share = stlnet_statistic(x, number, min_range)
        else:
            levels = uniform_levels(x, number, min_range)
            distance = (x[..., None] - levels[:, None]).abs()
            weight = torch.where(distance < (levels[:, 1:2] - levels[:, :1])[..., None], 1 - distance, 0.0).sum(1)
            share = weight / weight.sum(-1, keepdim=True)
        (gradient,) = torch.autograd.grad((levels * to_levels).sum() + (share * to_share).sum(), x)
        results.append((levels, share, gradient))
    for fast, dense in zip(*results, strict=True):
        torch.testing.assert_close(fast, dense, rtol=1e-9, atol=1e-12)


def test_the_fast_statistic_where_intensities_lie_exactly_on_levels():
    s = torch.tensor([0.0, 0.125, 0.375, 0.375, 0.5, 0.875, 1.0], dtype=torch.float64)
    levels, share = stlnet_statistic(s, 4)
    torch.testing.assert_close(levels, torch.tensor([0.125, 0.375, 0.625, 0.875], dtype=torch.float64))
    torch.testing.assert_close(share, counts(assign(s, levels, "stlnet"), 4))


def test_gradient_of_the_fast_statistic():
    s = random(2, 12).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: stlnet_statistic(v, 4), s)
    assert torch.autograd.gradcheck(lambda v: stlnet_statistic(v, 4, 2.0), s)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.7, 1e-30])
@pytest.mark.parametrize("number", [2, 3, 256])
@pytest.mark.parametrize("positions", [1, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_fast_statistic_of_constant_rows(value, number, positions, dtype):
    s = torch.full((2, positions), value, dtype=dtype, requires_grad=True)
    levels, share = stlnet_statistic(s, number)
    assert (levels.diff() > 0).all() and (share >= 0).all()
    torch.testing.assert_close(share.sum(-1), torch.ones(2, dtype=dtype))
    (gradient,) = torch.autograd.grad((levels * share).sum() + share.square().sum(), s)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows_in_the_statistic_of_its_row(bad):
    s = random(2, 9)
    s[1, 4] = bad
    _, share = stlnet_statistic(s, 4)
    assert share[0].isfinite().all() and share[1].isnan().any()
    assert counts(assign(s, uniform_levels(s, 4)), 4)[1].isnan().any()


@pytest.mark.parametrize("kernel", ["hat", "stlnet"])
@pytest.mark.parametrize("number", [2, 5])
@pytest.mark.parametrize("hw", [(3, 4), (2, 2), (1, 6), (6, 1), (1, 1)])
def test_cooccurrence_against_the_dense_formula(kernel, number, hw):
    s = random(2, 3, hw[0] * hw[1])
    assignment = assign(s, uniform_levels(s, number), kernel)
    lower, low, high = (part[..., None] for part in assignment)
    weight = torch.zeros(*s.shape, number, dtype=torch.float64).scatter(-1, lower, low).scatter(-1, lower + 1, high)
    weight = weight.view(2, 3, *hw, number)
    total = torch.einsum("abyxm,abyxn->abmn", weight[:, :, :-1, :-1], weight[:, :, 1:, 1:])
    want = total / (total.sum((2, 3), keepdim=True) + 1e-6)
    torch.testing.assert_close(cooccurrence(assignment, hw, number), want)
    assert want.sum().item() == pytest.approx(6.0 if min(hw) > 1 else 0.0, rel=1e-5)


def test_vectors_are_read_like_numbers():
    s = random(2, 3, 20)
    assignment = assign(s, uniform_levels(s, 6))
    values = random(2, 3, 6, 4, seed=1)
    read = interpolate_vectors(assignment, values)
    for d in range(4):
        torch.testing.assert_close(read[..., d], interpolate(assignment, values[..., d]))
    weights = [part.requires_grad_() for part in assignment[1:]]
    assert torch.autograd.gradcheck(
        lambda v, a, b: interpolate_vectors(assignment._replace(lower_weight=a, upper_weight=b), v),
        (values.requires_grad_(), *weights),
    )


def test_an_empty_list_of_rows():
    s = torch.zeros(2, 0, 5)
    assignment = assign(s, uniform_levels(s, 4))
    assert counts(assignment, 4).shape == (2, 0, 4)
    assert interpolate_vectors(assignment, torch.zeros(2, 0, 4, 3)).shape == (2, 0, 5, 3)


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


def test_levels_stay_a_least_gap_apart():
    s = torch.tensor([0.0, 0.49, 0.51, 1.0])  # the two in the middle draw the levels on either side of 1/2 together
    levels = uniform_levels(s, 2)
    assert refine_levels(s[1:3], levels, 60, 0.5).diff() < 0.03
    near = refine_levels(s[1:3], levels, 60, 0.5, 0.1)
    assert 0.1 <= near.diff() < 0.2
    torch.testing.assert_close(refine_levels(s[1:3], levels, 1, 0.5, 0.1), refine_levels(s[1:3], levels, 1, 0.5))


def test_empty_cells_keep_their_level():
    s = torch.tensor([0.0, 0.0, 1.0])
    levels = refine_levels(s, uniform_levels(s, 4), 1)
    torch.testing.assert_close(levels, torch.tensor([0.0, 0.375, 0.625, 1.0]))


@pytest.mark.parametrize("value", [0.0, 1.0, -0.7, 1e-30, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("number", [2, 31, 32, 256])
def test_constant_rows(value, dtype, number):
    s = torch.full((2, 9), value, dtype=dtype, requires_grad=True)
    levels = uniform_levels(s, number)
    assert (levels.diff() > 0).all()
    assert (2.0**16 / levels.diff()).isfinite().all()  # sums of that many slopes are, in any order
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
    for number in (2.5, float("nan")):
        with pytest.raises(ValueError, match=f"number of levels is {number}; an integer"):
            uniform_levels(s, number)
    for min_range in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"min_range is {min_range}"):
            uniform_levels(s, 4, min_range)
    with pytest.raises(ValueError, match="P >= 1"):
        uniform_levels(torch.zeros(2, 0), 4)
    levels = uniform_levels(s, 4)
    with pytest.raises(ValueError, match="iterations is -1"):
        refine_levels(s, levels, -1)
    with pytest.raises(ValueError, match=r"iterations is 1\.5"):
        refine_levels(s, levels, 1.5)
    for relaxation, min_gap in ((0.5, -1.0), (0.5, float("inf")), (1.0, 0.1)):
        with pytest.raises(ValueError, match=f"min_gap is {min_gap}, relaxation {relaxation}"):
            refine_levels(s, levels, 1, relaxation, min_gap)
    with pytest.raises(ValueError, match="relaxation is 0"):
        refine_levels(s, levels, 1, 0)
    with pytest.raises(ValueError, match="leading dimensions"):
        assign(s[0], levels)
    with pytest.raises(ValueError, match="N >= 2"):
        assign(s, levels[:, :1])
    with pytest.raises(ValueError, match="5 positions are no map of height 2 and width 3"):
        cooccurrence(assign(s, levels), (2, 3), 4)
    with pytest.raises(ValueError, match="eps is 0"):
        cooccurrence(assign(s, levels), (1, 5), 4, eps=0)
    with pytest.raises(ValueError, match="number of levels is 1"):
        stlnet_statistic(s, 1)
    with pytest.raises(ValueError, match="'hat', 'stlnet'"):
        assign(s, levels, "rbf")
