"""The files of an experiment's results: the comparison as Markdown, CSV and JSON, the curves, and one HTML page.

Everything here is computed from the rows on disk.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis import per_image
from harness.analysis.comparison import COLUMNS, quick_table
from harness.analysis.tables import Table
from harness.files import write_atomic
from harness.report.formats import to_csv, to_json, to_markdown
from harness.results import store
from harness.results.validity import CONFUSIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.experiment.spec import Experiment
    from harness.report.plots.curves import Panel
    from harness.search.outcome import Outcome

ON_PAGE = 20_000
"""Rows up to which the page and the curves hold every run; of more, the first seeds of each line."""

_FILES = "\nRows: `runs/`. Curves: `curves.png`.{forest} Page: `report.html`.\n"


def write_report(
    directory: str | Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    run_ids: Collection[str] | None = None,
    experiment_file: str | None = None,
    compared: tuple[Table, int] | None = None,
    experiment: "Experiment | None" = None,
) -> dict[str, Path]:
    """Write table.md, table.csv, fairness.json, report.html and the pictures next to `runs/`, each complete or not at
    all. A picture is a PNG and an SVG: those of `figures`, and of an experiment with a search best_so_far, with a CSV.

    Args:
        directory: the experiment's directory, `<results>/<experiment>`.
        methods: the experiment's labels in its order, as for `quick_table`.
        seeds: the experiment's seeds, as for `quick_table`.
        run_ids: read only these rows (teachers' included); None reads all there are.
        experiment_file: the file the command that repeats a run names; `experiments/<experiment>.yaml` without it.
        compared: the table and the number of rows behind it, if known.
        experiment: whose rows these are, for its search, if it has one; None if unknown.

    Returns:
        The files by what they are: "markdown", "csv", "fairness", "html"; of each picture "NAME_png" and "NAME_svg";
        those of `search_files`.

    Raises:
        ValueError: no student rows, rows that must not be compared, or a corrupt file.
        OSError: the disk is full or cannot be written.
    """
    from harness.analysis import exports
    from harness.analysis.compact import compact_rows, release
    from harness.report.page.page import render
    from harness.report.plots.curves import panel

    base = Path(directory)
    outcomes = _outcomes(experiment, base)
    # Samples are the heavy part; only the few runs whose predictions are shown are read whole.
    unused = {"samples", *CONFUSIONS} - {"val_confusion"}
    columns = [name for name in store.SCHEMA.names if name not in unused]
    table, total = compared or table_of(base, methods, seeds, run_ids)
    release()
    exported = exports.read(base, table)
    on_page = table if total <= ON_PAGE else _fewer(table)
    wanted = run_ids if total <= ON_PAGE else _run_ids(on_page)
    records = compact_rows(base, columns, wanted)
    shown = {x.run_ids[min(x.run_ids)] for block in table.blocks for x in block.methods if x.run_ids}
    shown |= {block.teacher.run_id for block in table.blocks if block.teacher.run_id is not None}
    kept = store.read_rows(base, ["run_id", "samples"], run_ids=shown).to_pylist()
    samples = {row["run_id"]: row["samples"] for row in kept}
    release()
    curves = {record["run_id"]: record["curve"] for record in records}
    panels = [panel(block, curves) for block in on_page.blocks]
    file = experiment_file or f"experiments/{table.experiment}.yaml"
    drawn = figures(table, on_page, records, panels)
    below = _FILES.format(forest=" Differences: `forest.png`." if "forest" in drawn else "")
    contents: dict[str, tuple[str, str | bytes]] = {
        "markdown": ("table.md", to_markdown(table) + below),
        "csv": ("table.csv", to_csv(table)),
        "fairness": ("fairness.json", to_json(table)),
        "html": (
            "report.html",
            render(on_page, records, samples, panels, file, total, outcomes, [exported.of(b) for b in table.blocks]),
        ),
        **_pictures(drawn),
        **search_files(outcomes),
    }
    if not os.access(base, os.W_OK):
        raise PermissionError(f"{base} cannot be written; --format prints the table and writes nothing")
    for name, content in contents.values():
        write_atomic(base / name, content)
    return {what: base / name for what, (name, _) in contents.items()}


def figures(
    table: Table, on_page: Table, records: Sequence[Mapping[str, Any]], panels: "Sequence[Panel]"
) -> "dict[str, Figure]":
    """The figures of a comparison by the names of their files.

    Args:
        table: the comparison.
        on_page: the same with the runs that are drawn one by one.
        records: rows of these runs, as `harness.analysis.compact.compact_rows` gives them.
        panels: their learning curves.

    Returns:
        "curves"; "forest" where a line has a difference to a reference, "classes" where it has seeds in common with the
        student without distillation, "cost" where two lines have a time, "gradients" where they were logged, and
        "sensitivity" where lines of a method differ in numbers only.
    """
    from harness.report.plots import classes, cost, sensitivity
    from harness.report.plots.curves import curve_figure
    from harness.report.plots.forest import forest, forest_figure
    from harness.report.plots.gradients import gradient_figure, ratios

    by_id = {record["run_id"]: record for record in records}
    gradients = {run_id: record["gradients"] for run_id, record in by_id.items()}
    out = {"curves": curve_figure(panels)}
    if forests := [one for block in table.blocks if (one := forest(block)) is not None]:
        out["forest"] = forest_figure(forests)
    if gains := [each for block in on_page.blocks if (each := classes.gains(block, by_id)) is not None]:
        out["classes"] = classes.class_figure(gains)
    points = [(block.where, cost.points(block, by_id)) for block in on_page.blocks]
    if any(cost.drawn(mine) for _, mine in points):
        out["cost"] = cost.cost_figure(points)
    if any(pulls := [ratios(block, gradients) for block in on_page.blocks]):
        out["gradients"] = gradient_figure(pulls)
    found = [(block, sensitivity.of_block(block, by_id)) for block in on_page.blocks]
    if any(mine for _, mine in found):
        out["sensitivity"] = sensitivity.sensitivity_figure(found)
    return out


def _pictures(drawn: "Mapping[str, Figure]") -> dict[str, tuple[str, str | bytes]]:
    """Names and contents of the files of figures, "NAME_png" and "NAME_svg" each."""
    from harness.report.plots.style import figure_png, figure_svg

    out: dict[str, tuple[str, str | bytes]] = {}
    for name, figure in drawn.items():
        out[f"{name}_png"] = f"{name}.png", figure_png(figure)
        out[f"{name}_svg"] = f"{name}.svg", figure_svg(figure)
    return out


def search_files(outcomes: Sequence["Outcome"]) -> dict[str, tuple[str, str | bytes]]:
    """Names and contents of the files that show the best score after 1, 2, 4, ... points: "search_csv",
    "best_so_far_png", "best_so_far_svg"; none without a search."""
    if not outcomes:
        return {}
    from harness.report.plots.search import best_so_far_figure
    from harness.search.tuning_curve import to_csv as curves_csv

    found = _pictures({"best_so_far": best_so_far_figure(outcomes)})
    return {"search_csv": ("best_so_far.csv", curves_csv(outcomes)), **found}


def _outcomes(experiment: "Experiment | None", directory: Path) -> "list[Outcome]":
    if experiment is None or experiment.search is None:
        return []
    from harness.search.outcome import outcomes

    return outcomes(experiment, directory)


def with_search(compared: tuple[Table, int], experiment: "Experiment", directory: Path) -> tuple[Table, int]:
    """A table, and of how many rows it is, with remarks on each pair's search, if there is one.

    Args:
        compared: what `table_of` gives.
        experiment: whose table it is.
        directory: its results folder.

    Raises:
        ValueError: the folder holds a different search, or a row is corrupt.
    """
    if experiment.search is None:
        return compared
    from harness.search.tuning_curve import remarks

    outcomes = _outcomes(experiment, directory)

    def told(pair: str) -> list[str]:
        return remarks([each for each in outcomes if each.study.template.pair == pair], experiment.train.steps)

    table, total = compared
    return replace(table, blocks=tuple(replace(b, caveats=(*b.caveats, *told(b.pair))) for b in table.blocks)), total


def table_of(
    directory: Path,
    methods: Sequence[str] = (),
    seeds: Sequence[int] | None = None,
    run_ids: Collection[str] | None = None,
    stale: Mapping[str, Sequence[str]] | None = None,
    remarks: Sequence[str] = (),
) -> tuple[Table, int]:
    """The comparison, over images too where they were kept, and the number of rows; arguments as for `write_report`.

    Args:
        directory: the experiment's directory.
        methods: the experiment's labels in its order.
        seeds: the experiment's seeds.
        run_ids: read only these rows.
        stale: why rows are stale, by run_id; they get blocks of their own, marked.
        remarks: on all blocks of the other rows.

    Raises:
        ValueError: as `write_report`.
    """
    columns = list(dict.fromkeys((*COLUMNS, *per_image.COLUMNS)))
    rows = store.read_rows(directory, columns, run_ids=run_ids)
    if not rows.num_rows:
        raise ValueError(f"{directory}: no results yet (expected {Path(directory) / 'runs'}/*.parquet)")
    parts = []
    for wanted, texts, mark in _parted(rows, stale or {}, remarks):
        table = per_image.with_images(quick_table(wanted, methods, seeds), directory, wanted)
        blocks = (replace(b, pair=b.pair + mark, caveats=(*b.caveats, *texts)) for b in table.blocks)
        parts.append(replace(table, blocks=tuple(blocks)))
    return replace(parts[0], blocks=tuple(block for part in parts for block in part.blocks)), rows.num_rows


def _parted(
    rows: Any, stale: Mapping[str, Sequence[str]], remarks: Sequence[str]
) -> Iterator[tuple[Any, Sequence[str], str]]:
    """Rows of today's content, then stale ones, with the remarks on their blocks and a mark of the blocks' names."""
    if not stale:
        yield rows, remarks, ""
        return
    found = list(enumerate(zip(rows["run_id"].to_pylist(), rows["role"].to_pylist(), strict=True)))
    today = [(place, role) for place, (run_id, role) in found if run_id not in stale]
    if any(role == "student" for _, role in today):
        yield rows.take([place for place, _ in today]), remarks, ""
    reasons = sorted({f"not of today's content: {text}" for texts in stale.values() for text in texts})
    yield rows.take([place for place, (run_id, _) in found if run_id in stale]), reasons, " (stale)"


def _fewer(table: Table) -> Table:
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


def _run_ids(table: Table) -> set[str]:
    runs = {run for block in table.blocks for x in block.methods for run in x.run_ids.values()}
    return runs | {x.run_id for block in table.blocks for x in block.teachers if x.run_id is not None}
