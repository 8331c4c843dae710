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

from harness import fairness
from harness.recipe import CONTROLS, control_label
from harness.stats import Interval, bootstrap_interval, holm, mean_interval, paired_difference, paired_differences
from harness.tables import (
    CONFIDENCE,
    REFERENCES,
    Block,
    Comparison,
    MethodRow,
    QuickTable,
    Teacher,
    base,
    references,
)

BOOTSTRAP_SEED = 20240

# Equal within one comparison. Null is no contradiction: a run that failed early does not know its data's hash.
_SHARED = (
    "ruleset",
    "dataset",
    "dataset_parameters",
    "data_hash",
    "num_classes",
    "absent_policy",
    "recipe",
    "budget_unit",
    "budget_amount",
    "student_network",
    "teacher_sha256",
)
COLUMNS = (
    *("run_id", "experiment", "status", "message", "role", "method", "method_parameters", "seed", "steps", "pair"),
    *("protocol_version", "teacher_run_id", "student_init_sha256", "floor_dev_miou", "dev_miou", "best_dev_miou"),
    *("step_ms", "peak_memory_mb", "device", "caveat", "worker_history", *_SHARED),
    *("trial", "search_trials", "search_seconds", "search_sha256", "budget_step_ms", "control"),
)
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
    records: list[dict[str, Any]] = rows.select(list(COLUMNS)).to_pylist()
    students = [r for r in records if r["role"] == "student"]
    if not students:
        raise ValueError(f"no student rows to compare ({len(records)} rows given); run the experiment first")
    if trial := next((r["run_id"] for r in students if r["trial"] is not None), None):
        raise ValueError(f"{trial} is a trial of a search and no result; the results are in the folder above it")
    _refuse_mixture(records, "experiment", "")
    for record in records:
        record["protocol"] = ".".join(record["protocol_version"].split(".")[:2])
        # Micro-batches of another size have other batch statistics: no fixed number of workers, no fair comparison.
        record["elastic workers"] = None if record["status"] != "ok" else record["worker_history"] is not None
    _refuse_mixture(records, "protocol", "")
    blocks = []
    for pair in sorted({r["pair"] for r in students}):
        mine = [r for r in students if r["pair"] == pair]
        _refuse_mixture(mine, "ruleset", f"pair {pair!r}: ")
        _refuse_mixture(mine, "elastic workers", f"pair {pair!r}: ")
        if mine[0]["ruleset"] == "tuned":
            _refuse_mixture(mine, "search_trials", f"pair {pair!r}: ")
        # A control has other steps than the methods; that is what it is for.
        methods_only = [r for r in mine if r["control"] is None]
        for column in _SHARED:
            rest = methods_only if column == "budget_amount" else mine
            _refuse_mixture([{**r, "recipe": _shared_recipe(r, False)} for r in rest], column, f"pair {pair!r}: ")
        _refuse_mixture(
            [{**r, "recipe": _shared_recipe(r, r["budget_unit"] == "steps")} for r in methods_only],
            "recipe",
            f"pair {pair!r}: ",
        )
        for seed in sorted({r["seed"] for r in mine}):
            same_seed = [r for r in mine if r["seed"] == seed]
            _refuse_mixture(same_seed, "student_init_sha256", f"pair {pair!r}, seed {seed}: ")
        blocks.append(_block(pair, mine, [r for r in records if r["role"] == "teacher"], methods, seeds))
    return QuickTable(records[0]["experiment"], records[0]["protocol"], tuple(blocks))


def _block(
    pair: str,
    rows: list[dict[str, Any]],
    teachers: list[dict[str, Any]],
    methods: Sequence[str],
    seeds: Sequence[int] | None,
) -> Block:
    groups = _grouped(rows, methods)
    for name, group in groups.items():
        _refuse_mixture(group, "search_sha256", f"pair {pair!r}, {name}: ")
    expected = sorted({r["seed"] for r in rows} if seeds is None else set(seeds))
    lines = [_line(name, group, expected) for name, group in groups.items()]
    named = references(groups)
    values = {line.label: line.values for line in lines}
    failed = {
        name: {r["seed"] for r in group if r["status"] == "failed"} - values[name].keys()
        for name, group in groups.items()
    }
    compared, count = _compare(values, failed, named)
    first = next((r for r in rows if r["control"] is None), rows[0])
    floors = [r["floor_dev_miou"] for r in rows if r["floor_dev_miou"] is not None]
    bad = sorted((r for r in rows if r["status"] != "ok"), key=lambda r: (r["method"], r["seed"]))
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
        notes=tuple(f"{r['method']}, seed {r['seed']}: {r['status']}: {r['message']}" for r in bad),
        caveats=(
            *(text for name, group in groups.items() if (text := _searched(name, group))),
            *(text for name, group in groups.items() if (text := _timed(name, group))),
            *sorted({f"{r['method']}: {r['caveat']}" for r in rows if r["caveat"]}),
        ),
    )
    return replace(block, **fairness.of_block(block))


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


def _shared_recipe(row: Mapping[str, Any], steps: bool) -> str:
    """The recipe without what is a run's own: of a search the learning rate; unless `steps` are equal, they too."""
    known = json.loads(row["recipe"])
    if row["ruleset"] != "published":
        known.get("optimizer", {}).pop("lr", None)
    if not steps:
        known.pop("steps", None)
    return json.dumps(known)


def _timed(name: str, rows: list[dict[str, Any]]) -> str | None:
    """How many steps a method has, where that follows from a time; None elsewhere."""
    row = next((r for r in rows if r["budget_step_ms"] is not None), None)
    if row is None:
        return None
    return f"{name}: {row['steps']} steps; one was found to take {row['budget_step_ms']:.3g} ms"


def _grouped(rows: list[dict[str, Any]], methods: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows by the label they are shown under, in the order of the lines."""
    variants: dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]] = {}
    controls: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["control"] is not None:
            controls.setdefault(control_label(row["method"], row["control"]), []).append(row)
            continue
        parameters = json.loads(row["method_parameters"])
        items = tuple(f"{k}={_compact(v)}" for k, v in sorted(parameters.items()))
        variants.setdefault((row["method"], items), []).append(row)
    groups: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    ordered = sorted(variants)
    chosen = {variant: _listed(*variant, methods) for variant in ordered}
    shown = list(chosen.values())
    for method, items in ordered:
        name = chosen[method, items]
        if name is None or shown.count(name) > 1:
            # One name for several parameter sets cannot tell them apart: the parameters in which they differ do.
            others = [set(v[1]) for v in ordered if v[0] == method]
            own = [item for item in items if not all(item in other for other in others)]
            groups.pop(name or "", None)
            name = f"{method}({', '.join(own)})" if own else method
        groups[name] = variants[method, items]
    groups |= controls
    present = {base(name) for name in groups}
    groups |= {name: [] for name in REFERENCES if name not in present}
    places = {name: i for i, name in enumerate(methods)}

    def place(name: str) -> tuple[int, int]:
        kinds = (*REFERENCES, base(name) if _is_control(name) else "")
        first = kinds.index(base(name)) if base(name) in kinds else len(kinds)
        return first, places.get(name, places.get(base(name), len(places)))

    return {name: groups[name] for name in sorted(groups, key=place)}


def _listed(method: str, items: tuple[str, ...], methods: Sequence[str]) -> str | None:
    """The most specific label of `methods` whose parameters (a label names only some) are among the row's."""
    fits = []
    for name in methods:
        inside = name[len(method) :].removeprefix("(").removesuffix(")")
        named = {part for part in inside.split(", ") if part}
        if base(name) == method and named <= set(items):
            fits.append((len(named), name))
    return max(fits)[1] if fits else None


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")).replace('"', "")


def _is_control(name: str) -> bool:
    """Whether a line is the plain student with another number of steps ("none at equal seconds")."""
    return name in (control_label(REFERENCES[0], control) for control in CONTROLS)


def _line(name: str, rows: list[dict[str, Any]], expected: list[int]) -> MethodRow:
    ok: dict[int, dict[str, Any]] = {}
    for row in sorted((r for r in rows if r["status"] == "ok"), key=lambda r: (r["seed"], r["run_id"])):
        if other := ok.get(row["seed"]):
            raise ValueError(
                f"{name}, seed {row['seed']}: two results for one cell, {other['run_id']} and {row['run_id']}; "
                "keep the rows of one experiment in its directory"
            )
        ok[row["seed"]] = row
    others = {r["seed"]: r["status"] for r in rows if r["seed"] not in ok}
    statuses = list(others.values())
    known = set(ok) | set(others)
    steps = [r["step_ms"] / 1000 for r in ok.values() if r["step_ms"] is not None]
    peaks = [r["peak_memory_mb"] for r in ok.values() if r["peak_memory_mb"] is not None]
    best = [100 * r["best_dev_miou"] for r in ok.values() if r["best_dev_miou"] is not None]
    return MethodRow(
        label=name,
        run_ids={seed: row["run_id"] for seed, row in ok.items()},
        failed=statuses.count("failed"),
        skipped=statuses.count("skipped"),
        missing=len(set(expected) - known),
        expected=len(set(expected) | known),
        values={seed: 100 * row["dev_miou"] for seed, row in ok.items()},
        steps=next((row["steps"] for row in ok.values()), None),
        miou=mean_interval([100 * r["dev_miou"] for r in ok.values()], CONFIDENCE) if ok else None,
        best_miou=mean_interval(best, CONFIDENCE) if best else None,
        step_s=float(np.median(steps)) if steps else None,
        peak_mb=max(peaks, default=None),
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
            pairs = reference is not None and values[name].keys() & values[reference].keys()
            if reference is None or name == reference or not pairs or (reference, name) in once:
                continue
            # A stream of its own for each comparison: adding a method leaves the others' intervals as they were.
            rng = np.random.default_rng(BOOTSTRAP_SEED)
            deltas = paired_differences(values[name], values[reference])
            once[name, reference] = Comparison(
                paired_difference(values[name], values[reference], CONFIDENCE),
                bootstrap_interval(deltas, rng, CONFIDENCE),
                lost=len(failed[name] & values[reference].keys()),
                won=len(failed[reference] & values[name].keys()),
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


def _refuse_mixture(rows: list[dict[str, Any]], column: str, where: str) -> None:
    """Raise if the rows have more than one value in `column`, naming a row of each."""
    seen: dict[str, str] = {}
    for row in sorted(rows, key=lambda r: str(r["run_id"])):
        if row[column] is not None:
            seen.setdefault(_canonical(row[column]), row["run_id"])
    if len(seen) > 1:
        (a, run_a), (b, run_b) = list(seen.items())[:2]
        raise ValueError(
            f"{where}rows with different {column} are not comparable: {_contrast(a, b)} in {run_a}, "
            f"{_contrast(b, a)} in {run_b}. Give the two settings experiments of their own, or remove the rows of one."
        )


def _canonical(value: Any) -> str:
    """A value as text; of JSON without what does not change a run: where files lie and how often it is saved."""
    try:
        return json.dumps(_essential(json.loads(value)), sort_keys=True) if isinstance(value, str) else str(value)
    except json.JSONDecodeError:
        return str(value)


def _essential(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _essential(v) for k, v in value.items() if k not in ("path", "checkpoint_every")}
    return value


def _contrast(a: str, b: str) -> str:
    """`a`, or of two JSON objects only the keys in which `a` differs from `b`."""
    try:
        left, right = json.loads(a), json.loads(b)
    except json.JSONDecodeError:
        return a
    if not isinstance(left, dict) or not isinstance(right, dict):
        return a
    return json.dumps({k: v for k, v in left.items() if k not in right or right[k] != v}, sort_keys=True)
