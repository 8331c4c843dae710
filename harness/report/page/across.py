"""The page of a comparison over many pairs: what `compare.md` has, each number with the runs behind it."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from harness.analysis.across import Across, Task, class_gains, costs, profile_gaps
from harness.analysis.exports import ExportTable
from harness.analysis.sheets import Sheet
from harness.borders import html as _e
from harness.borders import label
from harness.report.across import by_dataset, notes, of_exports, pairs_down, standings
from harness.report.page import exports as pageexports
from harness.report.page.colours import Row, class_colours, class_names, rgb
from harness.report.page.data import page_data
from harness.report.page.figures import inline, swatch
from harness.report.page.shell import whole
from harness.report.page.tables import CLASSES, gain_colour
from harness.report.plots.across import Links
from harness.report.plots.style import figure_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Mapping[str, Row]
_WIDE, _NARROW = 9.6, 3.7  # inches of a figure on a desk and on a phone
_SHADES = "Orange is better than the student without distillation, purple is worse."


def render(
    found: Across,
    rows: Rows,
    exported: Sequence[ExportTable],
    files: Mapping[str, str],
    reports: Mapping[str, str],
) -> str:
    """The page.

    Args:
        found: the comparison.
        rows: every run of its experiments by run_id, as `harness.analysis.compact.compact_rows` gives them.
        exported: of its tasks.
        files: the file of each experiment, for the command that repeats a run.
        reports: the results page of an experiment, as seen from this one, where there is one.
    """
    places = {(m, task.name): _place(found, t, m) for t, task in enumerate(found.tasks) for m in found.methods}
    told = {place: f"{m} on {task}: its runs" for (m, task), place in places.items()}
    links = {key: f"#{place}" for key, place in places.items()}
    parts = [
        f"<section>\n<h2>{_e(_over(found))}</h2>\n"
        f'<p class="answer">{_e(found.pick)}</p>\n{_facts(found)}\n<h3>Gains</h3>\n{_gains(found)}',
        *_ranks(found),
        *_costs(found, rows, links, told),
        *_exports(found, exported, links, told),
        *_by_class(found, rows),
        f"<h3>Pairs</h3>\n{_pairs(found, reports)}",
        *_unfair(found),
        "</section>",
    ]
    names = {(task.experiment, task.block.pair): task.name for task in found.tasks}
    named = [{**row, "pair": names.get((row["experiment"], row["pair"]), row["pair"])} for row in rows.values()]
    mine = _in_order(named, found)
    experiments = list(dict.fromkeys(task.experiment for task in found.tasks))
    return whole(
        "Methods across datasets" if len(found.datasets) > 1 else "Methods across pairs",
        f"{len(found.methods)} methods to train the same students on {', '.join(found.datasets)}, from the rows of "
        f"{', '.join(experiments)}. A dataset is the unit: pairs of one dataset are not independent of each other.",
        "\n".join(parts),
        page_data(
            mine,
            [(task.name, task.block) for task in found.tasks],
            [None] * len(mine),
            # A row keeps the name that its experiment had when it ran.
            lambda row: files.get(row["experiment"], f"experiments/{row['experiment']}.yaml"),
            several=True,
        ),
        "of the experiment's results folder",
        f"Computed from {len(mine)} rows.",
    )


def _over(found: Across) -> str:
    pairs, datasets = len(found.tasks), len(found.datasets)
    return (
        f"Over {pairs} {'pair' if pairs == 1 else 'pairs'} of {datasets} {'dataset' if datasets == 1 else 'datasets'}"
    )


def _place(found: Across, task: int, method: str) -> str:
    """The id of the cell of a method on a task."""
    return f"gain-{task}-{found.methods.index(method)}"


def _facts(found: Across) -> str:
    ranked = found.ranked
    first = ", ".join(standing.label for standing in ranked if standing.rank == ranked[0].rank)
    block = found.tasks[0].block
    facts = [
        ("Ranked methods", f"{len(ranked)} of {len(found.methods)}", "those with all their runs on every pair"),
        ("Best mean rank", f"{ranked[0].rank:.2f}" if ranked else "–", first or "no ranks"),
        (
            "Friedman's test",
            "–" if found.friedman is None else f"p = {found.friedman:.3g}",
            "of equal gains, over datasets",
        ),
        (
            "Critical difference",
            "–" if found.critical is None else f"{found.critical:.2f}",
            "of mean ranks, over datasets (Nemenyi)",
        ),
        ("Rules", block.rules, f"budget in {block.budget_unit}"),
    ]
    tiles = "".join(f"<div><dt>{_e(k)}</dt><dd>{_e(v)}<small>{_e(more)}</small></dd></div>" for k, v, more in facts)
    return f'<dl class="facts">{tiles}</dl>'


def _gains(found: Across) -> str:
    """The matrix: the longer of methods and pairs goes down; each cell leads to its runs."""
    known = [c.difference.mean for t in found.tasks for x in t.block.methods if (c := x.vs_none) is not None]
    bound = max(map(abs, known), default=0.0)
    base = found.tasks[0].block.references["none"]

    def cell(t: int, name: str, head: str) -> str:
        task = found.tasks[t]
        line, text = task.block.line(name), found.cell(name, task)
        where = f'id="{_place(found, t, name)}" data-label="{_e(head)}"'
        if line is None:
            return f"<td {where}><span>{_e(text)}</span></td>"
        at = f'{where} data-at="{t} {task.block.methods.index(line)}"'
        value, _, more = text.partition(" [")
        if line.vs_none is None or not more:
            return f"<td {at}><span>{_e(text)}</span></td>"
        sure = ""
        for mark in "▲▼":
            if f" {mark}" in more:  # it belongs to the value, which stands above its interval
                value, more, sure = f"{value} {mark}", more.replace(f" {mark}", "", 1), " sure"
        colour = gain_colour(line.vs_none.difference.mean, bound)
        inside = f'{_e(value)} <span class="width">[{_e(more)}</span>'
        return f'<td {at} class="shade{sure}" style="background:{colour}"><span>{inside}</span></td>'

    def row(head: str, cells: Sequence[str]) -> str:
        return f'<tr><th scope="row">{head}</th>{"".join(cells)}</tr>'

    dots = {name: swatch(i) for i, name in enumerate(found.methods)}
    if pairs_down(found):
        heads = ["pair", *found.methods]
        bodies = [[row(_e(x.name), [cell(t, m, m) for m in found.methods]) for t, x in enumerate(found.tasks)]]
    else:
        heads = ["method", *(task.name for task in found.tasks)]
        lines = {
            m: row(dots[m] + _e(m), [cell(t, m, x.name) for t, x in enumerate(found.tasks)]) for m in found.methods
        }
        # The baseline's own mIoU is no gain: it stays above the others, however they are sorted.
        bodies = [[lines[base]], [line for m, line in lines.items() if m != base]]
    return _table("Gains", "main matrix", heads, bodies) + _said([notes(found)[0], _SHADES])


def _table(what: str, kind: str, heads: Sequence[str], bodies: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_e(name)}</th>' for name in heads)
    body = "".join(f"<tbody>{''.join(rows)}</tbody>" for rows in bodies)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_e(what)}"><table class="{kind}">'
        f"<thead><tr>{head}</tr></thead>{body}</table></div>"
    )


def _said(texts: Sequence[str]) -> str:
    return f'<ul class="note">{"".join(f"<li>{_e(text)}</li>" for text in texts)}</ul>' if texts else ""


def _ranks(found: Across) -> list[str]:
    from harness.report.plots.across import profile_plot, rank_plot

    if not found.ranked:
        return [_said(notes(found)[1:])]
    places = {name: i for i, name in enumerate(found.methods)}
    table = _sheet(standings(found), "Standings", lambda name: swatch(places[name])) + _said(notes(found)[1:])
    if len(found.ranked) < 2 or len(found.tasks) < 2:
        return [f"<h3>Ranks</h3>\n{table}"]
    behind = profile_gaps(found)
    ranks = _both("ranks", "mean ranks of the methods", partial(rank_plot, found))
    profiles = _both("profile", "performance profiles", partial(profile_plot, found, behind))
    # The tests are about the gains of methods, so that the student without distillation has no rank among them.
    said = "Mean ranks; 1 is the best."
    if found.tested:
        said = "Mean ranks of the gains, without the student without distillation; those of the table include it."
    joined = " A bar at the right joins methods that are within the critical difference." if found.groups else ""
    return [
        f'<h3>Ranks</h3>\n<figure class="curves">{ranks}<figcaption>{said}{joined}</figcaption></figure>\n{table}',
        f'<h3>Performance profiles</h3>\n<figure class="curves">{profiles}<figcaption>The share of pairs on which a '
        "method is at most so far behind the best one: higher and further left is better.</figcaption></figure>",
    ]


def _sheet(sheet: Sheet, what: str, dot: Callable[[str], str]) -> str:
    """A sheet whose rows begin with a method."""
    names = [column.name for column in sheet.columns]
    rows = []
    for first, *cells in sheet.rows:
        tds = (
            f'<td data-label="{_e(name)}"><span>{_e(cell)}</span></td>'
            for name, cell in zip(names[1:], cells, strict=True)
        )
        rows.append(f'<tr><th scope="row">{dot(first.text)}{_e(first)}</th>{"".join(tds)}</tr>')
    return _table(what, "main", names, [rows])


def _both(name: str, what: str, draw: "Callable[..., Figure]", told: Mapping[str, str] | None = None) -> str:
    """A figure for a desk and one for a phone."""
    drawn = {kind: figure_svg(draw(width=width), text=True) for kind, width in (("wide", _WIDE), ("narrow", _NARROW))}
    return "".join(
        f'<div class="{kind}">{inline(svg, f"{name}-{kind[0]}-", _e(what), told)}</div>' for kind, svg in drawn.items()
    )


def _costs(found: Across, rows: Rows, links: Links, told: Mapping[str, str]) -> list[str]:
    from harness.report.plots.across import cost_plot

    out = ["<h3>Accuracy against cost</h3>"]
    for dataset, points in by_dataset(found, costs(found, rows)).items():
        drawn = _both(
            f"cost-{label(dataset)}",
            f"val mIoU against costs on {dataset}",
            partial(cost_plot, found, points, links=links),
            told,
        )
        out.append(f'<h4>{_e(dataset)}</h4>\n<figure class="curves">{drawn}</figure>')
    return [
        *out,
        '<p class="note">The line joins what nothing is better than at its cost or less. Seconds of training are the '
        "median of a method's runs on one device; what an image costs does not depend on the method. A point leads to "
        "its runs.</p>",
    ]


def _exports(found: Across, exported: Sequence[ExportTable], links: Links, told: Mapping[str, str]) -> list[str]:
    from harness.report.plots.across import export_plot

    if not exported:
        return []
    places = {name: i for i, name in enumerate(found.methods)}
    out = []
    for task in found.tasks:
        if mine := [table for table in exported if table.block is task.block]:
            dots = [swatch(places[x.label]) for x in task.block.methods]
            out.append(pageexports.section(mine, dots.__getitem__, CLASSES, f"Exports: {task.name}"))
    for name, (title, points) in of_exports(found, exported).items():
        drawn = _both(name, title, partial(export_plot, found, points, links=links), told)
        out.append(f'<figure class="curves">{drawn}<figcaption>{_e(title)}</figcaption></figure>')
    return out


def _by_class(found: Across, rows: Rows) -> list[str]:
    """A table for each pair: classes down, methods across."""
    out = []
    for task in found.tasks:
        for column, what in (("val_confusion", ""), ("val_boundary_confusion", ", near class boundaries")):
            if gains := class_gains(task, rows, column):
                out.append(f"<h4>{_e(task.name)}{what}</h4>\n{_class_table(task, rows, gains)}")
    if not out:
        return []
    note = f"Gain of IoU in percentage points, mean over paired seeds. {_SHADES} A dash: no such class."
    return ["<h3>Gains by class</h3>", *out, f'<p class="note">{note}</p>']


def _class_table(task: Task, rows: Rows, gains: Mapping[str, Sequence[float]]) -> str:
    first = next(rows[run] for x in task.block.methods for run in x.run_ids.values())
    colours = class_colours(first["palette"], first["num_classes"])
    bound = max((abs(v) for values in gains.values() for v in values if not math.isnan(v)), default=0.0)
    lines = []
    for k, name in enumerate(class_names(first)):
        cells = "".join(
            "<td>–</td>" if math.isnan(v := values[k])
            else f'<td class="shade" style="background:{gain_colour(v, bound)}">{v:+.1f}</td>'
            for values in gains.values()
        )  # fmt: skip
        dot = f'<i class="dot sq" style="background:{rgb(colours[k])}"></i>'
        lines.append(f'<tr><th scope="row">{dot}{_e(name)}</th>{cells}</tr>')
    return _table(f"Gains by class: {task.name}", "heat", ["class", *gains], [lines])


def _pairs(found: Across, reports: Mapping[str, str]) -> str:
    names = ["pair", "teachers' mIoU", "mIoU without distillation", "budget", "device", "experiment"]
    lines = []
    for task in found.tasks:
        block, taught = task.block, task.block.of_teachers()
        own = block.baseline.miou.text if block.baseline is not None and block.baseline.miou is not None else "–"
        page = reports.get(task.experiment)
        name = _e(task.experiment)
        cells = [
            *map(_e, ("–" if taught is None else f"{taught:.2f}", own, block.budget, block.devices)),
            f'<a href="{_e(page)}#{_e(label(block.where))}">{name}</a>' if page else name,
        ]
        tds = (f'<td data-label="{_e(n)}"><span>{cell}</span></td>' for n, cell in zip(names[1:], cells, strict=True))
        lines.append(f'<tr><th scope="row">{_e(task.name)}</th>{"".join(tds)}</tr>')
    return _table("Pairs", "main pairs", names, [lines])


def _unfair(found: Across) -> list[str]:
    """What the tables of the pairs call unfair."""
    items = [
        f"<li class=bad>{_e(task.name)}: {_e(remark)}</li>"
        for task in found.tasks
        for section in task.block.sections
        for remark in section.remarks or ()
        if remark.bad
    ]
    return [f'<h3>Fairness</h3>\n<ul class="note">{"".join(items)}</ul>'] if items else []


def _in_order(rows: Sequence[Row], found: Across) -> list[Row]:
    """As the pairs and methods are; of a pair its teachers first."""
    tasks, methods = [task.name for task in found.tasks], list(found.methods)
    labels = {run: x.label for task in found.tasks for x in task.block.methods for run in x.run_ids.values()}

    def place(names: Sequence[str], name: str) -> int:
        return names.index(name) if name in names else len(names)

    return sorted(
        rows,
        key=lambda r: (
            place(tasks, r["pair"]),
            r["role"] != "teacher",
            place(methods, labels.get(r["run_id"]) or r["method"]),
            r["seed"],
            r["run_id"],
        ),
    )
