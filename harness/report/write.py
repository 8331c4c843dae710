"""What people read: the comparison as Markdown, CSV and on the terminal, the curves, and one HTML page.

Everything here is computed from the rows on disk; nothing is remembered between calls and nothing is copied in.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis import per_image
from harness.analysis.comparison import COLUMNS, quick_table
from harness.analysis.tables import HEADER, IMAGES, Block, Comparison, QuickTable
from harness.report.formats import markdown
from harness.results import store

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ON_PAGE = 20_000
"""Rows up to which the page and the curves hold every run; of more, the first seeds of each line."""

__all__ = ["print_table", "quick_table", "show", "table_of", "to_csv", "to_json", "to_markdown", "write_report"]


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


def print_table(table: QuickTable, console: "Console | None" = None, directory: str | Path | None = None) -> None:
    """Print the comparison on the terminal.

    Args:
        table: what `quick_table` returns.
        console: where to; standard output when not given.
        directory: the experiment's directory; when given, the lines below the table say where rows, plots and page are.
    """
    from rich.text import Text

    from harness.report.console import output

    console = console or output()
    for block in table.blocks:
        console.print(Text(f"\n{block.pair} on {block.dataset}", style="bold"))
        console.print(Text(block.headline))
        grid = _grid(block, stacked=False)
        if console.measure(grid, options=console.options.update(max_width=10_000)).maximum > console.width:
            grid = _grid(block, stacked=True)
        console.print(grid)
        for note in block.notes:
            console.print(Text(note, style="red"))
        for caveat in block.caveats:
            console.print(Text(caveat, style="dim"))
        console.print(Text(f"\n{block.compared}", style="dim"))
        for finding in block.findings:
            console.print(Text(str(finding), style="red" if finding.unfair else "dim"))
        if block.images:
            console.print(Text(f"\n{IMAGES}:", style="dim"))
            console.print(Text("\n".join(block.images), style="dim"))
    console.print(Text("\n" + table.legend, style="dim"))
    if directory is not None:
        base = Path(directory)
        for what, name in (("rows", "runs"), ("table", "table.md"), ("curves", "curves.png"), ("page", "report.html")):
            console.print(Text(f"{what:7}{base / name}"), soft_wrap=True)


def _grid(block: Block, stacked: bool) -> "Table":
    """The block for the terminal; `stacked` breaks each cell before its brackets, for windows of 80 columns."""
    from rich.table import Table
    from rich.text import Text

    def fit(text: str) -> str:
        return re.sub(r" (?=[(\[])", "\n", text.replace("; ", "\n")) if stacked else text

    grid = Table(box=None, pad_edge=False, header_style="dim")
    for i, name in enumerate(HEADER):
        grid.add_column(fit(name), justify="right" if i else "left", overflow="fold", no_wrap=i > 0)
    for line in block.methods:
        cells = [Text(cell if i == 0 else fit(cell)) for i, cell in enumerate(line.cells(block.references))]
        if line.absences:
            cells[1].stylize("red")
        for cell, comparison in zip(cells[2:4], (line.vs_none, line.vs_kd), strict=True):
            if comparison is not None and comparison.beyond_noise:
                cell.stylize("green" if comparison.difference.mean > 0 else "magenta")
        grid.add_row(*cells)
    return grid


def write_report(
    directory: str | Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    run_ids: Collection[str] | None = None,
    experiment_file: str | None = None,
    compared: tuple[QuickTable, int] | None = None,
) -> dict[str, Path]:
    """Write table.md, table.csv, fairness.json, curves.png, curves.svg and report.html next to `runs/`, each whole or
    not at all.

    Args:
        directory: the experiment's directory, `<results>/<experiment>`.
        methods: the experiment's labels in its order, as for `quick_table`.
        seeds: the experiment's seeds, as for `quick_table`.
        run_ids: read only these rows (teachers' included); None reads all there are.
        experiment_file: the file the command that repeats a run names; `experiments/<experiment>.yaml` without it.
        compared: the table and the number of rows behind it, where they are known already.

    Returns:
        The files by what they are: "markdown", "csv", "fairness", "png", "svg", "html".

    Raises:
        ValueError: no student rows, rows that must not be compared, or a corrupt file.
        OSError: the disk is full or cannot be written.
    """
    from harness.report.page.page import render
    from harness.report.plots.curves import curve_figure, figure_png, figure_svg, panel

    base = Path(directory)
    # Samples are the heavy part; only the few runs whose predictions are shown are read whole.
    columns = [name for name in store.SCHEMA.names if name != "samples"]
    table, total = compared or table_of(base, methods, seeds, run_ids)
    on_page = table if total <= ON_PAGE else _fewer(table)
    wanted = run_ids if total <= ON_PAGE else _run_ids(on_page)
    records = store.read_runs(base, columns, run_ids=wanted).to_pylist(maps_as_pydicts="strict")
    shown = {x.run_ids[min(x.run_ids)] for block in table.blocks for x in block.methods if x.run_ids}
    shown |= {block.teacher.run_id for block in table.blocks if block.teacher.run_id is not None}
    kept = store.read_runs(base, ["run_id", "samples"], run_ids=shown).to_pylist()
    curves = {record["run_id"]: record["curve"] for record in records}
    figure = curve_figure([panel(block, curves) for block in on_page.blocks])
    file = experiment_file or f"experiments/{table.experiment}.yaml"
    contents: dict[str, tuple[str, str | bytes]] = {
        "markdown": ("table.md", to_markdown(table)),
        "csv": ("table.csv", to_csv(table)),
        "fairness": ("fairness.json", to_json(table)),
        "png": ("curves.png", figure_png(figure)),
        "svg": ("curves.svg", figure_svg(figure)),
        "html": ("report.html", render(on_page, records, {r["run_id"]: r["samples"] for r in kept}, file, total)),
    }
    for name, content in contents.values():
        store.write_atomic(base / name, content)
    return {what: base / name for what, (name, _) in contents.items()}


def table_of(
    directory: Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    run_ids: Collection[str] | None = None,
) -> tuple[QuickTable, int]:
    """The comparison, over images too where they were kept, and the number of rows; arguments as for `write_report`.

    Raises:
        ValueError: as `write_report`.
    """
    columns = list(dict.fromkeys((*COLUMNS, *per_image.COLUMNS)))
    rows = store.read_runs(directory, columns, run_ids=run_ids, encoded=True)
    if not rows.num_rows:
        raise ValueError(f"{directory}: there are no rows (expected {Path(directory) / 'runs'}/*.parquet)")
    return per_image.with_images(quick_table(rows, methods, seeds), directory, rows), rows.num_rows


def _fewer(table: QuickTable) -> QuickTable:
    """The table with the first seeds of every line only as its runs; its numbers are those of all."""
    each = max(1, ON_PAGE // max(1, sum(len(block.methods) for block in table.blocks)))
    blocks = [
        replace(
            block,
            methods=tuple(replace(x, run_ids=dict(islice(x.run_ids.items(), each))) for x in block.methods),
        )
        for block in table.blocks
    ]
    return replace(table, blocks=tuple(blocks))


def _run_ids(table: QuickTable) -> set[str]:
    runs = {run for block in table.blocks for x in block.methods for run in x.run_ids.values()}
    return runs | {block.teacher.run_id for block in table.blocks if block.teacher.run_id is not None}


def show(
    directory: Path,
    methods: Sequence[str],
    seeds: Sequence[int],
    run_ids: Sequence[str],
    file: str,
    rewrite: bool,
    show_table: Callable[[QuickTable], None] | None = None,
) -> int:
    """Print an experiment's table, and write its files where they are missing or asked for.

    Args:
        directory: as for `write_report`, like the others.
        methods: the experiment's labels.
        seeds: the experiment's.
        run_ids: all its runs.
        file: the experiment file.
        rewrite: write the files even if they are there.
        show_table: shows the table instead of the terminal.

    Returns:
        The number of runs that failed.

    Raises:
        ValueError: as `write_report`.
        OSError: as `write_report`.
    """
    compared = table_of(directory, methods, seeds, run_ids)
    if rewrite or not (directory / "report.html").is_file():
        write_report(directory, methods, seeds, run_ids, file, compared)
    table, _ = compared
    if show_table is None:
        print_table(table, directory=directory)
    else:
        show_table(table)
    rows = store.finished(directory)
    return sum(rows.get(run_id) in ("failed", "skipped") for run_id in run_ids)
