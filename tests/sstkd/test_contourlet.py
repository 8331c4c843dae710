"""The contourlet transform: inversion, sampling, frame bounds, directions, covariance, gradient, precision, refusals.

Its values are checked in tests/oracles/test_contourlet_oracle.py.
"""

import math

import numpy as np
import pytest
import torch

from sstkd import (
    Contourlet,
    FanFilters,
    PyramidFilters,
    _cache,
    _linear,
    _periodic,
    _responses,
    _toolbox,
    contourlet,
    directional_filter_bank,
    inverse_contourlet,
    inverse_directional_filter_bank,
)
from sstkd.cdm import noise_deviations
from sstkd.filters import fan_filters, pyramid_filters

BOUNDARIES = ("periodic", "toolbox")
FILTERS = [("9-7", "pkva"), ("Burt", "pkva6"), ("pkva", "pkva8"), ("5-3", "5-3"), ("9-7", "9-7")]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def flat(c):
    return [c.lowpass, *(band for bands in c.bands for band in bands)]


def dense(transform, height, width):
    """The linear map as a matrix (coefficients, H W)."""
    parts = transform(torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width))
    return torch.cat([part.flatten(1) for part in parts], 1).T


def wave(height, width, row, col):
    """cos of `row` turns down and `col` turns across the map."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.cos(2 * math.pi * (row * y / height + col * x / width).double() + 0.3)


def ideal_band(row, col, k):
    """The wedge of a frequency, from the definition of the order of directions."""
    half = 2**k / 2
    if abs(col) > abs(row):
        return math.floor((row / col + 1) / 2 * half)
    return math.floor(half + (1 - col / row) / 2 * half)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("pyramid", "directional"), FILTERS)
@pytest.mark.parametrize("levels", [(3, 4), (0, 1), (2,), (5,), (1, 2, 3)])
def test_reconstruction(boundary, pyramid, directional, levels):
    x = random(2, 3, 32, 64)
    back = inverse_contourlet(contourlet(x, levels, pyramid, directional, boundary))
    assert back.dtype == torch.float64
    assert float((back - x).abs().max()) <= 1e-12
    x = x.float()
    back = inverse_contourlet(contourlet(x, levels, pyramid, directional, boundary))
    assert back.dtype == torch.float32
    assert float((back - x).abs().max()) <= 5e-6


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_shapes_and_redundancy(boundary):
    c = contourlet(random(2, 3, 48, 80), (1, 0, 2, 4), boundary=boundary)
    assert c.lowpass.shape == (2, 3, 3, 5)
    shapes = [[tuple(band.shape[-2:]) for band in bands] for bands in c.bands]
    assert shapes == [[(3, 10)] * 2, [(6, 10)] * 3, [(12, 20)] * 4, [(6, 40)] * 8 + [(24, 10)] * 8]
    for levels, most in (((4,), 1.25), ((3, 4), 1.3125), ((2, 3, 4), 4 / 3)):
        number = sum(part.numel() for part in flat(contourlet(random(1, 1, 64, 32), levels, boundary=boundary)))
        assert number / (64 * 32) <= most
    for k in range(6):
        bands = directional_filter_bank(random(1, 1, 64, 32), k, boundary=boundary)
        assert len(bands) == 2**k
        assert sum(band.numel() for band in bands) == 64 * 32


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("height", [8, 24, 40])
def test_any_multiple_of_the_needed_size_works(boundary, height):
    """Also maps smaller than the filters."""
    for width in (8, 16, 72):
        x = random(1, 1, height, width)
        torch.testing.assert_close(inverse_contourlet(contourlet(x, boundary=boundary)), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("pyramid", "directional"), [("9-7", "pkva"), ("5-3", "9-7")])
def test_a_constant_image_gives_zero_bands(boundary, pyramid, directional):
    c = contourlet(torch.ones(1, 1, 32, 32, dtype=torch.float64), (3, 4), pyramid, directional, boundary)
    torch.testing.assert_close(c.lowpass, torch.full_like(c.lowpass, 4.0), rtol=0, atol=1e-12)
    assert max(float(band.abs().max()) for bands in c.bands for band in bands) < 1e-12


BOUNDS = [  # smallest and largest ||T x||^2 / ||x||^2 at 32 x 32 with the toolbox's boundary rule, by SVD elsewhere
    ((2, 3), "9-7", "pkva", (0.247, 4.28)),
    ((3, 4), "9-7", "pkva", (0.128, 8.55)),
    ((2, 3), "9-7", "9-7", (0.563, 2.14)),
]


@pytest.mark.parametrize(("levels", "pyramid", "directional", "bounds"), BOUNDS)
def test_frame_bounds(levels, pyramid, directional, bounds):
    matrix = dense(lambda x: flat(contourlet(x, levels, pyramid, directional, "toolbox")), 32, 32)
    values = torch.linalg.eigvalsh(matrix.T @ matrix)
    assert (float(values[0]), float(values[-1])) == pytest.approx(bounds, rel=5e-3)


@pytest.mark.parametrize(
    ("directional", "bounds"),
    [
        ("pkva", [(0.50, 2.0), (0.32, 3.1), (0.19, 5.1), (0.11, 9.1)]),
        ("9-7", [(0.76, 1.32), (0.64, 1.57), (0.50, 1.98), (0.39, 2.59)]),
    ],
)
def test_frame_bounds_of_the_bank(directional, bounds):
    for k, (low, high) in enumerate(bounds, start=1):
        matrix = dense(lambda x, k=k: directional_filter_bank(x, k, directional, "toolbox"), 32, 32)
        values = torch.linalg.eigvalsh(matrix.T @ matrix)
        assert (float(values[0]), float(values[-1])) == pytest.approx((low, high), abs=0.0051, rel=0.012)


def test_both_boundary_rules_agree_where_the_toolbox_is_periodic():
    x = random(1, 2, 64, 64)
    for directional, deepest in (("pkva", 2), ("9-7", 3)):
        for k in range(1, deepest + 2):
            pairs = [directional_filter_bank(x, k, directional, boundary) for boundary in BOUNDARIES]
            difference = max(float((a - b).abs().max()) for a, b in zip(*pairs, strict=True))
            assert (difference < 1e-12) == (k <= deepest), (directional, k)


@pytest.mark.parametrize("directional", ["pkva", "9-7"])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_each_band_has_most_of_its_energy_in_its_own_wedge(k, directional):
    size = 64
    energy = np.abs(_responses.band_responses(_responses.Torus(size, size), k, directional, dual=False)) ** 2
    inside = np.zeros((2**k, 2**k))
    for i, row in enumerate(np.fft.fftfreq(size)):
        for j, col in enumerate(np.fft.fftfreq(size)):
            # Nyquist and the borders between wedges belong to two of them.
            if abs(row) != abs(col) and row != -0.5 and col != -0.5:
                inside[:, ideal_band(row, col, k)] += energy[:, i, j]
    assert inside.argmax(1).tolist() == list(range(2**k))
    share = inside.diagonal() / inside.sum(1)
    assert share.min() > {"pkva": 0.55, "9-7": 0.25}[directional]


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("hw", [(64, 64), (128, 64)])
def test_an_oriented_wave_lands_in_its_band(boundary, k, hw):
    """Measured in the middle of the bands, for the toolbox's rule continues the wave wrongly at the border."""
    half = 2 ** (k - 1)
    for b in range(2**k):
        centre = (b % half + 0.5) / half * 2 - 1
        row, col = (centre * 0.35, 0.35) if b < half else (0.35, -centre * 0.35)
        turns = round(row * hw[0]), round(col * hw[1])
        bands = directional_filter_bank(wave(*hw, *turns), k, boundary=boundary)
        middle = [z[z.shape[0] // 4 : -(z.shape[0] // 4), z.shape[1] // 4 : -(z.shape[1] // 4)] for z in bands]
        energy = torch.stack([z.square().mean() * band.numel() for z, band in zip(middle, bands, strict=True)])
        assert int(energy.argmax()) == b == ideal_band(turns[0] / hw[0], turns[1] / hw[1], k)


@pytest.mark.parametrize("directional", ["pkva", "9-7"])
def test_rolls_by_the_sampling_matrix_roll_the_bands(directional):
    x = random(1, 1, 64, 96)
    c = contourlet(x, (3, 4), directional=directional)
    turned = contourlet(torch.roll(x, (16, 32), (-2, -1)), (3, 4), directional=directional)
    for a, b in zip(flat(turned), flat(c), strict=True):
        steps = 16 * a.shape[-2] // 64, 32 * a.shape[-1] // 96
        torch.testing.assert_close(a, torch.roll(b, steps, (-2, -1)), rtol=0, atol=1e-13)
    # Each band by one step of its own lattice.
    for k in (2, 3, 4):
        for b, band in enumerate(directional_filter_bank(x, k, directional)):
            for axis in (-2, -1):
                step = x.shape[axis] // band.shape[axis]
                other = directional_filter_bank(torch.roll(x, step, axis), k, directional)[b]
                torch.testing.assert_close(other, torch.roll(band, 1, axis), rtol=0, atol=1e-13)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_linear_and_adjoint(boundary):
    x, y = random(1, 2, 32, 32).requires_grad_(), random(1, 2, 32, 32, seed=1)
    parts = flat(contourlet(x, boundary=boundary))
    both = flat(contourlet(2 * x - 3 * y, boundary=boundary))
    for a, b, c in zip(both, parts, flat(contourlet(y, boundary=boundary)), strict=True):
        torch.testing.assert_close(a, 2 * b - 3 * c)
    towards = [random(*part.shape, seed=i) for i, part in enumerate(parts)]
    (gradient,) = torch.autograd.grad(parts, x, towards)
    inner = sum((a * b).sum() for a, b in zip(parts, towards, strict=True))
    torch.testing.assert_close(inner, (gradient * x).sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("directional", ["pkva6", "5-3"])
@pytest.mark.parametrize("levels", [(0, 2), pytest.param((1, 3), marks=pytest.mark.slow)])
def test_gradient(boundary, directional, levels):
    def forward(v):
        return tuple(flat(contourlet(v, levels, "5-3", directional, boundary)))

    def back(*parts):
        made = contourlet(torch.zeros(1, 1, 8, 16), levels, "5-3", directional, boundary)
        bands, rest = [], list(parts[1:])
        for old in made.bands:
            bands.append(rest[: len(old)])
            rest = rest[len(old) :]
        return inverse_contourlet(Contourlet(parts[0], bands, *[getattr(made, n) for n in NAMES]))

    x = random(1, 1, 8, 16).requires_grad_()
    parts = [part.detach().requires_grad_() for part in forward(x)]
    assert torch.autograd.gradcheck(forward, x)
    assert torch.autograd.gradcheck(back, parts)
    assert torch.autograd.gradgradcheck(forward, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(back, parts, fast_mode=True)


NAMES = ("levels", "pyramid", "directional", "boundary")


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_nothing_is_stored_for_the_gradient(boundary):
    stored = []
    x = random(2, 3, 32, 32).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(stored.append, lambda t: t):
        c = contourlet(x, boundary=boundary)
        inverse_contourlet(c)
    assert stored == []


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_gradient_of_some_bands_only(boundary):
    x = random(1, 2, 16, 16).requires_grad_()
    c = contourlet(x, boundary=boundary)
    (some,) = torch.autograd.grad(c.bands[0][2].sum(), x)
    c = contourlet(x, boundary=boundary)
    zeros = [torch.zeros_like(part) for part in flat(c)]
    zeros[3] += 1
    (all_given,) = torch.autograd.grad(flat(c), x, zeros)
    torch.testing.assert_close(some, all_given, rtol=0, atol=1e-13)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_precision(boundary):
    x = random(1, 2, 32, 32)
    exact = flat(contourlet(x, boundary=boundary))
    for ours, theirs in zip(flat(contourlet(x.float(), boundary=boundary)), exact, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-6
    half = x.to(torch.bfloat16)
    widened = flat(contourlet(half.float(), boundary=boundary))
    with torch.autocast("cpu", torch.bfloat16):
        c = contourlet(half, boundary=boundary)
        back = inverse_contourlet(c)
    for ours, theirs in zip(flat(c), widened, strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(back, half.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_maps_do_not_mix(boundary, monkeypatch):
    """Whatever shares a tile; an odd number of maps; any layout in memory."""
    x = random(5, 7, 16, 16)
    c = flat(contourlet(x, boundary=boundary))
    for ours, alone in zip(c, flat(contourlet(x[2, 3], boundary=boundary)), strict=True):
        torch.testing.assert_close(ours[2, 3], alone, rtol=0, atol=1e-13)
    for ours, other in zip(
        c, flat(contourlet(x.to(memory_format=torch.channels_last), boundary=boundary)), strict=True
    ):
        assert torch.equal(ours, other)
    monkeypatch.setattr(_linear, "_TILE_BYTES", {})
    for ours, other in zip(c, flat(contourlet(x, boundary=boundary)), strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-13)
    assert contourlet(x[:0], boundary=boundary).bands[1][0].shape == (0, 7, 2, 8)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("directional", ["pkva", "9-7"])
@pytest.mark.parametrize("levels", [(2, 2), (1, 1), (1, 3), (3, 4), (4, 3), (0, 3), (3, 0, 3), (2, 3, 4)])
def test_tiles_do_not_mix(boundary, directional, levels, monkeypatch):
    """Three tiles share one work space: what one level hands to the next must not be overwritten by it."""
    monkeypatch.setattr(_linear, "_TILE_BYTES", {"cpu": 0})  # 16 maps a tile, the least
    x = random(48, 32, 32).requires_grad_()
    c = contourlet(x, levels, directional=directional, boundary=boundary)
    torch.testing.assert_close(inverse_contourlet(c), x, rtol=0, atol=1e-12)
    towards = [random(*part.shape, seed=i) for i, part in enumerate(flat(c))]
    (gradient,) = torch.autograd.grad(flat(c), x, towards)
    for i in (0, 15, 16, 33, 47):
        alone = x[i : i + 1].detach().requires_grad_()
        parts = flat(contourlet(alone, levels, directional=directional, boundary=boundary))
        (expected,) = torch.autograd.grad(parts, alone, [t[i : i + 1] for t in towards])
        torch.testing.assert_close(gradient[i : i + 1], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_input_is_left_as_it_is(boundary):
    x = random(1, 1, 16, 16)
    before = x.clone()
    c = contourlet(x, boundary=boundary)
    parts = [part.clone() for part in flat(c)]
    inverse_contourlet(c)
    assert torch.equal(x, before)
    assert all(torch.equal(a, b) for a, b in zip(parts, flat(c), strict=True))


def test_coefficients_of_mixed_types_and_numpy_depths():
    x = random(1, 1, 16, 16)
    c = contourlet(x, np.array([3, 4]))
    half = Contourlet(c.lowpass.float(), c.bands, c.levels, c.pyramid, c.directional, c.boundary)
    back = inverse_contourlet(half)
    assert back.dtype == torch.float64
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_functional_gradients(boundary):
    x = random(1, 2, 16, 16)

    def energy(v):
        return sum(part.square().sum() for part in flat(contourlet(v, boundary=boundary)))

    y = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(energy(y), y)
    torch.testing.assert_close(torch.func.grad(energy)(x), want)


@pytest.mark.parametrize(("boundary", "cached"), [("periodic", _periodic.both_ways), ("toolbox", _toolbox.level)])
def test_tables_are_kept_within_a_bound_of_bytes(boundary, cached, monkeypatch):
    assert noise_deviations.cache_info().maxsize is not None
    monkeypatch.setattr(_cache, "MAX_BYTES", 2 << 20)
    cached.tables.clear()
    x = random(1, 32, 32)
    contourlet(x, boundary=boundary)
    held, size = len(cached.tables), cached.tables.bytes()
    assert held == 2 and 0 < size < 2 << 20
    contourlet(x, boundary=boundary)
    assert (len(cached.tables), cached.tables.bytes()) == (held, size), "the same map needs no new tables"
    for side in (48, 64, 80, 96):
        contourlet(random(1, side, side), boundary=boundary)
    assert len(cached.tables) == _cache.LEAST, "what one transform needs stays, however large"
    cached.tables.clear()
    monkeypatch.setattr(_cache, "LEAST", 1)
    for side in (32, 48, 64, 80):
        contourlet(random(1, side, side), boundary=boundary)
        assert cached.tables.bytes() <= 2 << 20 or len(cached.tables) == 1


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_what_was_cached_under_inference_mode_can_be_trained_with(boundary):
    with torch.inference_mode():
        contourlet(torch.zeros(1, 1, 24, 56), boundary=boundary)
    x = torch.zeros(1, 1, 24, 56, requires_grad=True)
    contourlet(x, boundary=boundary).lowpass.sum().backward()
    assert x.grad is not None


def test_filters_of_ones_own():
    h, g = pyramid_filters("5-3")
    fans = fan_filters("5-3")
    own = contourlet(
        random(1, 1, 16, 16), (2, 3), PyramidFilters(h, g), FanFilters(fans.low.copy(), fans.high.copy()), "toolbox"
    )
    named = contourlet(random(1, 1, 16, 16), (2, 3), "5-3", "5-3", "toolbox")
    assert all(torch.equal(a, b) for a, b in zip(flat(own), flat(named), strict=True))
    with pytest.raises(ValueError, match="odd length and symmetric"):
        contourlet(random(16, 16), (2,), PyramidFilters((1.0, 2.0), (1.0,)))
    with pytest.raises(ValueError, match="low has shape"):
        FanFilters(np.ones((2, 2)), fans.high)
    with pytest.raises(ValueError, match="high is not symmetric"):
        FanFilters(fans.low, np.arange(9.0).reshape(3, 3))
    with pytest.raises(ValueError, match="not biorthogonal"):
        FanFilters(fans.low, fans.low)
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    for low, high in ((one, zero), (zero, zero), (one * np.inf, one), (one * np.nan, one)):
        with pytest.raises(ValueError, match=r"not biorthogonal|not finite"):
            FanFilters(low, high)
    odd = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="the middle tap of their product is 0"):
        FanFilters(odd, one)
    for pair in (((0.25, 0.5, 0.25), (0.25, 0.5, 0.25)), (h, h), ((1.0,), (2.0,)), ((math.inf,), (1.0,))):
        with pytest.raises(ValueError, match="not biorthogonal"):
            contourlet(random(16, 16), (2,), PyramidFilters(*pair))
    with pytest.raises(ValueError, match="must be tuples"):
        contourlet(random(16, 16), (2,), PyramidFilters([1.0], [1.0]))
    lazy = PyramidFilters((1.0,), (1.0,))
    torch.testing.assert_close(inverse_contourlet(contourlet(random(16, 16), (2,), lazy)), random(16, 16))


def test_sizes_that_do_not_fit_are_refused_with_the_multiple():
    for shape in ((1, 1, 12, 16), (1, 1, 16, 20), (1, 1, 0, 8)):
        with pytest.raises(ValueError, match="positive multiples of 8"):
            contourlet(torch.zeros(shape))
    with pytest.raises(ValueError, match="positive multiples of 16"):
        contourlet(torch.zeros(1, 1, 24, 24), (4, 2))
    with pytest.raises(ValueError, match="positive multiples of 4"):
        directional_filter_bank(torch.zeros(6, 8), 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": ()}, r"are \(\); one or more whole numbers from 0 to 8"),
        ({"levels": (3, 9)}, r"are \(3, 9\)"),
        ({"levels": (2.0,)}, "whole numbers"),
        ({"pyramid": "haar"}, "unknown pyramid filters 'haar'; allowed: '9-7'"),
        ({"directional": "haar"}, "unknown directional filters 'haar'; allowed: 'pkva'"),
        ({"boundary": "zero"}, "unknown boundary 'zero'; allowed: 'periodic', 'toolbox'"),
        ({"levels": 4}, "levels is 4; a list of depths is needed"),
        ({"levels": None}, "levels is None; a list"),
        ({"levels": "34"}, "whole numbers"),
        ({"pyramid": None}, "unknown pyramid filters None"),
        ({"pyramid": ["9-7"]}, "unknown pyramid filters"),
        ({"directional": ["pkva"]}, "unknown directional filters"),
        ({"directional": None}, "unknown directional filters None"),
        ({"boundary": ["periodic"]}, "unknown boundary"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        contourlet(torch.zeros(1, 1, 16, 16), **arguments)


def test_a_bank_checks_its_arguments_at_every_depth():
    for k in (0, 1, 3):
        with pytest.raises(ValueError, match="unknown directional filters 'haar'"):
            directional_filter_bank(torch.zeros(8, 8), k, "haar")
        with pytest.raises(ValueError, match="unknown boundary"):
            directional_filter_bank(torch.zeros(8, 8), k, boundary="none")
    for k in (None, "2", 1.5, -1, 9):
        with pytest.raises(ValueError, match="from 1 to 8"):
            directional_filter_bank(torch.zeros(8, 8), k)
    assert inverse_directional_filter_bank([torch.zeros(4, 4, dtype=torch.half)]).dtype == torch.float32
    with pytest.raises(ValueError, match="unknown directional filters"):
        inverse_directional_filter_bank([torch.zeros(4, 4)], "haar")


def test_edges_that_fall_come_first():
    """Row 0 is on top: a line along which row and column grow together falls to the right, as a backslash."""
    row, column = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    for sign, place in ((-1, 0), (1, 3)):
        wave = torch.cos(2 * math.pi * (12 * column + sign * 8 * row) / 64).double()
        energy = [float(band.square().sum()) for band in directional_filter_bank(wave, 3)]
        assert max(range(8), key=energy.__getitem__) == place


def test_bad_maps_and_coefficients():
    with pytest.raises(ValueError, match=r"real and \(\.\.\., H, W\)"):
        contourlet(torch.zeros(16))
    with pytest.raises(ValueError, match="complex64"):
        contourlet(torch.zeros(16, 16, dtype=torch.complex64))
    c = contourlet(random(1, 1, 16, 16))
    options = (c.levels, c.pyramid, c.directional, c.boundary)
    with pytest.raises(ValueError, match="coefficients must be real"):
        inverse_contourlet(Contourlet(c.lowpass.to(torch.complex128), c.bands, *options))
    with pytest.raises(ValueError, match="bands of 1 levels"):
        inverse_contourlet(Contourlet(c.lowpass, c.bands[:1], *options))
    with pytest.raises(ValueError, match="bands of a level have shapes"):
        inverse_contourlet(Contourlet(c.lowpass, [c.bands[0], c.bands[1][::-1]], *options))
    with pytest.raises(ValueError, match="multiples of 8"):
        inverse_contourlet(Contourlet(random(1, 1, 3, 3), c.bands, *options))
    with pytest.raises(ValueError, match="there are 3 bands"):
        inverse_directional_filter_bank([torch.zeros(4, 4)] * 3)
    with pytest.raises(ValueError, match="have shapes"):
        inverse_directional_filter_bank([torch.zeros(4, 4), torch.zeros(4, 6)])
