"""Figure of how val mIoU depends on a hyper-parameter, from the lines of one method that differ in it only."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from harness.analysis.lines import MethodRow
from harness.analysis.tables import Block
from harness.experiment.method import compact, method_entry
from harness.report.plots.curves import THIN
from harness.report.plots.style import (
    DOT,
    DOTTED,
    FULL,
    HEAVY,
    INK,
    LIGHT,
    LINE,
    MARKER,
    MUTED,
    SMALL,
    TEXT,
    TITLE,
    breadth,
    canvas,
    escaped,
    legend_below,
    plain,
    settled,
    style,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FEWEST = 3
"""Values that make a series."""
_PLACES = 6  # of a logarithm: factors that are equal but for rounding are equal
_LARGEST = 1e100  # beyond it, or below its inverse, a value is not drawn
# Inches: of a panel at least, beside its axes, between two numbers below it.
_PANEL, _SIDES, _GAP = 3.0, 0.7, 0.05
_MARGIN = 0.08  # share of the values' span at both ends
_BESIDE = 0.025  # share of the axis by which single seeds are right of their mean, which would hide them
_AS_HERE = "e.g. kd with the weights 1, 3 and 10"
_MISSING = object()


@dataclass(frozen=True)
class Series:
    """Lines of one method that differ in one hyper-parameter, or in several by a common factor.

    Attributes:
        method: its name.
        parameters: the hyper-parameters that differ, in the order of the method's signature.
        axis: what `values` are.
        labels: of the lines, by rising value.
        values: of the hyper-parameter. Of several: their common factor of the defaults; where these are unknown or have
            other ratios, the value of the first.
        default: the method's default among the values' axis; None if there is none above 0, or it is unknown.
        fixed: the hyper-parameters that all lines share and that are not at their defaults. Without known defaults:
            those in which other lines of the method differ from these.
    """

    method: str
    parameters: tuple[str, ...]
    axis: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    default: float | None
    fixed: Mapping[str, Any]

    @property
    def title(self) -> str:
        """E.g. "sstkd, w_re=0, w_adv=0"."""
        return ", ".join([self.method, *(f"{name}={_text(value)}" for name, value in self.fixed.items())])


def series(lines: Mapping[str, tuple[str, str]]) -> list[Series]:
    """All series of at least `FEWEST` values above 0, in the order of their first lines.

    A sum of methods is in none. Lines that differ by a common factor are left out where each of them is in a series of
    a single hyper-parameter: a grid is shown by its rows and columns, not by its diagonals.

    Args:
        lines: of each line the columns `method` and `method_parameters` of its rows, by label.
    """
    methods: dict[str, dict[str, dict[str, Any]]] = {}
    for label, (method, parameters) in lines.items():
        if "+" not in method:
            methods.setdefault(method, {})[label] = _defaults(method) | json.loads(parameters)
    return [one for method, mine in methods.items() for one in _of_method(method, mine)]


def of_block(block: Block, rows: Mapping[str, Mapping[str, Any]]) -> list[Series]:
    """The series of a comparison, over lines with a result. A search gives each line a learning rate of its own: none.

    Args:
        block: the comparison.
        rows: by run_id; of each line at least one.
    """
    if block.ruleset != "published":
        return []
    lines = {}
    for line in block.methods:
        row = next((rows[run_id] for run_id in line.run_ids.values() if run_id in rows), None)
        if row is not None and line.name.control is None:
            lines[line.label] = (row["method"], row["method_parameters"])
    return series(lines)


def _defaults(method: str) -> dict[str, Any]:
    """By name, in the order of the signature; none if the method is not known here."""
    try:
        fields = method_entry(method).parameters.model_fields
    except (KeyError, ValueError):  # of another version, or not installed here
        return {}
    return {name: json.loads(json.dumps(each.default)) for name, each in fields.items() if not each.is_required()}


def _of_method(method: str, lines: Mapping[str, dict[str, Any]]) -> list[Series]:
    names = list(dict.fromkeys(name for parameters in lines.values() for name in parameters))
    varied = [
        name for name in names if len({repr(parameters.get(name, _MISSING)) for parameters in lines.values()}) > 1
    ]
    groups: dict[tuple[Any, ...], set[str]] = {}
    for (label, one), (other_label, other) in combinations(lines.items(), 2):
        differ = tuple(name for name in varied if one.get(name, _MISSING) != other.get(name, _MISSING))
        here, there = _ratios(one, differ), _ratios(other, differ)
        if here is not None and here == there:
            others = json.dumps({name: one[name] for name in varied if name in one and name not in differ})
            groups.setdefault((differ, others, here), set()).update((label, other_label))
    long = {key: labels for key, labels in groups.items() if len(labels) >= FEWEST}
    single = set[str]().union(*(labels for (differ, *_), labels in long.items() if len(differ) == 1))
    return [
        _series(method, differ, {label: lines[label] for label in labels}, varied)
        for (differ, *_), labels in long.items()
        if len(differ) == 1 or not labels <= single
    ]


def _ratios(parameters: Mapping[str, Any], names: Sequence[str]) -> tuple[float, ...] | None:
    """Logarithms of the ratios of each value to the first; None if there is no value, or one is not above 0."""
    values = [parameters.get(name) for name in names]
    if not values or not all(_drawn(value) for value in values):
        return None
    logs = [math.log(value) for value in values if value is not None]
    return tuple(round(each - logs[0], _PLACES) + 0.0 for each in logs)  # never -0.0


def _drawn(value: Any) -> bool:
    """Whether a value has a place on a logarithmic axis."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 1 / _LARGEST <= value <= _LARGEST


def _series(
    method: str, names: tuple[str, ...], lines: Mapping[str, Mapping[str, Any]], varied: Sequence[str]
) -> Series:
    first = names[0]
    labels = sorted(lines, key=lambda label: float(lines[label][first]))
    shared = lines[labels[0]]
    defaults = _defaults(method)
    at = _ratios(defaults, names) == _ratios(shared, names)
    unit, default = 1.0, float(defaults[first]) if at else None
    axis = " = ".join([first, *(f"{name} / {shared[name] / shared[first]:.4g}" for name in names[1:])])
    if at and len(names) > 1:
        unit, default = defaults[first], 1.0
        axis = " = ".join(f"{name} / {_text(defaults[name])}" for name in names)
    rest = {name: value for name, value in shared.items() if name not in names}
    fixed = {n: v for n, v in rest.items() if (defaults.get(n, _MISSING) != v if defaults else n in varied)}
    values = tuple(lines[label][first] / unit for label in labels)
    return Series(method, names, axis, tuple(labels), values, default, fixed)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else compact(value)


@settled()
def sensitivity_figure(
    found: Sequence[tuple[Block, Sequence[Series]]], width: float = FULL, height: float = 2.3
) -> "Figure":
    """Mean, standard deviation and single seeds of each series over its values, a panel each, with the references.

    Args:
        found: comparisons with their series, what `of_block` gives; comparisons without one are left out.
        width: inches.
        height: inches per row of panels; legends come on top.

    Raises:
        ValueError: no series.
    """
    shown = [(block, list(mine)) for block, mine in found if mine]
    if not shown:
        raise ValueError(f"no series: three lines of one method that differ in one number above 0 are one, {_AS_HERE}")
    figure = canvas(width, height)
    places = figure.add_gridspec(len(shown), 1)
    heights = []
    for i, (block, mine) in enumerate(shown):
        columns = min(len(mine), max(1, int(width / _PANEL)))
        rows = -(-len(mine) // columns)
        legend = _draw_block(figure.add_subfigure(places[i]), block, mine, (rows, columns), width)
        heights.append(height * rows + 0.35 + legend)
    places.set_height_ratios(heights)
    figure.set_size_inches(width, sum(heights))
    return figure


def _draw_block(part: "SubFigure", block: Block, mine: Sequence[Series], shape: tuple[int, int], width: float) -> float:
    """Rows and columns of panels; returns the inches of the legend."""
    grid = part.subplots(*shape, squeeze=False, sharey=True)
    every = grid.ravel()
    scores = [line.miou for one in mine for label in one.labels if (line := block.line(label)) and line.miou]
    fewest, most = min(score.n for score in scores), max(score.n for score in scores)
    told = (
        "one seed" if most == 1 else f"mean ± standard deviation (n={fewest if fewest == most else f'{fewest}-{most}'})"
    )
    for axes, one in zip(every, mine, strict=False):
        _draw(axes, block, one, told, width / shape[1])
        axes.set_ylabel("mIoU on val (%)" if axes in grid[:, 0] else "", color=INK, fontsize=TEXT)
    handles, labels = every[0].get_legend_handles_labels()
    for axes in every[1 : len(mine)]:  # the first may have no default
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles, labels = [*handles, handle], [*labels, label]
    for axes in every[len(mine) :]:
        axes.remove()
    title = wrapped(escaped(f"{block.pair}, {block.dataset}"), width - 0.2, TITLE)
    part.suptitle(title, fontsize=TITLE, color=INK, x=0.01, ha="left")
    return legend_below(part, handles, labels, width)


def _draw(axes: "Axes", block: Block, one: Series, told: str, width: float) -> None:
    """The panel of a series.

    Args:
        axes: where.
        block: the comparison.
        one: the series.
        told: what its line is called.
        width: inches that the panel has.
    """
    for line, colour, dash in _references(block):
        if line.miou is not None:
            axes.axhline(
                line.miou.mean, color=colour, linestyle=dash, linewidth=LIGHT, zorder=2,
                label=escaped(f"{line.label} {line.miou.mean:.1f}"),
            )  # fmt: skip
    if one.default is not None:
        axes.axvline(one.default, color=MUTED, linewidth=2 * HEAVY, alpha=0.22, zorder=1, label="the method's default")
    scored = [(value, x) for value, label in zip(one.values, one.labels, strict=True) if (x := block.line(label))]
    colour, _, marker = style(2)
    beside = (one.values[-1] / one.values[0]) ** _BESIDE
    for value, line in scored:
        seeds = list(line.values.values())[:THIN]
        if len(seeds) > 1:
            axes.plot(
                [value * beside] * len(seeds), seeds, color=MUTED, linestyle="none", marker="o", markersize=DOT,
                markeredgewidth=0, zorder=4, label="single seeds" if value == scored[0][0] else None,
            )  # fmt: skip
    known = [(value, line.miou) for value, line in scored if line.miou is not None]
    axes.errorbar(
        [value for value, _ in known], [score.mean for _, score in known],
        [0.0 if score.deviation is None else score.deviation for _, score in known],
        color=colour, marker=marker, markersize=MARKER, linewidth=LINE, capsize=3, elinewidth=LIGHT, zorder=3,
        label=told,
    )  # fmt: skip
    axes.set_xscale("log")
    plain(axes, wrapped(escaped(one.axis), width - _SIDES, TEXT), "")
    _ticks(axes, one, width - _SIDES)
    axes.set_title(wrapped(escaped(one.title), width - _SIDES, TEXT), fontsize=TEXT, color=INK, loc="left")


def _references(block: Block) -> list[tuple[MethodRow, str, Any]]:
    """The student without distillation, its controls with other steps, and kd: line, colour, line style."""
    named = block.references
    out: list[tuple[MethodRow, str, Any]] = []
    for line in block.methods:
        if line.name.control is not None:
            out.append((line, INK, DOTTED))
        elif line.label in named.values():
            out.append((line, *style(0 if line.reference == "none" else 1)[:2]))
    return out


def _ticks(axes: "Axes", one: Series, width: float) -> None:
    """Ticks at the values; a value's number is left out where it would touch the one before."""
    low, *_, high = sorted([*one.values, *(() if one.default is None else (one.default,))])
    span = math.log(high / low)
    texts, end = [], -math.inf
    for value in one.values:
        text = f"{value:.4g}"
        half = breadth(text, SMALL) / width / 2
        place = math.log(value / low) / span / (1 + 2 * _MARGIN)
        near = place - half < end + _GAP / width
        texts.append("" if near else text)
        end = end if near else place + half
    axes.set_xticks(one.values, texts)
    axes.minorticks_off()
    margin = math.exp(_MARGIN * span)
    axes.set_xlim(low / margin, high * margin)
