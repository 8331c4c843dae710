"""Figures of rows: learning curves by method.

They use matplotlib's Figure objects and the Agg and SVG writers only: no window, no pyplot, no global state. Colours
are Okabe and Ito's (safe for colour-blind readers); line styles and markers distinguish methods in greyscale.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.tables import Block
from harness.report.plots.style import (
    BIG,
    DASHED,
    DOT,
    DOTTED,
    FULL,
    HAIR,
    HANDLE,
    INK,
    LIGHT,
    LINE,
    MARKER,
    MUTED,
    PAPER,
    SMALL,
    TEXT,
    canvas,
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


THIN = 30
"""Most single seeds of a method that are drawn; more would be unreadable and make large files."""
_ROOM = 0.6  # inches of the height that a legend of three lines takes
_LEGEND_ENTRY, _LEGEND_MORE = 0.21, 0.175  # beside the curves: of an entry, of each further line of it
_WRAPPED = 2.3  # inches of a line of a legend beside the curves


@dataclass(frozen=True)
class Curve:
    """One method's dev mIoU in percent over training steps; `seeds` holds (steps, values), each (points,)."""

    label: str
    seeds: tuple[tuple[NDArray[np.int64], NDArray[np.float64]], ...]

    @cached_property
    def mean(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Mean over seeds at the steps that every seed has: (steps, values)."""
        first = self.seeds[0][0]
        if all(np.array_equal(steps, first) for steps, _ in self.seeds):
            return first, np.mean([values for _, values in self.seeds], axis=0)
        common = np.array(sorted(set.intersection(*(set(steps.tolist()) for steps, _ in self.seeds))), dtype=np.int64)
        return common, np.mean([values[np.isin(steps, common)] for steps, values in self.seeds], axis=0)


@dataclass(frozen=True)
class Panel:
    """Content of one pair's axes. `floor` and `teacher` are dev mIoU in percent; an empty title takes no space."""

    title: str
    curves: tuple[Curve | None, ...]
    floor: float | None
    teacher: float | None

    @property
    def single(self) -> bool:
        """Whether no run was evaluated more than once, so that there is no curve."""
        known = [curve for curve in self.curves if curve is not None]
        return bool(known) and all(steps.size < 2 for curve in known for steps, _ in curve.seeds)


def panel(block: Block, curves: Mapping[str, Any]) -> Panel:
    """The curves of a block.

    Args:
        block: the comparison; its lines' order decides the styles.
        curves: the column `curve` by run_id: (steps, values), both arrays, or None.

    Returns:
        One `Curve` per line of the block, None if no run of the method has a curve.
    """
    out: list[Curve | None] = []
    for line in block.methods:
        seeds = []
        for run_id in line.run_ids.values():
            steps, values = curves.get(run_id) or ((), ())
            if len(steps):
                order = np.argsort(steps, kind="stable")
                seeds.append((np.asarray(steps)[order], 100 * np.asarray(values)[order]))
        out.append(Curve(line.label, tuple(seeds)) if seeds else None)
    thin = "single seeds" if all(c is None or len(c.seeds) <= THIN for c in out) else f"the first {THIN} seeds"
    title = f"{block.pair}, {block.dataset} (thin lines: {thin})"
    return Panel(title, tuple(out), block.dev_floor, block.of_teachers("dev"))


@settled()
def curve_figure(panels: Sequence[Panel], width: float = FULL, height: float = 4.2, beside: bool = False) -> "Figure":
    """Learning curves, one set of axes per pair below each other; dots where runs have one evaluation.

    Args:
        panels: at least one.
        width: inches.
        height: inches per panel; more where the legend has many lines.
        beside: the legend at the right of the curves instead of below.

    Raises:
        ValueError: no panels.
    """
    if not panels:
        raise ValueError("no panels: at least one pair is needed")
    figure = canvas(width, height * len(panels))
    tall = height
    for part, one in zip(figure.subfigures(len(panels), 1, squeeze=False).ravel(), panels, strict=True):
        axes = part.subplots()
        rows = (_dots if one.single else _draw)(axes, one, width)
        heading(axes, one.title, width - 0.6)
        handles, labels = axes.get_legend_handles_labels()
        # A long legend enlarges the figure instead of shrinking the curves.
        if beside:
            tall = max(tall, _beside(part, handles, labels), rows)
        else:
            tall = max(tall, legend_below(part, handles, labels, width) + max(height - _ROOM, rows))
    figure.set_size_inches(width, tall * len(panels))
    return figure


def _beside(part: "SubFigure", handles: Sequence[Any], labels: Sequence[str]) -> float:
    """A legend at the right of the curves; returns the height in inches that it takes."""
    texts = [wrapped(label, _WRAPPED, TEXT) for label in labels]
    part.legend(
        handles, texts, loc="outside right upper", frameon=False, fontsize=TEXT, labelcolor=INK, handlelength=HANDLE
    )
    return _LEGEND_ENTRY * (len(texts) + 2) + _LEGEND_MORE * sum(text.count("\n") for text in texts)


def _dots(axes: "Axes", panel: Panel, width: float) -> float:
    """A line for each method: its only evaluation over seeds. Returns the height in inches that they need."""
    shown = [(i, curve) for i, curve in enumerate(panel.curves) if curve is not None]
    for row, (i, curve) in enumerate(shown):
        colour, _, marker = style(i)
        values = [float(v) for _, seed in curve.seeds[:THIN] for v in seed]
        axes.plot(values, [row] * len(values), color=colour, marker="o", markersize=DOT, linestyle="none", alpha=0.5)
        mean = float(np.mean(curve.mean[1]))
        axes.plot([mean], [row], color=colour, marker=marker, markersize=BIG, linestyle="none", markeredgecolor=PAPER)
    _levels(axes.axvline, panel)
    plain(axes, "mIoU on dev (%)", "")
    names = [wrapped(f"{curve.label} (n={len(curve.seeds)})", 0.4 * width, SMALL) for _, curve in shown]
    axes.set_yticks(range(len(names)), names, fontsize=SMALL, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    return 0.8 + 0.13 * sum(name.count("\n") + 1.5 for name in names)


def _draw(axes: "Axes", panel: Panel, width: float) -> float:
    """A line for each method, which needs no height of its own."""
    for i, curve in enumerate(panel.curves):
        if curve is None:
            continue
        colour, dash, marker = style(i)
        if len(curve.seeds) > 1:
            for steps, values in curve.seeds[:THIN]:
                axes.plot(steps, values, color=colour, linewidth=HAIR, alpha=0.32, zorder=2)
        steps, values = curve.mean
        axes.plot(
            steps, values, color=colour, linestyle=dash, linewidth=LINE, marker=marker, markersize=MARKER, zorder=3,
            markevery=max(1, steps.size // 10), label=f"{curve.label} (n={len(curve.seeds)})",
        )  # fmt: skip
    _levels(axes.axhline, panel)
    plain(axes, "training step", "mIoU on dev (%)")
    axes.margins(x=0.02, y=0.07)
    return 0.0


def _levels(line: Callable[..., Any], panel: Panel) -> None:
    """What the curves are to be read against."""
    for value, what, dash in (
        (panel.teacher, "teacher", DOTTED),
        (panel.floor, "single-pixel baseline", DASHED),
    ):
        if value is not None:
            line(value, color=MUTED, linewidth=LIGHT, linestyle=dash, label=f"{what} {value:.1f}")
