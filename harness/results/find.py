"""Finds the run that is meant: by run_id, its beginning, or method and seed; in one experiment's folder or in all."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.borders import quoted
from harness.experiment.method import Method
from harness.results import store

if TYPE_CHECKING:
    from harness.experiment.spec import Run

_COLUMNS = (
    *("run_id", "experiment", "status", "role", "pair", "method", "method_parameters", "seed", "control", "trial"),
    "teacher_network",
)
SHOWN = 20
"""Runs that an error lists."""
WANTED = "a run_id, its beginning, method/seed or pair/method/seed (of several teachers: kd/0/teacher1)"


def find_finished(results: str | Path, run: str) -> tuple[Path, dict[str, Any]]:
    """The experiment's folder and the complete row of the one finished run that is meant.

    Args:
        results: folder of all results, or the results folder of one experiment.
        run: a run_id, or its first characters; or `method/seed`, e.g. "kd/0", and `pair/method/seed`. The method of a
            teacher is "teacher"; one with parameters may be written as tables have it, "kd(temperature=2.0)". Where a
            pair has several teachers, the seed of one follows: `kd/0/teacher1`.

    Raises:
        ValueError: no run is meant, or several, which are listed; the run failed; or a row is corrupt.
    """
    results = Path(results)
    if not isinstance(run, str) or not run.strip():
        raise ValueError(f"the run is {quoted(run)!r}; give {WANTED}")
    run = run.strip()
    folders = experiment_folders(results)
    found = [(folder, row) for folder in folders for row in store.read_rows(folder, _COLUMNS).to_pylist()]
    named = [(folder, row) for folder, row in found if _is_named(row, run)]
    chosen = [(folder, row) for folder, row in named if row["status"] == "ok"]
    if not named:
        there = _listed(found[:SHOWN], len(found)) if found else ""
        raise ValueError(f"{results}: {quoted(run)!r} names 0 rows; give {WANTED}.{there}")
    if not chosen:
        row = store.read_run(named[0][0], named[0][1]["run_id"])
        raise ValueError(f"{row['run_id']} {row['status']}: {row['message']}; choose a finished run")
    if len(chosen) > 1:
        several = ", or give the folder of its experiment" if len({folder for folder, _ in chosen}) > 1 else ""
        raise ValueError(
            f"{results}: {quoted(run)!r} names {len(chosen)} rows; name one by the beginning of its run_id, or as "
            f"pair/method/seed if that names one{several}." + _listed(chosen[:SHOWN], len(chosen))
        )
    folder, row = chosen[0]
    if row["trial"] is not None:
        raise ValueError(f"{row['run_id']} is a trial of a search, whose network is not kept; choose a final run")
    return folder, store.read_run(folder, row["run_id"])


def name_of(run: "Run", runs: Sequence["Run"]) -> str:
    """The shortest name of a run that `find_finished` understands, among the runs of its experiment."""
    own = _names(run.role, run.pair, run.method.name, run.seed, run.teacher_seed)
    others = {
        name
        for other in runs
        if other.control is None and other is not run
        for name in _names(other.role, other.pair, other.method.name, other.seed, other.teacher_seed)
    }
    free = [name for name in own if name not in others and run.control is None]
    return free[0] if free else run.run_id


def _names(role: str, pair: str, method: str, seed: int, teacher: int | None) -> list[str]:
    """method/seed and pair/method/seed, and both with the teacher's seed, if it is given."""
    name = f"{'teacher' if role == 'teacher' else method}/{seed}"
    taught = [] if teacher is None or role == "teacher" else [f"{name}/teacher{teacher}"]
    return [each for short in (name, *taught) for each in (short, f"{pair}/{short}")]


def _names_of(row: dict[str, Any], method: str) -> list[str]:
    teacher = json.loads(row["teacher_network"]).get("seed")
    return _names(row["role"], row["pair"], method, row["seed"], teacher)


def experiment_folders(results: Path) -> list[Path]:
    """The folders with rows: `results` itself, or those directly below it.

    Raises:
        ValueError: there is no such folder, or none with rows.
    """
    if not results.is_dir():
        raise ValueError(f"{results}: there is no such folder; give the results folder with --results")
    if _has_rows(results):
        return [results]
    below = sorted(path for path in results.iterdir() if path.is_dir() and _has_rows(path))
    if not below:
        raise ValueError(f"{results}: no results yet (expected {results}/EXPERIMENT/runs/*.parquet)")
    return below


def _has_rows(folder: Path) -> bool:
    return (folder / "runs").is_dir() or (folder / "packs").is_dir()


def _is_named(row: dict[str, Any], run: str) -> bool:
    if "/" not in run:
        return str(row["run_id"]).startswith(run.lower())
    if row["control"] is not None or row["trial"] is not None:
        return False
    methods = [row["method"]]
    if "(" in run:  # with parameters, as tables have it
        with contextlib.suppress(ValueError):
            methods.append(Method(name=row["method"], parameters=json.loads(row["method_parameters"])).label)
    return any(run in _names_of(row, method) for method in methods)


def _listed(chosen: list[tuple[Path, dict[str, Any]]], count: int) -> str:
    lines = []
    several = len({json.loads(row["teacher_network"]).get("seed") for _, row in chosen}) > 1
    for folder, row in chosen:
        given = f" {row['method_parameters']}" if row["method_parameters"] != "{}" else ""
        control = f" at {row['control']}" if row["control"] else ""
        name = _names_of(row, row["method"])[-1 if several else 1]
        lines.append(quoted(f"  {row['run_id']}  {folder.name}: {name}{control}{given}", 300))
    more = [f"  ... and {count - SHOWN} more"] if count > SHOWN else []
    return "\n".join([" These are there:", *lines, *more])
