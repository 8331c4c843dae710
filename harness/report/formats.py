"""Tables as Markdown, LaTeX, CSV, HTML and JSON: each walks `harness.analysis.sheets.Sheet`."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.analysis.sheets import Cell, Section, Sheet
from harness.analysis.short_names import NAMES, with_short_names
from harness.borders import csv_cell, html, label, latex, markdown

if TYPE_CHECKING:
    from harness.analysis.tables import Table

_LATEX_HEAD = "% needs \\usepackage{booktabs,graphicx}, and before LaTeX 2018 \\usepackage[utf8]{inputenc}"
_LATEX_FIT = r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"
_LATEX_NAME, _LATEX_CUT = 30, 80  # letters of a name that are left as they are, and at which it is cut
_STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;"
    "padding:0 1rem}"
    "table{border-collapse:collapse}th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid #8884}"
    "th:first-child,td:first-child{text-align:left}.scroll{overflow-x:auto}li{color:GrayText}"
)


def sheets_to_markdown(sheets: Iterable[Sheet], legend: str = "") -> str:
    """Tables in the syntax of GitHub.

    Args:
        sheets: the tables.
        legend: a paragraph below them.
    """
    lines = []
    for sheet in sheets:
        lines += [f"## {markdown(sheet.title)}" + (f" ({markdown(sheet.id)})" if sheet.id else ""), ""]
        lines += _said(section for section in sheet.sections if section.above)
        lines += [_line(markdown(column.name) for column in sheet.columns)]
        lines += ["|" + "|".join("---" if column.align == "left" else "---:" for column in sheet.columns) + "|"]
        lines += [*(_line(map(_cell, row)) for row in sheet.rows), ""]
        lines += _said(section for section in sheet.sections if not section.above)
    return "\n".join([*lines, *([legend, ""] if legend else [])])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    return f"**{markdown(str(cell))}**" if cell.best else markdown(str(cell))


def _said(sections: Iterable[Section]) -> list[str]:
    """Paragraphs and lists, with an empty line after each; lists that follow each other are one."""
    lines: list[str] = []
    for section in sections:
        if section.head and section.texts:
            lines += [*([""] if lines and lines[-1] else []), markdown(section.head), ""]
        lines += [f"- {markdown(str(remark))}" for remark in section.remarks or ()]
    return [*lines, ""] if lines and lines[-1] else lines


def sheets_to_latex(sheets: Iterable[Sheet], legend: str = "") -> str:
    r"""Tables for the packages booktabs and graphicx.

    Each is a `table*` not wider than the page, with short notes; the other remarks follow it. Long names are shortened
    as on a narrow terminal.
    """
    out = [_LATEX_HEAD]
    for sheet in sheets:
        sheet = with_short_names(sheet, _LATEX_NAME, _LATEX_CUT)
        caption = f"{sheet.title}: {sheet.what}." if sheet.what else sheet.title
        out += [r"\begin{table*}", rf"\caption{{{latex(caption)}}}", rf"\label{{tab:{label(sheet.id)}}}"]
        out += [r"\centering\footnotesize\setlength{\tabcolsep}{4pt}\par\smallskip"]
        out += [rf"\sbox0{{\begin{{tabular}}{{{''.join(column.align[0] for column in sheet.columns)}}}", r"\toprule"]
        out += [" & ".join(latex(column.name) for column in sheet.columns) + r" \\", r"\midrule"]
        out += [" & ".join(map(_latex_cell, row)) + r" \\" for row in sheet.rows]
        out += [r"\bottomrule", r"\end{tabular}}", _LATEX_FIT, *_latex_notes(sheet, legend), r"\end{table*}"]
        out += [*_latex_remarks(sheet), ""]
    return "\n".join(out)


def _latex_cell(cell: Cell) -> str:
    return rf"\textbf{{{latex(str(cell))}}}" if cell.best else latex(str(cell))


def _near(section: Section, sheet: Sheet) -> bool:
    """Whether a section belongs to the notes of a LaTeX table: what stands above it, and how to read it."""
    return section.above or section.name == NAMES or (sheet.alone and section.remarks is None)


def _latex_notes(sheet: Sheet, legend: str) -> list[str]:
    """Short notes below the cells, a paragraph each."""
    texts = [text for section in sheet.sections if _near(section, sheet) for text in section.texts]
    failed = [str(remark) for section in sheet.sections for remark in section.remarks or () if remark.level == "failed"]
    notes = [*texts, *failed, *([legend] if legend and not sheet.alone else [])]
    if not notes:
        return []
    lines = [rf"{latex(text)}\par" for text in notes]
    return [r"\par\medskip", r"\begin{minipage}{\linewidth}\raggedright", *lines, r"\end{minipage}"]


def _latex_remarks(sheet: Sheet) -> list[str]:
    """The other remarks, after the table."""
    lines: list[str] = []
    items: list[str] = []

    def listed() -> list[str]:
        return [r"\begin{itemize}", *items, r"\end{itemize}"] if items else []

    for section in sheet.sections:
        if _near(section, sheet) or not section.texts:
            continue
        if section.head:
            lines += [*listed(), rf"{latex(section.head)}\par"]
            items = []
        items += [rf"\item {latex(str(x))}" for x in section.remarks or () if x.level != "failed"]
    lines += listed()
    if not lines:
        return []
    reference = rf"\textbf{{Remarks on Table~\ref{{tab:{label(sheet.id)}}}}}\par"
    return [
        "% remarks on the table: for the text or an appendix",
        r"\par\medskip\noindent{\footnotesize\raggedright",
        reference,
        *lines,
        r"\par}",
    ]


def sheets_to_csv(sheets: Iterable[Sheet], legend: str = "") -> str:
    """The numbers behind the tables, unrounded, and empty where there are none; no legend.

    Tables with other numbers have columns of their own, which are empty in the lines of the others.
    """
    out = io.StringIO()
    found = [records for sheet in sheets if (records := sheet.records())]
    records = [record for each in found for record in each]
    writer = csv.DictWriter(out, list(dict.fromkeys(name for each in found for name in each[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in record.items()} for record in records)
    return out.getvalue()


def sheets_to_html(sheets: Iterable[Sheet], legend: str = "") -> str:
    """One page that loads nothing."""

    sections = [
        f'<section id="{html(label(sheet.id))}"><h2>{html(sheet.title)} <small>{html(sheet.id)}</small></h2>'
        f"{_html_table(sheet)}{_html_notes(sheet, legend)}</section>"
        for sheet in sheets
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Results</title><style>{_STYLE}</style></head><body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def to_notebook(table: "Table") -> str:
    """The comparison for a notebook's output: each table with its caption, and the remarks on it below."""
    return "".join(_html_table(sheet, sheet.title) + _html_notes(sheet, table.below) for sheet in _entitled(table, ()))


def _html_table(sheet: Sheet, caption: str = "") -> str:
    head = "".join(f"<th>{html(column.name)}</th>" for column in sheet.columns)
    body = "".join(f"<tr>{''.join(map(_html_cell, cells))}</tr>" for cells in sheet.rows)
    named = f"<caption>{html(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{named}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _html_cell(cell: Cell) -> str:
    return f"<td><strong>{html(cell)}</strong></td>" if cell.best else f"<td>{html(cell)}</td>"


def _html_notes(sheet: Sheet, legend: str) -> str:
    return f"<ul>{''.join(f'<li>{html(note)}</li>' for note in _notes(sheet, legend))}</ul>"


def _notes(sheet: Sheet, legend: str) -> list[str]:
    """All remarks on a table, one text after the other."""
    own = "" if sheet.alone else legend
    return [*(text for section in sheet.sections for text in section.texts), *filter(None, (own,))]


FORMATS: dict[str, Callable[[Sequence[Sheet], str], str]] = {
    "md": sheets_to_markdown,
    "latex": sheets_to_latex,
    "csv": sheets_to_csv,
    "html": sheets_to_html,
}


def to_markdown(table: "Table", more: Sequence[Sheet] = ()) -> str:
    """The comparison as Markdown, and more tables below it."""
    below = "\n" + sheets_to_markdown(_untitled(more)) if more else ""
    return f"# {markdown(table.experiment)}\n\n" + sheets_to_markdown(_untitled(table.sheets()), table.below) + below


def _untitled(sheets: Sequence[Sheet]) -> list[Sheet]:
    """The sheets without ids, which are for links."""
    return [replace(sheet, id="") for sheet in sheets]


def to_csv(table: "Table", more: Sequence[Sheet] = ()) -> str:
    """The numbers behind the comparison, unrounded, one line per pair and method; empty where there is none."""
    return sheets_to_csv([*table.sheets(), *more])


def to_latex(table: "Table", more: Sequence[Sheet] = ()) -> str:
    """The comparison for the package booktabs, and more tables below it."""
    return sheets_to_latex(_entitled(table, more), table.below)


def to_html(table: "Table", more: Sequence[Sheet] = ()) -> str:
    """The comparison as a page that loads nothing; `harness.report.page` is the one with curves and pictures."""
    return sheets_to_html(_entitled(table, more), table.below)


def _entitled(table: "Table", more: Sequence[Sheet]) -> list[Sheet]:
    """The sheets with the experiment in their titles, for formats without a heading above them."""
    return [replace(sheet, title=f"{table.experiment}, {sheet.title}") for sheet in (*table.sheets(), *more)]


def to_json(table: "Table") -> str:
    """The fairness report: what is compared with what, and all remarks, by pair."""
    pairs = [
        {"pair": block.pair, "dataset": block.dataset, "ruleset": block.rules, "budget": block.budget}
        | {section.name: section.json for section in block.sections}
        for block in table.blocks
    ]
    report = {"experiment": table.experiment, "protocol": table.protocol, "pairs": pairs}
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


TABLE_FORMATS: "dict[str, Callable[[Table, Sequence[Sheet]], str]]" = {
    "md": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
    "html": to_html,
}
"""Of an experiment's own table; `FORMATS` are those of any sheets."""
