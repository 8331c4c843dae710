"""Directional split and the Contourlet Decomposition Module."""

import math

import numpy as np
import pytest
import torch

from sstkd.cdm import CDM
from sstkd.directional import directional_split, wedge_windows
from sstkd.laplacian import decompose


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ideal_band(row, col, depth):
    """The wedge of a frequency, from the definition of the direction order by angle-free comparisons."""
    half = 2**depth / 2
    if abs(col) > abs(row):
        return math.floor((row / col + 1) / 2 * half)
    return math.floor(half + (1 - col / row) / 2 * half)


def wave(height, width, row, col):
    """cos of `row` turns down and `col` turns across the map."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.cos(2 * math.pi * (row * y / height + col * x / width).double() + 0.3)


@pytest.mark.parametrize("depth", range(6))
@pytest.mark.parametrize("hw", [(16, 16), (12, 20), (7, 9), (8, 5), (1, 1), (2, 2), (1, 6)])
def test_bands_sum_to_the_input(depth, hw):
    x = random(2, 3, *hw)
    bands = directional_split(x, depth)
    assert bands.shape == (2, 3, 2**depth, *hw)
    assert bands.dtype == torch.float64
    torch.testing.assert_close(bands.sum(-3), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth", range(6))
@pytest.mark.parametrize("hw", [(16, 16), (12, 20), (7, 8)])
def test_windows_are_a_symmetric_partition_of_unity(depth, hw):
    windows = wedge_windows(*hw, depth)
    torch.testing.assert_close(windows.sum(0), torch.ones(hw, dtype=torch.float64), rtol=0, atol=1e-14)
    mirrored = windows[:, (-torch.arange(hw[0])) % hw[0]][:, :, (-torch.arange(hw[1])) % hw[1]]
    torch.testing.assert_close(windows, mirrored, rtol=0, atol=1e-15)
    assert windows.min() >= 0


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_each_band_has_most_of_its_energy_in_its_own_wedge(depth):
    size = 64
    energy = wedge_windows(size, size, depth).square()
    inside = torch.zeros(2**depth, 2**depth)
    for i, row in enumerate(np.fft.fftfreq(size)):
        for j, col in enumerate(np.fft.fftfreq(size)):
            # Nyquist and the borders between wedges belong to two of them.
            if abs(row) == abs(col) or row == -0.5 or col == -0.5:
                continue
            inside[:, ideal_band(row, col, depth)] += energy[:, i, j]
    assert inside.argmax(1).tolist() == list(range(2**depth))
    assert (inside.diagonal() / inside.sum(1)).min() > 0.8


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("hw", [(64, 64), (48, 80)])
def test_an_oriented_wave_lands_in_its_band(depth, hw):
    half = 2 ** (depth - 1)
    for band in range(2**depth):
        centre = (band % half + 0.5) / half * 2 - 1
        row, col = (centre * 0.3, 0.3) if band < half else (0.3, -centre * 0.3)
        turns = round(row * hw[0]), round(col * hw[1])
        energy = directional_split(wave(*hw, *turns), depth).square().sum((-1, -2))
        assert int(energy.argmax()) == band == ideal_band(turns[0] / hw[0], turns[1] / hw[1], depth)
        assert energy[band] > 0.5 * energy.sum()


def test_order_in_words():
    """k = 2: edges tilted by less than 45 degrees from the vertical come first; a plain vertical wave is between 0 and 1."""
    across = directional_split(wave(16, 16, 0, 3), 2).square().sum((-1, -2))
    down = directional_split(wave(16, 16, 3, 0), 2).square().sum((-1, -2))
    torch.testing.assert_close(across, torch.tensor([32.0, 32.0, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(down, torch.tensor([0.0, 0.0, 32.0, 32.0], dtype=torch.float64))


def test_linear_and_shift_covariant():
    x, y = random(10, 14), random(10, 14, seed=1)
    both = directional_split(2 * x - 3 * y, 3)
    torch.testing.assert_close(both, 2 * directional_split(x, 3) - 3 * directional_split(y, 3))
    shifted = directional_split(torch.roll(x, (3, 5), (0, 1)), 3)
    torch.testing.assert_close(shifted, torch.roll(directional_split(x, 3), (3, 5), (-2, -1)))


@pytest.mark.parametrize("hw", [(4, 4), (3, 6)])
@pytest.mark.parametrize("planes", [1, 2, 3])
def test_gradient(hw, planes):
    x = random(planes, *hw).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: directional_split(v, 2), x)


def test_maps_do_not_mix():
    x = random(3, 8, 8)
    torch.testing.assert_close(directional_split(x, 3)[1], directional_split(x[1], 3), rtol=0, atol=1e-13)


def test_precision():
    x = random(2, 2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        half = directional_split(x.to(torch.bfloat16), 3)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.sum(-3), x.to(torch.bfloat16).float(), rtol=0, atol=1e-5)


def test_what_was_cached_under_inference_mode_can_be_trained_with():
    with torch.inference_mode():
        directional_split(torch.zeros(34, 38), 2)
    x = torch.zeros(34, 38, requires_grad=True)
    directional_split(x, 2).sum().backward()
    assert x.grad is not None


def test_bad_input():
    with pytest.raises(ValueError, match="depth is 9; allowed are 0 to 8"):
        directional_split(torch.zeros(4, 4), 9)
    with pytest.raises(ValueError, match="got shape"):
        directional_split(torch.zeros(4, 0), 1)


@pytest.mark.parametrize("levels", [(0,), (3,), (3, 4), (1, 2, 3)])
@pytest.mark.parametrize("hw", [(1, 1), (12, 12), (9, 17), (3, 24)])
def test_cdm_shapes(levels, hw):
    cdm = CDM(levels)
    assert cdm.multiple == 2 ** len(levels)
    stacks = cdm(random(2, 3, *hw))
    up = [-(-side // cdm.multiple) * cdm.multiple for side in hw]
    for i, (stack, depth) in enumerate(zip(stacks, levels, strict=True)):
        scale = 2 ** (len(levels) - 1 - i)
        assert stack.shape == (2, 3, 2**depth, up[0] // scale, up[1] // scale)


def test_cdm_is_the_pyramid_then_the_split_of_the_padded_map():
    x = random(1, 2, 6, 7)
    padded = torch.cat((x, x[:, :, -1:], x[:, :, -1:]), 2)
    padded = torch.cat((padded, padded[..., -1:]), 3)
    _, bands = decompose(padded, 2)
    for stack, band, depth in zip(CDM((2, 3))(x), bands, (2, 3), strict=True):
        torch.testing.assert_close(stack, directional_split(band, depth))
        torch.testing.assert_close(stack.sum(2), band)


def test_cdm_of_a_constant_map_is_zero():
    for stack in CDM()(torch.full((2, 3, 10, 12), 7.0)):
        assert stack.abs().max() < 1e-5


def test_cdm_gradient_and_precision():
    x = random(1, 1, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: tuple(CDM((1, 2))(v)), x)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(s.dtype == torch.float32 for s in CDM()(torch.ones(1, 1, 8, 8, dtype=torch.bfloat16)))
    assert not list(CDM().parameters())


def test_cdm_refuses():
    with pytest.raises(ValueError, match=r"levels is \(\)"):
        CDM(())
    with pytest.raises(ValueError, match="depths from 0 to 8"):
        CDM((3, 9))
    with pytest.raises(ValueError, match="unknown pyramid filters"):
        CDM(filters="haar")
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        CDM()(torch.zeros(3, 8, 8))
