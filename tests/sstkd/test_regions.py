"""The anchor regions of the DTIEM: how they are drawn, what they prefer, and what is refused."""

from math import inf, nan

import pytest
import torch
from torch.nn import functional as F

from sstkd.dtiem import (
    DTIEM,
    sample_regions,
    texture_importance,
    uncertainty_importance,
    whole_map,
)


def random(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


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
    "options",
    [
        {"regions": 0},
        {"points": 0},
        {"oversample": 0},
        {"important": 1.5},
        {"important": nan},
        {"sizes": (1.5,)},
        {"aspects": ()},
        {"regions": 2.5},
        {"points": 2.5},
        {"oversample": 2.5},
        {"aspects": (inf,)},
        {"sizes": (nan,)},
        {"generator": None},
        {"importance": torch.zeros(1, 4, 4, dtype=torch.long)},
        {"importance": torch.zeros(0, 4, 4)},
    ],
)
def test_sampler_refuses(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        sample_regions(**({"importance": torch.zeros(1, 4, 4), "regions": 2, "generator": stream()} | options))


@pytest.mark.parametrize(
    ("regions", "important", "best"), [(100, 0.29, 29), (16, 0.75, 12), (3, 2 / 3, 2), (10, 0.35, 3)]
)
def test_the_share_of_important_regions_is_rounded_down(regions, important, best):
    importance = torch.zeros(1, 64, 64)
    importance[:, :32, :32] = 1.0
    options = {"sizes": (0.25,), "aspects": (1.0,), "points": 2}
    chosen = sample_regions(importance, regions, stream(), important=important, oversample=30, **options)
    # As many rectangles from the same stream, of which the last is returned: the number shows in its place.
    drawn = 31 * regions - best
    last = sample_regions(importance, 1, stream(), important=0.0, oversample=drawn - 1, **options)
    assert torch.equal(chosen[:, -1:], last) and chosen.shape[1] == regions
    assert (importance.flatten(1)[0][chosen[0, :best]] == 1).all()


@pytest.mark.parametrize(("wrong", "low", "high"), [(16, 16, 16), (-1, -1, -1)])
def test_positions_outside_the_map_are_refused(wrong, low, high):
    positions = torch.full((1, 2, 3), wrong)
    with pytest.raises(ValueError, match=f"positions go from {low} to {high}; the map has the positions 0 to 15"):
        DTIEM()(torch.rand(1, 3, 4, 4), positions)


def test_importance_refuses():
    for bad in (torch.zeros(2, 4, 4), torch.zeros(0, 3, 4, 4)):
        with pytest.raises(ValueError, match=r"\(N, C, H, W\) and not empty"):
            texture_importance(bad)
    for bad in (torch.zeros(2, 1, 4, 4), torch.zeros(3, 4, 4), torch.zeros(0, 3, 4, 4)):
        with pytest.raises(ValueError, match=r"\(N, K, H, W\), K >= 2"):
            uncertainty_importance(bad)
