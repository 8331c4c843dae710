"""A self-contained HTML page of an experiment: pictures, data and script are inside, nothing is loaded."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.analysis.across import Task, costs_of
from harness.analysis.answer import answer
from harness.analysis.exports import ExportTable
from harness.analysis.tables import BOLD, Block, Table
from harness.borders import html as _e
from harness.report.page import exports as pageexports
from harness.report.page import figures, tables
from harness.report.page import samples as pagesamples
from harness.report.page.colours import Row
from harness.report.page.data import ious, page_data
from harness.report.page.shell import whole
from harness.report.plots.curves import Panel

if TYPE_CHECKING:
    from harness.search.outcome import Outcome


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
    return whole(
        table.experiment,
        lead,
        "\n".join(blocks),
        page_data(rows, [(block.where, block) for block in table.blocks], iou, lambda row: experiment_file, total),
        "next to this file",
        f"Protocol {table.protocol}. Computed from {len(rows) if total is None else total} rows.{some}",
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
    return f"""<section>
<h2>{_e(block.pair)} <span class="on">on {_e(block.dataset)}</span></h2>
<p class="answer">{_e(answer(block))}</p>
{figures.differences(i, block)}<h3>Comparison</h3>
{tables.compared(i, block)}
<p class="note">{BOLD} {_e(block.for_whom)} {_e(table.legend)} {block.comparisons} comparisons in this table;
p: adjusted for all of them.</p>
{_facts(block, table, by_id)}
{_said(block)}{pageexports.section(exported, figures.swatch, tables.CLASSES)}<h3>Learning curves</h3>
{figures.curves(i, curves)}
{figures.search(i, [each for each in outcomes if each.study.template.pair == block.pair])}
{figures.gradients(i, block, by_id)}
{figures.sensitivity(i, block, by_id)}
<h3>IoU by class</h3>
{tables.by_class(i, block, by_id, iou_of)}
<h3>Sample predictions</h3>
{pagesamples.section(i, block, by_id, samples)}
</section>"""


def _facts(block: Block, table: Table, by_id: Mapping[str, Row]) -> str:
    """What all lines of a block have in common."""
    floor = "not measured" if block.floor is None else f"{block.floor:.2f}"
    teacher, taught = block.teacher, block.of_teachers()
    facts = [
        ("Teacher mIoU", f"{taught:.2f}" if taught is not None else "–", teacher.text),
        ("Single-pixel baseline", floor, "best prediction from the pixel alone"),
        ("Budget", block.budget, f"per run, on {block.devices}"),
        ("Rules", block.rules, f"protocol {table.protocol}"),
        *_student(block, by_id),
    ]
    if block.others:
        facts[0] = ("Teachers' mIoU", facts[0][1], f"mean of {len(block.teachers)}, {teacher.steps} steps each")
    elif teacher.miou is not None:
        facts[0] = (*facts[0][:2], f"{teacher.steps} steps, one run" if teacher.steps else "weights given")
    tiles = "".join(f"<div><dt>{_e(k)}</dt><dd>{_e(v)}<small>{_e(more)}</small></dd></div>" for k, v, more in facts)
    return f'<dl class="facts">{tiles}</dl>'


def _student(block: Block, by_id: Mapping[str, Row]) -> list[tuple[str, str, str]]:
    """What the student costs, which is the same with every method."""
    found = costs_of(Task(block.pair, block), by_id)
    if not found or (one := found[0]).parameters is None:
        return []
    more = ["parameters"]
    more += [] if one.macs is None else [f"{_count(one.macs)} MACs per image"]
    more += [] if one.latency_ms is None else [f"{one.latency_ms:.3g} ms per image"]
    return [("Student", _count(one.parameters), ", ".join([*more, "with every method"]))]


def _count(number: int) -> str:
    """E.g. "54.5 M"."""
    power = min(3, max(0, len(str(number)) - 1) // 3)
    return f"{number / 1000**power:.3g} {('', 'k', 'M', 'G')[power]}".strip()


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
            r.get("control") or "",
            r["seed"],
        ),
    )
