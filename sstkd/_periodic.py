"""The contourlet transform on the torus, computed in the frequency domain.

A band of a level is y_b[n] = sum over m of e_b[m] x[S_b n - m], indices on Z_H x Z_W, with the band's equivalent filter
e_b (Laplacian pyramid and all splits of the tree multiplied out) and diagonal lattice S_b. With E_b its transform,

    Y_b(u) = 1 / |S_b|  sum over the |S_b| aliases w of u of  E_b(w) X(w)

so, per output frequency u, the bands of one lattice are one complex matrix (bands x aliases) times the aliases' values,
for all maps at once. The inverse is a matrix (aliases x bands) per frequency. Adjoint and inverse of either direction
are the other direction with other matrices, so a gradient needs no stored tensors.

Maps and filters are real, so two maps share one complex plane from the first transform to the last.

Shapes: P maps, Q = P / 2 complex planes, U V output frequencies, B bands of one lattice, A aliases.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sstkd import _tree as tree
from sstkd._cache import kept
from sstkd._responses import Response, Torus, band_responses, level_responses
from sstkd._scratch import Scratch
from sstkd.filters import Directional, Pyramid


class Group(NamedTuple):
    """Bands of one lattice: `matrix` (U * V, A, B) of the analysis, or (U * V, B, A) of the synthesis.

    `paired`: two bands on a quincunx lattice, as four maps that hold their even and odd columns.
    """

    sampling: tuple[int, int]
    matrix: Tensor
    paired: bool


class Level(NamedTuple):
    """One level: the gain of its low-pass on the full grid (H, W), 0-d where there is none, and the bands' groups."""

    low: Tensor
    groups: tuple[Group, ...]


def level(
    hw: tuple[int, int],
    depth: int,
    pyramid: Pyramid | None,
    directional: Directional,
    kind: tree.Kind,
    device: torch.device,
    dtype: torch.dtype,
) -> Level:
    """Tables of one level on maps of (H, W).

    Args:
        hw: sides of the level's input.
        depth: depth of the directional bank; with a pyramid, 0 is a wavelet step.
        pyramid: None for the bank alone.
        directional: filters of the bank.
        kind: "analysis" and "synthesis" are each other's inverse; "analysis.T" is the adjoint of the analysis (it runs
            like a synthesis), "synthesis.T" that of the synthesis.
        device: device of the tables.
        dtype: real type of the maps.
    """
    dual = kind.startswith("synthesis")
    return both_ways(hw, depth, pyramid, directional, dual, device, dtype)[kind.endswith(".T")]


@kept
def both_ways(
    hw: tuple[int, int],
    depth: int,
    pyramid: Pyramid | None,
    directional: Directional,
    dual: bool,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Level, Level]:
    """Analysis and its adjoint, or (dual) synthesis and its adjoint: a gradient needs both, from the same responses."""
    torus = Torus(*hw)
    gain: Response = np.zeros(())
    if pyramid is None:
        bands = band_responses(torus, depth, directional, dual)
    else:
        gain, bands = level_responses(torus, depth, pyramid, directional, dual)
    complex_dtype = torch.promote_types(dtype, torch.complex64)
    half, fine = len(bands) // 2, 2 ** (depth - 1)
    groups = [((2, 2), bands)] if depth <= 2 else [((fine, 2), bands[:half]), ((2, fine), bands[half:])]
    down, up = [], []
    # A cached tensor created in inference_mode could not be used for training later.
    with torch.inference_mode(False):
        for sampling, responses in groups:
            aliases = sampling[0] * sampling[1]
            # Into the bands: the responses of the analysis, or the conjugates of the synthesis; 1 / |S| because the
            # discrete transforms on both sides differ in length by |S|.
            into = torch.from_numpy(_matrix(responses.conj() if dual else responses, sampling)).to(device)
            down.append(Group(sampling, (into.mT / aliases).to(complex_dtype).contiguous(), depth == 1))
            up.append(Group(sampling, into.conj().resolve_conj().to(complex_dtype), depth == 1))
        table = torch.from_numpy(gain).to(device, dtype)
        # The low-pass has a quarter of the samples.
        into_bands, to_maps = Level(table / 4, tuple(down)), Level(table, tuple(up))
    return (to_maps, into_bands) if dual else (into_bands, to_maps)


def _matrix(response: Response, sampling: tuple[int, int]) -> Response:
    """(B, H, W) -> (U * V, B, A)."""
    (bands, height, width), (rows, cols) = response.shape, sampling
    aliases = response.reshape(bands, rows, height // rows, cols, width // cols)
    return np.ascontiguousarray(aliases.transpose(2, 4, 0, 1, 3).reshape(-1, bands, rows * cols))


def analyse(x: Tensor, levels: list[Level], low: Tensor | None, stacks: list[list[Tensor]], scratch: Scratch) -> None:
    """Maps (P, H, W) through `levels`, fine to coarse, into `low` and per level into its groups (P, B, u, v)."""
    spectrum = torch.fft.fft2(_planes(x, scratch))
    for (gain, groups), stack in zip(levels, stacks, strict=True):
        for group, out in zip(groups, stack, strict=True):
            _write(torch.fft.ifft2(_bands(spectrum, group, scratch)), _unpaired(out) if group.paired else out)
        if gain.ndim:
            spectrum = spectrum.mul_(gain)
            height, width = spectrum.shape[-2] // 2, spectrum.shape[-1] // 2
            rows = spectrum[:, :height] + spectrum[:, height:]
            spectrum = rows[..., :width] + rows[..., width:]
    if low is not None:
        _write(torch.fft.ifft2(spectrum), low)


def _planes(x: Tensor, scratch: Scratch) -> Tensor:
    """Maps (P, ...) as complex planes (Q, ...): the first half of them real, the second half imaginary."""
    real, imaginary = x.tensor_split([-(-x.shape[0] // 2)])
    if x.shape[0] % 2:
        imaginary = torch.cat((imaginary, torch.zeros_like(real[:1])))
    out = scratch.take("planes", tuple(real.shape), x, torch.promote_types(x.dtype, torch.complex64))
    return torch.complex(real, imaginary, out=out)


def _write(planes: Tensor, out: Tensor) -> None:
    """The maps of `_planes` back into (P, ...)."""
    real, imaginary = out.tensor_split([planes.shape[0]])
    real.copy_(planes.real)
    imaginary.copy_(planes.imag[: imaginary.shape[0]])


def _unpaired(bands: Tensor) -> Tensor:
    """Two bands (P, 2, u, v) as the four maps of their even and odd columns, (P, 2, 2, u, v / 2)."""
    return bands.view(*bands.shape[:-1], -1, 2).permute(0, 1, 4, 2, 3)


def _bands(spectrum: Tensor, group: Group, scratch: Scratch) -> Tensor:
    """Spectra (Q, H, W) -> spectra of the bands (Q, B, U, V), strided; of a pair (Q, 2, 2, U, V)."""
    planes, height, width = spectrum.shape
    rows, cols = group.sampling
    u, v = height // rows, width // cols
    aliases = scratch.take("aliases", (u * v, planes, rows * cols), spectrum)
    folded = spectrum.view(planes, rows, u, cols, v).permute(2, 4, 0, 1, 3)
    aliases.view(folded.shape).copy_(folded)
    out = scratch.take("bands", (u * v, planes, group.matrix.shape[-1]), spectrum)
    bands = torch.bmm(aliases, group.matrix, out=out)
    if group.paired:
        return bands.view(u, v, planes, 2, 2).permute(2, 3, 4, 0, 1)
    return bands.view(u, v, planes, -1).permute(2, 3, 0, 1)


def synthesise(
    low: Tensor | None, stacks: list[list[Tensor]], levels: list[Level], x: Tensor, scratch: Scratch
) -> None:
    """The inverse of `analyse`, into maps x (P, H, W); a missing low-pass map counts as zero."""
    spectrum = None if low is None else torch.fft.fft2(_planes(low, scratch))
    for (gain, groups), stack in zip(levels[::-1], stacks[::-1], strict=True):
        parts = []
        for number, (group, bands) in enumerate(zip(groups, stack, strict=True)):
            maps = _unpaired(bands).flatten(1, 2) if group.paired else bands
            parts.append(_spread(torch.fft.fft2(_planes(maps, scratch)), group, scratch, str(number)))
        planes, rows, u, cols, v = parts[0].shape
        total = torch.empty((planes, rows * u, cols * v), dtype=parts[0].dtype, device=x.device)
        if spectrum is None:
            total.view(parts[0].shape).copy_(parts.pop(0))
        else:
            torch.mul(gain, spectrum.repeat(1, 2, 2), out=total)
        for part in parts:
            total.view(part.shape).add_(part)
        spectrum = total
    assert spectrum is not None
    _write(torch.fft.ifft2(spectrum), x)


def _spread(bands: Tensor, group: Group, scratch: Scratch, name: str) -> Tensor:
    """Spectra of the bands (Q, B, U, V) -> their part in the spectra, (Q, rows, U, cols, V) strided."""
    planes, number, u, v = bands.shape
    rows, cols = group.sampling
    # Contiguous, because a batched product of doubly strided matrices is several times slower than the copy.
    turned = scratch.take("bands", (u, v, planes, number), bands).copy_(bands.permute(2, 3, 0, 1))
    out = scratch.take("aliases " + name, (u * v, planes, rows * cols), bands)
    values = torch.bmm(turned.view(u * v, planes, number), group.matrix, out=out)
    return values.view(u, v, planes, rows, cols).permute(2, 3, 0, 4, 1)
