"""A self-contained HTML page of an experiment: pictures, data and script are inside, nothing is loaded.

Every text from a row is escaped by `_e`, or is data that the script writes as text. In addition, the content security
policy forbids the browser to load anything or to run another script.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.analysis.columns import MEASURES
from harness.analysis.exports import ExportTable
from harness.analysis.sheets import Tone
from harness.analysis.tables import Block, Table
from harness.borders import html as _e
from harness.report.page import exports as pageexports
from harness.report.page import samples as pagesamples
from harness.report.page.colours import Row, class_colours, class_names, rgb
from harness.report.page.data import ious, page_data
from harness.report.plots.curves import THIN, Panel, curve_figure
from harness.report.plots.style import FAINT, INK, MUTED, figure_svg, style

if TYPE_CHECKING:
    from harness.search.outcome import Outcome

SCRIPT, STYLE = (Path(__file__).with_name(name).read_text("utf-8") for name in ("page.js", "page.css"))

# Colours of the figure that are replaced by the page's theme, for dark mode.
_THEMED = {INK: "currentColor", MUTED: "var(--muted)", FAINT: "var(--line)", "#0072b2": "var(--blue)"}

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title: distillation for semantic segmentation</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="lead">$lead</p>
</header>
<main>
$blocks
<section>
<h2>Runs</h2>
<p>Every run behind this page. Click a run, or a number in the tables above, to see its provenance and the command that
repeats it. Rows are in <code>runs/</code> next to this file.</p>
<div id="runs"><noscript>The list needs scripts; without them: <code>sstkd-bench results list</code> and
<code>results show</code>.</noscript></div>
</section>
</main>
<footer>Protocol $protocol. Computed from $runs rows.$part</footer>
<script type="application/json" id="data">$data</script>
<script>$script</script>
</body>
</html>
""")


def render(
    table: Table,
    rows: Sequence[Row],
    samples: Mapping[str, Sequence[Row] | None],
    panels: Sequence[Panel],
    experiment_file: str,
    total: int | None = None,
    outcomes: Sequence["Outcome"] = (),
    exported: Sequence[Sequence[ExportTable]] = (),
) -> str:
    """The page.

    Args:
        table: the comparison of `rows`.
        rows: every row of the experiment as a dict, with `curve` and `losses`.
        samples: the column `samples` by run_id, for the runs with predictions on the page.
        panels: the curves of each block.
        experiment_file: experiment file for the command that repeats a run.
        total: number of rows of the experiment; None if `rows` are all.
        outcomes: of the experiment's search, if it has one.
        exported: the tables of each block's exports; none where there are no exports.

    Raises:
        ValueError: a sample or a palette does not match the row's schema.
    """
    by_id = {str(row["run_id"]): row for row in rows}
    methods = sorted({line.label for block in table.blocks for line in block.methods if line.run_ids})
    datasets = sorted({block.dataset for block in table.blocks})
    lead = (
        "How much better does a small segmentation network get when it learns from a large one? "
        f"{len(methods)} methods to train the same student on {', '.join(datasets)}: same initial weights, data order, "
        "recipe and budget, compared seed by seed with the student without distillation (none) and with plain "
        "distillation (kd)."
    )
    rows = _in_order(rows, table)
    iou = ious(rows)
    iou_of = {str(row["run_id"]): values for row, values in zip(rows, iou, strict=True) if values is not None}
    blocks = [
        _block(i, block, table, by_id, iou_of, one, samples, outcomes, exported[i] if exported else ())
        for i, (block, one) in enumerate(zip(table.blocks, panels, strict=True))
    ]
    some = "" if total in (None, len(rows)) else f" The list, the curves and the classes are of {len(rows)} of them."
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return _PAGE.substitute(
        title=_e(table.experiment),
        lead=_e(lead),
        style=STYLE,
        blocks="\n".join(blocks),
        protocol=_e(table.protocol),
        runs=len(rows) if total is None else total,
        part=some,
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        data=page_data(rows, table, iou, experiment_file, total),
        script=SCRIPT,
    )


def _block(
    i: int,
    block: Block,
    table: Table,
    by_id: Mapping[str, Row],
    iou_of: Mapping[str, NDArray[np.float64]],
    curves: Panel,
    samples: Mapping[str, Sequence[Row] | None],
    outcomes: Sequence["Outcome"],
    exported: Sequence[ExportTable],
) -> str:
    floor = "not measured" if block.floor is None else f"{block.floor:.2f}"
    teacher, taught = block.teacher, block.of_teachers()
    facts = [
        ("Teacher mIoU", f"{taught:.2f}" if taught is not None else "–", teacher.text),
        ("Single-pixel baseline", floor, "best prediction from the pixel alone"),
        ("Budget", block.budget, f"per run, on {block.devices}"),
        ("Rules", block.rules, f"protocol {table.protocol}"),
    ]
    if block.others:
        facts[0] = ("Teachers' mIoU", facts[0][1], f"mean of {len(block.teachers)}, {teacher.steps} steps each")
    elif teacher.miou is not None:
        facts[0] = (*facts[0][:2], f"{teacher.steps} steps, one run" if teacher.steps else "weights given")
    tiles = "".join(f"<div><dt>{_e(k)}</dt><dd>{_e(v)}<small>{_e(more)}</small></dd></div>" for k, v, more in facts)
    return f"""<section>
<h2>{_e(block.pair)} <span class="on">on {_e(block.dataset)}</span></h2>
<dl class="facts">{tiles}</dl>
{_table(i, block)}
<p class="note">{_e(block.for_whom)} {_e(table.legend)} {block.comparisons} comparisons in this table;
p: adjusted for all of them.</p>
{_said(block)}{pageexports.section(exported, _swatch, _CLASSES)}<h3>Learning curves</h3>
{_curves(i, curves)}
{_search(i, [each for each in outcomes if each.study.template.pair == block.pair])}
{_gradients(i, block, by_id)}
{_sensitivity(i, block, by_id)}
<h3>IoU by class</h3>
{_by_class(i, block, by_id, iou_of)}
<h3>Sample predictions</h3>
{pagesamples.section(i, block, by_id, samples)}
</section>"""


def _said(block: Block) -> str:
    """The remarks below the table."""
    out = []
    for section in block.sections:
        if section.above or not section.texts:
            continue
        if section.name == "compared":
            out.append("<h3>Fairness</h3>")
        if section.head:
            out.append(f'<p class="note">{_e(section.head)}</p>')
        if section.remarks:
            items = (f"<li{' class=bad' if remark.bad else ''}>{_e(remark)}</li>" for remark in section.remarks)
            out.append(f'<ul class="note">{"".join(items)}</ul>')
    return "".join(f"{line}\n" for line in out)


_CLASSES: dict[Tone, str] = {"better": "significant", "worse": "significant worse", "": ""}


def _table(number: int, block: Block) -> str:
    head = "".join(f'<th scope="col">{_e(measure.column.name)}</th>' for measure in MEASURES)
    body = []
    for i, line in enumerate(block.methods):
        tds = []
        for measure in MEASURES[1:]:
            cell, hint = measure.cell(line), measure.hint(line)
            # Non-breaking spaces keep numbers together on narrow screens.
            hint = re.sub(r"(?<!\]) ", "\u00a0", hint)
            small = f"<small>{_e(hint)}</small>" if hint else ""
            small += f'<em class="bad">{_e(cell.missing)}</em>' if cell.missing else ""
            kind, title = _CLASSES[cell.tone], _e(measure.column.name)
            tds.append(f'<td data-label="{title}" class="{kind}"><span>{_e(cell.text)}{small}</span></td>')
        body.append(f'<tr><th scope="row">{_swatch(i)}{_e(line.label)}</th>{"".join(tds)}</tr>')
    return (
        f'<div class="scroll"><table class="main" data-block="{number}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _swatch(i: int) -> str:
    colour = style(i)[0]
    return f'<i class="dot" style="background:{_THEMED.get(colour, colour)}"></i>'


def _curves(i: int, panel: Panel) -> str:
    one = replace(panel, title="")
    if not any(one.curves):
        return '<p class="note">No run has a curve yet.</p>'
    wide = _inline(figure_svg(curve_figure([one], 8.6, 4.3), text=True), f"w{i}-")
    # Scaled down to a phone, the wide figure would have letters of three pixels.
    narrow = _inline(figure_svg(curve_figure([one], 3.7, 4.4), text=True), f"n{i}-")
    return (
        f'<figure class="curves"><div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        f"<figcaption>Dev mIoU during training: mean over seeds (marked) and single seeds (thin, {THIN} at most)."
        "</figcaption></figure>"
    )


def _search(i: int, outcomes: Sequence["Outcome"]) -> str:
    """The best score of the search so far; nothing without a search."""
    if not outcomes:
        return ""
    from harness.report.plots.search import best_so_far_figure

    label = "best dev mIoU by points tried"
    wide, narrow = (
        _inline(figure_svg(best_so_far_figure(outcomes, *size), text=True), f"{name}{i}-", label)
        for name, size in (("sw", (8.6, 3.6)), ("sn", (3.7, 3.6)))
    )
    return (
        "<h3>Search</h3>"
        f'<figure class="curves"><div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        "<figcaption>Best dev mIoU of the first 1, 2, 4, … points of each method's search: where a line still rises, "
        "more trials may help. It is the score that selects, so it may rise by luck. Numbers: "
        "<code>best_so_far.csv</code>.</figcaption></figure>"
    )


def _gradients(i: int, block: Block, by_id: Mapping[str, Row]) -> str:
    """How strongly each loss term pulls on the student; nothing where that was not logged."""
    from harness.report.plots.gradients import gradient_figure, ratios

    found = ratios(block, {run_id: row["gradients"] for run_id, row in by_id.items()})
    if not found:
        return ""
    label = "gradient of each loss term relative to the task loss's, over training steps"
    svg = _inline(figure_svg(gradient_figure([found], 8.6), text=True), f"g{i}-", label)
    return (
        f'<h3>Gradients</h3><figure class="curves"><div class="scroll">{svg}</div>'
        "<figcaption>Norm of the gradient of each weighted loss term with respect to the student, relative to the task "
        "loss's (dotted): geometric mean over runs.</figcaption></figure>"
    )


def _sensitivity(i: int, block: Block, by_id: Mapping[str, Row]) -> str:
    """mIoU over the hyper-parameters in which lines of a method differ; nothing where none do."""
    from harness.report.plots.sensitivity import of_block, sensitivity_figure

    found = of_block(block, by_id)
    if not found:
        return ""
    label = "val mIoU over hyper-parameters of a method"
    svg = _inline(figure_svg(sensitivity_figure([(block, found)], 8.6), text=True), f"v{i}-", label)
    return (
        f'<h3>Sensitivity</h3><figure class="curves"><div class="scroll">{svg}</div>'
        "<figcaption>Val mIoU of lines of one method that differ in one hyper-parameter, or in several by a common "
        "factor: mean, standard deviation and single seeds. No other line was trained.</figcaption></figure>"
    )


def _inline(svg: str, prefix: str, label: str = "dev mIoU over training steps, by method") -> str:
    """An SVG to embed in the page: without prologue and metadata, with unique ids and the page's colours."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace('<style type="text/css">*{stroke-linejoin: round; stroke-linecap: butt}</style>', "")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    for colour, themed in _THEMED.items():
        svg = svg.replace(colour, themed)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def _by_class(number: int, block: Block, by_id: Mapping[str, Row], iou_of: Mapping[str, NDArray[np.float64]]) -> str:
    """Classes down, methods across: a phone is narrow and datasets have up to 150 classes."""
    columns: list[tuple[str, NDArray[np.float64]]] = []
    if taught := [iou_of[x.run_id] for x in block.teachers if x.run_id is not None and x.run_id in iou_of]:
        columns.append(("teacher", _mean(taught)))
    first: Row | None = None
    for line in block.methods:
        if mine := list(line.run_ids.values()):
            first = first or by_id[mine[0]]
            columns.append((line.label, _mean([iou_of[run] for run in mine])))
    if first is None:
        return '<p class="note">No run has a result yet.</p>'
    confusion = np.reshape(first["val_confusion"], (first["num_classes"], -1))
    share = confusion.sum(1) / max(1, confusion.sum())
    colours = class_colours(first["palette"], first["num_classes"])
    head = "".join(
        f'<th scope="col">{_e(name)}</th>' for name in ("class", *(c[0] for c in columns), "share of pixels")
    )
    body = []
    for k, name in enumerate(class_names(first)):
        cells = "".join(_heat(100 * values[k]) for _, values in columns)
        dot = f'<i class="dot sq" style="background:{rgb(colours[k])}"></i>'
        body.append(f'<tr><th scope="row">{dot}{_e(name)}</th>{cells}<td>{100 * share[k]:.1f} %</td></tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="IoU by class">'
        f'<table class="heat" data-block="{number}">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        '<p class="note">IoU in percent on val at the last step, mean over seeds. '
        "A dash: the class is in no label and in no prediction.</p>"
    )


def _mean(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean over runs of (K,) vectors, ignoring nan; nan where all are nan."""
    stack = np.array(values)
    seen = ~np.isnan(stack)
    total, count = np.where(seen, stack, 0).sum(0), seen.sum(0)
    mean: NDArray[np.float64] = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean


def _heat(percent: float) -> str:
    """A cell shaded by its value, with black or white text, whichever has more contrast."""
    from matplotlib import colormaps

    if np.isnan(percent):
        return "<td>–</td>"
    shade = np.array(colormaps["YlGnBu"](percent / 100)[:3])
    linear = np.where(shade <= 0.04045, shade / 12.92, ((shade + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    ink = "#fff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000"
    return f'<td style="background:{rgb(np.round(255 * shade))};color:{ink}">{percent:.1f}</td>'


def _in_order(rows: Sequence[Row], table: Table) -> list[Row]:
    """Teachers first, then the order of the table's lines."""
    methods = [line.name.method for block in table.blocks for line in block.methods]

    def place(method: str) -> int:
        return methods.index(method) if method in methods else len(methods)

    return sorted(
        rows,
        key=lambda r: (
            r["pair"],
            r["role"] != "teacher",
            place(r["method"]),
            r["method_parameters"],
            r["seed"],
        ),
    )
