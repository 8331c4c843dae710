"""The command `sstkd-bench compare`: methods over the pairs and datasets of several experiments."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.common import DEFAULT_RESULTS, Files, Results, Set, answering, bench

if TYPE_CHECKING:
    from harness.analysis.across import Across

STANDINGS = ("method", "mean rank", "gain", "beats the plain student's runs", "profile", "beyond noise")


def compare(
    files: Files,
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for tables and pictures; RESULTS/compare without it.")
    ] = None,
) -> None:
    """Compare methods over all pairs and datasets of several experiments: gains, ranks, profiles, costs."""
    with answering():
        from harness.bench import compared
        from harness.files import write_atomic

        folder = to or results / "compare"
        found, rows = compared(bench(file, overrides, results) for file in files)
        _print(found)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "compare.md", _markdown(found, rows))
        for name, content in _pictures(found, rows).items():
            write_atomic(folder / name, content)
        typer.echo(f"\ntables and pictures: {folder}")


def _matrix(found: "Across") -> tuple[list[str], list[list[str]]]:
    """Head and lines: whatever there is more of goes down."""
    names = [task.name for task in found.tasks]
    if len(names) > len(found.methods):
        lines = [[task.name, *(found.cell(name, task) for name in found.methods)] for task in found.tasks]
        return ["pair", *found.methods], lines
    return ["method", *names], [[name, *(found.cell(name, task) for task in found.tasks)] for name in found.methods]


def _standings(found: "Across") -> list[list[str]]:
    lines = []
    for s in found.ranked:
        gain = better = beyond = "–"
        if s.gain is not None:
            g = s.gain
            gain = f"{g.mean:+.2f}" + ("" if g.low is None else f" [{g.low:+.2f}, {g.high:+.2f}]")
        if s.better is not None:
            b = s.better
            better = f"{100 * b.mean:.0f} %"
            better += "" if b.low is None or b.high is None else f" [{100 * b.low:.0f}, {100 * b.high:.0f}]"
            beyond = f"{s.wins} better, {s.losses} worse"
        lines.append([s.label, f"{s.rank:.2f}", gain, better, f"{s.area:.2f}", beyond])
    return lines


def _notes(found: "Across") -> list[str]:
    from harness.analysis.across import WITHIN

    count = len(found.tasks)
    notes = [
        "Gains: mean difference to the plain student of the pair in percent points of dev mIoU, paired by seed, with "
        "its 95 % t interval; ▲ ▼ beyond noise after Holm's correction within the pair. The plain student: its mIoU."
    ]
    if found.ranked:
        notes.append(
            f"Standings over {count} {'task' if count == 1 else 'tasks'}: gain is the mean over tasks with its t "
            "interval over them; the chance that a run beats one of the plain student's has a bootstrap interval over "
            f"runs; profile is the mean share of tasks within 0 to {WITHIN:g} points of the best. A method that failed "
            "on a task is last there."
        )
    if found.friedman is not None:
        notes.append(f'Friedman\'s test of "all ranked methods are equally good": p = {found.friedman:.3g}.')
    if found.critical is not None:
        apart = "; ".join(" = ".join(group) for group in found.groups) or "none"
        notes.append(f"Nemenyi's critical difference of mean ranks: {found.critical:.2f}. Not told apart: {apart}.")
    reasons: dict[str, list[str]] = {}
    for name, why in found.unranked.items():
        reasons.setdefault(why, []).append(name)
    return [*notes, *(f"Not ranked: {', '.join(names)}: {why}." for why, names in reasons.items())]


def _print(found: "Across") -> None:
    from rich.text import Text

    from harness.report.console import output, print_columns

    head, lines = _matrix(found)
    print_columns(head, lines, right=tuple(head[1:]))
    typer.echo("")
    if found.ranked:
        print_columns(list(STANDINGS), _standings(found), right=STANDINGS[1:])
        typer.echo("")
    console = output()
    for note in _notes(found):
        console.print(Text(note, style="dim"))
    console.print(Text(f"\n{found.pick}", style="bold"))


def _markdown(found: "Across", rows: Mapping[str, Mapping[str, Any]]) -> str:
    from harness.analysis.across import class_gains
    from harness.papers.cells import Grid
    from harness.report.formats import grids_to_markdown

    head, matrix = _matrix(found)
    grids = [Grid("gains", "Gains", tuple(head), tuple(map(tuple, matrix)), (*_notes(found), found.pick))]
    if found.ranked:
        grids.append(Grid("standings", "Standings", STANDINGS, tuple(map(tuple, _standings(found))), ()))
    for task in found.tasks:
        names = next(rows[r]["class_names"] for x in task.block.methods for r in x.run_ids.values())
        for column, what in (("dev_confusion", "by class"), ("dev_boundary_confusion", "by class, near boundaries")):
            gains = class_gains(task, rows, column)
            if gains:
                lines = tuple((name, *map(_signed, values)) for name, values in gains.items())
                title = f"{task.name}: gain of IoU {what}"
                note = "Percent points, mean over paired seeds; –: no such class."
                grids.append(Grid(column.removesuffix("_confusion"), title, ("method", *names), lines, (note,)))
    return "# Comparison\n\n![Gains](gains.png)\n\n" + grids_to_markdown(grids)


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.1f}"


def _pictures(found: "Across", rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str | bytes]:
    """PNG and SVG by file name."""
    from harness.analysis.across import costs, profile_gaps
    from harness.report.plots import across as acrossplots
    from harness.report.plots.style import figure_png, figure_svg

    figures = {"gains": acrossplots.heat_map(found)}
    if len(found.ranked) > 1 and len(found.tasks) > 1:
        figures["ranks"] = acrossplots.rank_plot(found)
        figures["profile"] = acrossplots.profile_plot(found, profile_gaps(found))
    points = costs(found, rows)
    for dataset in dict.fromkeys(task.block.dataset for task in found.tasks):
        names = {task.name for task in found.tasks if task.block.dataset == dataset}
        figures[f"cost-{dataset}"] = acrossplots.cost_plot(found, [p for p in points if p.task in names])
    out: dict[str, str | bytes] = {}
    for name, figure in figures.items():
        out |= {f"{name}.png": figure_png(figure), f"{name}.svg": figure_svg(figure)}
    return out
