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
    from harness.experiment.spec import Experiment
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
    """Write table.md, table.csv, fairness.json, curves.png, curves.svg and report.html next to `runs/`, each complete
    or not at all; forest.png and .svg where a line has a difference to a reference; of an experiment with a search
    best_so_far.csv, .png and .svg too, gradients.png where gradients were logged, and sensitivity.png and .svg where
    lines of a method differ in numbers only.

    Args:
        directory: the experiment's directory, `<results>/<experiment>`.
        methods: the experiment's labels in its order, as for `quick_table`.
        seeds: the experiment's seeds, as for `quick_table`.
        run_ids: read only these rows (teachers' included); None reads all there are.
        experiment_file: the file the command that repeats a run names; `experiments/<experiment>.yaml` without it.
        compared: the table and the number of rows behind it, if known.
        experiment: whose rows these are, for its search, if it has one; None if unknown.

    Returns:
        The files by what they are: "markdown", "csv", "fairness", "png", "svg", "html", "gradients", "sensitivity_png",
        "sensitivity_svg"; those of `search_files` and `forest_files`.

    Raises:
        ValueError: no student rows, rows that must not be compared, or a corrupt file.
        OSError: the disk is full or cannot be written.
    """
    from harness.analysis import exports
    from harness.analysis.compact import compact_rows, release
    from harness.report.page.page import render
    from harness.report.plots.curves import curve_figure, panel
    from harness.report.plots.gradients import gradient_figure, ratios
    from harness.report.plots.sensitivity import of_block, sensitivity_figure
    from harness.report.plots.style import figure_png, figure_svg

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
    figure = curve_figure(panels)
    pulls = [ratios(block, {record["run_id"]: record["gradients"] for record in records}) for block in on_page.blocks]
    file = experiment_file or f"experiments/{table.experiment}.yaml"
    forests = forest_files(table)
    below = _FILES.format(forest=" Differences: `forest.png`." if forests else "")
    contents: dict[str, tuple[str, str | bytes]] = {
        "markdown": ("table.md", to_markdown(table) + below),
        "csv": ("table.csv", to_csv(table)),
        "fairness": ("fairness.json", to_json(table)),
        "png": ("curves.png", figure_png(figure)),
        "svg": ("curves.svg", figure_svg(figure)),
        "html": (
            "report.html",
            render(on_page, records, samples, panels, file, total, outcomes, [exported.of(b) for b in table.blocks]),
        ),
        **search_files(outcomes),
        **forests,
    }
    if any(pulls):
        contents["gradients"] = "gradients.png", figure_png(gradient_figure(pulls))
    by_id = {record["run_id"]: record for record in records}
    found = [(block, of_block(block, by_id)) for block in on_page.blocks]
    if any(mine for _, mine in found):
        drawn = sensitivity_figure(found)
        contents["sensitivity_png"] = "sensitivity.png", figure_png(drawn)
        contents["sensitivity_svg"] = "sensitivity.svg", figure_svg(drawn)
    if not os.access(base, os.W_OK):
        raise PermissionError(f"{base} cannot be written; --format prints the table and writes nothing")
    for name, content in contents.values():
        write_atomic(base / name, content)
    return {what: base / name for what, (name, _) in contents.items()}


def search_files(outcomes: Sequence["Outcome"]) -> dict[str, tuple[str, str | bytes]]:
    """Names and contents of the files that show the best score after 1, 2, 4, ... points: "search_csv", "search_png",
    "search_svg"; none without a search."""
    if not outcomes:
        return {}
    from harness.report.plots.search import best_so_far_figure
    from harness.report.plots.style import figure_png, figure_svg
    from harness.search.tuning_curve import to_csv as curves_csv

    figure = best_so_far_figure(outcomes)
    return {
        "search_csv": ("best_so_far.csv", curves_csv(outcomes)),
        "search_png": ("best_so_far.png", figure_png(figure)),
        "search_svg": ("best_so_far.svg", figure_svg(figure)),
    }


def forest_files(table: Table) -> dict[str, tuple[str, str | bytes]]:
    """Names and contents of the forest plot's files: "forest_png", "forest_svg"; none without a difference."""
    from harness.report.plots.forest import forest, forest_figure
    from harness.report.plots.style import figure_png, figure_svg

    found = [one for block in table.blocks if (one := forest(block)) is not None]
    if not found:
        return {}
    figure = forest_figure(found)
    return {
        "forest_png": ("forest.png", figure_png(figure, dpi=200)),
        "forest_svg": ("forest.svg", figure_svg(figure)),
    }


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
