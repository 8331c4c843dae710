"""The forest plot: every method's difference to each reference with its simultaneous interval and its numbers.

A filled marker is a significant difference, so that the figure is readable without colour.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.analysis.answer import by_gain, differences
from harness.analysis.lines import Comparison
from harness.analysis.tables import Block
from harness.report.plots.style import (
    BIG,
    FULL,
    HAIR,
    INK,
    LEAST,
    LIGHT,
    LINE,
    MARKER,
    MUTED,
    SMALL,
    TEXT,
    TITLE,
    canvas,
    plain,
    settled,
    style,
)
from harness.report.plots.style import PAPER as PAPER  # what a marker without a significant difference is filled with

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_UNIT = "percentage points of mIoU on val"
_WIDER = 4.0  # times the median half interval that one of a few seeds is drawn at most
_TICKS, _STEPS = 4, (1, 1.5, 2, 2.5, 3, 4, 5, 10)  # of an axis at most; between them
_LONG = (24, 26)  # letters of a name in a line; of one on a narrow page


@dataclass(frozen=True)
class Forest:
    """The differences of a block, as they are drawn.

    Attributes:
        title: above it; an empty one takes no space.
        lines: labels from top to bottom.
        places: of each label its line in the table, which decides how it looks.
        absent: why a label has no result, where it has none.
        differences: by reference and label.
    """

    title: str
    lines: tuple[str, ...]
    places: Mapping[str, int]
    absent: Mapping[str, str]
    differences: Mapping[str, Mapping[str, Comparison]]


def forest(block: Block, gain: bool = False) -> Forest | None:
    """The differences of a block; None where there are none.

    Args:
        block: the comparison.
        gain: sorted by the difference to the student without distillation; otherwise as the table.
    """
    found = differences(block)
    if not found:
        return None
    # A line that is a reference and nothing else would be an empty one.
    used = {name for one in found.values() for name in one}
    lines = [x.label for x in block.methods if x.label in used or not x.reference]
    if gain:
        lines = by_gain(lines, next(iter(found.values())))
    places = {x.label: i for i, x in enumerate(block.methods)}
    absent = {x.label: x.absences for x in block.methods if x.miou is None}
    return Forest(block.where, tuple(lines), places, absent, found)


@settled()
def forest_figure(forests: Sequence[Forest], width: float = FULL, stacked: bool = False) -> "Figure":
    """The differences of pairs, below each other, a set of axes for each reference.

    Args:
        forests: at least one.
        width: inches.
        stacked: references below each other, and names above their intervals: for a narrow page.

    Raises:
        ValueError: no forests.
    """
    if not forests:
        raise ValueError("no forests: at least one pair with a difference is needed")
    each = 0.36 if stacked else 0.24
    heights = [(0.95 + each * _rows(one, stacked)[-1]) * (len(one.differences) if stacked else 1) for one in forests]
    figure = canvas(width, sum(heights))
    parts = figure.subfigures(len(forests), 1, squeeze=False, height_ratios=heights).ravel()
    for part, one in zip(parts, forests, strict=True):
        # On paper two columns of numbers leave the intervals little room.
        _draw(part, one, stacked, SMALL if stacked or width > FULL else LEAST)
    return figure


def _name(text: str, stacked: bool) -> str:
    return textwrap.fill(text, _LONG[stacked])


def _rows(one: Forest, stacked: bool) -> list[float]:
    """Where each line is, in lines from the top, and the end of the last; a long name takes more than one."""
    extra = (0.45 if stacked else 0.7) * np.array([_name(name, stacked).count("\n") for name in one.lines])
    ends = np.cumsum(1 + extra)
    return [*(ends - 0.5 - (0 if stacked else extra / 2)).tolist(), float(ends[-1])]


def _draw(part: "SubFigure", one: Forest, stacked: bool, numbers: float) -> None:
    count = len(one.differences)
    shape = (count, 1) if stacked else (1, count)
    axes = part.subplots(*shape, squeeze=False, sharex=True, sharey=True).ravel()
    reach = _reach([c for each in one.differences.values() for c in each.values()])
    rows = _rows(one, stacked)
    for place, (each, (reference, found)) in enumerate(zip(axes, one.differences.items(), strict=True)):
        for row, name in zip(rows, one.lines, strict=False):
            _line(each, row, found.get(name), one.places[name], reach)
            text = _said(found.get(name), name == reference, one.absent.get(name, "") if not place else "")
            _words(each, row, name, text, found.get(name), stacked, numbers)
        _dress(each, one, reference, stacked)
        each.set_xlim(*reach)
        each.set_ylim(rows[-1], -0.3 if stacked else 0)
        each.set_yticks(
            rows[:-1], ["" if stacked else _name(name, False) for name in one.lines], fontsize=SMALL, color=INK
        )
        if place and not stacked:
            each.tick_params(labelleft=False)
    if one.title:
        part.suptitle(one.title, fontsize=TITLE, color=INK, x=0.01, ha="left")


def _reach(found: Sequence[Comparison]) -> tuple[float, float]:
    """The ends of the axes: far enough for 0 and for all but the widest intervals."""
    known = [c.difference for c in found if c.difference.half is not None]
    if not known:
        return -1.0, 1.0
    most = _WIDER * float(np.median([d.half for d in known]))
    ends = [(d.mean, min(float(d.half or 0), most)) for d in known]
    low, high = min(0.0, *(mean - half for mean, half in ends)), max(0.0, *(mean + half for mean, half in ends))
    room = 0.05 * (high - low)
    return low - room, high + room


def _line(axes: "Axes", row: float, c: Comparison | None, place: int, reach: tuple[float, float]) -> None:
    if c is None or c.difference.low is None or c.difference.high is None:
        return
    low, high = max(c.difference.low, reach[0]), min(c.difference.high, reach[1])
    colour, _, marker = style(place)
    axes.plot([low, high], [row, row], color=colour, linewidth=LINE, solid_capstyle="butt", zorder=3)
    for end, cut, arrow in ((low, c.difference.low < reach[0], 4), (high, c.difference.high > reach[1], 5)):
        # An end beyond the axes is an arrow, one within them a bar.
        axes.plot(
            [end], [row], color=colour, marker=arrow if cut else "|", markersize=MARKER, linestyle="none", zorder=3
        )
    face = colour if c.significant else PAPER
    axes.plot([c.difference.mean], [row], marker=marker, markersize=BIG, color=face, markeredgecolor=colour,
              markeredgewidth=LIGHT, linestyle="none", zorder=4, clip_on=False)  # fmt: skip


def _said(c: Comparison | None, reference: bool, absent: str) -> str:
    if c is not None:
        return c.text.replace("-", "\N{MINUS SIGN}")
    return "reference" if reference else absent or "–"


def _words(axes: "Axes", row: float, name: str, text: str, c: Comparison | None, stacked: bool, size: float) -> None:
    """The numbers at the right of an interval; on a narrow page name and numbers above it."""
    how: dict[str, Any] = {"fontsize": size, "color": INK if c is not None else MUTED}
    at = axes.get_yaxis_transform()
    if stacked:
        how["bbox"] = box = {"facecolor": PAPER, "linewidth": 0, "pad": 0.6}
        axes.text(
            0, row - 0.24, _name(name, True), transform=at, va="bottom", ha="left", fontsize=SMALL, color=INK, bbox=box
        )
        axes.text(1, row - 0.24, text, transform=at, va="bottom", ha="right", **how)
    else:
        axes.text(1.02, row, text, transform=at, va="center", ha="left", **how)


def _dress(axes: "Axes", one: Forest, reference: str, stacked: bool) -> None:
    axes.axvline(0, color=INK, linewidth=HAIR, zorder=2)
    title = textwrap.fill(f"difference to {reference}", 46)
    axes.set_title(title, fontsize=TEXT, color=INK, loc="left")
    wide = stacked or len(one.differences) == 1
    plain(axes, _UNIT if wide else _UNIT.replace(" of ", "\nof "), "", ("bottom",))
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelbottom=True)
    axes.locator_params(axis="x", nbins=_TICKS, steps=_STEPS, min_n_ticks=3)
    axes.grid(visible=False, axis="y")
