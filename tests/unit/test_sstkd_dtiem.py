"""Regions and equalisation."""

import pytest
import torch
from torch.nn import functional as F

from sstkd.dtiem import (
    DTIEM,
    clip_counts,
    cumulative,
    region_intensity,
    sample_regions,
    texture_importance,
    uncertainty_importance,
    whole_map,
)


def random(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def dense_equalised(s, number, iterations, relaxation, clip_limit, min_range):
    """The equations on one region's intensities s (P,), with positions x levels tables."""
    span = torch.clamp(s.max() - s.min(), min=min_range)
    levels = torch.stack([(s.max() + s.min()) / 2 + ((2 * n + 1) / (2 * number) - 0.5) * span for n in range(number)])
    for _ in range(iterations):
        nearest = (s[:, None] - levels).abs().argmin(1)
        moved = []
        for n in range(number):
            mine = s[nearest == n]
            moved.append(levels[n] + relaxation * (mine.mean() - levels[n]) if len(mine) else levels[n])
        levels = torch.stack(moved)
    left = (s[:, None] - levels[:-1]) / levels.diff()  # rising edge towards level n + 1
    rise = torch.cat((torch.ones_like(s)[:, None], left.clamp(0, 1)), 1)
    fall = torch.cat(((1 - left).clamp(0, 1), torch.ones_like(s)[:, None]), 1)
    weight = torch.minimum(rise, fall)
    share = weight.sum(0) / len(s)
    if clip_limit is not None:
        limit = clip_limit / number
        cut = torch.minimum(share, torch.full_like(share, limit))
        share = cut + (share - cut).sum() / number
    equalised = torch.stack([share[: n + 1].sum() for n in range(number)])
    return weight @ equalised


@pytest.mark.parametrize(("iterations", "clip_limit", "min_range"), [(0, None, 0.0), (2, 1.5, 0.0), (3, 2.0, 0.5)])
def test_values_and_gradients_against_the_dense_equations(iterations, clip_limit, min_range):
    features = random(2, 3, 5, 6) - 0.3
    positions = torch.cat([torch.randperm(30, generator=stream(i))[:20].view(1, 2, 10) for i in range(2)])
    target = random(2, 2, 10, seed=5)
    dtiem = DTIEM(6, iterations, 0.5, clip_limit, min_range)

    ours = features.clone().requires_grad_()
    enhanced = dtiem(ours, positions)
    (enhanced - target).square().mean().backward()

    theirs = features.clone().requires_grad_()
    rows = []
    for n in range(2):
        for m in range(2):
            x = theirs[n].flatten(1)[:, positions[n, m]]
            s = F.cosine_similarity(x, x.mean(1, keepdim=True), dim=0)
            rows.append(dense_equalised(s, 6, iterations, 0.5, clip_limit, min_range))
    want = torch.stack(rows).view(2, 2, 10)
    (want - target).square().mean().backward()

    torch.testing.assert_close(enhanced, want, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-12)


def test_equalising_brings_the_distribution_closer_to_uniform():
    features = torch.stack((torch.ones(4096), torch.rand(4096, generator=stream()) ** 3)).view(1, 2, 64, 64)
    everywhere = whole_map(1, 64, 64, features.device)

    def distance_to_uniform(values):
        return float((values.flatten().sort().values - torch.linspace(0, 1, 4096)).abs().max())

    s = region_intensity(features, everywhere)
    before = distance_to_uniform((s - s.min()) / (s.max() - s.min()))
    coarse = distance_to_uniform(DTIEM(32, 0, clip_limit=None)(features, everywhere))
    fine = distance_to_uniform(DTIEM(2048, 0, clip_limit=None)(features, everywhere))
    assert fine < 0.05 < coarse < before
    clipped = distance_to_uniform(DTIEM(32, 0, clip_limit=1.5)(features, everywhere))
    assert coarse < clipped < before


def test_range_and_order():
    features = random(2, 4, 8, 8) - 0.2
    positions = sample_regions(texture_importance(features), 5, stream())
    enhanced = DTIEM()(features, positions)
    assert enhanced.shape == (2, 5, 64)
    assert enhanced.min() >= 0 and enhanced.max() <= 1 + 1e-12
    order = region_intensity(features, positions).argsort(-1)
    assert (enhanced.gather(-1, order).diff() >= -1e-12).all()


def test_scaling_the_features_changes_nothing():
    features = random(1, 4, 6, 6)
    positions = whole_map(1, 6, 6, features.device)
    torch.testing.assert_close(DTIEM()(features, positions), DTIEM()(7 * features, positions))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-20, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hw", [(1, 1), (1, 3), (5, 6)])
def test_constant_maps(value, dtype, hw):
    features = torch.full((2, 3, *hw), value, dtype=dtype, requires_grad=True)
    positions = sample_regions(texture_importance(features.detach()), 3, stream())
    for where in (positions, whole_map(2, *hw, features.device)):
        enhanced = DTIEM()(features, where)
        assert enhanced.isfinite().all()
        assert float((enhanced.amax(-1) - enhanced.amin(-1)).detach().max()) < 1e-3
        (gradient,) = torch.autograd.grad(enhanced.square().sum(), features)
        assert gradient.isfinite().all()


def test_precision():
    features = random(1, 3, 6, 6).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        positions = sample_regions(texture_importance(features), 2, stream())
        enhanced = DTIEM()(features, positions)
    assert enhanced.dtype == torch.float32
    torch.testing.assert_close(enhanced, DTIEM()(features.float(), positions))
    assert not list(DTIEM().parameters())


def test_clipping_keeps_the_sum_and_spreads_the_excess_once():
    share = torch.tensor([0.7, 0.1, 0.1, 0.1])
    torch.testing.assert_close(clip_counts(share, 2.0), torch.tensor([0.55, 0.15, 0.15, 0.15]))
    torch.testing.assert_close(cumulative(share), share.cumsum(0))


def test_whole_map():
    assert whole_map(2, 2, 3, torch.device("cpu")).tolist() == [[[0, 1, 2, 3, 4, 5]]] * 2


def test_regions_are_grids_inside_the_map():
    importance = random(3, 12, 20)
    positions = sample_regions(importance, 8, stream(), points=4, sizes=(0.5,), aspects=(1.0,))
    assert positions.shape == (3, 8, 16)
    grid = positions.view(3, 8, 4, 4)
    rows, cols = grid // 20, grid % 20
    assert (rows[..., :1] == rows).all() and (cols[..., :1, :] == cols).all()
    assert rows.max() < 12 and cols.max() < 20 and positions.min() >= 0
    # A side of 6 rows read at 4 points, and of 10 columns.
    assert set((rows[..., -1, 0] - rows[..., 0, 0]).flatten().tolist()) == {5}
    assert set((cols[..., 0, -1] - cols[..., 0, 0]).flatten().tolist()) == {7}


def test_every_size_and_placement_occurs():
    positions = sample_regions(random(1, 8, 8), 2000, stream(), points=8, important=0.0)
    assert set(positions.flatten().tolist()) == set(range(64))
    rows = positions.view(-1, 8, 8) // 8
    heights = (rows[:, -1, 0] - rows[:, 0, 0] + 1).unique().tolist()
    assert heights == [4, 6]


def test_regions_prefer_importance_and_follow_the_stream():
    importance = torch.zeros(1, 16, 16)
    importance[:, :, :8] = 1.0

    def share(important):
        positions = sample_regions(importance, 200, stream(3), important=important)
        return float(importance.flatten()[positions].mean())

    assert abs(share(0.0) - 0.5) < 0.05
    assert share(1.0) > 0.85
    assert 0.7 < share(0.75) < share(1.0)
    first, again = (sample_regions(importance, 5, stream(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, sample_regions(importance, 5, stream(2)))


def test_texture_importance_is_the_local_variance_of_the_intensity():
    features = random(1, 3, 5, 4)
    flat = features[0].flatten(1)
    s = F.cosine_similarity(flat, flat.mean(1, keepdim=True), dim=0).view(5, 4)
    got = texture_importance(features)[0]
    for i in range(5):
        for j in range(4):
            window = s[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            torch.testing.assert_close(got[i, j], window.var(correction=0), rtol=0, atol=1e-12)


def test_uncertainty_importance():
    logits = torch.tensor([0.6, 0.3, 0.1]).log().view(1, 3, 1, 1)
    torch.testing.assert_close(uncertainty_importance(logits), torch.tensor([[[0.7]]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 1}, "levels is 1"),
        ({"iterations": -1}, "iterations -1"),
        ({"relaxation": 1.0}, "relaxation is 1.0"),
        ({"clip_limit": 0.5}, "clip_limit is 0.5"),
        ({"min_range": -0.1}, "min_range"),
    ],
)
def test_dtiem_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        DTIEM(**options)


@pytest.mark.parametrize(
    "options",
    [{"regions": 0}, {"points": 0}, {"oversample": 0}, {"important": 1.5}, {"sizes": (1.5,)}, {"aspects": ()}],
)
def test_sampler_refuses(options):
    with pytest.raises(ValueError):
        sample_regions(torch.zeros(1, 4, 4), **({"regions": 2, "generator": stream()} | options))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        sample_regions(torch.zeros(4, 4), 2, stream())
    with pytest.raises(ValueError, match="same N"):
        DTIEM()(torch.zeros(2, 3, 4, 4), whole_map(1, 4, 4, torch.device("cpu")))
