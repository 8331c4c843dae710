"""Fetch rows: what a cluster wrote to its storage is merged into a results folder, by run_id."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.files import sha256, write_atomic
from harness.results import exports, store
from harness.results.storage import Storage

MEASURED = ("dev_confusion", "val_confusion", "curve", "weights_sha256", "student_init_sha256", "data_hash")
"""Columns that two rows of one run must agree in."""
PARTS = ("step_times", "search")
"""Folders of an experiment with rows of their own, which its budget and its best points follow from."""
THREADS = 16


@dataclass(frozen=True)
class Pulled:
    """How many rows a pull fetched (new ones, or in place of a failed one), and how many were already present.

    Attributes:
        weights: files of weights and of single images' confusion matrices that were fetched.
        exports: rows of exports that were fetched.
    """

    new: int
    kept: int
    weights: int = 0
    exports: int = 0


def pull(source: Storage, directory: Path, weights: bool = False, trusting: bool = False) -> Pulled:
    """Fetch all rows of an experiment from `source` into `directory`, those of its step times, its search and its
    exports included.

    Args:
        source: the experiment's folder at the storage, with `runs/` in it.
        directory: the experiment's results folder here.
        weights: also fetch the runs' trained networks and confusion matrices of single images.
        trusting: do not read and compare finished rows that are already here.

    Raises:
        ValueError: packed rows at the source, a corrupt row, or rows of one run that contradict each other; each is
            named. The other rows are merged nevertheless.
        FileNotFoundError: no results at the source yet.
        OSError: the storage does not answer, or the disk is full.
    """
    if any(entry.name.endswith(".parquet") for entry in source.entries("packs")):
        raise ValueError(
            f"{source.place}: some of its rows are packed. There: sstkd-bench results unpack; then pull, and pack here"
        )
    names = [entry.name for entry in source.entries("runs") if entry.name.endswith(".parquet")]
    parts = [part for part in PARTS if source.entries(f"{part}/runs")]
    problems: list[str] = []  # reported together after everything else is merged
    for part in parts:  # these may exist before the first run has ended
        try:
            pull(source.below(part), directory / part, trusting=trusting)
        except ValueError as error:
            problems.append(str(error))
    if not names and not parts:
        raise FileNotFoundError(f"{source.place}: no results yet (expected {source.place}/runs/*.parquet)")
    (directory / "runs").mkdir(parents=True, exist_ok=True)
    there = {f"{run_id}.parquet" for run_id, status in store.finished(directory).items() if trusting and status == "ok"}
    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = ["kept"] * len(there.intersection(names))
        others = [name for name in names if name not in there]
        merged = dict(zip(others, pool.map(lambda name: _merge(source, directory, name), others), strict=True))
        outcomes += merged.values()
        reasons = _failures(source, directory, merged)
        files = _files(source, directory, dict.fromkeys(there.intersection(names), "kept") | merged) if weights else []
        list(pool.map(lambda name: fetch(source, directory, name), [*files, *reasons]))
        exported, corrupt = _exports(source, directory, trusting, pool)
    if problems := [text for text in outcomes if text not in ("new", "kept")] + problems + corrupt:
        raise ValueError("\n".join(problems))
    return Pulled(outcomes.count("new"), outcomes.count("kept"), len(files), exported)


def _exports(source: Storage, directory: Path, trusting: bool, pool: ThreadPoolExecutor) -> tuple[int, list[str]]:
    """Merge the rows of exports: how many are new or later than those here, and the errors of corrupt files."""
    names = [f"exports/{entry.name}" for entry in source.entries("exports") if entry.name.endswith(".parquet")]
    wanted = [name for name in names if not (trusting and (directory / name).exists())]
    contents = dict(zip(wanted, pool.map(source.read, wanted), strict=True))
    for name in wanted:
        if (directory / name).exists() and (directory / name).read_bytes() == contents[name]:
            del contents[name]
    try:
        return exports.merge(directory, {f"{source.place}/{name}": content for name, content in contents.items()})
    except ValueError as error:  # of a file that is here
        return 0, [str(error)]


def fetch(source: Storage, directory: Path, name: str) -> None:
    """Copy one file atomically.

    Raises:
        FileNotFoundError: it is not at the source.
        OSError: the storage does not answer, or the disk is full.
    """
    content = source.read(name)
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(directory / name, content)


def _merge(source: Storage, directory: Path, name: str) -> str:
    """Merge one row: "new", "kept", or an error message."""
    here, where = directory / "runs" / name, f"{source.place}/runs/{name}"
    content = source.read(f"runs/{name}")
    if here.exists() and here.read_bytes() == content:
        return "kept"
    try:
        theirs = store.parse_row(content, where)
        if f"{theirs['run_id']}.parquet" != name:
            return f"{where}: holds the row of {theirs['run_id']}; a row's file is named after its run_id"
        ours = _ours(directory, theirs["run_id"])
    except ValueError as error:
        return str(error)
    if ours is not None and not _replaces(theirs, ours):
        if theirs["status"] == ours["status"] == "ok" and (columns := _differing(theirs, ours)):
            return (
                f"{where} and {here} are rows of one run that differ in {', '.join(columns)}: made by different code, "
                "on different devices, or on a GPU without train.deterministic. Delete the one that should not count."
            )
        return "kept"
    write_atomic(here, content)
    return "new"


def _ours(directory: Path, run_id: str) -> dict[str, Any] | None:
    try:
        return store.read_run(directory, run_id)
    except FileNotFoundError:
        return None


def _replaces(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    """A finished row replaces a failed one, a later failure an earlier one."""
    if ours["status"] == "ok":
        return False
    return bool(theirs["status"] == "ok" or theirs["finished_at"] > ours["finished_at"])


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    # Compared as text, where nan (a diverged loss) equals itself.
    return [name for name in MEASURED if repr(a[name]) != repr(b[name])]


def _files(source: Storage, directory: Path, outcomes: Mapping[str, str]) -> list[str]:
    """Weights and per-image matrices of merged rows that are missing here, or belong to another row."""
    of = {name.removesuffix(".parquet"): outcome for name, outcome in outcomes.items()}
    found = []
    for folder in ("weights", "per_image"):
        for entry in source.entries(folder):
            run_id, here = entry.name.partition(".")[0], directory / folder / entry.name
            wanted = of.get(run_id) == "new" or (of.get(run_id) == "kept" and not here.exists())
            if not wanted and of.get(run_id) == "kept" and folder == "weights":
                digest = store.read_run(directory, run_id)["weights_sha256"]
                wanted = digest is not None and sha256(here) != digest
            if wanted:
                found.append(f"{folder}/{entry.name}")
    return found


def _failures(source: Storage, directory: Path, outcomes: Mapping[str, str]) -> list[str]:
    """The tracebacks of merged rows of failed runs that are new or missing here."""
    found = []
    for entry in source.entries("failures"):
        row = f"{entry.name.removesuffix('.txt')}.parquet"
        new, here = outcomes.get(row) == "new", (directory / "failures" / entry.name).exists()
        if new or (outcomes.get(row) == "kept" and not here):
            found.append(f"failures/{entry.name}")
    return found
