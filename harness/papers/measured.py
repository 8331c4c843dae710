"""Rebuilds a paper's table with values measured here (from rows only) next to the published values."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.analysis.arrays import Runs, Shared, split
from harness.analysis.stats import Score, paired_difference, score
from harness.experiment.method import method_entry
from harness.experiment.recipe import without_defaults_of_added_keys
from harness.experiment.signatures import plain
from harness.papers.cells import NOT_RUN, PARTS, UNVERIFIED, Cell, Grid
from harness.papers.lines import Column, Line, Ours, PaperTable, ours_of, parts_of
from harness.papers.protocols import NETWORKS, RECIPES
from harness.papers.published import Figure


@dataclass(frozen=True)
class Setting(Shared):
    """Properties shared by the runs of one cell, named as the rows' columns (except the last one)."""

    experiment: str
    role: str
    status: str
    control: str | None
    method: str
    method_parameters: str
    steps: int | None
    dataset: str
    dataset_parameters: str
    student_network: str
    teacher_network: str
    ruleset: str
    protocol_version: str
    recipe: str
    budget_unit: str
    is_trial: bool


_SHARED = tuple(name for name in Setting.columns() if name != "is_trial")
COLUMNS = ("run_id", *_SHARED, "seed", "val_miou", "trial")
"""Columns of the rows that `build` needs."""


def prepared(rows: Any) -> Runs[Setting]:
    """Rows as `build` takes them.

    Args:
        rows: `pyarrow.Table` with at least `COLUMNS`, of any experiments.
    """
    import pyarrow.compute as pc

    rows = rows.select(list(COLUMNS)).append_column("is_trial", pc.is_valid(rows["trial"]))
    runs = split(rows, Setting, ("seed", "val_miou"))
    results = [s for s in runs.settings if s.status == "ok" and s.control is None and not s.is_trial]
    return replace(runs, settings=tuple(results))


def build(table: PaperTable, runs: Runs[Setting], figures: Collection[Figure]) -> Grid:
    """One of a paper's tables from rows and published figures.

    Args:
        table: a table with columns.
        runs: rows from `prepared`.
        figures: all published figures.

    Raises:
        ValueError: rows of several comparisons (experiments, recipes, rulesets, protocol versions) fit the table.
    """
    by_cell = {figure.cell: figure for figure in figures}
    cells, used, lines = list[Cell](), list[Setting](), []
    for line in table.lines:
        texts = [line.title]
        for column in table.columns:
            cell, mine = _cell(table, line, column, runs, by_cell)
            cells.append(cell)
            used += mine
            texts += cell.texts
        lines.append(tuple(texts))
    titles = [_title(column, table.columns) for column in table.columns]
    head = ("method", *(f"{title}: {part}" for title in titles for part in PARTS))
    return Grid(table.id, table.title, head, tuple(lines), _notes(table, used, cells, figures), tuple(cells))


def costs(table: PaperTable, counted: Mapping[str, tuple[float, float]], figures: Collection[Figure]) -> Grid:
    """A table of costs.

    Args:
        table: a table with networks.
        counted: 10^6 parameters and 10^9 MACs of each network, computed from it.
        figures: all published figures.
    """
    by_key = {(f.student, f.metric): f for f in figures if f.method == "cost" and f.protocol == table.protocol}
    names = [*table.networks, *sorted({student for student, _ in by_key} - set(table.networks))]
    rows, cells = [], []
    for name in names:
        own = counted.get(name)
        texts = [name]
        for i, metric in enumerate(("params_m", "gmacs")):
            figure = by_key.get((name, metric))
            number = None if own is None else Score(own[i], None, 1)
            cells.append(Cell(name, metric, "" if own else "not counted", number, None, figure))
            texts.append("not counted" if own is None else f"{own[i]:.2f}")
            texts.append(UNVERIFIED if figure is None else figure.text)
            texts.append("–" if own is None or figure is None else f"{own[i] - figure.value:+.2f}")
        rows.append(tuple(texts))
    parts = ("counted", "published", "counted − published")
    head = ("network", *(f"{what}: {part}" for what in ("10^6 parameters", "10^9 MACs") for part in parts))
    notes = (
        "Parameters with the auxiliary head, where there is one; MACs of convolutions and matrix products "
        "only, of the network without it. Published counts of MACs may hold other operations, too.",
        *([table.note] if table.note else []),
    )
    return Grid(table.id, table.title, head, tuple(rows), notes, tuple(cells))


def _title(column: Column, columns: Sequence[Column]) -> str:
    """The title of a column: the properties in which columns differ."""
    parts = [column.student]
    if len({c.dataset for c in columns}) > 1:
        parts.append(column.dataset)
    if len({c.split for c in columns}) > 1:
        parts.append(column.split)
    if column.variant is not None:
        parts.append(column.variant)
    return " ".join(parts)


def _cell(
    table: PaperTable,
    line: Line,
    column: Column,
    runs: Runs[Setting],
    figures: Mapping[tuple[str, ...], Figure],
) -> tuple[Cell, list[Setting]]:
    """The cell, and the rows it is computed from."""
    teacher = line.method == "teacher"
    # The student without distillation and the teacher are the same in every column that has a variant.
    variant = column.variant if column.variant is not None and line.method not in ("none", "teacher") else line.variant
    student = "" if teacher else column.student
    under = table.teachers_under.get(column.dataset, table.protocol) if teacher else table.protocol
    key = (column.dataset, column.split, under, table.teacher, student, line.method, variant, "miou")
    titles = {"line": line.title, "column": _title(column, table.columns), "figure": figures.get(key)}
    ours = ours_of(line, column)
    why_not = ""
    if column.split != "val":
        why_not = "labels not public"
    elif table.teacher not in NETWORKS or not (teacher or column.student in NETWORKS):
        why_not = "network not available"
    elif not teacher and ours is None:
        why_not = "weights not known" if line.unknown else "method not available"
    if why_not:
        return Cell(**titles, why_not=why_not), []  # type: ignore[arg-type]
    pair = [r for r in runs.settings if r.dataset == column.dataset and _is(r.teacher_network, table.teacher)]
    if teacher:
        mine = [r for r in pair if r.role == "teacher"]
        baseline = list[Setting]()
    else:
        pair = [r for r in pair if r.role == "student" and _is(r.student_network, column.student)]
        mine, baseline = _of(pair, ours), _of(pair, ("none", {}))
    _one_comparison(table, mine, baseline)
    values, base = _values(table, runs, mine), _values(table, runs, baseline)
    if not values:
        return Cell(**titles, why_not=NOT_RUN), []  # type: ignore[arg-type]
    difference = None
    if line.method != "none" and base.keys() & values.keys():
        difference = paired_difference(values, base)
    measured = score(list(values.values()))
    return Cell(**titles, measured=measured, vs_student=difference), mine  # type: ignore[arg-type]


def _values(table: PaperTable, runs: Runs[Setting], rows: Sequence[Setting]) -> dict[int, float]:
    """val mIoU in percent by seed, for runs with a result."""
    places = runs.places(rows)
    places = places[~np.isnan(runs.own["val_miou"][places])]
    seeds = runs.own["seed"][places].tolist()
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            f"{table.id}: two results for one cell and seed; keep the rows of one experiment in its folder"
        )
    return dict(zip(seeds, (100 * runs.own["val_miou"][places]).tolist(), strict=True))


def _is(network: str, name: str) -> bool:
    """Whether a row's network (JSON) is the one of this name."""
    spec = json.loads(network)
    given = spec["architecture"], spec["encoder"], spec.get("parameters", {})
    return name in NETWORKS and given == NETWORKS[name]


def _of(rows: Sequence[Setting], ours: Ours | None) -> list[Setting]:
    """The rows of a method with exactly these parameters, the others at their defaults."""
    if ours is None:
        return []
    parameters = complete(ours)
    return [r for r in rows if r.method == ours[0] and json.loads(r.method_parameters) == parameters]


def complete(ours: Ours) -> dict[str, Any]:
    """All parameters of a method or a sum, as rows hold them."""
    parts = parts_of(ours)
    found: dict[str, Any] = {}
    for name, given in parts:
        entry = method_entry(name)
        own = plain(entry, entry.parameters.model_validate_json(json.dumps(dict(given))))
        found |= own if len(parts) == 1 else {f"{name}.{key}": value for key, value in own.items()}
    return found


def _one_comparison(table: PaperTable, rows: Sequence[Setting], baseline: Sequence[Setting]) -> None:
    """Check that the rows of a method and of the baseline belong to one comparison."""

    def identity(row: Setting) -> tuple[Any, ...]:
        recipe = without_defaults_of_added_keys(json.loads(row.recipe))
        for key in ("checkpoint_every", *(("steps",) if row.budget_unit == "seconds" else ())):
            recipe.pop(key, None)
        if row.ruleset != "published":
            recipe.get("optimizer", {}).pop("lr", None)
        data = {k: v for k, v in json.loads(row.dataset_parameters).items() if k != "path" and v is not None}
        settings = json.dumps([recipe, data], sort_keys=True)
        return row.experiment, row.ruleset, row.protocol_version, settings

    if not rows:
        return
    found = {identity(row): row for row in (*rows, *baseline)}
    if len(found) > 1:
        a, b = list(found.values())[:2]
        raise ValueError(
            f"{table.id}: rows of several comparisons fit one cell: {a.run_id} of {a.experiment} "
            f"({a.ruleset}) and {b.run_id} of {b.experiment} ({b.ruleset}). Name one experiment, or keep "
            "their results apart"
        )


def _notes(
    table: PaperTable, rows: Sequence[Setting], cells: Sequence[Cell], figures: Collection[Figure]
) -> tuple[str, ...]:
    notes = [
        "mIoU in percent, ours of the last step on val: mean ± standard deviation over n seeds; differences are paired "
        "by seed. V: verified in a source that was opened; V2: in a secondary source; C: "
        "computed from such figures, printed nowhere."
    ]
    notes.append(f"Published under: {table.protocol}.")
    notes += sorted({text for row in rows if row.role == "student" for text in _differences(table, row)})
    if table.gains:
        known = (
            f for f in figures if (f.metric, f.protocol, f.teacher) == ("miou_gain", table.protocol, table.teacher)
        )
        notes += [f"Published as a gain only: {f.variant}, {f.value:+g} on {f.student} ({f.sure})." for f in known]
    sources = sorted({cell.figure.source for cell in cells if cell.figure is not None})
    notes += [f"Source: {source}." for source in sources]
    for dataset, protocol in table.teachers_under.items():
        notes.append(f"The teacher's figure on {dataset} is of another protocol: {protocol}.")
    return (*notes, *([table.note] if table.note else []))


def _differences(table: PaperTable, row: Setting) -> list[str]:
    """Differences between a row's recipe and the protocol's."""
    known, recipe = RECIPES[table.protocol], json.loads(row.recipe)
    crop = (recipe.get("augment") or {}).get("crop_hw")
    compared: list[tuple[str, Any, Any, Callable[[Any], str]]] = [
        ("steps", row.steps, known.steps, str),
        ("images per step", recipe.get("batch_size"), known.batch_size, str),
        ("crop", tuple(crop or ()), known.crop_hw.get(row.dataset), lambda c: "x".join(map(str, c)) or "none"),
    ]
    found = [
        f"Not the published recipe ({row.experiment}): {what} {said(ours)} instead of {said(theirs)}."
        for what, ours, theirs, said in compared
        if theirs is not None and ours != theirs
    ]
    if share := json.loads(row.dataset_parameters).get("dev_fraction"):
        found.append(f"{row.experiment} trains on less data: {share:g} of train is held out as its dev split.")
    return found
