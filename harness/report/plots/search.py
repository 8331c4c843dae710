"""Figures of a search: parallel coordinates of the trials, importance of the hyper-parameters, best score so far."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

from harness.experiment.space import LR, Dimension
from harness.report.plots.style import (
    DASHED,
    DOT,
    DOTTED,
    FAINT,
    FULL,
    HEAVY,
    INK,
    LIGHT,
    LINE,
    MARKER,
    MUTED,
    SCALE,
    SMALL,
    canvas,
    heading,
    legend_below,
    plain,
    settled,
    style,
    wrapped,
)
from harness.search.outcome import Outcome, TrialResult
from harness.search.tuning_curve import best_so_far

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
_PARALLEL = 0.66  # of the width, for the trials where the importance is beside them
_ROOM = 0.4  # inches of the height that a legend of two lines takes
FEWEST = 5  # points with a score below which no correlation is shown
OFF_AT = -0.12  # height of "off" below the range


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


@settled()
def trials_figure(outcomes: Sequence[Outcome], width: float = FULL) -> "Figure":
    """One line of panels for each method on each pair: its trials, and the importance of its hyper-parameters.

    Args:
        outcomes: at least one.
        width: inches.

    Raises:
        ValueError: no outcomes.
    """
    if not outcomes:
        raise ValueError("no outcomes: at least one method's search is needed")
    beside = width >= FULL
    bars = [1.0 + 0.28 * len(outcome.study.space) for outcome in outcomes]
    heights = [max(2.2, 0.2 + each) if beside else 2.2 + each for each in bars]
    figure = canvas(width, sum(heights))
    parts = figure.subfigures(len(outcomes), 1, squeeze=False, height_ratios=heights).ravel()
    for part, outcome, each in zip(parts, outcomes, bars, strict=True):
        ratios: dict[str, Any] = {"width_ratios": (3, 1)} if beside else {"height_ratios": (2.2, each)}
        lines, rho = part.subplots(*((1, 2) if beside else (2, 1)), **ratios)
        _parallel(lines, outcome, _PARALLEL * width if beside else width - 0.2)
        _bars(rho, outcome)
    return figure


@settled()
def best_so_far_figure(outcomes: Sequence[Outcome], width: float = FULL, height: float = 3.2) -> "Figure":
    """The best score after 1, 2, 4, ... points, a line per method, one set of axes per pair below each other.

    Args:
        outcomes: at least one.
        width: inches.
        height: inches per pair.

    Raises:
        ValueError: no outcomes.
    """
    if not outcomes:
        raise ValueError("no outcomes: at least one method's search is needed")
    pairs = list(dict.fromkeys(outcome.study.template.pair for outcome in outcomes))
    figure = canvas(width, height * len(pairs))
    tall = height
    for part, pair in zip(figure.subfigures(len(pairs), 1, squeeze=False).ravel(), pairs, strict=True):
        axes = part.subplots()
        _so_far(axes, [outcome for outcome in outcomes if outcome.study.template.pair == pair])
        heading(axes, pair, width - 0.6)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            # A long legend enlarges the figure instead of shrinking the curves.
            tall = max(tall, height - _ROOM + legend_below(part, handles, labels, width))
    figure.set_size_inches(width, tall * len(pairs))
    return figure


def _so_far(axes: "Axes", outcomes: Sequence[Outcome]) -> None:
    numbers: set[int] = set()
    for place, outcome in enumerate(outcomes):
        known = [(each.points, each.best.dev_miou) for each in best_so_far(outcome) if each.best is not None]
        if known:
            counts, scores = np.array(known, np.float64).T
            colour, dash, marker = style(place)
            axes.plot(
                counts, 100 * scores, color=colour, linestyle=dash, marker=marker, markersize=MARKER, linewidth=LINE,
                label=outcome.study.label,
            )  # fmt: skip
            numbers |= set(counts.astype(int))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(numbers), [str(number) for number in sorted(numbers)])
    axes.minorticks_off()
    plain(axes, "points tried", "best mIoU on dev (%)")


def _parallel(axes: "Axes", outcome: Outcome, width: float) -> None:
    """Parallel coordinates: logarithmic, from the lowest to the highest value that is searched or published."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    space = [_shown(each, outcome) for each in outcome.study.space]
    scores = [100 * t.dev_miou for t in outcome.trials if t.dev_miou is not None]
    low, high = (min(scores), max(scores)) if scores else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    colours = ScalarMappable(Normalize(low, high), SCALE)
    places = np.arange(len(space) + 1)
    for trial in sorted(outcome.trials, key=lambda t: -1.0 if t.dev_miou is None else t.dev_miou):
        score = np.nan if trial.dev_miou is None else (100 * trial.dev_miou - low) / (high - low)
        heights = np.array([*(_height(each, trial) for each in space), score])
        there = ~np.isnan(heights)  # no marker on the axis of a hyper-parameter without effect
        best = outcome.best is not None and trial in outcome.best.trials
        colour: Any = MUTED if trial.dev_miou is None else colours.to_rgba(np.array(100 * trial.dev_miou))
        axes.plot(
            places[there], heights[there], color=colour, linewidth=HEAVY if best else LIGHT, zorder=4 if best else 2,
            linestyle={"ok": "-", "skipped": DASHED}.get(trial.status, DOTTED),
            marker="o", markersize=MARKER if best else DOT,
        )  # fmt: skip
    for place, each in enumerate(space):
        _ruler(axes, place, f"{each.low:g}", f"{each.high:g}", "off" if each.optional else None)
    _ruler(axes, len(space), f"{low:.1f}", f"{high:.1f}", None)
    names = [*("lr" if each.name == LR else each.name for each in space), "dev mIoU (%)"]
    axes.set_xticks(places, [wrapped(name, width / len(places) - 0.05, SMALL) for name in names])
    axes.set_xlim(-0.3, len(space) + 0.3)
    axes.set_ylim((OFF_AT if any(each.optional for each in space) else 0.0) - 0.16, 1.14)
    axes.set_yticks([])
    axes.tick_params(colors=INK, labelsize=SMALL, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    counts = ((outcome.count("ok"), "finished"), (outcome.count("skipped"), "ended early (dashed)"))
    told = ", ".join(
        f"{n} {word}" for n, word in (*counts, (outcome.count("failed"), "failed (dotted)")) if n or word == "finished"
    )
    heading(axes, f"{outcome.study.label} ({outcome.study.template.pair}): {told}", width)


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
    axes.plot([place, place], [0, 1], color=FAINT, linewidth=LIGHT, zorder=1)
    axes.annotate(high, (place, 1), (0, 4), textcoords="offset points", ha="center", fontsize=SMALL, color=MUTED)
    if off is None:
        axes.annotate(low, (place, 0), (0, -12), textcoords="offset points", ha="center", fontsize=SMALL, color=MUTED)
    else:
        axes.annotate(low, (place, 0), (-5, -6), textcoords="offset points", ha="right", fontsize=SMALL, color=MUTED)
        axes.annotate(
            off, (place, OFF_AT), (0, -13), textcoords="offset points", ha="center", fontsize=SMALL, color=MUTED
        )


def _bars(axes: "Axes", outcome: Outcome) -> None:
    """The importance of each hyper-parameter."""
    names = [each.name for each in outcome.study.space]
    found = importance(outcome)
    places = np.arange(len(names))[::-1]
    axes.barh(places, [found.get(name, (0.0, 0))[0] for name in names], height=0.55, color=style(1)[0])
    for place, name in zip(places, names, strict=True):
        width, count = found.get(name, (0.0, 0))
        text = f"n={count}" if count else "unknown"
        axes.annotate(
            text, (width, place), (4, 0), textcoords="offset points", va="center", fontsize=SMALL, color=MUTED
        )
    axes.set_yticks(places, ["lr" if name == LR else name for name in names])
    axes.set_xlim(0, 1.4)
    axes.set_xticks([0, 0.5, 1])
    axes.set_ylim(-0.6 - max(0, 3 - len(names)) / 2, len(names) - 0.4 + max(0, 3 - len(names)) / 2)
    plain(axes, "|Spearman's rho|\nwith dev mIoU", "")
    axes.grid(visible=False, axis="y")
