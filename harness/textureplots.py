"""Pictures of textures: subbands laid out by direction, frequency wedges, levels and histograms, two networks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.plots import FAINT, INK, MUTED, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.texture import Equalisation

Array = NDArray[np.float64]


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _bare(axes: "Axes", title: str = "") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8, color=INK)
    for spine in axes.spines.values():
        spine.set_color(FAINT)


def angle(band: int, k: int) -> float:
    """Middle of a direction's wedge: angle of the wave vector from the horizontal, in degrees, rows downwards."""
    half = 2 ** (k - 1)
    slope = (band % half + 0.5) / half * 2 - 1
    return float(np.degrees(np.arctan2(slope, 1.0) if band < half else np.arctan2(1.0, -slope)))


def subband_picture(image: NDArray[np.uint8], low: Array, levels: Sequence[Sequence[Array]]) -> "Figure":
    """Image and low-pass map, then one row of directions per half of a level, coarse to fine.

    Each band is drawn by its magnitude over its level's 99th percentile, stretched to the shape of the image; the line
    in its corner runs along the edges it answers to.
    """
    columns = max(4, max(len(bands) for bands in levels) // 2)
    rows = 2 * len(levels) + 2
    aspect = image.shape[0] / image.shape[1]
    figure = _figure(1.3 * columns, 1.3 * aspect * rows + 0.22 * rows + 0.4)
    grid = figure.add_gridspec(rows, columns)
    for place, shown, title in ((0, image, "image"), (1, low, "low-pass")):
        axes = figure.add_subplot(grid[0:2, place * 2 : place * 2 + 2])
        axes.imshow(shown, cmap="gray", aspect="auto")
        _bare(axes, f"{title}, {shown.shape[0]} x {shown.shape[1]}")
    for j, bands in enumerate(levels):
        k = len(bands).bit_length() - 1
        top = np.percentile(np.concatenate([np.abs(band).ravel() for band in bands]), 99) or 1.0
        half = -(-len(bands) // 2)
        for b, band in enumerate(bands):
            axes = figure.add_subplot(grid[2 + 2 * j + b // half, b % half])
            axes.imshow(np.abs(band) / top, cmap="gray_r", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            _bare(axes, f"level {j + 1}, {b}: {band.shape[0]} x {band.shape[1]}")
            axes.title.set_fontsize(6.5)
            if len(bands) > 3:
                along = np.radians(angle(b, k) + 90)
                step = 0.09 * np.array([np.cos(along), -np.sin(along)])
                axes.plot(
                    *zip(0.12 - step * (aspect, 1), 0.12 + step * (aspect, 1), strict=True),
                    transform=axes.transAxes,
                    color="#d55e00",
                    linewidth=2.2,
                    solid_capstyle="round",
                )
    return figure


def wedge_picture(wedges: Sequence[Array]) -> "Figure":
    """Magnitude of every band's filter over the frequency plane, a row of panels per level, coarse to fine.

    The first panel shades the band that answers most and outlines each at half of its maximum; the others hold one band
    each, with the borders of its ideal wedge.
    """
    columns = max(4, max(len(w) for w in wedges) // 2) + 2
    figure = _figure(1.15 * columns, 2.5 * len(wedges) + 0.2)
    grid = figure.add_gridspec(2 * len(wedges), columns)
    for j, bands in enumerate(wedges):
        number, side = bands.shape[0], bands.shape[1]
        half = number // 2
        ticks: dict[str, Any] = {"extent": (-1, 1, 1, -1), "interpolation": "bilinear"}
        axes = figure.add_subplot(grid[2 * j : 2 * j + 2, 0:2])
        axes.imshow(np.argmax(bands, 0) % 2, cmap="gray", vmin=-3, vmax=1.6, **ticks)
        for b in range(number):
            axes.contour(
                np.linspace(-1, 1, side, endpoint=False),
                np.linspace(-1, 1, side, endpoint=False),
                bands[b] / bands[b].max(),
                levels=[0.5],
                colors=[style(1 + b)[0]],
                linewidths=1,
            )
            theta = np.radians(angle(b, number.bit_length() - 1))
            for sign in (-1, 1):
                x, y = sign * 0.8 * np.cos(theta), sign * 0.8 * np.sin(theta)
                axes.text(x, y, str(b), ha="center", va="center", fontsize=7, color=INK, weight="bold")
        axes.set_xlim(-1, 1)
        axes.set_ylim(1, -1)
        _bare(axes, f"{number} directions")
        for b in range(number):
            axes = figure.add_subplot(grid[2 * j + b // half, 2 + b % half])
            axes.imshow(bands[b] / bands[b].max(), cmap="gray_r", vmin=0, vmax=1, **ticks)
            _borders(axes, b, number)
            _bare(axes, str(b))
    return figure


def _borders(axes: "Axes", band: int, number: int) -> None:
    half = number // 2
    for edge in (band % half, band % half + 1):
        slope = edge / half * 2 - 1
        x, y = (1.0, slope) if band < half else (-slope, 1.0)
        axes.plot((-x, x), (-y, y), color="#d55e00", linewidth=0.7)
    axes.set_xlim(-1, 1)
    axes.set_ylim(1, -1)


def level_picture(seen: "Equalisation") -> "Figure":
    """Intensity and equalised map; the levels' shares before and after the limit; what a level is mapped to."""
    levels, counts = seen.levels, seen.counts
    figure = _figure(9.2, 5.2)
    grid = figure.add_gridspec(2, 2)
    for place, shown, title in ((0, seen.before, "intensity: cosine to the mean"), (1, seen.after, "equalised")):
        axes = figure.add_subplot(grid[0, place])
        picture = axes.imshow(shown, cmap="gray", interpolation="nearest")
        figure.colorbar(picture, ax=axes, shrink=0.85).ax.tick_params(labelsize=7)
        _bare(axes, title)
    axes = figure.add_subplot(grid[1, 0])
    width = np.diff(levels).min() if len(levels) > 1 else 0.1
    axes.bar(levels, counts, width * 0.9, color=FAINT, label="share of a level")
    axes.step(levels, seen.denoised, where="mid", color="#0072b2", linewidth=1.4, label="limited and spread")
    axes.axhline(1 / len(levels), color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), label="uniform")
    axes.set_xlabel("level", fontsize=8)
    axes.legend(fontsize=7, frameon=False)
    other = figure.add_subplot(grid[1, 1])
    other.plot(
        levels, seen.cumulative, color="#0072b2", marker="o", markersize=2.5, linewidth=1.2, label="after the limit"
    )
    other.plot(levels, np.cumsum(counts), color=MUTED, linestyle=(0, (5, 2)), linewidth=1, label="without it")
    other.set_xlabel("level", fontsize=8)
    other.set_ylabel("equalised value", fontsize=8)
    other.legend(fontsize=7, frameon=False)
    for each in (axes, other):
        each.tick_params(labelsize=7)
        each.spines[["top", "right"]].set_visible(False)
    return figure


def pair_picture(
    image: NDArray[np.uint8], names: Sequence[str], energies: Sequence[Sequence[Array]], maps: Sequence[Array]
) -> "Figure":
    """Image, equalised intensities of student and teacher, and how the energy of each level spreads over directions."""
    levels = len(energies[0])
    figure = _figure(9.2, 2.6 + 1.7)
    grid = figure.add_gridspec(2, 6, height_ratios=(2.6, 1.7))
    for place, shown, title in ((0, image, "image"), (1, maps[0], names[0]), (2, maps[1], names[1])):
        axes = figure.add_subplot(grid[0, 2 * place : 2 * place + 2])
        axes.imshow(shown, cmap="gray", interpolation="nearest")
        _bare(axes, title if place == 0 else f"{title}: equalised intensity")
    for j in range(levels):
        axes = figure.add_subplot(grid[1, 6 * j // levels : 6 * (j + 1) // levels])
        number = len(energies[0][j])
        for i, (name, colour) in enumerate(zip(names, ("#d55e00", "#0072b2"), strict=True)):
            axes.bar(np.arange(number) + 0.4 * i - 0.2, energies[i][j], 0.4, color=colour, label=name)
        axes.set_xticks(range(0, number, max(1, number // 8)))
        axes.set_title(f"level {j + 1}: share of the energy by direction", fontsize=8, color=INK)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        if j == 0:
            axes.legend(fontsize=7, frameon=False)
    return figure
