"""Which line of a table a row belongs to, what the line is called, and the order of the lines."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.analysis.arrays import Runs
from harness.analysis.tables import REFERENCES, base
from harness.experiment.recipe import CONTROLS, control_label

# Equal within one comparison. Null is no contradiction: a run that failed early does not know its data's hash.
SHARED = (
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


def grouped(rows: list[dict[str, Any]], methods: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
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


def refuse_pair(rows: list[dict[str, Any]], where: str) -> None:
    """Raise if rows of one pair must not be compared."""
    refuse_mixture(rows, "ruleset", where)
    refuse_mixture(rows, "elastic workers", where)
    if rows[0]["ruleset"] == "tuned":
        refuse_mixture(rows, "search_trials", where)
    # A control has other steps than the methods; that is what it is for.
    methods_only = [r for r in rows if r["control"] is None]
    for column in SHARED:
        rest = methods_only if column == "budget_amount" else rows
        refuse_mixture([{**r, "recipe": _shared_recipe(r, False)} for r in rest], column, where)
    with_steps = [{**r, "recipe": _shared_recipe(r, r["budget_unit"] == "steps")} for r in methods_only]
    refuse_mixture(with_steps, "recipe", where)


def refuse_starts(rows: Any, runs: Runs, settings: list[dict[str, Any]], pair: str) -> None:
    """Raise if students of one seed began with different weights."""
    import pyarrow as pa
    import pyarrow.compute as pc

    places = runs.unordered(settings)
    seeds, number = np.unique(runs.own["seed"][places], return_inverse=True)
    starts = runs.own["start"][places]
    some = np.zeros(len(seeds), starts.dtype)
    some[number] = starts  # of each seed one of its starts: all of them, if they are equal
    for seed in np.unique(seeds[number[some[number] != starts]]):
        # A run that failed early may have no weights; the column's own values tell that from other ones.
        ids = pa.array(runs.own["run_id"][places[seeds[number] == seed]])
        same_seed = rows.select(["run_id", "student_init_sha256"]).filter(pc.is_in(rows["run_id"], value_set=ids))
        refuse_mixture(same_seed.to_pylist(), "student_init_sha256", f"pair {pair!r}, seed {seed}: ")


def _shared_recipe(row: Mapping[str, Any], steps: bool) -> str:
    """The recipe without what is a run's own: of a search the learning rate; unless `steps` are equal, they too."""
    known = json.loads(row["recipe"])
    if row["ruleset"] != "published":
        known.get("optimizer", {}).pop("lr", None)
    if not steps:
        known.pop("steps", None)
    return json.dumps(known)


def refuse_mixture(rows: list[dict[str, Any]], column: str, where: str) -> None:
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
