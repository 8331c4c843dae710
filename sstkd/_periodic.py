"""The contourlet transform on the torus, computed in the frequency domain.

A band of a level is y_b[n] = sum over m of e_b[m] x[S_b n - m], indices on Z_H x Z_W, with the band's equivalent filter
e_b (Laplacian pyramid and all splits of the tree multiplied out) and diagonal lattice S_b. With E_b its transform,

    Y_b(u) = 1 / |S_b|  sum over the |S_b| aliases w of u of  E_b(w) X(w)

so, per output frequency u, the bands of one lattice are one complex matrix (bands x aliases) times the aliases' values,
for all maps at once. The way back is a matrix (aliases x bands) per frequency. Adjoint and inverse of either direction
are the other direction with other matrices: nothing needs to be remembered for a gradient.

Maps are real and all filters are real, so two maps share one complex plane from the first transform to the last.

Shapes: P maps, Q = P / 2 complex planes, U V output frequencies, B bands of one lattice, A aliases.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sstkd import _tree as tree
from sstkd._scratch import Scratch
from sstkd.filters import LADDERS, Directional, Pyramid, fan_filters, ladder_taps, pyramid_filters

Response = NDArray[Any]  # complex, or real where a filter is symmetric about the origin
Waves = tuple[NDArray[Any], NDArray[Any]]  # row and column frequency, in radians


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


def split_responses(split: tree.Split, waves: Waves, name: Directional) -> tuple[Response, Response]:
    """Frequency responses of the two outputs of a split, before its decimation.

    Ladder: y0 = (p0 - B p1) / sqrt(2), y1 = -sqrt(2) p1 - B y0, with B the separable lifting filter on p's grid.
    """
    row, col = waves
    if name in LADDERS:
        (a, c), (b, d) = tree.lattice(split).tolist()
        kept = (a * row + b * col, c * row + d * col)
        step = np.exp(1j * (tree.COSETS[split][0] * row + tree.COSETS[split][1] * col))
        y0 = (1 - step * _lifting(name, kept, 1)) / np.sqrt(2)
        return y0, -np.sqrt(2) * step - _lifting(name, kept, 0) * y0
    if split.shear:  # a wave seen after the shear x[R n]
        (a, c), (b, d) = {
            1: ((1, 1), (0, 1)),
            2: ((1, -1), (0, 1)),
            3: ((1, 0), (1, 1)),
            4: ((1, 0), (-1, 1)),
        }[split.shear]
        row, col = a * row + b * col, c * row + d * col
    shift = np.pi * (split.fan_axis == 0), np.pi * (split.fan_axis == 1)
    fans = fan_filters(name)
    low, high = (_centred(taps, (row + shift[0], col + shift[1])) for taps in (fans.low, fans.high))
    return low, high * np.exp(1j * row)


def _lifting(name: Directional, waves: Waves, delay: int) -> Response:
    """Response of the separable lifting filter at offsets -5 - delay ... 6 - delay (12 taps), alternating in sign."""
    taps = ladder_taps(name) * (-1.0) ** np.arange(len(ladder_taps(name)))
    offsets = np.arange(len(taps)) - (len(taps) // 2 - 1) - delay
    out: Response = np.ones((), np.complex128)
    for wave in waves:
        out = out * sum(tap * np.exp(1j * offset * wave) for tap, offset in zip(taps, offsets, strict=True))
    return out


def _centred(taps: NDArray[np.float64], waves: Waves) -> Response:
    """Response of a filter with odd sides and symmetric about its middle."""
    rows, cols = (np.arange(side) - side // 2 for side in taps.shape)
    powers = {offset: np.exp(1j * offset * waves[1]) for offset in cols.tolist()}
    out: Response = np.zeros((), np.complex128)
    for i, offset in enumerate(rows.tolist()):
        used = [(powers[c], tap) for c, tap in zip(cols.tolist(), taps[i], strict=True) if tap]
        if used:
            out = out + np.exp(1j * offset * waves[0]) * sum(power * tap for power, tap in used)
    return out


def grid(height: int, width: int) -> Waves:
    """Frequencies of the discrete Fourier transform of an (H, W) map: (H, 1) and (1, W)."""
    return 2 * np.pi * np.fft.fftfreq(height)[:, None], 2 * np.pi * np.fft.fftfreq(width)[None, :]


def band_responses(height: int, width: int, depth: int, name: Directional) -> tuple[Response, Response]:
    """Analysis responses E_b and synthesis responses F_b of the bank, (bands, H, W) each.

    At depth 1 the two bands live on a quincunx lattice: four responses, per band that of the even columns (sampled at
    rows 2i) and that of the odd ones (at rows 2i - 1), so that every lattice is diagonal.

    The synthesis of a split with responses E_0, E_1 is F_0 = 2 E_1' / D, F_1 = -2 E_0' / D, where ' is the response
    at the alias (w_row + pi, w_col + pi) and D = E_0 E_1' - E_1 E_0', a monomial for a biorthogonal pair.
    """
    ladder = name in LADDERS
    start = grid(height, width)
    one: Response = np.ones((height, width), np.complex128)

    def divide(level: int, nodes: list[tuple[Response, Response, NDArray[np.int64]]]):  # type: ignore[no-untyped-def]
        out = []
        for split, (analysis, synthesis, matrix) in zip(tree.splits(level, len(nodes)), nodes, strict=True):
            (a, c), (b, d) = matrix.tolist()
            waves = a * start[0] + b * start[1], c * start[0] + d * start[1]
            e0, e1 = split_responses(split, waves, name)
            e0_alias, e1_alias = split_responses(split, _alias(split, waves), name)
            scale = 2 / (e0 * e1_alias - e1 * e0_alias)
            lattice = matrix @ tree.lattice(split)
            out.append(
                (
                    (analysis * e0, synthesis * e1_alias * scale, lattice),
                    (analysis * e1, -synthesis * e0_alias * scale, lattice),
                )
            )
        return out

    leaves = tree.grow((one, one, np.eye(2, dtype=np.int64)), depth, ladder, divide)
    bands = tree.directions(leaves)
    analysis, synthesis = np.stack([b[0] for b in bands]), np.stack([b[1] for b in bands])
    if depth == 1:
        odd = np.exp(1j * (start[1] - start[0]))
        phases = np.stack((one, np.broadcast_to(odd, one.shape)))
        analysis = (analysis[:, None] * phases).reshape(4, height, width)
        synthesis = (synthesis[:, None] * phases.conj()).reshape(4, height, width)
    return analysis, synthesis


def _alias(split: tree.Split, waves: Waves) -> Waves:
    """The other frequency that looks the same on the samples x[Q n]."""
    quincunx = not split.shear
    return waves[0] + np.pi * (quincunx or split.rows), waves[1] + np.pi * (quincunx or not split.rows)


def level_responses(
    height: int, width: int, depth: int | None, pyramid: Pyramid, directional: Directional
) -> tuple[Response, Response, list[tuple[tuple[int, int], Response, Response]]]:
    """Low-pass gains (analysis, synthesis) of a level, and (sampling, analysis, synthesis) of its groups of bands.

    Depth 0 is a separable wavelet step: LL is the low-pass; LH, HL, HH the bands.

    With h, g the pyramid's gains and <f>(w) the mean of f over the four aliases of w under diag(2, 2), the level's
    equivalent responses are E'_b = E_b - h <E_b g> and F'_b = F_b - g <h F_b>: the band-pass map is
    x - g up(down(h x)), and the way back is d + g up(c - down(h d)).
    """
    row, col = grid(height, width)
    filters = pyramid_filters(pyramid)
    (h_row, h_col), (g_row, g_col) = ([_symmetric(taps, w) for w in (row, col)] for taps in filters)
    h, g = h_row * h_col, g_row * g_col
    if depth == 0:
        # High-pass -(-1)^n g at the odd samples; its dual is -(-1)^n h there.
        (a_row, a_col), (s_row, s_col) = (
            [-_symmetric(taps, w + np.pi) * np.exp(sign * -1j * w) for w in (row, col)]
            for taps, sign in ((filters.synthesis, 1), (filters.analysis, -1))
        )
        analysis = np.stack([a_row * h_col, h_row * a_col, a_row * a_col])
        synthesis = np.stack([s_row * g_col, g_row * s_col, s_row * s_col])
        return h, g, [((2, 2), analysis, synthesis)]
    assert depth is not None
    analysis, synthesis = band_responses(height, width, depth, directional)
    analysis = analysis - h * _alias_mean(analysis * g)
    synthesis = synthesis - g * _alias_mean(synthesis * h)
    return h, g, _grouped(depth, analysis, synthesis)


def _grouped(depth: int, analysis: Response, synthesis: Response) -> list[tuple[tuple[int, int], Response, Response]]:
    if depth <= 2:
        return [((2, 2), analysis, synthesis)]
    half, fine = len(analysis) // 2, 2 ** (depth - 1)
    return [((fine, 2), analysis[:half], synthesis[:half]), ((2, fine), analysis[half:], synthesis[half:])]


def _symmetric(taps: tuple[float, ...], wave: Response) -> Response:
    middle = len(taps) // 2
    out: Response = taps[middle] + 2 * sum(tap * np.cos((i + 1) * wave) for i, tap in enumerate(taps[middle + 1 :]))
    return out


def _alias_mean(response: Response) -> Response:
    """Mean over the four aliases under diag(2, 2), on the full grid."""
    bands, height, width = response.shape
    folded = response.reshape(bands, 2, height // 2, 2, width // 2).mean((1, 3))
    return np.tile(folded, (1, 2, 2))


@lru_cache(maxsize=32)
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
        depth: of the directional bank; with a pyramid, 0 is a wavelet step.
        pyramid: None for the bank alone.
        directional: its filters.
        kind: "analysis" and "synthesis" are each other's inverse; "analysis.T" is the adjoint of the analysis (it runs
            like a synthesis), "synthesis.T" that of the synthesis.
        device: of the tables.
        dtype: real type of the maps.
    """
    if pyramid is None:
        low: tuple[Response, Response] | None = None
        groups = _grouped(depth, *band_responses(*hw, depth, directional))
    else:
        *low, groups = level_responses(*hw, depth, pyramid, directional)  # type: ignore[assignment]
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64

    def table(values: Response, to: torch.dtype) -> Tensor:
        # A cached tensor made inside inference_mode could not be used for training afterwards.
        with torch.inference_mode(False):
            return torch.from_numpy(np.ascontiguousarray(values)).to(device, to)

    made = []
    for sampling, analysis, synthesis in groups:
        aliases = sampling[0] * sampling[1]
        forward = {"analysis": analysis / aliases, "synthesis.T": synthesis.conj() / aliases}.get(kind)
        if forward is not None:
            made.append(Group(sampling, table(_matrix(forward, sampling).swapaxes(1, 2), complex_dtype), depth == 1))
        else:
            # The discrete transforms of both sides differ in length by |S|, hence the analysis without its 1 / |S|.
            back = synthesis if kind == "synthesis" else analysis.conj()
            made.append(Group(sampling, table(_matrix(back, sampling), complex_dtype), depth == 1))
    gain: Response = np.zeros(())
    if low is not None:
        gain = {"analysis": low[0] / 4, "synthesis.T": low[1] / 4, "synthesis": low[1], "analysis.T": low[0]}[kind]
    return Level(table(gain, dtype), tuple(made))


def _matrix(response: Response, sampling: tuple[int, int]) -> Response:
    """(B, H, W) -> (U * V, B, A)."""
    (bands, height, width), (rows, cols) = response.shape, sampling
    aliases = response.reshape(bands, rows, height // rows, cols, width // cols)
    return aliases.transpose(2, 4, 0, 1, 3).reshape(-1, bands, rows * cols)


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
    """The way back of `analyse`, into maps x (P, H, W); no low-pass map counts as zero."""
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
    # Contiguous, for a batched product of doubly strided matrices is several times slower than the copy.
    turned = scratch.take("bands", (u, v, planes, number), bands).copy_(bands.permute(2, 3, 0, 1))
    out = scratch.take("aliases " + name, (u * v, planes, rows * cols), bands)
    values = torch.bmm(turned.view(u * v, planes, number), group.matrix, out=out)
    return values.view(u, v, planes, rows, cols).permute(2, 3, 0, 4, 1)
