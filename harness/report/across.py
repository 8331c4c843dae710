"""A comparison over many pairs as sheets, Markdown and pictures: gains, standings, and gains by class."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import exports
from harness.analysis.across import WITHIN, Across, Cost, class_gains, costs, profile_gaps
from harness.analysis.export_sheets import sheet_of
from harness.analysis.exports import ExportCost, ExportTable
from harness.analysis.lines import FEWEST_SEEDS
from harness.analysis.sheets import Sheet, sheet
from harness.borders import label
from harness.report.formats import sheets_to_markdown

STANDINGS = ("method", "mean rank", "gain", "beats the baseline's runs", "profile", "significant")

Rows = Mapping[str, Mapping[str, Any]]
"""By run_id."""


def gains(found: Across) -> Sheet:
    """The gain of every method on every task; the longer of the two goes down."""
    names = [task.name for task in found.tasks]
    said = (*notes(found), found.pick)
    if pairs_down(found):
        rows = [[task.name, *(found.cell(method, task) for method in found.methods)] for task in found.tasks]
        return sheet("gains", "Gains", ["pair", *found.methods], rows, said)
    rows = [[method, *(found.cell(method, task) for task in found.tasks)] for method in found.methods]
    return sheet("gains", "Gains", ["method", *names], rows, said)


def pairs_down(found: Across) -> bool:
    """Whether a table of methods and pairs has the pairs as its lines."""
    return len(found.tasks) > len(found.methods)


def standings(found: Across) -> Sheet:
    """The ranked methods, best first."""
    rows = []
    for s in found.ranked:
        gain = better = significant = "–"
        if s.gain is not None:
            g = s.gain
            gain = f"{g.mean:+.2f}" + ("" if g.low is None else f" [{g.low:+.2f}, {g.high:+.2f}]")
        if s.better is not None:
            b = s.better
            better = f"{100 * b.mean:.0f} %"
            better += "" if b.low is None or b.high is None else f" [{100 * b.low:.0f}, {100 * b.high:.0f}]"
            significant = f"{s.wins} better, {s.losses} worse"
        rows.append((s.label, f"{s.rank:.2f}", gain, better, f"{s.area:.2f}", significant))
    return sheet("standings", "Standings", STANDINGS, rows)


def notes(found: Across) -> list[str]:
    """How to read both tables, the tests over all methods, and which methods are not ranked."""
    count = len(found.tasks)
    said = [
        "Gains: mean difference of val mIoU to the student without distillation (baseline) of the pair in percentage "
        "points, paired by seed, with 95 % intervals that hold together for all comparisons of the pair; ▲ ▼: the "
        f"interval leaves 0 out, over {FEWEST_SEEDS} seeds or more. The baseline's own line: its mIoU in percent, mean "
        "± standard deviation."
    ]
    if found.ranked:
        said.append(
            f"Standings over {count} {'pair' if count == 1 else 'pairs'} of {len(found.datasets)} "
            f"{'dataset' if len(found.datasets) == 1 else 'datasets'}: mean rank and gain are means over the pairs of "
            "a dataset, then over datasets, the gain with its t interval over datasets, if there are several; the "
            "probability that a run beats one of the baseline's has a bootstrap interval over runs; profile is the "
            f"mean share of pairs within 0 to {WITHIN:g} percentage points of the best. A method that failed on a pair "
            "is last there."
        )
    if len(found.datasets) == 1:
        said.append(
            "Pairs of one dataset are not independent: without a second dataset there is no interval of a mean gain "
            "and no test over all methods."
        )
    if found.friedman is not None:
        what = "all methods but the baseline gain equally"
        said.append(f'Friedman\'s test over datasets of "{what}": p = {found.friedman:.3g}.')
    if found.critical is not None:
        apart = "; ".join(" = ".join(group) for group in found.groups) or "none"
        said.append(
            f"Nemenyi's critical difference of mean ranks over datasets: {found.critical:.2f}. Not told apart: {apart}."
        )
    reasons: dict[str, list[str]] = {}
    for name, why in found.unranked.items():
        reasons.setdefault(why, []).append(name)
    return [*said, *(f"Not ranked: {', '.join(names)}: {why}." for why, names in reasons.items())]


def to_markdown(found: Across, rows: Rows, exported: Sequence[ExportTable] = ()) -> str:
    """All tables, with those of the gains by class and of the exports.

    Args:
        found: the comparison.
        rows: with class_names, val_confusion and val_boundary_confusion.
        exported: of its tasks.
    """
    sheets = [gains(found), *([standings(found)] if found.ranked else [])]
    for task in found.tasks:
        names = next(rows[r]["class_names"] for x in task.block.methods for r in x.run_ids.values())
        for column, what in (("val_confusion", "by class"), ("val_boundary_confusion", "by class, near boundaries")):
            if by_class := class_gains(task, rows, column):
                lines = [(name, *map(_signed, values)) for name, values in by_class.items()]
                title = f"{task.name}: gain of IoU {what}"
                note = "Percentage points, mean over paired seeds; –: no such class."
                sheets.append(sheet(column.removesuffix("_confusion"), title, ("method", *names), lines, [note]))
    shown = {name: f"![{title}]({name}.png)" for name, (title, _) in of_exports(found, exported).items()}
    below = "\n" + sheets_to_markdown(sheet_of(table, "", "") for table in exported) if exported else ""
    below += "".join(f"\n{picture}\n" for picture in shown.values())
    return "# Comparison\n\n![Gains](gains.png)\n\n" + sheets_to_markdown(sheets) + below


def of_exports(found: Across, exported: Sequence[ExportTable]) -> dict[str, tuple[str, list[ExportCost]]]:
    """By name of a picture its title and points: one for each dataset and form."""
    out: dict[str, tuple[str, list[ExportCost]]] = {}
    for task in found.tasks:
        for table in exported:
            if table.block is task.block:
                name = f"exports-{label(task.block.dataset)}-{label(table.form.text)}"
                title = f"mIoU of files against latency and size: {task.block.dataset}, {table.form.text}"
                out.setdefault(name, (title, []))[1].extend(exports.costs(table, task.name))
    return {name: (title, points) for name, (title, points) in out.items() if points}


def by_dataset(found: Across, points: Sequence[Cost]) -> dict[str, list[Cost]]:
    """The points of each dataset."""
    datasets = {task.name: task.block.dataset for task in found.tasks}
    out: dict[str, list[Cost]] = {dataset: [] for dataset in found.datasets}
    for point in points:
        out[datasets[point.task]].append(point)
    return out


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.1f}"


def pictures(found: Across, rows: Rows, exported: Sequence[ExportTable] = ()) -> dict[str, str | bytes]:
    """PNG and SVG by file name.

    Args:
        found: the comparison.
        rows: as `harness.analysis.across.costs` needs them.
        exported: of its tasks.
    """
    from harness.report.plots.across import cost_plot, export_plot, heat_map, profile_plot, rank_plot
    from harness.report.plots.style import figure_png, figure_svg

    figures = {"gains": heat_map(found)}
    if len(found.ranked) > 1 and len(found.tasks) > 1:
        figures["ranks"] = rank_plot(found)
        figures["profile"] = profile_plot(found, profile_gaps(found))
    points = costs(found, rows)
    for dataset, mine in by_dataset(found, points).items():
        figures[f"cost-{label(dataset)}"] = cost_plot(found, mine)
    for name, (title, files) in of_exports(found, exported).items():
        figures[name] = export_plot(found, files, title)
    out: dict[str, str | bytes] = {}
    for name, figure in figures.items():
        out |= {f"{name}.png": figure_png(figure), f"{name}.svg": figure_svg(figure)}
    return out
