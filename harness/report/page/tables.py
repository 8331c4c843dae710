"""The tables of the results page: the comparison, and IoU by class."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from harness.analysis.answer import best
from harness.analysis.columns import MEASURES
from harness.analysis.lines import MethodRow
from harness.analysis.sheets import Cell, Tone
from harness.analysis.tables import Block
from harness.borders import html as _e
from harness.report.page.colours import Row, class_colours, class_names, rgb
from harness.report.page.figures import swatch

CLASSES: dict[Tone, str] = {"better": "significant", "worse": "significant worse", "": ""}
_UPRIGHT = 6  # columns by class up to which their heads are not turned
_LIGHT = 0.6  # of the colour map, which beyond is too dark for black text


def _dev(line: MethodRow) -> Cell:
    if line.dev_miou is None:
        return Cell("–")
    x = line.dev_miou
    return Cell(f"{x.mean:.2f}" if x.deviation is None else f"{x.mean:.2f} ± {x.deviation:.2f}")


COLUMNS = tuple(replace(m, cell=_dev) if m.column.name == "dev" else m for m in MEASURES)
"""The columns of the comparison; of dev the standard deviation too."""


def cells(line: MethodRow) -> tuple[str, ...]:
    """The line's texts but for its name, a column each."""
    return tuple(str(measure.cell(line)) for measure in COLUMNS[1:])


def compared(number: int, block: Block) -> str:
    """The main table of a block."""
    head = "".join(f'<th scope="col">{_e(measure.column.name)}</th>' for measure in COLUMNS)
    top = best(block)
    body = []
    for i, line in enumerate(block.methods):
        tds = []
        for measure in COLUMNS[1:]:
            cell, hint = measure.cell(line), measure.hint(line)
            # Non-breaking spaces keep numbers together on narrow screens.
            hint = re.sub(r"(?<!\]) ", "\u00a0", hint)
            small = f"<small>{_e(hint)}</small>" if hint else ""
            small += f'<em class="bad">{_e(cell.missing)}</em>' if cell.missing else ""
            kind, title = CLASSES[cell.tone], _e(measure.column.name)
            kind += " best" if line is top and measure.column.name == "mIoU (val)" else ""
            tds.append(f'<td data-label="{title}" class="{kind.strip()}"><span>{_e(cell.text)}{small}</span></td>')
        body.append(f'<tr><th scope="row">{swatch(i)}{_e(line.label)}</th>{"".join(tds)}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Comparison">'
        f'<table class="main" data-block="{number}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def by_class(number: int, block: Block, by_id: Mapping[str, Row], iou_of: Mapping[str, NDArray[np.float64]]) -> str:
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
    many = " many" if len(columns) > _UPRIGHT else ""
    body = []
    for k, name in enumerate(class_names(first)):
        cells = "".join(_heat(100 * values[k]) for _, values in columns)
        dot = f'<i class="dot sq" style="background:{rgb(colours[k])}"></i>'
        body.append(f'<tr><th scope="row">{dot}{_e(name)}</th>{cells}<td>{100 * share[k]:.1f} %</td></tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="IoU by class">'
        f'<table class="heat{many}" data-block="{number}">'
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
    """A cell shaded by its value: light enough for black text."""
    if np.isnan(percent):
        return "<td>–</td>"
    return f'<td class="shade" style="background:{_colour("YlGnBu", _LIGHT * percent / 100)}">{percent:.1f}</td>'


def gain_colour(gain: float, bound: float) -> str:
    """The colour of a difference within -bound to bound, light enough for black text: purple below 0, orange above."""
    return _colour("PuOr_r", 0.5 + 0.5 * _LIGHT * gain / max(bound, 1e-9))


def _colour(name: str, at: float) -> str:
    from matplotlib import colormaps

    return rgb(np.round(255 * np.array(colormaps[name](at)[:3])))
