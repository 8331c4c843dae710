"""Figures of textures: subbands by direction, frequency wedges, levels and histograms, student and teacher."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.report.plots.style import (
    DASHED,
    DOT,
    DOTTED,
    DPI,
    FAINT,
    FILL,
    FULL,
    HAIR,
    HEAVY,
    INK,
    LIGHT,
    LINE,
    MUTED,
    SMALL,
    TEXT,
    canvas,
    legend_below,
    plain,
    settled,
    style,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.training.texture import Equalisation, Reading

Array = NDArray[np.float64]
_WIDTH = FULL  # inches, like all lengths here
_MAX_HEIGHT = 20.0
_TOP = 2.9  # width of the image and of the frequency plane
_ROW = 0.155  # a line of small letters
_GAP = 0.1
_STRIP = 0.22  # a line of text above a panel
_HEADING = 0.32
_LEAST = 0.35  # share of a band's largest answer below which the plane is left white
_BLUE, _ORANGE = style(1)[0], style(2)[0]


def _figure(height: float, layout: Any = None) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = canvas(_WIDTH, height, layout)
    figure.set_dpi(DPI)
    FigureCanvasAgg(figure)
    return figure


@settled()
def rendered(figure: "Figure") -> NDArray[np.uint8]:
    """The figure's pixels, (H, W, 3)."""
    canvas: Any = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _at(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Axes by inches from the upper left corner."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))


def _text(figure: "Figure", left: float, top: float, text: str, size: float = SMALL, **options: Any) -> None:
    w, h = figure.get_size_inches()
    figure.text(left / w, 1 - top / h, text, fontsize=size, va="top", **{"color": INK, **options})


def _key(parts: Sequence[str], width: float) -> str:
    """Paragraphs in small letters, in lines of a width."""
    return "\n".join(wrapped(part, width, SMALL) for part in parts)


def _bare(axes: "Axes", title: str = "") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=SMALL, color=INK)
    for spine in axes.spines.values():
        spine.set_color(FAINT)


def _columns(number: int) -> int:
    """Panels per row: 8, or more if there would be more than 8 rows."""
    return 8 if number <= 64 else 12


def angle(band: int, k: int) -> float:
    """Middle of a direction's wedge: angle of the wave vector from the horizontal, in degrees, rows downwards."""
    half = 2 ** (k - 1)
    slope = (band % half + 0.5) / half * 2 - 1
    return float(np.degrees(np.arctan2(slope, 1.0) if band < half else np.arctan2(1.0, -slope)))


def level_name(j: int, count: int) -> str:
    """`level 1 (coarse)`; levels are numbered coarse to fine, from 0 here and from 1 in the pictures."""
    where = "" if count == 1 else " (coarse)" if j == 0 else " (fine)" if j == count - 1 else ""
    return f"level {j + 1}{where}"


@settled()
def subband_picture(
    image: NDArray[np.uint8], low: Array, levels: Sequence[Sequence[Array]], transform: str
) -> "Figure":
    """Image and low-pass map, then the directions of each level, coarse to fine.

    Each band shows its magnitude relative to its level's 99th percentile, or to a hundredth of the image's contrast if
    that is larger (so that rounding does not look like texture), stretched to the shape of the image. The line beside
    its title shows the orientation of the edges it responds to.
    """
    shape = image.shape[0] / image.shape[1]
    number = max(len(bands) for bands in levels)
    columns = _columns(number)
    # Long images are drawn as strips inside cells of bounded shape.
    bounded = float(np.clip(shape, 0.4, 1.5))
    width, top_width = (_WIDTH - _GAP) / columns - _GAP, _TOP
    rows = sum(-(-len(bands) // columns) for bands in levels)
    key = _key(
        (
            "Panels: one direction each, magnitude of its coefficients. White: 0. Black: the 99th percentile of the "
            "level, or more (1 % of the image's contrast, if that is larger). Above: number of the direction, and the "
            "orientation of its edges. Sizes are rows x columns.",
            transform,
        ),
        _WIDTH - 2 * _GAP,
    )
    key_top = _GAP + _STRIP + top_width * bounded + _GAP
    top_height = key_top + _ROW * (key.count("\n") + 1)
    fixed = _GAP + top_height + _HEADING * len(levels) + rows * (_STRIP + _GAP)
    height = min(width * bounded, max((_MAX_HEIGHT - fixed) / rows, 0.15))
    figure = _figure(fixed + rows * height)
    extent: dict[str, Any] = {"extent": (0, image.shape[1], image.shape[0], 0), "aspect": "equal", "vmin": 0, "vmax": 1}
    # A pyramid level doubles the mean.
    for place, shown, title in ((0, image, "image"), (1, low / 2 ** len(levels), "low-pass")):
        left = _GAP + place * (top_width + _GAP)
        _text(figure, left, _GAP, f"{title}, {shown.shape[0]} x {shown.shape[1]}")
        axes = _at(figure, left, _GAP + _STRIP, top_width, top_width * bounded)
        axes.imshow(shown, cmap="gray", **extent)
        _bare(axes)
    _text(figure, _GAP, key_top, key)
    contrast = float(np.ptp(image.reshape(-1, image.shape[-1]), axis=0).max()) / 255
    y = _GAP + top_height
    for j, bands in enumerate(levels):
        sizes = " or ".join(dict.fromkeys(f"{band.shape[0]} x {band.shape[1]}" for band in bands))
        name = f"{level_name(j, len(levels))}: {len(bands)} directions, {sizes} coefficients"
        _text(figure, _GAP, y + 0.08, name, TEXT, weight="bold")
        y += _HEADING
        percentile = float(np.percentile(np.concatenate([np.abs(band).ravel() for band in bands]), 99))
        black = max(percentile, 0.01 * contrast) if contrast else np.inf
        for b, band in enumerate(bands):
            left, top = _GAP + b % columns * (width + _GAP), y + b // columns * (_STRIP + height + _GAP)
            axes = _at(figure, left, top + _STRIP, width, height)
            axes.imshow(np.abs(band) / black, cmap="gray_r", interpolation="nearest", **extent)
            _bare(axes)
            _direction(figure, left, top, width, b, len(bands).bit_length() - 1)
        y += -(-len(bands) // columns) * (_STRIP + height + _GAP)
    return figure


def _direction(figure: "Figure", left: float, top: float, width: float, b: int, k: int) -> None:
    """Number of a band above its panel, and a line in the orientation of the edges it responds to."""
    from matplotlib.lines import Line2D

    _text(figure, left, top + 0.04, str(b), weight="bold")
    if k > 1:  # two directions are too wide for a line
        along = np.radians(angle(b, k) + 90)
        size = figure.get_size_inches()
        middle = np.array([left + width - 0.13, size[1] - top - _STRIP / 2])
        ends = [(middle + sign * 0.09 * np.array([np.cos(along), -np.sin(along)])) / size for sign in (-1, 1)]
        line = Line2D(*zip(*ends, strict=True), color=_ORANGE, linewidth=HEAVY, solid_capstyle="round")
        figure.add_artist(line)


@settled()
def wedge_picture(wedges: Sequence[Array], transform: str) -> "Figure":
    """The frequency plane of an image: all bands in one plane, then a panel per band, levels coarse to fine."""
    columns = _columns(max(len(bands) for bands in wedges))
    width, overview = (_WIDTH - _GAP) / columns - _GAP, _TOP
    rows = sum(-(-len(bands) // columns) for bands in wedges)
    fixed = overview + 0.9 + _HEADING * len(wedges) + rows * (_STRIP + _GAP)
    height = min(width, max((_MAX_HEIGHT - fixed) / rows, 0.15))
    figure = _figure(fixed + rows * height)
    axes = _at(figure, 0.8, 0.15, overview, overview)
    _overview(axes, wedges)
    parts = (
        "Left: frequencies of the image; pi is half of the sampling rate, the origin a constant image. Grey: the band "
        "with the largest response, relative to its maximum; two shades separate neighbours; numbers are directions, "
        f"as in the figure of the subbands. White: no band reaches {_LEAST:.0%} of its maximum; the centre belongs "
        "to the low-pass map.",
        "",
        "Below: one band each, white 0, black its maximum. Orange: the borders of the ideal wedge. Faint copies are "
        "aliases of the pyramid, which halves the sampling rate.",
        "",
        f"{transform}. A band's response is that of its central coefficient.",
    )
    _text(figure, overview + 0.95, 0.15, _key(parts, _WIDTH - overview - 0.95 - _GAP))
    y = overview + 0.85
    for j, bands in enumerate(wedges):
        reach = 2.0 ** (j + 1 - len(wedges))
        span = {1.0: "pi", 0.5: "pi/2"}.get(reach, f"pi/{1 / reach:.0f}")
        name = f"{level_name(j, len(wedges))}: {len(bands)} directions, both axes from -{span} to {span}"
        _text(figure, _GAP, y + 0.08, name, TEXT, weight="bold")
        y += _HEADING
        for b, band in enumerate(bands):
            left, top = _GAP + b % columns * (width + _GAP), y + b // columns * (_STRIP + height + _GAP)
            panel = _at(figure, left, top + _STRIP, width, height)
            panel.imshow(band / band.max(), cmap="gray_r", vmin=0, vmax=1, **_plane(len(band)))
            _borders(panel, b, len(bands), reach)
            _bare(panel)
            _text(figure, left, top + 0.04, str(b), weight="bold")
        y += -(-len(bands) // columns) * (_STRIP + height + _GAP)
    return figure


def _plane(side: int) -> dict[str, Any]:
    """Frequencies over pi from -1 to 1 - 2 / side, rows downwards, each in the middle of its pixel."""
    return {"extent": (-1 - 1 / side, 1 - 1 / side, 1 - 1 / side, -1 - 1 / side), "interpolation": "bilinear"}


def _overview(axes: "Axes", wedges: Sequence[Array]) -> None:
    side = wedges[0].shape[-1]
    scaled = [bands / bands.max((1, 2), keepdims=True) for bands in wedges]
    answers = np.concatenate([np.full((1, side, side), _LEAST), *scaled])
    shades = np.concatenate([[0.0], *(1.0 + np.arange(len(bands)) % 2 for bands in wedges)])
    shown = shades[answers.argmax(0)]
    axes.imshow(shown, cmap="gray_r", vmin=0, vmax=6, **{**_plane(side), "interpolation": "nearest"})
    for j, bands in enumerate(wedges):
        reach, number = 2.0 ** (j + 1 - len(wedges)), len(bands)
        for b in range(number) if reach >= 0.5 and number <= 16 else ():
            theta = np.radians(angle(b, number.bit_length() - 1))
            far = 0.8 * reach / max(abs(np.cos(theta)), abs(np.sin(theta)))
            for x, y in ((far * np.cos(theta), far * np.sin(theta)), (-far * np.cos(theta), -far * np.sin(theta))):
                axes.text(x, y, str(b), fontsize=SMALL, ha="center", va="center", color=INK, weight="bold")
    names = ["$-\\pi$", "$-\\pi/2$", "0", "$\\pi/2$", "$\\pi$"]
    axes.set_xticks([-1, -0.5, 0, 0.5, 1], names, fontsize=SMALL)
    axes.set_yticks([-1, -0.5, 0, 0.5, 1], names, fontsize=SMALL)
    axes.set_xlim(-1, 1)
    axes.set_ylim(1, -1)
    axes.set_xlabel("horizontal frequency (radians per pixel)", fontsize=SMALL)
    axes.set_ylabel("vertical frequency (radians per pixel)", fontsize=SMALL)


def _borders(axes: "Axes", band: int, number: int, reach: float) -> None:
    half = number // 2
    for edge in (band % half, band % half + 1):
        slope = edge / half * 2 - 1
        x, y = (1.0, slope) if band < half else (-slope, 1.0)
        axes.plot((-x, x), (-y, y), color=_ORANGE, linewidth=HAIR)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(reach, -reach)


@settled()
def level_picture(image: NDArray[np.uint8], seen: "Equalisation") -> "Figure":
    """Image, intensity and equalised map; histogram before, mapping of the levels, histogram after."""
    levels, counts, number = seen.levels, seen.counts, len(seen.levels)
    figure = _figure(4.6, "constrained")
    grid = figure.add_gridspec(2, 3)
    width = float(np.diff(levels).min())
    low, high = levels[0] - width / 2, levels[-1] + width / 2
    shown: tuple[tuple[Any, str, float, float], ...] = (
        (image, "image", 0, 255),
        (seen.before, f"intensity, black {low:.3f}, white {high:.3f}", low, high),
        (seen.after, "equalised intensity, black 0, white 1", 0, 1),
    )
    for place, (pixels, title, black, white) in enumerate(shown):
        axes = figure.add_subplot(grid[0, place])
        axes.imshow(pixels, cmap="gray", vmin=black, vmax=white, interpolation="nearest")
        _bare(axes, wrapped(title, _WIDTH / 3 - _GAP, SMALL))
    before, mapping, after = (figure.add_subplot(grid[1, place]) for place in range(3))
    before.bar(levels, counts, width * 0.9, color=FILL, label="positions")
    before.step(levels, seen.denoised, where="mid", color=_BLUE, linewidth=LINE, label="limited and spread")
    mapping.plot(
        levels, seen.cumulative, color=_BLUE, marker="o", markersize=DOT, linewidth=LIGHT, label="with the limit"
    )
    mapping.plot(levels, np.cumsum(counts), color=_ORANGE, linestyle=DASHED, linewidth=LIGHT, label="without it")
    # A sum of float32 shares can be 1.0000001, which belongs to the last bin.
    shares = np.histogram(seen.after.clip(0, 1), number, (0, 1))[0] / seen.after.size
    after.bar((np.arange(number) + 0.5) / number, shares, 0.9 / number, color=FILL, label="positions")
    ceiling = 1.15 * max(counts.max(), seen.denoised.max(), shares.max(), 2 / number)
    named: dict[str, Any] = {}
    for axes, label, title in (
        (before, "intensity", "before: share of each level"),
        (mapping, "intensity", "what a level is mapped to"),
        (after, "equalised intensity", f"after: share of each of {number} equal bins"),
    ):
        if axes is not mapping:
            axes.axhline(1 / number, color=INK, linewidth=LIGHT, linestyle=DOTTED, label="uniform")
            axes.set_ylim(0, ceiling)
        _shares(axes, label, title)
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    mapping.set_ylabel("equalised intensity", fontsize=SMALL)
    legend_below(figure, list(named.values()), list(named), _WIDTH)
    return figure


def _shares(axes: "Axes", label: str, title: str) -> None:
    plain(axes, label, "")
    axes.xaxis.label.set_fontsize(SMALL)
    axes.set_title(title, fontsize=SMALL, color=INK)


@settled()
def pair_picture(
    image: NDArray[np.uint8],
    names: Sequence[str],
    energies: Sequence[Sequence[Array]],
    maps: Sequence[Array],
    read: "Reading",
) -> "Figure":
    """Image, equalised intensities of student and teacher, and each level's energy by direction."""
    levels = len(energies[0])
    figure = _figure(5.2, "constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(2.6, 1.9))
    for place, shown, title in ((0, image, "image"), (1, maps[0], names[0]), (2, maps[1], names[1])):
        axes = figure.add_subplot(grid[0, 2 * place : 2 * place + 2])
        axes.imshow(shown, cmap="gray", vmin=0, vmax=1 if place else 255, interpolation="nearest")
        if place:
            title = (
                f"{wrapped(title, _WIDTH / 3 - _GAP, SMALL)}\nequalised intensity, {shown.shape[0]} x {shown.shape[1]}"
            )
        _bare(axes, title)
    below = figure.add_subfigure(grid[1, :])
    for j, axes in enumerate(np.ravel(below.subplots(1, levels))):
        number = len(energies[0][j])
        for i, (name, colour) in enumerate(zip(names, (_ORANGE, _BLUE), strict=True)):
            axes.bar(np.arange(number) + 0.4 * i - 0.2, energies[i][j], 0.4, color=colour, label=name)
        axes.set_xticks(range(0, number, max(1, number // 16)))
        _shares(axes, "direction, as in the picture of the subbands", f"{level_name(j, levels)}: share of the energy")
        axes.grid(visible=False)
        if j == 0:
            axes.set_ylabel("share", fontsize=SMALL)
            handles, labels = axes.get_legend_handles_labels()
            legend_below(below, handles, labels, _WIDTH)
    plan = read.cdm.plan
    parts = (
        f"Features of {' + '.join(read.stages)} at stride {read.stride}, the student's before its adapter; the whole "
        f"map is one region of {read.dtiem.levels} levels.",
        f"Pyramid {plan.pyramid}, directional filters {plan.directional}, boundary {plan.boundary}, "
        f"{read.cdm.weighting} bands ({read.source}).",
    )
    figure.suptitle(_key(parts, _WIDTH - 4 * _GAP), fontsize=SMALL, color=MUTED)
    return figure
