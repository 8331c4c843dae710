"""Figures of a search: parallel coordinates of the trials, importance of the hyper-parameters, best score so far."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

from harness.experiment.space import LR, Dimension
from harness.report.plots.style import FAINT, INK, MUTED, plain, style
from harness.search.outcome import Outcome, TrialResult
from harness.search.tuning_curve import best_so_far

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST = 5  # points with a score below which no correlation is shown
OFF_AT = -0.12  # height of "off" below the range
_COLOURS = "viridis"


def importance(outcome: Outcome) -> dict[str, tuple[float, int]]:
    """|Spearman's rho| between each hyper-parameter and dev mIoU, over the points with a score in which it has effect.

    Returns:
        Correlation and number of points by name, without hyper-parameters that have fewer than `FEWEST` such points, or
        the same value or score in all.
    """
    out: dict[str, tuple[float, int]] = {}
    for each in outcome.study.space:
        scored = [p for p in outcome.points if p.dev_miou is not None]
        known = [(p.point[each.name], p.dev_miou) for p in scored if each.name in p.point]
        values, scores = np.array(known, dtype=np.float64).reshape(-1, 2).T
        if len(known) >= FEWEST and len(set(values)) > 1 and len(set(scores)) > 1:
            out[each.name] = abs(float(spearmanr(values, scores).statistic)), len(known)
    return out


def trials_figure(outcomes: Sequence[Outcome], width: float = 11.0) -> "Figure":
    """One line of panels for each method on each pair: its trials, and the importance of its hyper-parameters.

    Args:
        outcomes: at least one.
        width: inches.

    Raises:
        ValueError: no outcomes.
    """
    from matplotlib.figure import Figure

    if not outcomes:
        raise ValueError("no outcomes: at least one method's search is needed")
    heights = [max(2.2, 1.2 + 0.28 * len(outcome.study.space)) for outcome in outcomes]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(len(outcomes), 2, width_ratios=(3, 1), height_ratios=heights)
    for line, outcome in enumerate(outcomes):
        _parallel(figure, figure.add_subplot(grid[line, 0]), outcome)
        _bars(figure.add_subplot(grid[line, 1]), outcome)
    return figure


def best_so_far_figure(outcomes: Sequence[Outcome], width: float = 7.6, height: float = 3.4) -> "Figure":
    """The best score after 1, 2, 4, ... points, a line per method, one set of axes per pair below each other.

    Args:
        outcomes: at least one.
        width: inches.
        height: inches per pair.

    Raises:
        ValueError: no outcomes.
    """
    from matplotlib.figure import Figure

    if not outcomes:
        raise ValueError("no outcomes: at least one method's search is needed")
    pairs = list(dict.fromkeys(outcome.study.template.pair for outcome in outcomes))
    figure = Figure(figsize=(width, height * len(pairs)), layout="constrained", facecolor="white")
    for axes, pair in zip(figure.subplots(len(pairs), 1, squeeze=False).ravel(), pairs, strict=True):
        _so_far(axes, [outcome for outcome in outcomes if outcome.study.template.pair == pair])
        axes.set_title(pair, fontsize=10, color=INK, loc="left")
    return figure


def _so_far(axes: "Axes", outcomes: Sequence[Outcome]) -> None:
    numbers: set[int] = set()
    for place, outcome in enumerate(outcomes):
        known = [(each.points, each.best.dev_miou) for each in best_so_far(outcome) if each.best is not None]
        if known:
            counts, scores = np.array(known, np.float64).T
            colour, dash, marker = style(place)
            axes.plot(
                counts, 100 * scores, color=colour, linestyle=dash, marker=marker, markersize=5, linewidth=1.6,
                label=outcome.study.label,
            )  # fmt: skip
            numbers |= set(counts.astype(int))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(numbers), [str(number) for number in sorted(numbers)])
    axes.minorticks_off()
    plain(axes, "points tried", "best mIoU on dev (%)")
    if numbers:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, handlelength=3.4)


def _parallel(figure: "Figure", axes: "Axes", outcome: Outcome) -> None:
    """Parallel coordinates: logarithmic, from the lowest to the highest value that is searched or published."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    space = [_shown(each, outcome) for each in outcome.study.space]
    scores = [100 * t.dev_miou for t in outcome.trials if t.dev_miou is not None]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    colours = ScalarMappable(Normalize(low, high), _COLOURS)
    places = np.arange(len(space) + 1)
    for trial in sorted(outcome.trials, key=lambda t: -1.0 if t.dev_miou is None else t.dev_miou):
        score = np.nan if trial.dev_miou is None else (100 * trial.dev_miou - low) / (high - low)
        heights = np.array([*(_height(each, trial) for each in space), score])
        there = ~np.isnan(heights)  # no marker on the axis of a hyper-parameter without effect
        best = outcome.best is not None and trial in outcome.best.trials
        colour: Any = MUTED if trial.dev_miou is None else colours.to_rgba(np.array(100 * trial.dev_miou))
        axes.plot(
            places[there], heights[there], color=colour, linewidth=2.6 if best else 1.1, zorder=4 if best else 2,
            linestyle={"ok": "-", "skipped": (0, (4, 2))}.get(trial.status, (0, (1, 1.5))),
            marker="o", markersize=5 if best else 2.5,
        )  # fmt: skip
    for place, each in enumerate(space):
        _ruler(axes, place, f"{each.low:g}", f"{each.high:g}", "off" if each.optional else None)
    _ruler(axes, len(space), f"{low:.1f}", f"{high:.1f}", None)
    axes.set_xticks(places, [*("lr" if each.name == LR else each.name for each in space), "dev mIoU (%)"])
    axes.set_xlim(-0.3, len(space) + 0.3)
    axes.set_ylim((OFF_AT if any(each.optional for each in space) else 0.0) - 0.16, 1.14)
    axes.set_yticks([])
    axes.tick_params(colors=INK, labelsize=9, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    counts = ((outcome.count("ok"), "finished"), (outcome.count("skipped"), "ended early (dashed)"))
    told = ", ".join(
        f"{n} {word}" for n, word in (*counts, (outcome.count("failed"), "failed (dotted)")) if n or word == "finished"
    )
    axes.set_title(f"{outcome.study.label} ({outcome.study.template.pair}): {told}", fontsize=10, color=INK, loc="left")


def _shown(dimension: Dimension, outcome: Outcome) -> Dimension:
    """The dimension with a range that holds the values of all trials: the published one may lie outside."""
    values = [value for t in outcome.trials if (value := t.point.get(dimension.name))]
    low, high = min([dimension.low, *values]), max([dimension.high, *values])
    off = any(t.point.get(dimension.name) == 0 for t in outcome.trials)
    return replace(dimension, low=low, high=high, optional=dimension.optional or off)


def _height(dimension: Dimension, trial: TrialResult) -> float:
    """Where a trial's line crosses the axis of a dimension; nan if the dimension has no effect."""
    value = trial.point.get(dimension.name)
    if value is None:
        return float("nan")
    if value == 0:
        return OFF_AT
    return float(np.log(value / dimension.low) / np.log(dimension.high / dimension.low))


def _ruler(axes: "Axes", place: int, low: str, high: str, off: str | None) -> None:
    """A vertical axis with labels at its ends."""
    axes.plot([place, place], [0, 1], color=FAINT, linewidth=1.2, zorder=1)
    axes.annotate(high, (place, 1), (0, 4), textcoords="offset points", ha="center", fontsize=8, color=MUTED)
    if off is None:
        axes.annotate(low, (place, 0), (0, -12), textcoords="offset points", ha="center", fontsize=8, color=MUTED)
    else:
        axes.annotate(low, (place, 0), (-5, -6), textcoords="offset points", ha="right", fontsize=8, color=MUTED)
        axes.annotate(off, (place, OFF_AT), (0, -13), textcoords="offset points", ha="center", fontsize=8, color=MUTED)


def _bars(axes: "Axes", outcome: Outcome) -> None:
    """The importance of each hyper-parameter."""
    names = [each.name for each in outcome.study.space]
    found = importance(outcome)
    places = np.arange(len(names))[::-1]
    axes.barh(places, [found.get(name, (0.0, 0))[0] for name in names], height=0.55, color="#0072b2")
    for place, name in zip(places, names, strict=True):
        width, count = found.get(name, (0.0, 0))
        text = f"n={count}" if count else "unknown"
        axes.annotate(text, (width, place), (4, 0), textcoords="offset points", va="center", fontsize=8, color=MUTED)
    axes.set_yticks(places, ["lr" if name == LR else name for name in names])
    axes.set_xlim(0, 1.12)
    axes.set_ylim(-0.6 - max(0, 3 - len(names)) / 2, len(names) - 0.4 + max(0, 3 - len(names)) / 2)
    axes.tick_params(colors=MUTED, labelsize=8, length=2)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
    axes.set_title("|Spearman's rho| with dev mIoU", fontsize=9, color=INK, loc="left")
