"""A table of texts as Markdown, LaTeX, CSV and HTML."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from harness.analysis.tables import HEADER, IMAGES, Comparison, QuickTable
from harness.papers.cells import Grid

_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "▲": r"$\uparrow$",
    "▼": r"$\downarrow$",
    "−": "$-$",
    "–": "--",
    "[": "{[}",
}
_STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;"
    "padding:0 1rem}"
    "table{border-collapse:collapse}th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid #8884}"
    "th:first-child,td:first-child{text-align:left}.scroll{overflow-x:auto}li{color:GrayText}"
)


def markdown(text: str) -> str:
    """Text that Markdown shows as it is: an error message must not open a table cell, a tag or a new line."""
    return re.sub(r"([\\|<>`*_#])", r"\\\1", " ".join(text.split()))


def grids_to_markdown(grids: Sequence[Grid]) -> str:
    """Tables in the syntax of GitHub."""

    def cells(texts: Sequence[str]) -> str:
        return "| " + " | ".join(map(markdown, texts)) + " |"

    out = []
    for grid in grids:
        out += [
            f"## {markdown(grid.title)} ({markdown(grid.id)})",
            "",
            cells(grid.head),
            "|---|" + "---:|" * (len(grid.head) - 1),
        ]
        out += [*map(cells, grid.rows), "", *(f"- {markdown(note)}" for note in grid.notes), ""]
    return "\n".join(out)


def grids_to_latex(grids: Sequence[Grid]) -> str:
    r"""Tables for the package booktabs, each in a `table*` with its notes below."""

    def text(value: str) -> str:
        return "".join(_LATEX.get(c, c) for c in value)

    out = ["% needs \\usepackage{booktabs}"]
    for grid in grids:
        out += [r"\begin{table*}", rf"\caption{{{text(grid.title)}}}", rf"\label{{tab:{grid.id}}}", r"\centering"]
        out += [rf"\begin{{tabular}}{{l{'r' * (len(grid.head) - 1)}}}", r"\toprule"]
        out += [" & ".join(map(text, grid.head)) + r" \\", r"\midrule"]
        out += [" & ".join(map(text, row)) + r" \\" for row in grid.rows]
        out += [r"\bottomrule", r"\end{tabular}", r"\par\footnotesize " + " ".join(map(text, grid.notes))]
        out += [r"\end{table*}", ""]
    return "\n".join(out)


def grids_to_csv(grids: Sequence[Grid]) -> str:
    """One line per cell with its numbers, unrounded and empty where there are none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = ("mean", "low", "high", "n", "vs_student", "vs_student_low", "vs_student_high", "vs_student_n")
    published = ("published", "sure", "source", "measured_minus_published")
    writer.writerow(("table", "method", "column", *numbers, *published, "why_not"))
    for grid in grids:
        for cell in grid.cells:
            m, d, f = cell.measured, cell.vs_student, cell.figure
            values = [*((m.mean, m.low, m.high, m.n) if m else [None] * 4)]
            values += (d.mean, d.low, d.high, d.n) if d else [None] * 4
            said = (f.value, f.sure, f.source, cell.gap) if f else [None] * 4
            writer.writerow((grid.id, cell.line, cell.column, *values, *said, cell.why_not))
    return out.getvalue()


def grids_to_html(grids: Sequence[Grid]) -> str:
    """One page that loads nothing."""

    def row(texts: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts) + "</tr>"

    sections = [
        f'<section id="{escape(grid.id)}"><h2>{escape(grid.title)} <small>{escape(grid.id)}</small></h2>'
        f'<div class="scroll"><table><thead>{row(grid.head, "th")}</thead><tbody>'
        + "".join(row(texts, "td") for texts in grid.rows)
        + "</tbody></table></div><ul>"
        + "".join(f"<li>{escape(note)}</li>" for note in grid.notes)
        + "</ul></section>"
        for grid in grids
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Published and measured</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


FORMATS: dict[str, Callable[[Sequence[Grid]], str]] = {
    "md": grids_to_markdown,
    "latex": grids_to_latex,
    "csv": grids_to_csv,
    "html": grids_to_html,
}


def to_markdown(table: QuickTable) -> str:
    """The comparison as Markdown, with what it is to be read against above and where the rest is below."""
    lines = [f"# {markdown(table.experiment)}", ""]
    for block in table.blocks:
        lines += [f"## {markdown(block.pair)} on {markdown(block.dataset)}", "", markdown(block.headline), ""]
        lines += [
            markdown(f"{block.budget} per run, ruleset {block.rules}, protocol {table.protocol}, {block.devices}."),
            "",
        ]
        lines += ["| " + " | ".join(HEADER) + " |", "|---|" + "---:|" * (len(HEADER) - 1)]
        lines += ["| " + " | ".join(map(markdown, line.cells(block.references))) + " |" for line in block.methods]
        remarks = (*block.notes, *block.caveats)
        lines += ["", *(f"- {markdown(remark)}" for remark in remarks), *([""] if remarks else [])]
        lines += [
            f"Compared: {markdown(block.compared)}",
            "",
            *(f"- {markdown(str(found))}" for found in block.findings),
        ]
        lines += [""] if block.findings else []
        if block.images:
            lines += [f"{IMAGES}:", "", *(f"- {markdown(text)}" for text in block.images), ""]
    return "\n".join([*lines, table.legend, "", "Rows: `runs/`. Curves: `curves.png`. Page: `report.html`.", ""])


def to_csv(table: QuickTable) -> str:
    """The numbers behind the comparison, unrounded, one line per pair and method; empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    ends = ("mean", "low", "high", "n")
    tests = (*ends, "bootstrap_low", "bootstrap_high", "p", "p_holm", "beyond_noise")
    writer.writerow(
        (
            *("experiment", "protocol", "dataset", "pair", "method"),
            *("expected", "ok", "failed", "skipped", "not_run"),
            *(f"dev_miou_percent_{end}" for end in ends),
            "best_dev_miou_percent_mean",
            *(f"{name}_{what}" for name in ("vs_none", "vs_kd") for what in tests),
            *("step_s", "peak_mb", "floor_dev_miou_percent", "teacher_dev_miou_percent"),
            *("ruleset", "search_trials", "search_seconds"),
        )
    )
    for block in table.blocks:
        for x in block.methods:
            miou = (x.miou.mean, x.miou.low, x.miou.high, x.miou.n) if x.miou else (None, None, None, 0)
            writer.writerow(
                (
                    *(table.experiment, table.protocol, block.dataset, block.pair, x.label),
                    *(x.expected, len(x.run_ids), x.failed, x.skipped, x.missing),
                    *miou,
                    x.best_miou.mean if x.best_miou else None,
                    *(*_csv_cells(x.vs_none), *_csv_cells(x.vs_kd)),
                    *(x.step_s, x.peak_mb, block.floor, block.teacher.miou),
                    *(block.ruleset, x.search_trials, x.search_seconds),
                )
            )
    return out.getvalue()


def _csv_cells(c: Comparison | None) -> list[Any]:
    if c is None:
        return [None] * 9
    d, b = c.difference, c.bootstrap
    return [d.mean, d.low, d.high, d.n, b.low, b.high, d.p_value, c.p_holm, c.beyond_noise]


def to_json(table: QuickTable) -> str:
    """The fairness report: what is compared with what, and what was found, by pair."""
    blocks = [
        {
            "pair": block.pair,
            "dataset": block.dataset,
            "ruleset": block.rules,
            "budget": block.budget,
            "compared": block.compared,
            "findings": [{"unfair": found.unfair, "text": found.text} for found in block.findings],
            "caveats": block.caveats,
            "images": block.images,
        }
        for block in table.blocks
    ]
    report = {"experiment": table.experiment, "protocol": table.protocol, "pairs": blocks}
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"
