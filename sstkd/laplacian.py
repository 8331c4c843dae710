"""Laplacian pyramid on the torus (periodic boundary), with the framing-pyramid synthesis.

    low  c = the even-indexed samples of  h h^T * x
    band d = x - g g^T * up(c)
    back x = d + g g^T * up(c - down(h h^T * d))

Source: Do, Vetterli, "Framing pyramids" (IEEE Trans. Signal Proc. 51, 2003). The synthesis is the dual given there, not
the plain sum d + g g^T * up(c): both return x from untouched coefficients, and only the dual is the pseudo-inverse for
orthogonal filters.

Filtering one side is a product with a circulant matrix that is built once per size. That costs O(H + W) per position,
and needs no padding and no loop over channels; it suits feature maps, not images of thousands of pixels. The products
obey `torch.set_float32_matmul_precision`: below "highest" they lose digits on devices with reduced-precision units.
"""

from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral

import torch
from torch import Tensor

from sstkd.filters import Pyramid, pyramid_filters


def laplacian_pyramid(x: Tensor, levels: int = 2, pyramid: Pyramid = "9-7") -> tuple[Tensor, list[Tensor]]:
    """Split maps into a low-pass map and `levels` band-pass maps.

    Args:
        x: maps, (..., H, W), H and W multiples of 2**levels. Half precision is widened to float32; autocast is off.
        levels: number of pyramid levels, at least 1.
        pyramid: low-pass pair; a name, or `PyramidFilters`.

    Returns:
        The low-pass map (..., H / 2**levels, W / 2**levels), and the band-pass maps coarse to fine; the last has
        the sides of x.

    Raises:
        ValueError: levels below 1, unknown filters, fewer than two dimensions, or a side that is not a multiple.
    """
    if not isinstance(levels, Integral) or levels < 1:
        raise ValueError(f"levels is {levels}; a pyramid needs a whole number, at least 1")
    _check_sides(x, 2**levels)
    low, bands = x, []
    for _ in range(levels):
        low, band = split(low, pyramid)
        bands.append(band)
    return low, bands[::-1]


def inverse_laplacian_pyramid(low: Tensor, bands: Sequence[Tensor], pyramid: Pyramid = "9-7") -> Tensor:
    """The maps that `laplacian_pyramid` split: from low (..., h, w) and band-pass maps coarse to fine, (..., H, W).

    Raises:
        ValueError: a band that is not (..., 2 h, 2 w) for the map (..., h, w) below it, or unknown filters.
    """
    for band in bands:
        low = merge(low, band, pyramid)
    return low


def split(x: Tensor, pyramid: Pyramid = "9-7") -> tuple[Tensor, Tensor]:
    """One pyramid level: x (..., H, W) with even sides -> low (..., H/2, W/2) and band (..., H, W).

    Raises:
        ValueError: fewer than two dimensions, an odd or zero side, or unknown filters.
    """
    _check_sides(x, 2)
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        low = _down(x, pyramid)
        return low, x - _up(low, pyramid)


def merge(low: Tensor, band: Tensor, pyramid: Pyramid = "9-7") -> Tensor:
    """Invert `split`: low (..., H/2, W/2) and band (..., H, W) -> x (..., H, W).

    Raises:
        ValueError: the band is not (..., 2 h, 2 w) for low (..., h, w), complex maps, or unknown filters.
    """
    _check_sides(band, 2)
    _check_sides(low, 1)
    want = (*low.shape[:-2], 2 * low.shape[-2], 2 * low.shape[-1])
    if tuple(band.shape) != want:
        raise ValueError(f"band has shape {tuple(band.shape)}; for low {tuple(low.shape)} it must be {want}")
    with torch.autocast(band.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(low.dtype, band.dtype), torch.float32)
        low, band = low.to(dtype), band.to(dtype)
        return band + _up(low - _down(band, pyramid), pyramid)


def _down(x: Tensor, pyramid: Pyramid) -> Tensor:
    rows = _analysis_matrix(x.shape[-2], pyramid, x.device, x.dtype)
    cols = _analysis_matrix(x.shape[-1], pyramid, x.device, x.dtype)
    return rows @ x @ cols.mT


def _up(low: Tensor, pyramid: Pyramid) -> Tensor:
    rows = _synthesis_matrix(2 * low.shape[-2], pyramid, low.device, low.dtype)
    cols = _synthesis_matrix(2 * low.shape[-1], pyramid, low.device, low.dtype)
    return rows @ low @ cols.mT


@lru_cache(maxsize=64)
def _analysis_matrix(size: int, pyramid: Pyramid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Filter and keep the even samples: (size / 2, size)."""
    # A cached tensor made inside inference_mode could not be used for training afterwards.
    with torch.inference_mode(False):
        return _circulant(size, pyramid_filters(pyramid).analysis).to(device, dtype)


@lru_cache(maxsize=64)
def _synthesis_matrix(size: int, pyramid: Pyramid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Insert zeros and filter: (size, size / 2)."""
    with torch.inference_mode(False):
        return _circulant(size, pyramid_filters(pyramid).synthesis).T.contiguous().to(device, dtype)


def _circulant(size: int, taps: tuple[float, ...]) -> Tensor:
    # Filter and keep the even samples. The taps are symmetric, so the transpose inserts zeros and filters.
    matrix = torch.zeros(size // 2, size, dtype=torch.float64)
    row = torch.arange(size // 2)
    for i, tap in enumerate(taps):
        # One tap touches each row once, so += is safe; taps that wrap around a short map do add up.
        matrix[row, (2 * row + i - len(taps) // 2) % size] += tap
    return matrix


def _check_sides(x: Tensor, multiple: int) -> None:
    if x.is_complex() or x.ndim < 2:
        raise ValueError(f"maps must be real and (..., H, W); given {x.dtype} of shape {tuple(x.shape)}")
    height, width = x.shape[-2:]
    if height < 1 or width < 1 or height % multiple or width % multiple:
        raise ValueError(f"maps have sides ({height}, {width}); both must be positive multiples of {multiple}")
