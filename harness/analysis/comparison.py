"""From rows to a comparison: which line each row belongs to, and the statistics of each line.

Rows that must not be compared are an error (`harness.analysis.comparable`). Where every method has the best point of a
search, the learning rate is part of that point and may differ between methods.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis import fairness
from harness.analysis.arrays import BySeed, Runs, split, stacked
from harness.analysis.comparable import (
    Setting,
    refuse_experiments,
    refuse_mixture,
    refuse_pair,
    refuse_starts,
    refuse_teacher,
)
from harness.analysis.labels import REFERENCES, Label, ordered, references
from harness.analysis.lines import CONFIDENCE, Comparison, MethodRow
from harness.analysis.simultaneous import errors, family
from harness.analysis.stats import (
    ROUNDING,
    Difference,
    holm,
    paired_difference,
    paired_differences,
    score,
    shared_seeds,
)
from harness.analysis.tables import Block, Table, Teacher
from harness.experiment.method import compact

_SCORES = ("val_miou", "dev_miou", "best_dev_miou")
_OWN = ("seed", "message", *_SCORES, "step_ms", "peak_memory_mb", "weights_sha256")
_SHARED = tuple(name for name in Setting.columns() if name != "elastic_workers")
COLUMNS = ("run_id", *_SHARED, *_OWN, "student_init_sha256", "trial", "worker_history")
"""The columns of rows that `quick_table` needs."""


def quick_table(rows: Any, methods: Sequence[str] = (), seeds: Sequence[int] | None = None) -> Table:
    """Compare the methods of an experiment.

    Args:
        rows: `pyarrow.Table` with at least `COLUMNS`, of one experiment.
        methods: what the experiment lists, in its order: names or labels. Those without rows are "not run"; those that
            only the rows have come last. "none" and "kd" always come first, listed or not.
        seeds: the seeds every method should have; None takes all seeds any student row of the pair has.

    Raises:
        ValueError: no student rows, several experiments, rows that must not be compared, or two ok rows for one cell.
    """
    import pyarrow.compute as pc

    rows = rows.select(list(COLUMNS))
    trials = pc.and_(pc.equal(rows["role"], "student"), pc.is_valid(rows["trial"]))
    if pc.any(trials).as_py():
        trial = rows.filter(trials)["run_id"][0]
        raise ValueError(f"{trial} is a trial of a search and no result; the results are in the folder above it")
    rows = rows.append_column("elastic_workers", pc.is_valid(rows["worker_history"]))
    runs = split(rows, Setting, _OWN)
    students = [s for s in runs.settings if s.role == "student"]
    if not students:
        raise ValueError(f"no student rows to compare ({rows.num_rows} rows given); run the experiment first")
    refuse_experiments(runs.settings)
    teachers = [(s, place) for s in runs.settings if s.role == "teacher" for place in s.places]
    listed = [Label.read(name) for name in methods]
    blocks = []
    for pair in sorted({s.pair for s in students}):
        mine = [s for s in students if s.pair == pair]
        refuse_pair(mine, f"pair {pair!r}: ")
        refuse_starts(rows, pair)
        block = _block(pair, mine, runs, listed, seeds)
        block = replace(block, teacher=_teacher_of(pair, mine, teachers, runs))
        blocks.append(replace(block, **fairness.of_block(block)))
    return Table(students[0].experiment, students[0].protocol, tuple(blocks))


def _block(
    pair: str, rows: list[Setting], runs: Runs[Setting], listed: Sequence[Label], seeds: Sequence[int] | None
) -> Block:
    """The block but for its teacher and what is found of it."""
    groups = _grouped(rows, listed)
    for name, group in groups.items():
        for column in ("search_sha256", "source_sha256"):
            refuse_mixture(column, {s.run_id: getattr(s, column) for s in group}, f"pair {pair!r}, {name}: ")
    expected = np.array(sorted(runs.seeds(rows) if seeds is None else set(seeds)), dtype=np.int64)
    lines = {name: _line(name, group, runs, expected) for name, group in groups.items()}
    named = references(groups)
    failed = {name: _ended(group, runs, "failed") - lines[name].values.keys() for name, group in groups.items()}
    values = {name: BySeed.of(line.values) for name, line in lines.items()}
    compared, count = _compare(values, failed, named)
    first = next((s for s in rows if s.control is None), rows[0])
    floors = {
        split: next((100 * x for s in rows if (x := getattr(s, f"floor_{split}_miou")) is not None), None)
        for split in ("val", "dev")
    }
    return Block(
        pair=pair,
        dataset=first.dataset,
        protocol=first.protocol,
        ruleset=first.ruleset,
        trials=_trials(rows),
        budget_amount=first.budget_amount,
        budget_unit=first.budget_unit,
        devices=", ".join(sorted({s.device for s in rows})),
        floor=floors["val"],
        dev_floor=floors["dev"],
        teacher=Teacher(),
        methods=tuple(
            replace(
                line,
                reference=name.method if named.get(name.method) == name else "",
                vs_none=compared.get((name, "none")),
                vs_kd=compared.get((name, "kd")),
            )
            for name, line in lines.items()
        ),
        comparisons=count,
        notes=_notes(rows, runs),
        caveats=(
            *(text for name, group in groups.items() if (text := _searched(name, group))),
            *(text for name, group in groups.items() if (text := _timed(name, group))),
            *(text for name, group in groups.items() if (text := _code(name, group, runs))),
            *sorted({f"{s.method}: {s.caveat}" for s in rows if s.caveat}),
        ),
    )


def _grouped(rows: Sequence[Setting], listed: Sequence[Label]) -> dict[Label, list[Setting]]:
    """Rows by the label they are shown under, in the order of the lines."""
    variants: dict[Label, list[Setting]] = {}
    controls: dict[Label, list[Setting]] = {}
    for row in rows:
        if row.control is not None:
            controls.setdefault(Label(row.method, control=row.control), []).append(row)
            continue
        items = tuple(f"{k}={compact(v)}" for k, v in sorted(json.loads(row.method_parameters).items()))
        variants.setdefault(Label(row.method, items), []).append(row)
    groups: dict[Label, list[Setting]] = {label: [] for label in listed}
    by_name = sorted(variants, key=lambda label: (label.method, label.parameters))
    chosen = {variant: _listed(variant, listed) for variant in by_name}
    shown = list(chosen.values())
    for variant in by_name:
        name = chosen[variant]
        if name is None or shown.count(name) > 1:
            # One name for several parameter sets cannot tell them apart: the parameters in which they differ do.
            others = [set(other.parameters) for other in by_name if other.method == variant.method]
            own = (item for item in variant.parameters if not all(item in other for other in others))
            if name is not None:
                groups.pop(name, None)
            name = Label(variant.method, tuple(own))
        groups[name] = variants[variant]
    groups |= controls
    present = {label.method for label in groups if label.control is None}
    groups |= {Label(name): [] for name in REFERENCES if name not in present}
    return {label: groups[label] for label in ordered(groups, listed)}


def _listed(variant: Label, listed: Sequence[Label]) -> Label | None:
    """The most specific listed label whose parameters (a label names only some) are among the variant's."""
    known = set(variant.parameters)
    fits = [x for x in listed if x.control is None and x.method == variant.method and set(x.parameters) <= known]
    return max(fits, key=lambda label: (len(label.parameters), str(label)), default=None)


def _notes(rows: Sequence[Setting], runs: Runs[Setting]) -> tuple[str, ...]:
    """Why runs have no result, by method and seed."""
    seeds, messages = runs.own["seed"], runs.own["message"]
    bad = [(s.method, seeds[place], s.status, messages[place])
           for s in rows if s.status != "ok" for place in s.places]  # fmt: skip
    return tuple(f"{method}, seed {seed}: {status}: {message}" for method, seed, status, message in sorted(bad))


def _trials(rows: Sequence[Setting]) -> str:
    """How many trials each method had: "16", or "12-16"; nothing without a search."""
    counts = sorted({s.search_trials for s in rows if s.search_trials is not None})
    return "-".join(map(str, dict.fromkeys((*counts[:1], *counts[-1:]))))


def _searched(name: Label, rows: Sequence[Setting]) -> str | None:
    """The search that found a method's point; None without one."""
    row = next((s for s in rows if s.search_trials is not None), None)
    if row is None:
        return None
    lr = json.loads(row.recipe)["optimizer"]["lr"]
    return f"{name}: learning rate {lr:g}; best of {row.search_trials} trials, {row.search_seconds:.0f} s"


def _timed(name: Label, rows: Sequence[Setting]) -> str | None:
    """How many steps a method has, where that follows from a time; None elsewhere."""
    row = next((s for s in rows if s.budget_step_ms is not None), None)
    if row is None:
        return None
    return f"{name}: {row.steps} steps, from a measured {row.budget_step_ms:.3g} ms per step"


def _code(name: Label, rows: Sequence[Setting], runs: Runs[Setting]) -> str | None:
    """Which seeds of a line were made by which code; None where it is the same, as far as it is known."""
    made: dict[str, list[Setting]] = {}
    for s in rows:
        if s.status == "ok" and s.code_sha256 is not None:
            made.setdefault(s.code_sha256, []).append(s)
    if len(made) < 2:
        return None
    each = (f"{', '.join(map(str, sorted(runs.seeds(of))))} by {digest[:8]}" for digest, of in made.items())
    return f"{name}: its rows were made by different code: seeds {'; '.join(each)}"


def _ended(rows: Sequence[Setting], runs: Runs[Setting], status: str) -> set[int]:
    """The seeds of runs with this status."""
    return runs.seeds([s for s in rows if s.status == status])


def _line(name: Label, rows: Sequence[Setting], runs: Runs[Setting], expected: NDArray[np.int64]) -> MethodRow:
    ok = [s for s in rows if s.status == "ok"]
    places = runs.places(ok)
    own = {column: runs.own[column][places] for column in ("run_id", *_OWN) if column != "message"}
    if (twice := np.flatnonzero(own["seed"][1:] == own["seed"][:-1])).size:
        i = twice[0]
        raise ValueError(
            f"{name}, seed {own['seed'][i]}: two results for one cell, {own['run_id'][i]} and {own['run_id'][i + 1]}; "
            "keep the rows of one experiment in its directory"
        )
    seeds, values = own["seed"], 100 * own["val_miou"]
    if (unmeasured := np.flatnonzero(np.isnan(values))).size:
        i = unmeasured[0]
        raise ValueError(f"{name}, seed {seeds[i]}: {own['run_id'][i]} was not evaluated on val, so it has no result")
    runs_by_seed = BySeed(seeds, own["run_id"])
    failed, skipped = (_ended(rows, runs, status) - runs_by_seed.keys() for status in ("failed", "skipped"))
    others = failed | skipped
    missing = np.setdiff1d(expected, [*seeds, *others]).size
    known = {column: x[~np.isnan(x)] for column, x in own.items() if column in (*_SCORES, "step_ms", "peak_memory_mb")}
    scores = {column: score(100 * known[column]) if known[column].size else None for column in _SCORES}
    steps, peaks = known["step_ms"], known["peak_memory_mb"]
    return MethodRow(
        name=name,
        run_ids=runs_by_seed,
        failed=len(failed),
        skipped=len(skipped - failed),
        missing=missing,
        expected=missing + len(seeds) + len(others),
        values=BySeed(seeds, values),
        steps=ok[0].steps if ok else None,
        miou=scores["val_miou"],
        dev_miou=scores["dev_miou"],
        best_miou=scores["best_dev_miou"],
        step_s=float(np.median(steps / 1000)) if steps.size else None,
        peak_mb=float(peaks.max()) if peaks.size else None,
        search_trials=next((s.search_trials for s in rows if s.search_trials is not None), None),
        search_seconds=next((s.search_seconds for s in rows if s.search_seconds is not None), None),
    )


def _compare(
    values: Mapping[Label, BySeed], failed: Mapping[Label, set[int]], named: Mapping[str, Label]
) -> tuple[dict[tuple[Label, str], Comparison], int]:
    """Every method against each reference; kd against none and none against kd are one comparison, seen twice."""
    once: dict[tuple[Label, Label], Comparison] = {}
    for reference in (named[name] for name in REFERENCES if name in named):
        for name in values:
            if name == reference or (reference, name) in once or not shared_seeds(values[name], values[reference]):
                continue
            paired = paired_difference(values[name], values[reference], CONFIDENCE)
            once[name, reference] = Comparison(
                Difference(paired.mean, None, None, paired.n),
                p_paired=paired.p_value,
                lost=sum(seed in values[reference] for seed in failed[name]),
                won=sum(seed in values[name] for seed in failed[reference]),
                deltas=paired_differences(values[name], values[reference]),
            )
    count = _together(once, values)
    out: dict[tuple[Label, str], Comparison] = {}
    for role, reference in named.items():
        for name in values:
            if (name, reference) in once:
                out[name, role] = once[name, reference]
            elif (reference, name) in once:
                out[name, role] = once[reference, name].reversed
    return out, count


def _together(once: dict[tuple[Label, Label], Comparison], values: Mapping[Label, BySeed]) -> int:
    """Give the comparisons their simultaneous intervals and corrected p-values; how many have them."""
    tested = {key: c.p_paired for key, c in once.items() if c.p_paired is not None}
    for key, p in zip(tested, holm(list(tested.values())), strict=True):
        once[key] = replace(once[key], p_holm=p)
    places = {name: i for i, name in enumerate(values)}
    pairs = [(places[one], places[other]) for one, other in once]
    spread, freedom = errors(stacked(list(values.values())), pairs)
    means = np.array([c.difference.mean for c in once.values()])
    # Without any spread between seeds there is no evidence; rounding is no spread.
    known = np.flatnonzero(spread > ROUNDING * np.maximum(1, np.abs(means)))
    found = family(means[known], spread[known], freedom[known], [pairs[i] for i in known], 1 - CONFIDENCE)
    keys = list(once)
    for i, low, high, p in zip(known, found.low, found.high, found.p_values, strict=True):
        c = once[keys[i]]
        difference = replace(c.difference, low=float(low), high=float(high), p_value=float(p))
        once[keys[i]] = replace(c, difference=difference)
    return len(known)


def _teacher(setting: Setting, runs: Runs[Setting], place: int) -> Teacher:
    """A teacher's row."""
    own = {name: values[place] for name, values in runs.own.items()}
    miou, dev_miou = (100 * own[f"{split}_miou"] if setting.status == "ok" else None for split in ("val", "dev"))
    return Teacher(own["run_id"], setting.status, own["message"], miou, dev_miou, setting.steps)


def _teacher_of(
    pair: str, rows: Sequence[Setting], teachers: Sequence[tuple[Setting, int]], runs: Runs[Setting]
) -> Teacher:
    """The teacher of a pair's students, out of those of all pairs."""
    wanted = {s.teacher_run_id for s in rows} - {None}
    sha256 = next((s.teacher_sha256 for s in rows if s.teacher_sha256 is not None), None)
    ids = runs.own["run_id"]
    found = next(((s, place) for s, place in teachers if ids[place] in wanted), None)
    if found is not None and found[0].status == "ok":
        refuse_teacher(found[0], runs.own["weights_sha256"][found[1]], rows, f"pair {pair!r}, its teacher: ")
    if found is None and not wanted and sha256 is None:  # No student got as far as its teacher.
        found = next(((s, place) for s, place in teachers if s.pair == pair), None)
    teacher = Teacher() if found is None else _teacher(found[0], runs, found[1])
    return replace(teacher, sha256=sha256)
