"""Figures of a comparison over many pairs: gains, ranks, profiles, accuracy against cost. Readable in greyscale."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.analysis.across import WITHIN, Across, Cost, Task, pareto
from harness.analysis.exports import ExportCost
from harness.analysis.ranking import profile
from harness.report.plots.style import FAINT, INK, MUTED, escaped, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_LETTER = 0.078  # width of a label's letter in inches
_COST_WIDTH = 11.0
_NARROW = 5.0  # inches: below, a figure is for a phone


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _plain_axes(axes: "Axes") -> None:
    axes.tick_params(colors=MUTED, labelsize=9, length=3)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)


def heat_map(found: Across) -> "Figure":
    """Difference to the baseline, method by task; framed: significant, hatched: no result."""
    methods = [m for m in found.methods if any(_difference(m, t) is not None for t in found.tasks)]
    values = np.array([[_or_nan(_difference(m, t)) for t in found.tasks] for m in methods]).reshape(
        len(methods), len(found.tasks)
    )
    few = len(found.tasks) <= 4
    longest = max(map(len, methods), default=0)
    width = 1.6 + _LETTER * longest + (1.7 if few else 0.8) * len(found.tasks)
    figure = _figure(width, (1.4 if few else 2.6) + 0.36 * max(1, len(methods)))
    axes = figure.subplots()
    bound = max(1e-9, float(np.nanmax(np.abs(values), initial=0.0)))
    image = axes.imshow(values, cmap="PuOr_r", vmin=-bound, vmax=bound, aspect="auto")
    for row, name in enumerate(methods):
        for column, task in enumerate(found.tasks):
            box = (column - 0.5, row - 0.5), 1, 1
            x = task.block.line(name)
            if np.isnan(values[row, column]):
                axes.add_patch(_rectangle(*box, facecolor="white", edgecolor=FAINT, hatch="////"))
                continue
            dark = abs(values[row, column]) > 0.6 * bound
            axes.text(
                column, row, f"{values[row, column]:+.2f}", ha="center", va="center", fontsize=9,
                color="white" if dark else INK,
            )  # fmt: skip
            if x is not None and x.vs_none is not None and x.vs_none.significant:
                axes.add_patch(
                    _rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, linewidth=2)
                )
    names = [textwrap.fill(t.name, 20 if few else 26) for t in found.tasks]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    if not few:
        axes.set_xticks(range(len(names)), names, fontsize=8, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(methods)), methods, fontsize=9)
    axes.tick_params(length=0, colors=INK)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("percentage points of mIoU to the baseline", fontsize=8, color=MUTED)
    bar.ax.tick_params(labelsize=8, colors=MUTED)
    return figure


def _rectangle(at: tuple[float, float], width: float, height: float, **how: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(at, width, height, **how)


def _difference(method: str, task: Task) -> float | None:
    x = task.block.line(method)
    return None if x is None or x.vs_none is None else x.vs_none.difference.mean


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def rank_plot(found: Across, width: float = 7.6) -> "Figure":
    """Mean ranks, a method in a line, best first; where there is a critical difference, bars at the right join methods
    within it."""
    ranks = dict(found.tested) or {s.label: s.rank for s in found.ranked}
    over = f"{len(found.datasets)} datasets" if len(found.datasets) > 1 else f"{len(found.tasks)} pairs of one dataset"
    names = sorted(ranks, key=lambda name: (ranks[name], name))
    places = {name: i for i, name in enumerate(found.methods)}
    critical = found.critical
    top = -0.6 if critical is None else -1.6
    figure = _figure(width, 0.9 + 0.3 * (len(names) - top))
    axes = figure.subplots()
    for row, name in enumerate(names):
        colour, _, marker = style(places[name])
        axes.plot([ranks[name]], [row], color=colour, marker=marker, markersize=8, linestyle="none", zorder=3)
        axes.annotate(f"{ranks[name]:.2f}", (ranks[name], row), xytext=(9, 0), textcoords="offset points", va="center",
                      fontsize=9, color=INK)  # fmt: skip
    end = len(names) + 0.55
    for i, group in enumerate(found.groups):
        at, ends = end + 0.22 * i, [names.index(group[0]) - 0.25, names.index(group[-1]) + 0.25]
        axes.plot([at, at], ends, color=INK, linewidth=4, solid_capstyle="butt")
    if found.groups:
        axes.text(
            end + 0.22 * (len(found.groups) - 1) + 0.05, -0.45, "not told apart", fontsize=8, color=MUTED, ha="right"
        )
    if critical is not None:
        axes.plot([1, 1 + critical], [-1, -1], color=MUTED, linewidth=2, marker="|", markersize=8)
        axes.text(1, -1.25, f"critical difference {critical:.2f}", fontsize=8, color=MUTED)
    axes.set_xlim(0.8, max(end + 0.22 * len(found.groups), 0 if critical is None else 1.2 + critical))
    axes.set_ylim(len(names) - 0.4, top)
    axes.set_xticks(range(1, len(names) + 1))
    axes.set_yticks(range(len(names)), [textwrap.fill(name, 26) for name in names])
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    _plain_axes(axes)
    axes.tick_params(axis="y", length=0, colors=INK)
    axes.spines["left"].set_visible(False)
    said = f"mean rank over {over}, 1 is best"
    axes.set_xlabel(textwrap.fill(said, 24) if width < _NARROW else said, fontsize=9, color=INK)
    return figure


def profile_plot(found: Across, behind: Mapping[str, Any], width: float = 7.6) -> "Figure":
    """Performance profiles: share of tasks on which a method is within x percentage points of the best one.

    Args:
        found: the comparison.
        behind: by method, (tasks,) percentage points behind the best: `harness.analysis.across.profile_gaps`.
        width: inches; the legend of a narrow one is below it.
    """
    narrow = width < _NARROW
    figure = _figure(width, 3.4 + 0.2 * len(found.ranked) if narrow else 4.2)
    axes = figure.subplots()
    places = {name: i for i, name in enumerate(found.methods)}
    for s in found.ranked:
        colour, dash, marker = style(places[s.label])
        x = np.unique([0.0, WITHIN, *behind[s.label][np.isfinite(behind[s.label])]])
        y = profile(behind[s.label], x)
        axes.step(x, y, where="post", color=colour, linestyle=dash, linewidth=1.8, marker=marker, markersize=4,
                  label=f"{s.label} ({s.area:.2f})")  # fmt: skip
    axes.set_xlim(-0.02 * WITHIN, WITHIN)
    axes.set_ylim(0, 1.04)
    behind_best = "percentage points of mIoU behind the best method of the task"
    axes.set_xlabel(textwrap.fill(behind_best, 40) if narrow else behind_best, fontsize=10, color=INK)
    axes.set_ylabel("share of tasks", fontsize=10, color=INK)
    axes.grid(color=FAINT, linewidth=0.7)
    _plain_axes(axes)
    legend = figure.legend(
        loc="outside lower left" if narrow else "outside right center", title=f"area up to {WITHIN:g} points",
        frameon=False, fontsize=9, title_fontsize=8, labelcolor=INK,
    )  # fmt: skip
    legend.get_title().set_color(INK)
    return figure


_AXES: tuple[tuple[str, Callable[[Cost], float | None]], ...] = (
    ("parameters of the student, millions", lambda c: None if c.parameters is None else c.parameters / 1e6),
    ("MACs of an image, billions", lambda c: None if c.macs is None else c.macs / 1e9),
    ("latency of an image, ms", lambda c: c.latency_ms),
    ("seconds of training", lambda c: c.train_seconds),
)


Links = Mapping[tuple[str, str], str]
"""Where the point of a method on a task leads, on a page that has such places."""


def cost_plot(
    found: Across, points: Sequence[Cost], width: float = _COST_WIDTH, links: Links | None = None
) -> "Figure":
    """mIoU against the cost of the student and of its training, with the Pareto front.

    Args:
        found: the comparison.
        points: `harness.analysis.across.costs` of one dataset, because mIoU is not comparable between datasets.
        width: inches; the panels of a narrow one are below each other.
        links: where points lead.
    """
    # Old rows have no latency.
    shown = [(title, value) for title, value in _AXES if any(value(c) is not None for c in points)] or _AXES[:1]
    panels = [(title, [(v, c) for c in points if (v := value(c)) is not None]) for title, value in shown]
    return _fronts(found, panels, "mIoU on val (%)", width, links or {})


def export_plot(
    found: Across,
    points: Sequence[ExportCost],
    title: str = "",
    width: float = _COST_WIDTH,
    links: Links | None = None,
) -> "Figure":
    """mIoU of exported files against their latency on each device and their size, with the Pareto front.

    Args:
        found: the comparison.
        points: `harness.analysis.exports.costs` of one form on one dataset.
        title: above the panels.
        width: inches; the panels of a narrow one are below each other.
        links: where points lead.
    """
    timings = dict.fromkeys(timing for c in points for timing in c.latency_ms)
    panels = [
        (textwrap.fill(escaped(f"{t.text}, ms"), 36), [(c.latency_ms[t], c) for c in points if t in c.latency_ms])
        for t in sorted(timings, key=lambda t: (t.device, t.threads, t.hw))
    ]
    panels.append(("size of the files, MiB", [(c.size_mib, c) for c in points]))
    figure = _fronts(found, panels, "mIoU of the files on val (%)", width, links or {})
    if title:
        figure.suptitle(title, fontsize=10, color=INK)
    return figure


def _fronts(
    found: Across,
    panels: "Sequence[tuple[str, Sequence[tuple[float, Cost | ExportCost]]]]",
    score: str,
    width: float,
    links: Links,
) -> "Figure":
    """A panel for each cost, of (cost, point), with the Pareto front; `score` names what all of them share."""
    narrow = width < _NARROW
    figure = _figure(width, 4.4)
    shape = (len(panels), 1) if narrow else (1, len(panels))
    axes = figure.subplots(*shape, sharey=True, squeeze=False).ravel()
    places = {name: i for i, name in enumerate(found.methods)}
    for panel, (title, known) in zip(axes, panels, strict=True):
        for v, c in known:
            colour, _, marker = style(places[c.label])
            panel.plot(v, c.miou, color=colour, marker=marker, markersize=7, linestyle="none", markeredgecolor="white",
                       url=links.get((c.label, c.task)))  # fmt: skip
        front = pareto([(v, c.miou) for v, c in known])
        panel.step([known[i][0] for i in front], [known[i][1].miou for i in front], where="post", color=MUTED,
                   linewidth=1.2, zorder=1)  # fmt: skip
        panel.set_xlabel(title, fontsize=9, color=INK)
        panel.locator_params(axis="x", nbins=4)
        panel.grid(color=FAINT, linewidth=0.7)
        panel.margins(0.08)
        _plain_axes(panel)
    for panel in axes if narrow else axes[:1]:
        panel.set_ylabel(score, fontsize=9 if narrow else 10, color=INK)
    shown = dict.fromkeys(c.label for _, known in panels for _, c in known)
    handles = []
    for name in shown:
        colour, _, marker = style(places[name])
        handles += axes[0].plot([], [], color=colour, marker=marker, linestyle="none", label=name)
    each = [0.6 + _LETTER * len(name) for name in shown]
    columns = max(1, len(each) if sum(each) < width else int(width / max(each)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9,
                  labelcolor=INK)  # fmt: skip
    height = 2.2 * len(panels) if narrow else 3.9
    figure.set_size_inches(width, height + 0.2 * -(-len(shown) // columns))
    return figure
