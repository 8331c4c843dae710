"""From rows to a comparison: which rows may be compared, which line each belongs to, and the statistics of each line.

Rows that must not be compared (another protocol, data, recipe, budget, teacher or initial student) are an error that
names them: a table of them would look like a result. Where every method has the best point of a search, the learning
rate is part of that point and may differ between methods.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis import fairness
from harness.analysis.arrays import BySeed, Runs, codes, split
from harness.analysis.comparable import SHARED, grouped, refuse_mixture, refuse_pair, refuse_starts
from harness.analysis.stats import Interval, holm, mean_interval, paired_intervals, shared_seeds
from harness.analysis.tables import (
    BOOTSTRAP_SEED,
    CONFIDENCE,
    Block,
    Comparison,
    MethodRow,
    QuickTable,
    Teacher,
    references,
)

_SETTING = (
    *("experiment", "status", "role", "method", "method_parameters", "steps", "pair", "protocol_version"),
    *("teacher_run_id", "floor_dev_miou", "device", "caveat", *SHARED, "search_trials", "search_seconds"),
    *("search_sha256", "budget_step_ms", "control"),
)
_OWN = ("seed", "message", "dev_miou", "best_dev_miou", "step_ms", "peak_memory_mb")
COLUMNS = tuple(dict.fromkeys(("run_id", *_SETTING, *_OWN, "student_init_sha256", "trial", "worker_history")))
"""The columns `quick_table` needs."""


def quick_table(rows: Any, methods: Sequence[str] = (), seeds: Sequence[int] | None = None) -> QuickTable:
    """Compare the methods of an experiment.

    Args:
        rows: `pyarrow.Table` with at least `COLUMNS`, of one experiment.
        methods: what the experiment lists, in its order: names or `label`s. Those without rows print "not run"; those
            only the rows have come last. "none" and "kd" always come first, listed or not.
        seeds: the seeds every method should have; None takes all seeds any student row of the pair has.

    Raises:
        ValueError: no student rows, several experiments, rows that must not be compared, or two ok rows for one cell.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = rows.select(list(COLUMNS))
    trials = pc.and_(pc.equal(rows["role"], "student"), pc.is_valid(rows["trial"]))
    if pc.any(trials).as_py():
        trial = rows.filter(trials)["run_id"][0]
        raise ValueError(f"{trial} is a trial of a search and no result; the results are in the folder above it")
    # Micro-batches of another size have other batch statistics: no fixed number of workers, no fair comparison.
    rows = rows.append_column("elastic workers", pc.is_valid(rows["worker_history"]))
    starts = codes(rows["student_init_sha256"])
    rows = rows.append_column("start", pa.array(np.zeros(rows.num_rows, np.int32) if starts is None else starts[0]))
    runs = split(rows, [*_SETTING, "elastic workers"], [*_OWN, "start"])
    records = list(runs.settings)
    students = [r for r in records if r["role"] == "student"]
    if not students:
        raise ValueError(f"no student rows to compare ({rows.num_rows} rows given); run the experiment first")
    refuse_mixture(records, "experiment", "")
    for record in records:
        record["protocol"] = ".".join(record["protocol_version"].split(".")[:2])
        if record["status"] != "ok":
            record["elastic workers"] = None
    refuse_mixture(records, "protocol", "")
    teachers = [_whole(r, runs, place) for r in records if r["role"] == "teacher" for place in runs.places([r])]
    blocks = []
    for pair in sorted({r["pair"] for r in students}):
        mine = [r for r in students if r["pair"] == pair]
        refuse_pair(mine, f"pair {pair!r}: ")
        refuse_starts(rows, runs, mine, pair)
        blocks.append(_block(pair, mine, runs, teachers, methods, seeds))
    return QuickTable(records[0]["experiment"], records[0]["protocol"], tuple(blocks))


def _whole(setting: dict[str, Any], runs: Runs, place: int) -> dict[str, Any]:
    """A row with its own values, too."""
    return {**setting, **{name: values[place] for name, values in runs.own.items()}}


def _block(
    pair: str,
    rows: list[dict[str, Any]],
    runs: Runs,
    teachers: list[dict[str, Any]],
    methods: Sequence[str],
    seeds: Sequence[int] | None,
) -> Block:
    groups = grouped(rows, methods)
    for name, group in groups.items():
        refuse_mixture(group, "search_sha256", f"pair {pair!r}, {name}: ")
    expected = np.array(sorted(runs.seeds(rows) if seeds is None else set(seeds)), dtype=np.int64)
    lines = [_line(name, group, runs, expected) for name, group in groups.items()]
    named = references(groups)
    values = {line.label: line.values for line in lines}
    failed = {name: _ended(group, runs, "failed") - values[name].keys() for name, group in groups.items()}
    compared, count = _compare(values, failed, named)
    first = next((r for r in rows if r["control"] is None), rows[0])
    floors = [r["floor_dev_miou"] for r in rows if r["floor_dev_miou"] is not None]
    block = Block(
        pair=pair,
        dataset=first["dataset"],
        ruleset=first["ruleset"],
        trials=_trials(rows),
        budget_amount=first["budget_amount"],
        budget_unit=first["budget_unit"],
        devices=", ".join(sorted({r["device"] for r in rows})),
        floor=100 * floors[0] if floors else None,
        teacher=_teacher(pair, rows, teachers),
        references=named,
        methods=tuple(
            replace(x, vs_none=compared.get((x.label, "none")), vs_kd=compared.get((x.label, "kd"))) for x in lines
        ),
        comparisons=count,
        notes=_notes(rows, runs),
        caveats=(
            *(text for name, group in groups.items() if (text := _searched(name, group))),
            *(text for name, group in groups.items() if (text := _timed(name, group))),
            *sorted({f"{r['method']}: {r['caveat']}" for r in rows if r["caveat"]}),
        ),
    )
    return replace(block, **fairness.of_block(block))


def _notes(rows: list[dict[str, Any]], runs: Runs) -> tuple[str, ...]:
    """Why runs have no result, by method and seed."""
    own = runs.own
    bad = [(r["method"], own["seed"][p], r["status"], own["message"][p])
           for r in rows if r["status"] != "ok" for p in runs.places([r])]  # fmt: skip
    return tuple(f"{method}, seed {seed}: {status}: {message}" for method, seed, status, message in sorted(bad))


def _trials(rows: list[dict[str, Any]]) -> str:
    """How many trials stand behind each method: "16", or "12-16"; nothing without a search."""
    counts = sorted({r["search_trials"] for r in rows if r["search_trials"] is not None})
    return "-".join(map(str, dict.fromkeys((*counts[:1], *counts[-1:]))))


def _searched(name: str, rows: list[dict[str, Any]]) -> str | None:
    """What stands behind a method's point; None without a search."""
    row = next((r for r in rows if r["search_trials"] is not None), None)
    if row is None:
        return None
    lr = json.loads(row["recipe"])["optimizer"]["lr"]
    return f"{name}: learning rate {lr:g}; best of {row['search_trials']} trials, {row['search_seconds']:.0f} s"


def _timed(name: str, rows: list[dict[str, Any]]) -> str | None:
    """How many steps a method has, where that follows from a time; None elsewhere."""
    row = next((r for r in rows if r["budget_step_ms"] is not None), None)
    if row is None:
        return None
    return f"{name}: {row['steps']} steps; one was found to take {row['budget_step_ms']:.3g} ms"


def _ended(rows: list[dict[str, Any]], runs: Runs, status: str) -> set[int]:
    """The seeds of runs with this status."""
    return runs.seeds([r for r in rows if r["status"] == status])


def _line(name: str, rows: list[dict[str, Any]], runs: Runs, expected: NDArray[np.int64]) -> MethodRow:
    places = runs.places([r for r in rows if r["status"] == "ok"])
    own = {column: runs.own[column][places] for column in ("run_id", *_OWN) if column != "message"}
    if (twice := np.flatnonzero(own["seed"][1:] == own["seed"][:-1])).size:
        i = twice[0]
        raise ValueError(
            f"{name}, seed {own['seed'][i]}: two results for one cell, {own['run_id'][i]} and {own['run_id'][i + 1]}; "
            "keep the rows of one experiment in its directory"
        )
    seeds, values = own["seed"], 100 * own["dev_miou"]
    runs_by_seed = BySeed(seeds, own["run_id"])
    failed, skipped = (_ended(rows, runs, status) - runs_by_seed.keys() for status in ("failed", "skipped"))
    others = failed | skipped
    missing = np.setdiff1d(expected, [*seeds, *others] if others else seeds, assume_unique=True).size
    steps, peaks, best = (x[~np.isnan(x)] for x in (own["step_ms"], own["peak_memory_mb"], own["best_dev_miou"]))
    first = next((r for r in rows if r["status"] == "ok"), {"steps": None})
    return MethodRow(
        label=name,
        run_ids=runs_by_seed,
        failed=len(failed),
        skipped=len(skipped - failed),
        missing=missing,
        expected=missing + len(seeds) + len(others),
        values=BySeed(seeds, values),
        steps=first["steps"],
        miou=mean_interval(values, CONFIDENCE) if seeds.size else None,
        best_miou=mean_interval(100 * best, CONFIDENCE) if best.size else None,
        step_s=float(np.median(steps / 1000)) if steps.size else None,
        peak_mb=float(peaks.max()) if peaks.size else None,
        search_trials=next((r["search_trials"] for r in rows if r["search_trials"] is not None), None),
        search_seconds=next((r["search_seconds"] for r in rows if r["search_seconds"] is not None), None),
    )


def _compare(
    values: Mapping[str, Mapping[int, float]],
    failed: Mapping[str, set[int]],
    references: Mapping[str, str | None],
) -> tuple[dict[tuple[str, str], Comparison], int]:
    """Every method against each reference; kd against none and none against kd are one comparison, seen twice."""
    once: dict[tuple[str, str], Comparison] = {}
    for reference in references.values():
        for name in values:
            if reference is None or name == reference or (reference, name) in once:
                continue
            if not shared_seeds(values[name], values[reference]):
                continue
            # A stream of its own for each comparison: adding a method leaves the others' intervals as they were.
            rng = np.random.default_rng(BOOTSTRAP_SEED)
            once[name, reference] = Comparison(
                *paired_intervals(values[name], values[reference], rng, CONFIDENCE),
                lost=sum(seed in values[reference] for seed in failed[name]),
                won=sum(seed in values[name] for seed in failed[reference]),
            )
    tested = [key for key, c in once.items() if c.difference.p_value is not None]
    corrected = holm([p for key in tested if (p := once[key].difference.p_value) is not None])
    for key, p in zip(tested, corrected, strict=True):
        once[key] = replace(once[key], p_holm=p)
    out: dict[tuple[str, str], Comparison] = {}
    for role, reference in references.items():
        for name in values:
            if (name, reference) in once:
                out[name, role] = once[name, str(reference)]
            elif (reference, name) in once:
                out[name, role] = _reversed(once[str(reference), name])
    return out, len(tested)


def _reversed(c: Comparison) -> Comparison:
    b = c.bootstrap
    low, high = (None if b.high is None else -b.high), (None if b.low is None else -b.low)
    return Comparison(c.difference.reversed, Interval(-b.mean, low, high, b.n), c.p_holm, c.won, c.lost)


def _teacher(pair: str, rows: list[dict[str, Any]], teachers: list[dict[str, Any]]) -> Teacher:
    wanted = {r["teacher_run_id"] for r in rows} - {None}
    sha256 = next((r["teacher_sha256"] for r in rows if r["teacher_sha256"] is not None), None)
    row = next((t for t in teachers if t["run_id"] in wanted), None)
    if row is None and not wanted and sha256 is None:  # No student got as far as its teacher.
        row = next((t for t in teachers if t["pair"] == pair), None)
    if row is None:
        return Teacher(sha256=sha256)
    ok = row["status"] == "ok"
    return Teacher(
        row["run_id"], row["status"], row["message"], 100 * row["dev_miou"] if ok else None, row["steps"], sha256
    )
