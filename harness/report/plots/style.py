"""Common style of all figures, and export as PNG and SVG."""

import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

COLUMN, FULL = 3.4, 7.0
"""Widths of a paper's column and of its two, in inches: a figure is printed as it is, so sizes are those on paper."""
DPI = 200
INK, MUTED, FAINT, PAPER = "#1b1f24", "#5c6670", "#d8dde2", "#ffffff"
"""Text and baseline; reference lines and ticks; grid; background. A page may replace them by its own theme's."""
FILL = "#b8c0c8"
"""Of bars that lines are drawn over."""
TITLE, TEXT, SMALL, LEAST = 9.5, 9, 8, 7
"""Sizes of letters in points: titles; names and legends; ticks; numbers, at the least that journals take."""
HEAVY, LINE, LIGHT, HAIR = 2.6, 1.6, 1.2, 0.7
"""Widths of lines in points: what stands out, a method's, a reference's; single seeds and the grid's."""
BIG, MARKER, DOT = 6.5, 5, 2.6
"""Sizes of markers in points: of a mean alone, of one on a line, of a single seed."""
DOTTED, DASHED = (0, (1, 1.4)), (0, (4, 3))
"""References among the methods' lines."""
SCALE, DIVERGING = "viridis_r", "PuOr_r"
"""Colour maps: from low to high, dark is high; around 0."""
HANDLE, SHORT = 3.4, 1.0
"""Lengths of a line and of a marker in a legend, in letters."""
_BETWEEN = 1.4  # the columns of a legend, in letters
_LEGEND_LINE = 0.2  # inches
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

    Of the first 21 neither colours nor markers repeat; no two of the first 400 have both in common, and no two of the
    first 101 line style and marker, which is what is left of them in grey.
    """
    if place == 0:
        return INK, "-", "o"
    i = place - 1
    lap = i // len(_COLOURS)
    marker = _MARKERS[(i + lap) % len(_MARKERS)]
    return _COLOURS[i % len(_COLOURS)], _DASHES[(i + 2 * lap) % len(_DASHES)], _marker(marker)


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


@contextmanager
def settled() -> Iterator[None]:
    """Within it a figure is drawn and saved by matplotlib's defaults, whatever `matplotlibrc` is on this machine."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        yield


def canvas(width: float, height: float, layout: Any = "constrained") -> "Figure":
    """An empty figure.

    Args:
        width: inches; `COLUMN` or `FULL` on paper.
        height: inches.
        layout: as matplotlib takes it.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout, facecolor=PAPER)


def heading(axes: "Axes", text: str, inches: float = FULL) -> None:
    """A title at the left of the axes, in lines of a width."""
    axes.set_title(wrapped(text, inches, TITLE), fontsize=TITLE, color=INK, loc="left")


def plain(axes: "Axes", x: str, y: str, sides: tuple[str, ...] = ("left", "bottom")) -> None:
    """Axes with these titles, a faint grid, and lines on the left and below only."""
    axes.set_xlabel(x, color=INK, fontsize=TEXT)
    axes.set_ylabel(y, color=INK, fontsize=TEXT)
    axes.tick_params(colors=MUTED, labelsize=SMALL, length=3)
    axes.grid(color=FAINT, linewidth=HAIR)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in sides)
        spine.set_color(MUTED)


def breadth(text: str, size: float) -> float:
    """Inches of the longest line of a text in letters of a size in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    lines = text.replace(r"\$", "$").split("\n")
    return float(max(text_to_path.get_text_width_height_descent(line, font, False)[0] for line in lines)) / 72


def wrapped(text: str, inches: float, size: float) -> str:
    """The text in lines that fit into a width; a word that does not is broken."""
    letters = len(text)
    while letters > 1 and breadth(found := textwrap.fill(text, letters), size) > inches:
        letters -= 1
    return found if letters > 1 and text else text


def legend_below(
    part: "Figure | SubFigure", handles: Sequence[Any], labels: Sequence[str], width: float, handle: float = HANDLE
) -> float:
    """A legend below all axes, in as many columns as fit into `width` inches; `handle` in letters.

    Returns:
        Its height in inches.
    """
    beside, gap = (handle + 1.2) * TEXT / 72, _BETWEEN * TEXT / 72
    texts = [wrapped(label, width - beside - 0.15, TEXT) for label in labels]
    widths = [breadth(text, TEXT) + beside for text in texts]

    def columns(n: int) -> list[Any]:
        return np.array_split(np.arange(len(texts)), n)

    def fits(n: int) -> bool:
        taken = sum(max(widths[i] for i in column) for column in columns(n))
        return bool(0.15 + taken + gap * (n - 1) <= width)

    most = next((n for n in range(len(texts), 1, -1) if fits(n)), 1)
    part.legend(
        handles, texts, loc="outside lower center", ncols=most, frameon=False, fontsize=TEXT, labelcolor=INK,
        handlelength=handle, columnspacing=_BETWEEN,
    )  # fmt: skip
    lines = max(sum(texts[i].count("\n") + 1 for i in column) for column in columns(most)) if texts else 0
    return _LEGEND_LINE * lines


@settled()
def figure_png(figure: "Figure", dpi: int = DPI) -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


@settled()
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


def legible(colour: Any) -> str:
    """Black or white, whichever is read more easily on a colour: the contrast is 4.5 or more."""
    from matplotlib.colors import to_rgb

    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    # Of WCAG 2.1; on a luminance of 0.179 both have the same contrast.
    return "#000000" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else PAPER


def escaped(text: str) -> str:
    """Text of a row whose dollar signs are no formula."""
    return text.replace("$", r"\$")
