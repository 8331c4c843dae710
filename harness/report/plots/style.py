"""Common style of all figures, and export as PNG and SVG."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT = "#1b1f24", "#5c6670", "#d8dde2"
"""Text and baseline; reference lines and ticks; grid. A page may replace them by its own theme's colours."""
TEXT, SMALL = 9, 8
"""Sizes of letters in points: a figure of two columns that is printed at its width has none below 7."""
# Only the baseline has the text's colour. The first six are Okabe and Ito's without yellow, which is hard to see on
# white; the others are as far from all before them as colours that are legible on white and on black can be.
_COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8448b4", "#b43c6c", "#007800", "#9084f0"),
    *("#847824", "#84909c", "#9c9c00", "#2490e4", "#a86c6c", "#a84818", "#c09060", "#f06c6c", "#906ca8", "#606cd8"),
)
_DASHES: tuple[Any, ...] = ((0, (5, 2)), "-", (0, (6, 2, 1.2, 2)), (0, (9, 2.5)), (0, (2, 1.2)))
_Outline = tuple[tuple[float, float], ...]
_CHEVRON: _Outline = ((-1, -1), (0, -0.2), (1, -1), (1, 0.1), (0, 1), (-1, 0.1))
_TEE: _Outline = ((-1, 1), (1, 1), (1, 0.3), (0.35, 0.3), (0.35, -1), (-0.35, -1), (-0.35, 0.3), (-1, 0.3))
_MARKERS: tuple[str | _Outline, ...] = (
    *"s^DvPX*<>pd",
    ((-1, -1), (1, -1), (-1, 1), (1, 1)),
    _CHEVRON,
    ((-0.45, -1), (0.45, -1), (0.45, 1), (-0.45, 1)),
    ((-1, -1), (-1, 1), (1, -1), (1, 1)),
    tuple((x, -y) for x, y in _CHEVRON),
    ((-1, -0.45), (1, -0.45), (1, 0.45), (-1, 0.45)),
    ((0, 1), (0.28, 0.28), (1, 0), (0.28, -0.28), (0, -1), (-0.28, -0.28), (-1, 0), (-0.28, 0.28)),
    ((-1, -1), (1, -1), (-1, 1)),
    _TEE,
)


def style(place: int) -> tuple[str, Any, Any]:
    """Colour, line style and marker of the method in a table's line `place`.

    Of the first 21 neither colours nor markers repeat; no two of the first 400 have both in common.
    """
    if place == 0:
        return INK, "-", "o"
    i = place - 1
    lap = i // len(_COLOURS)
    marker = _MARKERS[(i + lap) % len(_MARKERS)]
    return _COLOURS[i % len(_COLOURS)], _DASHES[(i + lap) % len(_DASHES)], _marker(marker)


def _marker(given: str | _Outline) -> Any:
    """As matplotlib takes it."""
    if isinstance(given, str):
        return given
    from matplotlib.path import Path

    return Path([*given, given[0]], closed=True)


def marker_path(place: int) -> str:
    """The marker of a line as the path of an SVG, within -0.5 to 0.5."""
    from matplotlib.markers import MarkerStyle

    made = MarkerStyle(style(place)[2])
    outline = made.get_path().transformed(made.get_transform())
    reach = float(np.abs(np.asarray(outline.vertices)).max())
    letters = {1: "M", 2: "L", 3: "Q", 4: "C"}
    parts = []
    for points, code in outline.iter_segments():
        scaled = (float(value) * sign / reach / 2 for value, sign in zip(points, (1, -1) * 3, strict=False))
        numbers = " ".join(f"{round(value, 3) + 0.0:g}" for value in scaled)
        parts.append("Z" if code == 79 else f"{letters[int(code)]}{numbers}")
    return "".join(parts)


def plain(axes: "Axes", x: str, y: str) -> None:
    """Axes with these titles, a faint grid, and lines on the left and below only."""
    axes.set_xlabel(x, color=INK, fontsize=10)
    axes.set_ylabel(y, color=INK, fontsize=10)
    axes.tick_params(colors=MUTED, labelsize=9, length=3)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)


def figure_png(figure: "Figure", dpi: int = 160) -> bytes:
    """The figure as PNG."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


def figure_svg(figure: "Figure", text: bool = False) -> str:
    """The figure as SVG; equal figures give equal bytes.

    Args:
        figure: the figure.
        text: keep text as text, for a page with its own font; otherwise letters are outlines.
    """
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none" if text else "path", "svg.hashsalt": "curves"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=text)
    return out.getvalue()


def escaped(text: str) -> str:
    """Text of a row whose dollar signs are no formula."""
    return text.replace("$", r"\$")
