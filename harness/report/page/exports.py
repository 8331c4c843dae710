"""The section of the results page on exported files: a table per form."""

from collections.abc import Callable, Sequence

from harness.analysis.export_sheets import sheet_of
from harness.analysis.exports import ExportTable
from harness.analysis.sheets import Tone
from harness.borders import html as _e


def section(
    tables: Sequence[ExportTable], swatch: Callable[[int], str], classes: dict[Tone, str], title: str = "Exports"
) -> str:
    """The tables of a block; nothing without exports.

    Args:
        tables: of the block.
        swatch: the coloured dot of the method in a line of the main table.
        classes: of cells, by tone.
        title: of the section.
    """
    if not tables:
        return ""
    return f"<h3>{_e(title)}</h3>\n" + "\n".join(_table(table, swatch, classes) for table in tables)


def _table(table: ExportTable, swatch: Callable[[int], str], classes: dict[Tone, str]) -> str:
    sheet = sheet_of(table, "", "")
    names = [column.name for column in sheet.columns]
    head = "".join(f'<th scope="col">{_e(name)}</th>' for name in names)
    body = []
    for line, cells in zip(table.lines, sheet.rows, strict=True):
        tds = (
            f'<td data-label="{_e(name)}" class="{classes[cell.tone]}"><span>{_e(cell)}</span></td>'
            for name, cell in zip(names[1:], cells[1:], strict=True)
        )
        body.append(f'<tr><th scope="row">{swatch(line.place)}{_e(line.method.label)}</th>{"".join(tds)}</tr>')
    above = " ".join(text for one in sheet.sections if one.above for text in one.texts)
    below = [text for one in sheet.sections if not one.above for text in one.texts]
    return (
        f'<h4>{_e(table.form.text)}</h4><p class="note">{_e(above)}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Exports: {_e(table.form.text)}">'
        f'<table class="main exports"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>" + "".join(f'<p class="note">{_e(text)}</p>' for text in below)
    )
