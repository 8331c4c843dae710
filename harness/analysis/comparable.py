"""Which rows may be compared: what they must have in common, and the error that names two that do not.

A table of rows that must not be compared would look like a result.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.arrays import Shared
from harness.experiment.recipe import NO_NUMBER, without_defaults_of_added_keys


@dataclass(frozen=True)
class Setting(Shared):
    """What the runs of one line share, as the rows' columns of the same names; but for the last one."""

    experiment: str
    status: str
    role: str
    pair: str
    protocol_version: str
    method: str
    method_parameters: str
    control: str | None
    caveat: str | None
    steps: int | None
    device: str
    floor_val_miou: float | None
    floor_dev_miou: float | None
    teacher_run_id: str | None
    teacher_sha256: str | None
    source_sha256: str | None
    teacher_source_sha256: str | None
    code_sha256: str | None
    ruleset: str
    dataset: str
    dataset_parameters: str
    data_hash: str | None
    num_classes: int | None
    absent_policy: str | None
    recipe: str
    budget_unit: str
    budget_amount: float
    budget_step_ms: float | None
    student_network: str | None
    search_trials: int | None
    search_seconds: float | None
    search_sha256: str | None
    elastic_workers: bool
    """Whether the number of workers changed during the run: batch statistics are of micro-batches of several sizes."""

    @property
    def protocol(self) -> str:
        """Of the protocol's version the part that decides what may be compared."""
        return ".".join(self.protocol_version.split(".")[:2])


# Equal within one comparison. Null is no contradiction: a run that failed early does not know its data's hash.
EQUAL = (
    "ruleset",
    "dataset",
    "dataset_parameters",
    "data_hash",
    "num_classes",
    "absent_policy",
    "budget_unit",
    "student_network",
    "teacher_source_sha256",
)


def refuse_experiments(rows: Sequence[Setting]) -> None:
    """Raise if rows are of several experiments or protocol versions."""
    refuse_mixture("experiment", {r.run_id: r.experiment for r in rows})
    refuse_mixture("protocol", {r.run_id: r.protocol for r in rows})


def refuse_pair(rows: Sequence[Setting], where: str) -> None:
    """Raise if students of one pair must not be compared."""
    refuse_mixture("ruleset", {r.run_id: r.ruleset for r in rows}, where)
    refuse_mixture("elastic_workers", {r.run_id: r.elastic_workers for r in rows if r.status == "ok"}, where)
    if rows[0].ruleset == "tuned":
        refuse_mixture("search_trials", {r.run_id: r.search_trials for r in rows}, where)
    for column in EQUAL:
        refuse_mixture(column, {r.run_id: getattr(r, column) for r in rows}, where)
    refuse_mixture("recipe", {r.run_id: _shared_recipe(r, False) for r in rows}, where)
    # A control has other steps than the methods; that is what it is for.
    methods = [r for r in rows if r.control is None]
    refuse_mixture("budget_amount", {r.run_id: r.budget_amount for r in methods}, where)
    refuse_mixture("recipe", {r.run_id: _shared_recipe(r, r.budget_unit == "steps") for r in methods}, where)


def refuse_taught(rows: Sequence[Setting], teachers: Mapping[str, Setting], where: str) -> None:
    """Raise if students of one teacher learned from several, or if several teachers differ in more than their seed.

    Args:
        rows: the students of one pair.
        teachers: the rows of their teachers, by run_id. Where one is missing, all students must have had the same.
        where: begins the message.
    """
    ids = {r.teacher_run_id for r in rows}
    if len(ids) == 1 or not all(run_id in teachers for run_id in ids):
        refuse_mixture("teacher_sha256", {r.run_id: r.teacher_sha256 for r in rows}, where)
        return
    for run_id in sorted(map(str, ids)):
        taught = {r.run_id: r.teacher_sha256 for r in rows if r.teacher_run_id == run_id}
        refuse_mixture("teacher_sha256", taught, where)
    for column in ("student_network", "dataset", "dataset_parameters", "recipe", "absent_policy"):
        refuse_mixture(column, {key: getattr(each, column) for key, each in teachers.items()}, f"{where}its teachers: ")


def refuse_teacher(teacher: Setting, weights: str | None, students: Sequence[Setting], where: str) -> None:
    """Raise if a teacher's row is of other data, classes or weights than those of the students that it taught.

    Args:
        teacher: its row.
        weights: SHA-256 of its weights.
        students: the rows of one pair.
        where: begins the message.
    """
    for column in ("dataset", "data_hash", "num_classes", "absent_policy"):
        refuse_mixture(column, {r.run_id: getattr(r, column) for r in (teacher, *students)}, where)
    taught = {r.run_id: r.teacher_sha256 for r in students}
    refuse_mixture("teacher_sha256", {teacher.run_id: weights, **taught}, where)


def refuse_starts(rows: Any, pair: str) -> None:
    """Raise if students of one pair and seed began with different weights.

    Args:
        rows: `pyarrow.Table` of all rows, with "role", "pair", "seed", "run_id" and "student_init_sha256".
        pair: which.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    mine = rows.filter(pc.and_(pc.equal(rows["role"], "student"), pc.equal(rows["pair"], pair)))
    starts = pa.table({"seed": mine["seed"], "start": mine["student_init_sha256"].cast(pa.string())})
    counts = starts.group_by("seed").aggregate([("start", "count_distinct")])  # a run that failed early has none
    several = counts.filter(pc.greater(counts["start_count_distinct"], 1))["seed"].to_pylist()
    for seed in sorted(several):
        same = mine.select(["run_id", "student_init_sha256"]).filter(pc.equal(mine["seed"], seed)).to_pylist()
        found = {r["run_id"]: r["student_init_sha256"] for r in same}
        refuse_mixture("student_init_sha256", found, f"pair {pair!r}, seed {seed}: ")


def refuse_mixture(column: str, values: Mapping[str, Any], where: str = "") -> None:
    """Raise if there are several values, naming a row of each.

    Args:
        column: what they are values of.
        values: by run_id; None contradicts nothing.
        where: begins the message.
    """
    seen: dict[str, str] = {}
    for run_id in sorted(values):
        if values[run_id] is not None:
            seen.setdefault(_canonical(values[run_id]), run_id)
    if len(seen) > 1:
        (a, run_a), (b, run_b) = list(seen.items())[:2]
        raise ValueError(
            f"{where}rows with different {column} are not comparable: {_contrast(a, b)} in {run_a}, "
            f"{_contrast(b, a)} in {run_b}. Give the two settings experiments of their own, or remove the rows of one."
        )


def _shared_recipe(row: Setting, steps: bool) -> str:
    """The recipe without what is a run's own: of a search the learning rate; unless `steps` are equal, they too."""
    known = without_defaults_of_added_keys(json.loads(row.recipe))
    if row.ruleset != "published":
        known.get("optimizer", {}).pop("lr", None)
    if not steps:
        known.pop("steps", None)
    return json.dumps(known)


def _canonical(value: Any) -> str:
    """A value as text; of JSON without what does not change a run: where files are, how often it is saved, null keys.

    A key that is null was not given; rows that were made before there was the key lack it.
    """
    try:
        return json.dumps(_essential(json.loads(value)), sort_keys=True) if isinstance(value, str) else str(value)
    except json.JSONDecodeError:
        return str(value)


def _essential(value: Any) -> Any:
    if isinstance(value, dict):
        places = ("path", *NO_NUMBER, *(("tag", "hub", "package", "source") if "sha256" in value else ()))
        return {k: _essential(v) for k, v in value.items() if k not in places and v is not None}
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
