"""From rows to a comparison: which line each row belongs to, and the statistics of each line.

Rows that must not be compared are an error (`harness.analysis.comparable`). Where every method has the best point of a
search, the learning rate is part of that point and may differ between methods.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.analysis import fairness
from harness.analysis.arrays import Runs, split
from harness.analysis.comparable import Setting, refuse_experiments, refuse_mixture, refuse_pair, refuse_starts
from harness.analysis.families import compared
from harness.analysis.labels import REFERENCES, Label, ordered, references
from harness.analysis.lines import MethodRow
from harness.analysis.stats import score
from harness.analysis.tables import Block, Table, Teacher
from harness.analysis.teachers import Crossing, Key, key_text, mapping, teachers_of
from harness.experiment.controls import response_of
from harness.experiment.method import Method, compact

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
        taught, crossing = teachers_of(pair, mine, teachers, runs)
        block = replace(_block(pair, mine, runs, listed, seeds, crossing), teacher=taught[0], others=taught[1:])
        blocks.append(replace(block, **fairness.of_block(block)))
    return Table(students[0].experiment, students[0].protocol, tuple(blocks))


def _block(
    pair: str,
    rows: list[Setting],
    runs: Runs[Setting],
    listed: Sequence[Label],
    seeds: Sequence[int] | None,
    crossing: Crossing,
) -> Block:
    """The block but for its teachers and what is found of it."""
    groups = _grouped(rows, listed)
    for name, group in groups.items():
        for column in ("search_sha256", "source_sha256"):
            refuse_mixture(column, {s.run_id: getattr(s, column) for s in group}, f"pair {pair!r}, {name}: ")
    expected = sorted(runs.seeds(rows) if seeds is None else set(seeds))
    devices = _devices(rows)
    lines = {name: _line(name, group, runs, expected, crossing, devices[0]) for name, group in groups.items()}
    named = references(groups)
    failed = {
        name: _ended(group, runs, "failed", crossing, name) - lines[name].values.keys()
        for name, group in groups.items()
    }
    own, lacking = own_controls(groups)
    found, count = compared({name: line.values for name, line in lines.items()}, failed, named, own, crossing)
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
        devices=", ".join(devices),
        floor=floors["val"],
        dev_floor=floors["dev"],
        teacher=Teacher(),
        methods=tuple(
            replace(
                line,
                reference=name.method if named.get(name.method) == name else "",
                vs_none=found.get((name, "none")),
                vs_kd=found.get((name, "kd")),
                control=str(own.get(name, "")),
                lacks=lacking.get(name, ""),
                vs_control=found.get((name, "own")),
                chosen=_chosen(groups[name], first.dataset),
            )
            for name, line in lines.items()
        ),
        comparisons=count,
        notes=_notes(rows, runs, crossing),
        caveats=(
            *(text for name, group in groups.items() if (text := _searched(name, group))),
            *(text for name, group in groups.items() if (text := _timed(name, group))),
            *_codes(groups, runs),
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


def own_controls(groups: Mapping[Label, Sequence[Setting]]) -> tuple[dict[Label, Label], dict[Label, str]]:
    """By line the one that is its response term by itself, and for lines without one what it would be called.

    Nothing for rows of a search: what it found for a method is not what it found for the control.
    """
    methods = {
        name: _method(rows[0])
        for name, rows in groups.items()
        if rows and name.control is None and rows[0].ruleset == "published"
    }
    own: dict[Label, Label] = {}
    lacking: dict[Label, str] = {}
    for name, method in methods.items():
        if (control := response_of(method)) is None:
            continue
        line = next((other for other, each in methods.items() if each == control), None)
        if line is None:
            lacking[name] = control.label
        else:
            own[name] = line
    return own, lacking


def _chosen(group: Sequence[Setting], dataset: str) -> tuple[str, ...]:
    """The hyper-parameters of a line at defaults that were chosen on its own dataset; none of a method unknown here."""
    try:
        return _method(group[0]).chosen_on(dataset, group[0].ruleset != "published") if group else ()
    except (KeyError, ValueError):  # of another version, or not installed here
        return ()


def _method(row: Setting) -> Method:
    return Method(name=row.method, parameters=json.loads(row.method_parameters))


def _listed(variant: Label, listed: Sequence[Label]) -> Label | None:
    """The most specific listed label whose parameters (a label names only some) are among the variant's."""
    known = set(variant.parameters)
    fits = [x for x in listed if x.control is None and x.method == variant.method and set(x.parameters) <= known]
    return max(fits, key=lambda label: (len(label.parameters), str(label)), default=None)


def _notes(rows: Sequence[Setting], runs: Runs[Setting], crossing: Crossing) -> tuple[str, ...]:
    """Why runs have no result, by method, seed and, of several, teacher."""
    seeds, messages = runs.own["seed"], runs.own["message"]
    bad = [(s.method, seeds[place], _taught_by(s, crossing), s.status, messages[place])
           for s in rows if s.status != "ok" for place in s.places]  # fmt: skip
    return tuple(
        f"{method}, {taught}seed {seed}: {status}: {message}" for method, seed, taught, status, message in sorted(bad)
    )


def _taught_by(row: Setting, crossing: Crossing) -> str:
    several = bool(crossing.seeds_of) and not crossing.shared(row.method, [row])
    return f"teacher {crossing.seeds_of[str(row.teacher_run_id)]}, " if several else ""


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


def _codes(groups: Mapping[Label, Sequence[Setting]], runs: Runs[Setting]) -> list[str]:
    """Lines some of whose seeds were made by other code than the rest, together where they are the same seeds."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, rows in groups.items():
        made: dict[str, list[Setting]] = {}
        for s in rows:
            if s.status == "ok" and s.code_sha256 is not None:
                made.setdefault(s.code_sha256, []).append(s)
        if len(made) > 1:
            parts = sorted(", ".join(map(str, sorted(runs.seeds(of)))) for of in made.values())
            found.setdefault(tuple(parts), []).append(str(name))
    return [
        f"rows of one line were made by different code, seeds {'; '.join(parts)}: {', '.join(names)}"
        for parts, names in found.items()
    ]


def _ended(rows: Sequence[Setting], runs: Runs[Setting], status: str, crossing: Crossing, name: Label) -> set[Key]:
    """The keys of runs with this status."""
    return set(crossing.keys(runs, [s for s in rows if s.status == status], crossing.shared(name.method, rows)))


def _devices(rows: Sequence[Setting]) -> list[str]:
    """The devices of the runs, that of most results first: times and memory are those measured on it."""
    results = Counter({s.device: 0 for s in rows})
    for s in rows:
        results[s.device] += len(s.places) if s.status == "ok" else 0
    return sorted(results, key=lambda device: (-results[device], device))


def _line(
    name: Label,
    rows: Sequence[Setting],
    runs: Runs[Setting],
    expected: Sequence[int],
    crossing: Crossing,
    device: str,
) -> MethodRow:
    ok = [s for s in rows if s.status == "ok"]
    shared = crossing.shared(name.method, rows)
    places, keys = runs.places(ok), crossing.keys(runs, ok, shared)
    own = {column: runs.own[column][places] for column in ("run_id", *_OWN) if column != "message"}
    if len(set(keys)) < len(keys):
        twice = next(key for key, count in Counter(keys).items() if count > 1)
        ids = [run_id for key, run_id in zip(keys, own["run_id"], strict=True) if key == twice]
        raise ValueError(
            f"{name}, {_cell(twice)}: two results for one cell, {ids[0]} and {ids[1]}; keep the rows of one experiment "
            "in its directory"
        )
    values = 100 * own["val_miou"]
    if (unmeasured := np.flatnonzero(np.isnan(values))).size:
        i = unmeasured[0]
        raise ValueError(f"{name}, {_cell(keys[i])}: {own['run_id'][i]} was not evaluated on val, so it has no result")
    runs_by_key = mapping(keys, own["run_id"])
    failed, skipped = (_ended(rows, runs, status, crossing, name) - set(keys) for status in ("failed", "skipped"))
    others = failed | skipped
    planned = crossing.expected(expected, shared)
    missing = len(set(planned).difference(keys, others))
    alike = runs.places([s for s in ok if s.device == device])
    measured = {column: own[column] for column in _SCORES}
    measured |= {column: runs.own[column][alike] for column in ("step_ms", "peak_memory_mb")}
    known = {column: x[~np.isnan(x)] for column, x in measured.items()}
    scores = {column: score(100 * known[column]) if known[column].size else None for column in _SCORES}
    if len(planned) > len(expected) and scores["val_miou"] is not None:
        full = f"{len(crossing.teachers)}x{len(expected)}"
        of = f"{len(keys)} of {full}" if missing or others else full
        scores["val_miou"] = replace(scores["val_miou"], of=of)
    steps, peaks = known["step_ms"], known["peak_memory_mb"]
    return MethodRow(
        name=name,
        run_ids=runs_by_key,
        failed=len(failed),
        skipped=len(skipped - failed),
        missing=missing,
        expected=missing + len(keys) + len(others),
        values=mapping(keys, values),
        steps=ok[0].steps if ok else None,
        miou=scores["val_miou"],
        dev_miou=scores["dev_miou"],
        best_miou=scores["best_dev_miou"],
        step_s=float(np.median(steps / 1000)) if steps.size else None,
        peak_mb=float(peaks.max()) if peaks.size else None,
        search_trials=next((s.search_trials for s in rows if s.search_trials is not None), None),
        search_seconds=next((s.search_seconds for s in rows if s.search_seconds is not None), None),
    )


def _cell(key: Key) -> str:
    return key_text(key) if isinstance(key, tuple) else f"seed {key}"
