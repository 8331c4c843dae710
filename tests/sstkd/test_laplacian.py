"""Laplacian pyramid: inversion, gain, sizes, gradient."""

import math

import pytest
import torch

from sstkd.filters import pyramid_filters
from sstkd.laplacian import inverse_laplacian_pyramid, laplacian_pyramid, merge, split

NAMES = ["9-7", "5-3", "Burt"]


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_taps_are_symmetric_low_pass_and_biorthogonal(name):
    analysis, synthesis = pyramid_filters(name)
    for taps in (analysis, synthesis):
        assert taps == taps[::-1]
        assert math.isclose(sum(taps), math.sqrt(2), rel_tol=1e-15)
    # Sum over n of h[n] g[n - 2k] is 1 for k = 0 and 0 otherwise.
    centre = len(analysis) // 2 - len(synthesis) // 2
    for k in range(-4, 5):
        product = sum(
            analysis[j + centre + 2 * k] * g for j, g in enumerate(synthesis) if 0 <= j + centre + 2 * k < len(analysis)
        )
        assert math.isclose(product, float(k == 0), abs_tol=1e-15)


def test_unknown_filters_are_named():
    with pytest.raises(ValueError, match=r"'haar'.*'9-7', '5-3', 'Burt'"):
        pyramid_filters("haar")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(4, 4), (8, 20), (2, 3, 16, 8)])
def test_reconstruction(name, shape):
    x = random(*shape)
    low, bands = laplacian_pyramid(x, 2, name)
    assert [b.shape[-2:] for b in bands] == [(shape[-2] // 2, shape[-1] // 2), shape[-2:]]
    assert low.shape == (*shape[:-2], shape[-2] // 4, shape[-1] // 4)
    torch.testing.assert_close(inverse_laplacian_pyramid(low, bands, name), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_goes_to_the_low_pass_with_gain_two_per_level(name):
    low, bands = laplacian_pyramid(torch.ones(1, 1, 16, 12, dtype=torch.float64), 2, name)
    torch.testing.assert_close(low, torch.full_like(low, 4.0), rtol=0, atol=1e-12)
    assert max(b.abs().max() for b in bands) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_the_direct_formula(name):
    analysis, synthesis = pyramid_filters(name)
    x = random(6, 4)

    def filtered(y, taps):
        out = torch.zeros_like(y)
        half = len(taps) // 2
        for i, a in enumerate(taps):
            for j, b in enumerate(taps):
                out += a * b * torch.roll(y, (i - half, j - half), (0, 1))
        return out

    low = filtered(x, analysis)[::2, ::2]
    up = torch.zeros_like(x)
    up[::2, ::2] = low
    got_low, got_band = split(x, name)
    torch.testing.assert_close(got_low, low, rtol=0, atol=1e-13)
    torch.testing.assert_close(got_band, x - filtered(up, synthesis), rtol=0, atol=1e-13)


def test_batch_and_channels_do_not_mix():
    x = random(2, 3, 8, 8)
    low, band = split(x)
    one_low, one_band = split(x[1, 2])
    torch.testing.assert_close(low[1, 2], one_low)
    torch.testing.assert_close(band[1, 2], one_band)


def test_shifts_by_the_sampling_step_shift_the_coefficients():
    x = random(8, 12)
    low, band = split(x)
    rolled_low, rolled_band = split(torch.roll(x, (2, 4), (0, 1)))
    torch.testing.assert_close(rolled_low, torch.roll(low, (1, 2), (0, 1)))
    torch.testing.assert_close(rolled_band, torch.roll(band, (2, 4), (0, 1)))


def test_gradient():
    x = random(1, 2, 4, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: [laplacian_pyramid(v, 2)[0], *laplacian_pyramid(v, 2)[1]], x)


def test_half_precision_is_widened_also_under_autocast():
    x = random(1, 1, 8, 8).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        low, band = split(x)
        back = merge(low, band)
    assert low.dtype == band.dtype == back.dtype == torch.float32
    torch.testing.assert_close(back, x.float(), rtol=0, atol=1e-5)


def test_what_was_cached_under_inference_mode_can_be_trained_with():
    with torch.inference_mode():
        split(torch.zeros(34, 38))
    x = torch.zeros(34, 38, requires_grad=True)
    split(x)[1].sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("shape", [(6, 8), (8, 2), (0, 4)])
def test_sizes_that_do_not_divide_are_refused(shape):
    with pytest.raises(ValueError, match="positive multiples of 4"):
        laplacian_pyramid(torch.zeros(shape), 2)


def test_other_bad_input():
    with pytest.raises(ValueError, match=r"levels is 1\.5; a pyramid needs a whole number"):
        laplacian_pyramid(torch.zeros(4, 4), 1.5)
    with pytest.raises(ValueError, match="complex64"):
        laplacian_pyramid(torch.zeros(4, 4, dtype=torch.complex64), 1)
    for low in (torch.zeros(2), torch.zeros(1, 2, 2), torch.zeros(3, 2, 2)):
        with pytest.raises(ValueError, match="must be"):
            inverse_laplacian_pyramid(low, [torch.zeros(2, 4, 4)])
    with pytest.raises(ValueError, match="at least 1"):
        laplacian_pyramid(torch.zeros(4, 4), 0)
    with pytest.raises(ValueError, match=r"\(\.\.\., H, W\)"):
        split(torch.zeros(4))
    with pytest.raises(ValueError, match=r"must be \(4, 4\)"):
        merge(torch.zeros(2, 2), torch.zeros(4, 6))
