"""Directional split: wedge windows in the frequency plane, undecimated.

    y_b = IDFT( M_b . DFT(x) ),   M_b real, M_b(-w) = M_b(w),   sum over b of M_b(w) = 1 at every frequency w

so the 2**k subbands are real, have the input's size and sum back to it exactly, and the split commutes with every
circular shift. It is 2**k times redundant: not the critically sampled directional filter bank of the contourlet
transform, whose direction order it shares.

Windows. Walking once around half the frequency plane gives each frequency a position t in [0, 2**k): in the first half,
|w_col| >= |w_row|, t grows with the slope w_row / w_col from -1 to 1; in the second, |w_row| > |w_col|, with the slope
w_col / w_row falling from 1 to -1. Band b is centred at t = b + 1/2 with window cos^2(pi/2 |t - b - 1/2|), zero from
distance 1 on, t cyclic. Frequency 0 has no direction and is shared equally; a frequency at Nyquist stands for both of
its mirror images and gets the mean of their windows.

The direction order is that of Do, Vetterli, "The contourlet transform" (IEEE Trans. Image Proc. 14, 2005) as its
authors' toolbox numbers it.
"""

from functools import lru_cache
from math import pi
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_DEPTH = 8


def directional_split(x: Tensor, depth: int) -> Tensor:
    """Split maps into 2**depth directional subbands that sum to the input.

    Args:
        x: maps, (..., H, W), of any size. Half precision is widened to float32; autocast is off.
        depth: k, from 0 (one band, the input itself) to 8.

    Returns:
        (..., 2**depth, H, W), directions in the order above. On a map with few frequencies some bands may be empty.

    Raises:
        ValueError: depth outside 0..8, or x is not (..., H, W) with at least one position.
    """
    if not 0 <= depth <= MAX_DEPTH:
        raise ValueError(f"depth is {depth}; allowed are 0 to {MAX_DEPTH}")
    if x.ndim < 2 or not x.shape[-1] or not x.shape[-2]:
        raise ValueError(f"maps must be (..., H, W) with H, W >= 1, got shape {tuple(x.shape)}")
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if depth == 0:
            return x.unsqueeze(-3)
        height, width = x.shape[-2:]
        windows = _windows(height, width, depth, x.device, x.dtype)
        planes = x.reshape(-1, height, width)
        odd = planes.shape[0] % 2
        if odd:
            planes = torch.cat((planes, torch.zeros_like(planes[:1])))
        bands: Tensor = _Windowed.apply(planes, windows)
        return bands[: bands.shape[0] - odd].reshape(*x.shape[:-2], 2**depth, height, width)


class _Windowed(torch.autograd.Function):
    """Planes (P, H, W), P even, times each window (B, H, W) in the frequency plane: (P, B, H, W).

    It can be differentiated once.

    Every operator here is real and symmetric, hence its own adjoint: the gradient is the sum over bands of the bands'
    gradients under the same windows, and nothing is kept for it. Real operators also keep the real and the imaginary
    part apart, so two planes share one complex transform (rounding of one reaches the other). On a CPU both together
    are faster than real transforms under autograd.
    """

    @staticmethod
    def forward(ctx: Any, planes: Tensor, windows: Tensor) -> Tensor:
        ctx.save_for_backward(windows)
        spectrum = torch.fft.fft2(torch.complex(*planes.chunk(2)))
        pairs = torch.fft.ifft2(spectrum.unsqueeze(1) * windows)
        return torch.cat((pairs.real, pairs.imag))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (windows,) = ctx.saved_tensors
        spectrum = torch.fft.fft2(torch.complex(*gradients[0].chunk(2)))
        pairs = torch.fft.ifft2(spectrum.mul_(windows).sum(1))
        return torch.cat((pairs.real, pairs.imag)), None


def wedge_windows(height: int, width: int, depth: int) -> Tensor:
    """The windows M_b on the full frequency grid in `torch.fft.fftfreq` order: (2**depth, height, width) float64."""
    bands = 2**depth
    if depth == 0:
        return torch.ones(1, height, width, dtype=torch.float64)
    row = torch.fft.fftfreq(height, dtype=torch.float64)[:, None].expand(height, width)
    col = torch.fft.fftfreq(width, dtype=torch.float64)[None, :].expand(height, width)
    first = col.abs() >= row.abs()
    slope = torch.where(first, row, col) / torch.where(first, col, row)  # 0 / 0 at frequency 0, set below
    position = torch.where(first, (1 + slope) / 2, 1 + (1 - slope) / 2) * (bands / 2)

    centre = torch.arange(bands, dtype=torch.float64)[:, None, None] + 0.5
    distance = (position - centre).abs()
    distance = torch.minimum(distance, bands - distance).clamp(max=1.0)
    windows = torch.cos(pi / 2 * distance).square()
    windows[:, 0, 0] = 1 / bands
    # -w is the grid point (-row, -col) modulo the size; the two differ in window at Nyquist only.
    mirrored = windows.flip(-2, -1).roll((1, 1), (-2, -1))
    windows = (windows + mirrored) / 2
    return windows / windows.sum(0)


@lru_cache(maxsize=32)
def _windows(height: int, width: int, depth: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    # A cached tensor made inside inference_mode could not be used for training afterwards.
    with torch.inference_mode(False):
        return wedge_windows(height, width, depth).to(device, dtype)
