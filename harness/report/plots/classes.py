"""Heat map of what each method gains or loses on each class: the difference of its IoU to the baseline's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.across import Task, class_gains
from harness.analysis.tables import Block
from harness.report.page.colours import class_names
from harness.report.plots.style import (
    DIVERGING,
    FULL,
    INK,
    LEAST,
    LIGHT,
    MUTED,
    PAPER,
    SMALL,
    TITLE,
    breadth,
    canvas,
    escaped,
    legible,
    settled,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

# Inches.
_CELL = 0.4
_LINE, _GAP = 0.13, 0.07  # of a line of a name, between names
_NAMES = 0.32  # of a figure's width, at most, for names of methods
_HEAD = 1.4  # of a class's name before it is wrapped
_BAR = 0.55  # the scale and its numbers
_FEWEST = 1.0  # percentage points at the ends of the scale, at least


@dataclass(frozen=True)
class Gains:
    """Mean differences of IoU to the baseline's by method and class, in percentage points.

    Attributes:
        title: what they are of.
        reference: the baseline's label.
        methods: labels.
        classes: names.
        values: (methods, classes); nan where a class is in neither labels nor predictions.
    """

    title: str
    reference: str
    methods: tuple[str, ...]
    classes: tuple[str, ...]
    values: NDArray[np.float64]


def gains(block: Block, rows: Mapping[str, Mapping[str, Any]]) -> Gains | None:
    """The gains by class of a block; None where no line has a seed in common with the baseline.

    Args:
        block: the comparison.
        rows: by run_id, with val_confusion, num_classes and class_names.
    """
    found = class_gains(Task(block.where, block), rows, "val_confusion")
    if not found or block.baseline is None:
        return None
    names = class_names(rows[next(iter(block.baseline.run_ids.values()))])
    return Gains(block.where, block.baseline.label, tuple(found), tuple(names), np.array(list(found.values())))


@settled()
def class_figure(found: Sequence[Gains], width: float = FULL) -> "Figure":
    """A heat map per comparison, with the numbers in its cells. Classes that do not fit beside each other go below.

    Args:
        found: at least one.
        width: inches.

    Raises:
        ValueError: none.
    """
    if not found:
        raise ValueError("no gains by class: at least one method with a seed of the baseline's is needed")
    plans = [_plan(one, width) for one in found]
    heights = [sum(each for _, each in plan) + 0.6 for plan in plans]
    figure = canvas(width, sum(heights))
    parts = figure.subfigures(len(found), 1, squeeze=False, height_ratios=heights).ravel()
    for part, one, plan in zip(parts, found, plans, strict=True):
        _draw(part, one, plan, width)
    return figure


def _plan(one: Gains, width: float) -> list[tuple[range, float]]:
    """The places of classes that are beside each other, and the height in inches of what is drawn of them."""
    names = max(breadth(name, SMALL) for name in _names(one, width))
    number = max(1, int((width - names - _BAR - 0.3) / _CELL))
    # As many in each: a last class alone would be as wide as the others together.
    rows = -(-len(one.classes) // number)
    number = -(-len(one.classes) // rows)
    places = [range(i, min(i + number, len(one.classes))) for i in range(0, len(one.classes), number)]
    # One height for all, so that colours are compared over equal areas.
    line = _GAP + _LINE * max(1 + name.count("\n") for name in _names(one, width))
    heads = [wrapped(one.classes[place], _HEAD, SMALL) for place in range(len(one.classes))]
    return [(part, line * len(one.methods) + max(breadth(heads[i], SMALL) for i in part) + 0.25) for part in places]


def _names(one: Gains, width: float) -> list[str]:
    return [wrapped(escaped(name), _NAMES * width, SMALL) for name in one.methods]


def _draw(part: "SubFigure", one: Gains, plan: Sequence[tuple[range, float]], width: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bound = max(_FEWEST, float(np.nanmax(np.abs(one.values), initial=0.0)))
    colours = ScalarMappable(Normalize(-bound, bound), DIVERGING)
    every = part.subplots(len(plan), 1, squeeze=False, height_ratios=[height for _, height in plan]).ravel()
    number = max(len(places) for places, _ in plan)
    for axes, (places, _) in zip(every, plan, strict=True):
        _cells(axes, one.values[:, places.start : places.stop], colours)
        heads = [wrapped(escaped(one.classes[i]), _HEAD, SMALL) for i in places]
        axes.set_xticks(range(len(heads)), heads, fontsize=SMALL, color=INK, rotation=90)
        axes.set_yticks(range(len(one.methods)), _names(one, width), fontsize=SMALL, color=INK)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_xlim(-0.5, number - 0.5)
        axes.set_ylim(len(one.methods) - 0.5, -0.5)
        axes.spines[:].set_visible(False)
    bar = part.colorbar(colours, ax=list(every), fraction=0.03, pad=0.02, aspect=30, shrink=min(1.0, 2.0 / plan[0][1]))
    bar.ax.tick_params(labelsize=SMALL, colors=MUTED, length=2)
    bar.outline.set_visible(False)
    title = f"{one.title}: IoU on val minus that of {one.reference}, percentage points"
    part.suptitle(wrapped(escaped(title), width - 0.2, TITLE), fontsize=TITLE, color=INK, x=0.01, ha="left")


def _cells(axes: "Axes", values: NDArray[np.float64], colours: Any) -> None:
    axes.pcolormesh(
        np.arange(values.shape[1] + 1) - 0.5, np.arange(values.shape[0] + 1) - 0.5, np.ma.masked_invalid(values),
        cmap=colours.cmap, norm=colours.norm, edgecolors=PAPER, linewidth=LIGHT,
    )  # fmt: skip
    for (row, column), value in np.ndenumerate(values):
        known = not np.isnan(value)
        text = f"{round(value, 1) or 0.0:+.1f}".replace("-", "\N{MINUS SIGN}") if known else "–"
        colour = legible(colours.to_rgba(value)) if known else MUTED
        axes.text(column, row, text, fontsize=LEAST, color=colour, ha="center", va="center")
