"""Figure of what the methods of a comparison cost to train and what they reach, with the Pareto front.

Latency is not in it: the lines of a pair train one student, which costs the same to use.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.analysis.across import Task, costs_of, pareto
from harness.analysis.stats import Score
from harness.analysis.tables import Block
from harness.report.plots.style import (
    BIG,
    FULL,
    HAIR,
    LIGHT,
    MUTED,
    PAPER,
    SHORT,
    TEXT,
    canvas,
    escaped,
    heading,
    legend_below,
    plain,
    settled,
    style,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


_FRONT = "Pareto front"
_SIDES = 0.5  # inches beside the axes of a panel


@dataclass(frozen=True)
class Point:
    """A line of a comparison.

    Attributes:
        label: its name.
        place: its line in the table, which decides how it looks.
        miou: on val, in percent.
        step_ms: time of a training step; None for a line with another number of steps, or where it is unknown.
        train_s: seconds of training; None where they are unknown.
    """

    label: str
    place: int
    miou: Score
    step_ms: float | None
    train_s: float | None


_PANELS: tuple[tuple[str, Callable[[Point], float | None]], ...] = (
    ("time of a training step (ms)", lambda point: point.step_ms),
    ("time of the whole training (s)", lambda point: point.train_s),
)


def points(block: Block, rows: Mapping[str, Mapping[str, Any]]) -> list[Point]:
    """The lines of a block that have a result.

    Args:
        block: the comparison.
        rows: by run_id, as `harness.analysis.across.costs_of` needs them.
    """
    seconds = {cost.label: cost.train_seconds for cost in costs_of(Task(block.where, block), rows)}
    out = []
    for place, line in enumerate(block.methods):
        if line.miou is not None:
            timed = line.step_s is not None and line.name.control is None
            step_ms = 1000 * line.step_s if timed and line.step_s is not None else None
            out.append(Point(line.label, place, line.miou, step_ms, seconds[line.label]))
    return out


@settled()
def cost_figure(found: Sequence[tuple[str, Sequence[Point]]], width: float = FULL, height: float = 2.7) -> "Figure":
    """mIoU over the time of a step and over that of the training, with standard deviation and Pareto front.

    Args:
        found: titles and points of comparisons; one without two points that have a time is left out.
        width: inches.
        height: inches per comparison, without its legend.

    Raises:
        ValueError: nothing is left.
    """
    shown = [(title, mine) for title, mine in found if drawn(mine)]
    if not shown:
        raise ValueError("no costs: at least two methods with a result and a time are needed")
    figure = canvas(width, height)
    grid = figure.add_gridspec(len(shown), 1)
    heights = []
    for i, (title, mine) in enumerate(shown):
        part = figure.add_subfigure(grid[i])
        heights.append(height + _draw(part, title, mine, width))
    grid.set_height_ratios(heights)
    figure.set_size_inches(width, sum(heights))
    return figure


def drawn(mine: Sequence[Point]) -> bool:
    """Whether there is something to compare."""
    return any(len(_known(mine, cost)) > 1 for _, cost in _PANELS)


def _draw(part: "SubFigure", title: str, mine: Sequence[Point], width: float) -> float:
    """Panels and a legend; returns the inches of the latter."""
    panels = [(name, known) for name, cost in _PANELS if len(known := _known(mine, cost)) > 1]
    every = part.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    handles: dict[str, Any] = {}
    for axes, (name, known) in zip(every, panels, strict=True):
        handles |= _panel(axes, known)
        plain(axes, wrapped(name, width / len(panels) - _SIDES, TEXT), "mIoU on val (%)" if axes is every[0] else "")
    heading(every[0], escaped(title), width - 0.6)
    labels = [*(point.label for point in mine if point.label in handles), _FRONT]
    return legend_below(part, [handles[label] for label in labels], [escaped(x) for x in labels], width, SHORT)


def _known(mine: Sequence[Point], cost: Callable[[Point], float | None]) -> list[tuple[float, Point]]:
    return [(value, point) for point in mine if (value := cost(point)) is not None]


def _panel(axes: "Axes", known: Sequence[tuple[float, Point]]) -> dict[str, Any]:
    """The markers by label, and the front."""
    handles = {}
    for value, point in known:
        colour, _, marker = style(point.place)
        half = point.miou.deviation
        if half is not None:
            ends = [point.miou.mean - half, point.miou.mean + half]
            axes.plot([value, value], ends, color=colour, linewidth=HAIR, zorder=2)
        (handles[point.label],) = axes.plot(
            [value], [point.miou.mean], color=colour, marker=marker, markersize=BIG, linestyle="none",
            markeredgecolor=PAPER, markeredgewidth=HAIR, zorder=3,
        )  # fmt: skip
    front = pareto([(value, point.miou.mean) for value, point in known])
    (handles[_FRONT],) = axes.step(
        [known[i][0] for i in front], [known[i][1].miou.mean for i in front], where="post", color=MUTED,
        linewidth=LIGHT, zorder=1,
    )  # fmt: skip
    axes.margins(x=0.06)
    return handles
