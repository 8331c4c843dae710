"""Regions, equalisation, and the graph that a texture head trains."""

from math import inf, nan

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sstkd.dtiem import (
    DTIEM,
    Equalized,
    clip_counts,
    cumulative,
    region_intensity,
    sample_regions,
    texture_importance,
    whole_map,
)
from sstkd.graph import GraphEnhancement
from sstkd.losses import statistical_loss
from sstkd.texture_head import TextureHead, tile_positions


def random(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def trained_graph(levels=32, width=6, **settings):
    """A graph after one batch in train mode, through the head that trains it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = TextureHead(3, 2, width=width, hidden=5, levels=levels, **settings)
        head(torch.randn(2, 3, 8, 8))
    return head.graph


def both_variants(levels=32):
    graph = trained_graph(levels).double()
    return {"equalize": DTIEM(levels), "graph": DTIEM(levels, variant="graph", graph=graph)}


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


@pytest.mark.parametrize("variant", ["equalize", "graph"])
@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("kind", ["constant", "single position", "equal similarities", "zeros", "some zeros"])
def test_no_nan_out_of_finite_input(variant, levels, kind):
    hw = (1, 1) if kind == "single position" else (5, 6)
    features = random(2, 2, *hw) + 0.1
    if kind == "constant":
        features[:] = 3.0
    elif kind == "equal similarities":  # at the same angle on either side of the mean
        features[:, 0] = 1.0
        features[:, 1] = torch.where(torch.arange(30).view(5, 6) % 2 == 0, 0.5, -0.5)
    elif kind == "zeros":
        features.zero_()
    elif kind == "some zeros":
        features[:, :, 2:4] = 0.0
    features.requires_grad_()
    regions = sample_regions(texture_importance(features.detach()), 3, stream())
    dtiem = both_variants(levels)[variant]
    for positions in (regions, whole_map(2, *hw, features.device)):
        out = dtiem.equalize(features, positions)
        assert all(part.isfinite().all() for part in out)
        spread = float((out.values.detach().amax(2) - out.values.detach().amin(2)).max())
        assert spread < 1e-9 or kind == "some zeros"
        target = Equalized(torch.zeros_like(out.values), torch.zeros_like(out.cumulative))
        (gradient,) = torch.autograd.grad(statistical_loss(out, target, 1.0), features)
        assert gradient.isfinite().all() and float(gradient.abs().max()) < 1e4


@pytest.mark.parametrize("variant", ["equalize", "graph"])
def test_an_empty_list_of_regions_is_a_loss_of_zero(variant):
    features = random(2, 3, 4, 4).requires_grad_()
    out = both_variants()[variant].equalize(features, torch.zeros(2, 0, 9, dtype=torch.long))
    assert out.values.shape[:3] == (2, 0, 9) and out.cumulative.shape == (2, 0, 32)
    loss = statistical_loss(out, Equalized(out.values.detach(), out.cumulative.detach()), 1.0)
    assert loss == 0
    loss.backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("variant", ["equalize", "graph"])
def test_what_is_not_finite_is_an_error_with_its_name(bad, variant):
    features, everywhere = random(2, 3, 4, 5), whole_map(2, 4, 5, torch.device("cpu"))
    features[1, 2, 0, 3] = bad
    dtiem = both_variants()[variant]
    with pytest.raises(ValueError, match=r"student stage1\+stage2: 1 of 120 values .* the first at \[1, 2, 0, 3\]"):
        dtiem(features, everywhere, "student stage1+stage2")
    with pytest.raises(ValueError, match="features: 1 of 120"):
        dtiem(features, everywhere)
    dtiem.check_finite = False
    assert dtiem(features, everywhere)[1].isnan().any() and dtiem(features, everywhere)[0].isfinite().all()


@pytest.mark.parametrize(("iterations", "relaxation"), [(1, 0.5), (2, 0.5), (10, 0.5), (40, 0.99)])
@pytest.mark.parametrize("levels", [2, 32, 256])
@pytest.mark.parametrize("min_range", [0.0, 1e-30, 0.01])
@pytest.mark.parametrize("kind", ["opposite halves", "one rounding apart", "two values"])
def test_no_nan_whatever_the_settings(kind, min_range, levels, iterations, relaxation):
    features = torch.ones(1, 3, 8, 8)
    if kind == "opposite halves":  # their mean is 0, so all intensities are
        features[:, :, 4:] = -1.0
    elif kind == "one rounding apart":
        features[:, 0, ::2] += 2e-7
    else:
        features[..., ::2] = torch.tensor([1.0, 1.0, 1.0 + 2**-20]).view(3, 1, 1)
    features.requires_grad_()
    out = DTIEM(levels, iterations, relaxation, None, min_range).equalize(features, whole_map(1, 8, 8, features.device))
    (gradient,) = torch.autograd.grad(out.values.square().sum() + out.cumulative.square().sum(), features)
    assert all(part.isfinite().all() for part in (*out, gradient))


def test_norms_that_overflow_are_an_error():
    features, everywhere = random(1, 3, 4, 4).float(), whole_map(1, 4, 4, torch.device("cpu"))
    want = DTIEM()(features, everywhere)
    torch.testing.assert_close(DTIEM()(1e18 * features, everywhere), want, rtol=1e-3, atol=1e-3)
    dtiem = DTIEM()
    with pytest.raises(
        ValueError, match=r"student stage1: the largest value is .*e\+29, too large for norms in torch.float32"
    ):
        dtiem(1e30 * features, everywhere, "student stage1")
    dtiem.check_finite = False
    assert dtiem(1e30 * features, everywhere).isnan().all()


def test_forward_is_the_first_part_of_equalize():
    features = random(2, 3, 6, 6)
    positions = sample_regions(texture_importance(features), 4, stream())
    for dtiem in both_variants().values():
        out = dtiem.equalize(features, positions)
        assert torch.equal(dtiem(features, positions), out.values)
        torch.testing.assert_close(out.cumulative[..., -1], torch.ones(2, 4, dtype=torch.float64))
        assert (out.cumulative.diff() >= 0).all()


def test_graph_against_its_equations():
    features, graph = random(1, 3, 4, 5), trained_graph().double().eval()
    positions = whole_map(1, 4, 5, features.device)
    levels, share, (lower, low, high) = DTIEM().quantize(features, positions)
    first, second = graph.embed[0], graph.embed[2]
    rows = []
    for level, part in zip(levels[0, 0], share[0, 0], strict=True):
        hidden = first.weight @ torch.stack((level, 32 * part)) + first.bias
        hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
        rows.append((second.weight @ hidden + second.bias).clamp(min=0))
    e = torch.stack(rows)
    related = []
    for m in range(32):
        weight = torch.stack([torch.exp((graph.k.weight @ e[m]) @ (graph.q.weight @ e[n])) for n in range(32)])
        related.append(graph.out.weight @ ((weight / weight.sum()) @ (e @ graph.v.weight.T)))
    f, norm = torch.stack(related), graph.norm
    f = (f - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    f = f.clamp(min=0)
    want = low[0, 0, :, None] * f[lower[0, 0]] + high[0, 0, :, None] * f[lower[0, 0] + 1]
    got = DTIEM(variant="graph", graph=graph)(features, positions)
    assert got.shape == (1, 1, 20, 6)
    torch.testing.assert_close(got[0, 0], want)


def test_gradient_through_the_graph():
    features = random(1, 3, 3, 3).requires_grad_()
    positions = whole_map(1, 3, 3, features.device)
    dtiem = DTIEM(4, variant="graph", graph=trained_graph(4).double())
    assert torch.autograd.gradcheck(lambda x: dtiem(x, positions), features)


def test_the_graph_is_a_frozen_copy():
    graph = trained_graph()
    dtiem = nn.Sequential(DTIEM(variant="graph", graph=graph)).train()[0]
    assert dtiem.training and not any(m.training for m in dtiem.graph.modules())
    assert not any(p.requires_grad for p in dtiem.parameters())
    assert all(p.requires_grad for p in graph.parameters()) and graph.training
    assert not {p.data_ptr() for p in graph.parameters()} & {p.data_ptr() for p in dtiem.parameters()}
    before = dtiem.graph.norm.running_mean.clone()
    dtiem(torch.randn(1, 3, 4, 4, generator=stream()), whole_map(1, 4, 4, before.device))
    assert torch.equal(before, dtiem.graph.norm.running_mean)


def test_graph_weights_travel_through_state_dicts():
    graph = trained_graph(width=7)
    states = [
        graph.state_dict(),
        {f"texture_head.graph.{name}": tensor for name, tensor in graph.state_dict().items()} | {"x": torch.zeros(1)},
    ]
    for state in states:
        read = GraphEnhancement.from_state(state)
        assert read.width == 7 and read.trained()
        assert all(torch.equal(a, b) for a, b in zip(read.state_dict().values(), states[0].values(), strict=True))
    with pytest.raises(ValueError, match=r"0 trained texture graphs among 1 tensors.*TextureHead"):
        GraphEnhancement.from_state({"conv.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="2 trained texture graphs"):
        GraphEnhancement.from_state({"a.texture_settings": torch.zeros(5), "b.texture_settings": torch.zeros(5)})
    with pytest.raises(ValueError, match="not complete: it has texture_settings"):
        GraphEnhancement.from_state({"texture_settings": torch.zeros(5)})
    with pytest.raises(ValueError, match="does not fit"):
        GraphEnhancement.from_state(graph.state_dict() | {"k.weight": torch.zeros(2, 2)})


def test_a_teacher_without_trained_weights_is_refused_and_told_how_to_train():
    with pytest.raises(ValueError, match=r"needs weights that the teacher was trained with\. Train the teacher with"):
        DTIEM(variant="graph")
    with pytest.raises(ValueError, match=r"random weights\. Train the teacher with sstkd\.TextureHead"):
        DTIEM(variant="graph", graph=GraphEnhancement())
    with pytest.raises(ValueError, match="does not use"):
        DTIEM(graph=trained_graph())
    with pytest.raises(ValueError, match="trained with levels 32, not 16, clip_limit 0, not 4: use the same"):
        DTIEM(16, variant="graph", graph=trained_graph(clip_limit=None))
    with pytest.raises(ValueError, match="width is 0"):
        GraphEnhancement(0)


@pytest.mark.parametrize("hw", [(8, 8), (5, 7), (1, 1), (2, 9)])
@pytest.mark.parametrize("tiles", [1, 2, 3, 4])
def test_tiles_cover_the_map(hw, tiles):
    positions, home = tile_positions(*hw, tiles, torch.device("cpu"))
    assert torch.equal(positions.flatten()[home], torch.arange(hw[0] * hw[1]))
    assert len(positions) <= tiles**2
    rows, columns = positions // hw[1], positions % hw[1]
    assert (rows.amax(1) - rows.amin(1) < -(-hw[0] // tiles)).all()
    assert (columns.amax(1) - columns.amin(1) < -(-hw[1] // tiles)).all()


def test_the_head_enhances_tile_by_tile_as_dtiem_does():
    head = TextureHead(3, 4, width=6).double().train()
    features = random(2, 3, 8, 6)
    head(features)
    head.eval()
    enhanced = head.enhance(features)
    positions = tile_positions(8, 6, 2, features.device)[0].expand(2, -1, -1)
    tiles = DTIEM(variant="graph", graph=head.graph)(features, positions)
    for m in range(4):
        torch.testing.assert_close(enhanced.flatten(2)[:, :, positions[0, m]], tiles[:, m].mT)
    assert head(features).shape == (2, 4, 8, 6)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("hw", [(1, 1), (3, 5)])
def test_the_head_on_constant_maps(value, hw):
    head = TextureHead(3, 4, levels=256, width=6)
    features = torch.full((2, 3, *hw), value, requires_grad=True)
    scores = head(features)
    scores.square().sum().backward()
    assert scores.isfinite().all() and features.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_the_enhanced_map_alone_can_be_trained_to_tell_textures():
    """Two textures of the same mean, flat and rough: the classifier sees nothing but the graph's vectors."""
    torch.manual_seed(0)
    draw = stream(1)
    rough = torch.randint(0, 2, (16,), generator=draw)
    noise = torch.randn(16, 1, 8, 8, generator=draw)
    features = torch.cat((torch.ones(16, 1, 8, 8), noise * (0.05 + 0.95 * rough.view(-1, 1, 1, 1))), 1)
    labels = rough.view(-1, 1, 1).expand(-1, 8, 8)
    head = TextureHead(2, 2, width=8, tiles=1)
    with torch.no_grad():
        head.classify.weight[:, 8:] = 0
    head.classify.weight.register_hook(lambda g: torch.cat((g[:, :8], torch.zeros_like(g[:, 8:])), 1))
    optimizer = torch.optim.Adam(head.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(head(features), labels).backward()
        optimizer.step()
    head.eval()
    assert float((head(features).argmax(1) == labels).float().mean()) > 0.95


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


def test_clipping_whole_counts():
    share = torch.tensor([[9.0, 3.0, 0.0, 0.0], [1.0, 1.0, 10.0, 0.0]]) / 12
    # Limit int(1.2 * 12 / 4) = 3: 6 over, one each and the two that remain at levels 0 and 2; 7 over, likewise 0, 1, 2.
    want = torch.tensor([[3.0 + 2, 3 + 1, 0 + 2, 0 + 1], [1.0 + 2, 1 + 2, 3 + 2, 0 + 1]]) / 12
    torch.testing.assert_close(clip_counts(share, 1.2, positions=12), want)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 1}, "levels is 1"),
        ({"iterations": -1}, "iterations -1"),
        ({"relaxation": 1.0}, "relaxation is 1.0"),
        ({"clip_limit": 0.5}, "clip_limit is 0.5"),
        ({"clip_limit": float("nan")}, "clip_limit is nan"),
        ({"min_range": -0.1}, "min_range"),
        ({"min_range": inf}, r"min_range is inf; it must be in \[0, 2\]"),
        ({"min_range": nan}, "min_range is nan"),
        ({"levels": 2.5}, "levels is 2.5.*integers"),
        ({"levels": nan}, "levels is nan"),
        ({"iterations": 1.5}, r"iterations 1\.5"),
        ({"variant": "other"}, "'equalize', 'graph'"),
    ],
)
def test_dtiem_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        DTIEM(**options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_head_takes_features_of_any_precision(dtype):
    head = TextureHead(3, 2).eval()
    features = random(2, 3, 8, 8).to(dtype)
    scores = head(features)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, head(features.float()), rtol=1e-3, atol=1e-3)


def test_numbers_that_are_no_integers_are_refused():
    for build in (lambda: GraphEnhancement(2.5), lambda: TextureHead(3, 2, tiles=1.5), lambda: TextureHead(3.0, 2)):
        with pytest.raises(ValueError, match="integers"):
            build()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(N, H, W\)"):
        sample_regions(torch.zeros(4, 4), 2, stream())
    with pytest.raises(ValueError, match="maps that are not empty"):
        DTIEM()(torch.zeros(0, 3, 4, 4), whole_map(0, 4, 4, torch.device("cpu")))
    with pytest.raises(ValueError, match="same N"):
        DTIEM()(torch.zeros(2, 3, 4, 4), whole_map(1, 4, 4, torch.device("cpu")))
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="at least one a region"):
        DTIEM()(x, torch.zeros(2, 3, 0, dtype=torch.long))
    with pytest.raises(ValueError, match=r"must be int64.*torch\.int32"):
        DTIEM()(x, torch.zeros(2, 3, 5, dtype=torch.int32))
    with pytest.raises(ValueError, match="maps that are not empty"):
        DTIEM()(x[:, :, :0], torch.zeros(2, 3, 5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        TextureHead(3, 2)(x[0])
    with pytest.raises(ValueError, match="tiles 0"):
        TextureHead(3, 2, tiles=0)
