"""Tables as Markdown, LaTeX, CSV, HTML and JSON: each walks `harness.analysis.sheets.Sheet`."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.analysis.sheets import Section, Sheet
from harness.borders import csv_cell, html, label, latex, markdown

if TYPE_CHECKING:
    from harness.analysis.tables import Table

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
        lines += [_cells(column.name for column in sheet.columns)]
        lines += ["|" + "|".join("---" if column.align == "left" else "---:" for column in sheet.columns) + "|"]
        lines += [*(_cells(map(str, row)) for row in sheet.rows), ""]
        lines += _said(section for section in sheet.sections if not section.above)
    return "\n".join([*lines, *([legend, ""] if legend else [])])


def _cells(texts: Iterable[str]) -> str:
    return "| " + " | ".join(map(markdown, texts)) + " |"


def _said(sections: Iterable[Section]) -> list[str]:
    """Paragraphs and lists, with an empty line after each; lists that follow each other are one."""
    lines: list[str] = []
    for section in sections:
        if section.head and section.texts:
            lines += [*([""] if lines and lines[-1] else []), markdown(section.head), ""]
        lines += [f"- {markdown(str(remark))}" for remark in section.remarks or ()]
    return [*lines, ""] if lines and lines[-1] else lines


def sheets_to_latex(sheets: Iterable[Sheet], legend: str = "") -> str:
    r"""Tables for the package booktabs, each in a `table*` with its remarks and the legend below."""

    out = ["% needs \\usepackage{booktabs}"]
    for sheet in sheets:
        out += [
            r"\begin{table*}",
            rf"\caption{{{latex(sheet.title)}}}",
            rf"\label{{tab:{label(sheet.id)}}}",
            r"\centering",
        ]
        out += [rf"\begin{{tabular}}{{{''.join(column.align[0] for column in sheet.columns)}}}", r"\toprule"]
        out += [" & ".join(latex(column.name) for column in sheet.columns) + r" \\", r"\midrule"]
        out += [" & ".join(map(latex, row)) + r" \\" for row in sheet.rows]
        out += [r"\bottomrule", r"\end{tabular}", r"\par\footnotesize " + " ".join(map(latex, _notes(sheet, legend)))]
        out += [r"\end{table*}", ""]
    return "\n".join(out)


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

    def row(texts: Iterable[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html(text)}</{tag}>" for text in texts) + "</tr>"

    sections = [
        f'<section id="{html(label(sheet.id))}"><h2>{html(sheet.title)} <small>{html(sheet.id)}</small></h2>'
        f'<div class="scroll"><table><thead>{row((column.name for column in sheet.columns), "th")}</thead><tbody>'
        + "".join(row(cells, "td") for cells in sheet.rows)
        + "</tbody></table></div><ul>"
        + "".join(f"<li>{html(note)}</li>" for note in _notes(sheet, legend))
        + "</ul></section>"
        for sheet in sheets
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Results</title><style>{_STYLE}</style></head><body>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


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
    return f"# {markdown(table.experiment)}\n\n" + sheets_to_markdown(_untitled(table.sheets()), table.legend) + below


def _untitled(sheets: Sequence[Sheet]) -> list[Sheet]:
    """The sheets without ids, which are for links."""
    return [replace(sheet, id="") for sheet in sheets]


def to_csv(table: "Table", more: Sequence[Sheet] = ()) -> str:
    """The numbers behind the comparison, unrounded, one line per pair and method; empty where there is none."""
    return sheets_to_csv([*table.sheets(), *more])


def to_latex(table: "Table", more: Sequence[Sheet] = ()) -> str:
    """The comparison for the package booktabs, and more tables below it."""
    return sheets_to_latex(_entitled(table, more), table.legend)


def to_html(table: "Table", more: Sequence[Sheet] = ()) -> str:
    """The comparison as a page that loads nothing; `harness.report.page` is the one with curves and pictures."""
    return sheets_to_html(_entitled(table, more), table.legend)


def _entitled(table: "Table", more: Sequence[Sheet]) -> list[Sheet]:
    """The sheets with the experiment in their titles, for formats without a heading above them."""
    return [replace(sheet, title=f"{table.experiment}: {sheet.title}") for sheet in (*table.sheets(), *more)]


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
