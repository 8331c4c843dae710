"""Which finished rows still are results of what the experiment is made of today: one answer for every command.

A run_id says what was asked for; data, methods from outside and teachers are files, which change under the same name. A
row records their digests, and a row whose digests are not today's is stale: it is neither reused nor shown as today's.
So is a student's row whose teacher is of other source files than today's, though the teacher's weights are the same.
The package's own files change with every release: rows made by others are reused, and it is said which.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.borders import quoted
from harness.experiment.spec import VERSIONS, Run
from harness.files import sha256
from harness.results import content, exports, paths, store

_COLUMNS = (
    *("run_id", "status", "role", "method", "seed", "pair", "dataset", "data_hash", "student_network", "recipe"),
    *("source_sha256", "code_sha256", "teacher_run_id", "teacher_sha256", "weights_sha256"),
    *("teacher_network", "teacher_source_sha256"),
)
_OUTSIDE = ("method", "student_network", "dataset", "recipe")
"""What may come from outside."""
_AGAIN = "Fetch the rows again, or delete them"
_SHOWN = 5
"""Stale rows that a message names."""


@dataclass(frozen=True)
class Standing:
    """What a row is worth today.

    Attributes:
        state: "ok", "failed" or "skipped" as in the row; "waiting" for no row, or a failed one of other content;
            "stale" for a finished row of other content.
        label: the run as a message names it: role or method, pair, seed.
        reasons: why it is stale: what differs, with both digests.
        code: "today's", "other" or "unknown" files of the package made it; empty without a result.
    """

    state: str
    label: str = ""
    reasons: tuple[str, ...] = ()
    code: str = ""


def standings(
    directory: Path,
    run_ids: Collection[str] | None,
    data_hash: Callable[[], str | None],
    weights: Collection[str] = (),
) -> dict[str, Standing]:
    """What the rows of an experiment are worth.

    Args:
        directory: its results folder, or the folder of its search or step times.
        run_ids: of which runs; None for all rows there are.
        data_hash: gives today's content of the data, None where the data is not on this machine; called only if a row
            names the content of its data.
        weights: of runs in these roles ("teacher", "student") also whether the files of their weights are those that
            their rows name.

    Raises:
        ValueError: a corrupt row, or a method's module cannot be found.
    """
    rows = _read(directory, run_ids)
    teachers = {run_id: row for run_id, row in rows.items() if row["role"] == "teacher"}
    named = {row["teacher_run_id"] for row in rows.values()} - teachers.keys() - {None}
    teachers |= _read(directory, named) if named else {}
    sources = {key: _source(*key) for key in {_key(row) for row in (*rows.values(), *teachers.values())}}
    taught = {row["teacher_network"] for row in rows.values() if row["teacher_sha256"] is not None}
    of_teachers = {network: content.outside_sha256("", _architecture(network)) for network in taught}
    today = data_hash() if any(row["data_hash"] is not None for row in rows.values()) else None
    codes: dict[tuple[str, str], str] = {}
    found = {}
    for run_id, row in rows.items():
        teacher = teachers.get(row["teacher_run_id"])
        differing = _differing(row, today, sources[_key(row)], teacher)
        if row["teacher_sha256"] is not None:
            then, now = row["teacher_source_sha256"], of_teachers[row["teacher_network"]]
            if then is None and teacher is not None:  # the row is older than the column: by what the teacher's row has
                then, now = teacher["source_sha256"], sources[_key(teacher)]
            differing += _unequal(("source files of the teacher", then, now))
        if row["role"] in weights and row["status"] == "ok":
            differing += _weights(directory, row)
        state = row["status"]
        if differing:
            state = "stale" if state == "ok" else "waiting"
        found[run_id] = Standing(state, _label(row), tuple(differing), _code(row, codes) if state == "ok" else "")
    return {run_id: found.get(run_id, Standing("waiting")) for run_id in (rows if run_ids is None else run_ids)}


def require_current(found: Mapping[str, Standing], directory: Path, file: str, also: str = "") -> None:
    """Raise if finished rows are stale.

    Args:
        found: of `standings`.
        directory: where they are.
        file: the experiment file, for the commands in the message.
        also: a remedy that goes before the others.

    Raises:
        ValueError: names the first of them with both digests, and the remedies.
    """
    stale = {run_id: standing for run_id, standing in found.items() if standing.state == "stale"}
    if not stale:
        return
    rows = sum(bool(standing.label) for standing in found.values())
    lines = [f"{directory}: {len(stale)} of {rows} rows are not of today's content:"]
    lines += [f"  {run_id} ({x.label}): {'; '.join(x.reasons)}" for run_id, x in list(stale.items())[:_SHOWN]]
    if len(stale) > _SHOWN:
        lines.append(f"  ... and {len(stale) - _SHOWN} more")
    lines.append(
        f"{also}Put the earlier content back, or give the experiment another name or --results folder, or train these "
        f"runs anew: sstkd-bench run {file} --rerun-changed (the rows move to `replaced`); "
        f"sstkd-bench tables {file} --keep-stale shows them in a block of their own"
    )
    raise ValueError("\n".join(lines))


def remarks(found: Mapping[str, Standing], directory: Path, data_hash: str | None) -> list[str]:
    """What a reader must know of rows that are shown: other code, unknown code, data that was not looked at."""
    said = []
    shown = {run_id: standing for run_id, standing in found.items() if standing.state == "ok"}
    count = Counter(standing.code for standing in shown.values())
    if count["other"]:
        ids = [run_id for run_id, standing in shown.items() if standing.code == "other"]
        files = ", ".join(changed_files(directory, ids))
        said.append(
            f"{_rows(count['other'])} made by other code than today's ({files}); run --rerun-changed makes them anew"
        )
    if count["unknown"]:
        said.append(f"{_rows(count['unknown'])} made before rows had a digest of their code")
    if shown and data_hash is None:
        said.append("the data was not looked at: it is not on this machine")
    return said


def changed_files(directory: Path, run_ids: Iterable[str]) -> list[str]:
    """The package's files that have changed since these rows were made, were removed, or came to be."""
    made = store.read_rows(directory, ["run_id", "method", "dataset", "code_sha256"], run_ids=list(run_ids)).to_pylist()
    one_of_each = {(row["method"], row["dataset"], row["code_sha256"]): row["run_id"] for row in made}
    rows = store.read_rows(directory, ["method", "dataset", "code_files"], run_ids=list(one_of_each.values()))
    changed: set[str] = set()
    for row in rows.to_pylist(maps_as_pydicts="strict"):
        then, now = row["code_files"] or {}, content.code_files(row["method"], row["dataset"])
        changed |= {name for name in then.keys() | now.keys() if then.get(name) != now.get(name)}
    return sorted(changed)


def set_aside(directory: Path, run_ids: Iterable[str]) -> None:
    """Move rows, and what belongs to them, to a results folder `replaced/TIME`, so that their runs are trained anew.

    Rows of exported networks go with those of their runs, and so do the exported files in the results folder.

    Raises:
        ValueError: a row is packed, or a row of an export is corrupt; then nothing is moved.
        OSError: the folder cannot be written.
    """
    to = directory / "replaced" / datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    moved = list(run_ids)
    if packed := [run_id for run_id in moved if not paths.run_path(directory, run_id).is_file()]:
        raise ValueError(f"{directory}: the row {packed[0]} is packed. First: sstkd-bench results unpack {directory}")
    # The rows last: without them the runs are pending, and an interrupted command moves the rest the next time.
    exports.move(directory, to, moved)
    for run_id in moved:
        for place in (paths.weights_path, paths.per_image_path, paths.run_path):
            if place(directory, run_id).is_file():
                place(to, run_id).parent.mkdir(parents=True, exist_ok=True)
                place(directory, run_id).replace(place(to, run_id))


def _differing(
    row: Mapping[str, Any], data_hash: str | None, source: str | None, teacher: Mapping[str, Any] | None
) -> list[str]:
    """What of a row is not today's; a digest that an earlier row lacks contradicts nothing."""
    trained = None if teacher is None or teacher["status"] != "ok" else teacher["weights_sha256"]
    return _unequal(
        ("data", row["data_hash"], data_hash),
        ("source files from outside", row["source_sha256"], source),
        ("teacher", row["teacher_sha256"], trained),
    )


def _unequal(*compared: tuple[str, str | None, str | None]) -> list[str]:
    """What of a row differs: its name, with the digest then and now; an unknown one contradicts nothing."""
    return [
        f"{what} {then[:12]}... in the row, {now[:12]}... today"
        for what, then, now in compared
        if then is not None and now is not None and then != now
    ]


def _read(directory: Path, run_ids: Collection[str] | None) -> dict[str, dict[str, Any]]:
    return {row["run_id"]: row for row in store.read_rows(directory, _COLUMNS, run_ids=run_ids).to_pylist()}


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[key] for key in _OUTSIDE)


def _source(method: str, network: str, dataset: str, recipe: str) -> str | None:
    """Today's digest of the files from outside behind such rows."""
    try:
        losses = [str(term["name"]) for term in json.loads(recipe).get("loss") or ()]
    except (KeyError, TypeError):
        raise ValueError(
            f"rows of {quoted(method)} on {quoted(dataset)}: `recipe` is not what a run writes. {_AGAIN}"
        ) from None
    return content.outside_sha256(method, _architecture(network), dataset, *losses)


def _architecture(network: str) -> str:
    try:
        return str(json.loads(network)["architecture"])
    except (KeyError, TypeError):
        raise ValueError(
            f"rows with the network {quoted(network)}: `student_network` or `teacher_network` is not what a run "
            f"writes. {_AGAIN}"
        ) from None


def _weights(directory: Path, row: Mapping[str, Any]) -> list[str]:
    path, then = paths.weights_path(directory, row["run_id"]), row["weights_sha256"]
    if then is None or not path.is_file() or (now := sha256(path)) == then:
        return []
    return [f"weights {then[:12]}... in the row, {now[:12]}... in {path}"]


def _code(row: Mapping[str, Any], known: dict[tuple[str, str], str]) -> str:
    if row["code_sha256"] is None:
        return "unknown"
    key = row["method"], row["dataset"]
    if key not in known:
        known[key] = content.code_sha256(content.code_files(*key))
    return "today's" if known[key] == row["code_sha256"] else "other"


def _label(row: Mapping[str, Any]) -> str:
    what = "teacher" if row["role"] == "teacher" else row["method"]
    return f"{what}, {row['pair']}, seed {row['seed']}"


def _rows(count: int) -> str:
    return "1 row was" if count == 1 else f"{count} rows were"


def states(runs: Sequence[Run], found: Mapping[str, Standing]) -> dict[str, str]:
    """By run_id what the rows of runs are worth; "waiting" without a row."""
    return {run.run_id: found[run.run_id].state if run.run_id in found else "waiting" for run in runs}


def of_other_runs(directory: Path, version: str) -> str:
    """For the message that there are no results: other rows, and what finds an earlier protocol's."""
    if not store.finished(directory):
        return ""
    rows = store.read_rows(directory, ["protocol_version"]).column("protocol_version").to_pylist()
    known = [f'protocol: {{version: "{other}"}}' for other in VERSIONS if other in rows and other != version]
    found = f" ({' or '.join(known)} and controls: false find those of that version)" if known else ""
    return f", and the rows there are of other runs{found}"


def pending(runs: Sequence[Run], found: Mapping[str, Standing], retry_failed: bool) -> list[Run]:
    """The runs to execute: those without a row, and with `retry_failed` those that failed or were stopped early."""
    again = ("waiting", "failed", "skipped") if retry_failed else ("waiting",)
    known = states(runs, found)
    return [run for run in runs if known[run.run_id] in again]
