"""Common style of all figures, and export as PNG and SVG."""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT = "#1b1f24", "#5c6670", "#d8dde2"
"""Text and baseline; reference lines and ticks; grid. A page may replace them by its own theme's colours."""
# Only the baseline has the text's colour; without yellow, which is hard to see on white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES: tuple[Any, ...] = ((0, (5, 2)), "-", (0, (6, 2, 1.2, 2)), (0, (9, 2.5)), (0, (2, 1.2)))
_MARKERS = "s^DvPX*<>phd8"


def style(place: int) -> tuple[str, Any, str]:
    """Colour, line style and marker of the method in a table's line `place`; no two of the first 60 are the same."""
    if place == 0:
        return INK, "-", "o"
    i = place - 1
    return _COLOURS[i % len(_COLOURS)], _DASHES[(i + i // 30) % len(_DASHES)], _MARKERS[i % len(_MARKERS)]


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
