"""Figure of how strongly each loss term pulls on the student: the norm of its gradient relative to the task loss's."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.tables import Block
from harness.report.plots.style import (
    DOTTED,
    FULL,
    HANDLE,
    INK,
    LIGHT,
    LINE,
    MARKER,
    MUTED,
    TEXT,
    canvas,
    heading,
    plain,
    settled,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TASK = "task"
_SHORT = 50  # ratio of the ends of an axis up to which there are ticks within a decade

Ratios = dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]


def ratios(block: Block, gradients: Mapping[str, Sequence[Mapping[str, Any]] | None]) -> dict[str, Ratios]:
    """Gradient norm of each term over that of the task loss, the geometric mean over runs.

    Args:
        block: the comparison.
        gradients: the column `gradients` by run_id.

    Returns:
        By line's label and term: (steps, ratios), at the steps that all of the line's runs have; lines without such a
        term are left out. A term without a gradient in a step has no ratio there.
    """
    out: dict[str, Ratios] = {}
    for line in block.methods:
        found: dict[str, dict[int, list[float]]] = {}
        logged = [entries for run_id in line.run_ids.values() if (entries := gradients.get(run_id))]
        for entries in logged:
            for entry in entries:
                norms = dict(entry["terms"])
                task = norms.pop(TASK, 0.0)
                for name, norm in norms.items():
                    if task > 0 and norm > 0:
                        found.setdefault(name, {}).setdefault(int(entry["step"]), []).append(np.log(norm / task))
        terms: Ratios = {}
        for name, at in found.items():
            steps = np.array(sorted(step for step, logs in at.items() if len(logs) == len(logged)), np.int64)
            if steps.size:
                terms[name] = steps, np.exp([np.mean(at[step]) for step in steps.tolist()])
        if terms:
            out[line.label] = terms
    return out


@settled()
def gradient_figure(found: Sequence[Mapping[str, Ratios]], width: float = FULL, height: float = 2.4) -> "Figure":
    """The ratios of each comparison, a set of axes per method.

    Args:
        found: what `ratios` gives, for each block; at least one method.
        width: inches.
        height: inches per method.

    Raises:
        ValueError: no method.
    """
    lines = [(label, terms) for one in found for label, terms in one.items()]
    if not lines:
        raise ValueError("no gradients: train.gradients_every logs them")
    figure = canvas(width, height * len(lines))
    every = figure.subplots(len(lines), 1, squeeze=False, sharex=True).ravel()
    for axes, (label, terms) in zip(every, lines, strict=True):
        _draw(axes, label, terms, width)
    every[-1].set_xlabel("training step", color=INK, fontsize=TEXT)
    return figure


def _draw(axes: "Axes", label: str, terms: Ratios, width: float) -> None:
    for place, (name, (steps, values)) in enumerate(sorted(terms.items()), start=1):
        colour, dash, marker = style(place)
        axes.plot(
            steps, values, color=colour, linestyle=dash, marker=marker, markersize=MARKER, linewidth=LINE, label=name,
            markevery=max(1, steps.size // 10),
        )  # fmt: skip
    axes.axhline(1, color=MUTED, linewidth=LIGHT, linestyle=DOTTED, label=TASK)
    axes.set_yscale("log")
    plain(axes, "", "gradient / task's")
    _decades(axes)
    heading(axes, label, 0.6 * width)
    axes.legend(
        frameon=False, fontsize=TEXT, labelcolor=INK, handlelength=HANDLE, loc="center left", bbox_to_anchor=(1, 0.5)
    )


def _decades(axes: "Axes") -> None:
    """Ticks of a logarithmic axis as plain numbers: an exponent's letters would be too small."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < _SHORT else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
