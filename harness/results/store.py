"""One finished run is one Arrow row in one Parquet file: write it once, read many.

`<results>/<experiment>/runs/<run_id>.parquet` holds exactly one row of `SCHEMA`. Every function here takes the
experiment's directory, `<results>/<experiment>`. Files are written atomically: under a name that starts with a dot,
synced, then renamed; readers skip names that start with a dot. Packed rows (`results.packs`),
`<results>/<experiment>/packs/*.parquet`, are read as well.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.files import write_atomic
from harness.results.paths import run_path
from harness.results.reading import needed, parse_row, read_files, read_pack, read_whole_pack, records
from harness.results.schema import HEAVY, SCHEMA, checked
from harness.results.validity import STATUSES

if TYPE_CHECKING:
    from harness.experiment.spec import Run

__all__ = [
    "HEAVY",
    "SCHEMA",
    "STATUSES",
    "find_run",
    "finished",
    "pack_paths",
    "packed",
    "parse_row",
    "read_batches",
    "read_files",
    "read_pack",
    "read_row",
    "read_rows",
    "read_run",
    "records",
    "run_path",
    "write_file",
    "write_run",
]

_TRIES = 3  # files may be packed while they are read
_AT_ONCE = 1_000  # rows of a batch


def pack_paths(directory: str | Path) -> list[Path]:
    """The complete files of packed rows."""
    return [Path(path) for path in _files(Path(directory) / "packs", None)]


def write_run(directory: str | Path, row: Mapping[str, Any]) -> bool:
    """Write one row; a row that is ok is never replaced, a failed or skipped one may be.

    Args:
        directory: the experiment's directory; `runs/` is made below it.
        row: one value by column of `SCHEMA`. Nullable columns may be left out. Maps are dicts, times are aware
            datetimes, a confusion matrix is flat; lists may be numpy arrays.

    Returns:
        True if the row is on disk now, False if an ok row of the same run_id was there and was kept.

    Raises:
        ValueError: an unknown column, a missing one, a wrong type, or values that contradict each other; names the
            column. Nothing is written.
        OSError: the disk is full or cannot be written; no file is left behind.
    """
    table = pa.Table.from_pylist([checked(row)], schema=SCHEMA)
    path = run_path(directory, row["run_id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    if (path.exists() and _status(path) == "ok") or packed(directory, row["run_id"]):
        return False
    write_file(path, table)
    return True


def write_file(path: Path, table: Any) -> None:
    """Write a row's own file.

    Args:
        path: where.
        table: one row of `SCHEMA`.

    Raises:
        OSError: the disk is full or cannot be written; no file is left behind.
    """
    sink = pa.BufferOutputStream()
    # One row per file: dictionaries and column statistics would cost more bytes than the row itself.
    pq.write_table(
        table, sink, compression="zstd", use_dictionary=False, write_statistics=False, write_page_checksum=True
    )
    write_atomic(path, sink.getvalue().to_pybytes())


def read_rows(
    directory: str | Path,
    columns: Collection[str] | None = None,
    status: str | Collection[str] | None = None,
    run_ids: Collection[str] | None = None,
) -> Any:
    """Read the rows of an experiment, in the order of their run_ids.

    Args:
        directory: the experiment's directory; one that does not exist has no rows.
        columns: names to read; None reads all but `HEAVY`.
        status: one of `STATUSES`, or several; None reads all.
        run_ids: read only these (ids without a row are ignored); None reads all.

    Returns:
        A `pyarrow.Table` with the columns in the order asked for; columns an older file lacks are null.

    Raises:
        ValueError: an unknown column or status, a corrupt file, or a row that breaks a rule of `results.validity`
            (file and column are named, with what to do).

    Example:
        >>> import harness
        >>> rows = harness.read_rows("results/examples/quickstart", ["method", "seed", "val_miou"], status="ok")
        >>> rows.num_rows, rows.column_names
        (26, ['method', 'seed', 'val_miou'])
    """
    names = [n for n in SCHEMA.names if n not in HEAVY] if columns is None else list(columns)
    if unknown := [n for n in names if n not in SCHEMA.names]:
        raise ValueError(f"unknown columns {unknown}; there are: {', '.join(SCHEMA.names)}")
    wanted = STATUSES if status is None else (status,) if isinstance(status, str) else tuple(status)
    if unknown := [s for s in wanted if s not in STATUSES]:
        raise ValueError(f"unknown status {unknown}; there are: {', '.join(STATUSES)}")
    for attempt in range(1, _TRIES + 1):
        # Single files are listed first: a row that is packed afterwards is found in its pack.
        files = _files(Path(directory) / "runs", run_ids)
        try:
            table = _union(directory, files, needed(names), run_ids)
            break
        except FileNotFoundError:
            if attempt == _TRIES:
                raise
    if status is not None:
        table = table.filter(pc.is_in(table["status"], value_set=pa.array(wanted, pa.string())))
    return table.select(names)


def read_batches(
    directory: str | Path, columns: Collection[str], run_ids: Collection[str] | None = None
) -> Iterator[Any]:
    """The rows of `read_rows`, in the same order, as tables of some of them: all of a large experiment are never in
    memory together.

    Args:
        directory: the experiment's directory.
        columns: names to read.
        run_ids: read only these; None reads all.

    Raises:
        ValueError: as `read_rows`.
    """
    loose = {Path(file).stem for file in _files(Path(directory) / "runs", run_ids)}
    ids = sorted(loose.union(_packed(directory, ["run_id"], run_ids)["run_id"].to_pylist()))
    for start in range(0, len(ids), _AT_ONCE):
        yield read_rows(directory, columns, run_ids=ids[start : start + _AT_ONCE])


def _union(directory: str | Path, files: list[str], names: list[str], run_ids: Collection[str] | None) -> Any:
    """Single and packed rows together, each run once."""
    loose = read_files(files, names)
    many = _packed(directory, names, run_ids)
    if not many.num_rows:
        return loose
    # A row may be in both while it is being packed, or after an interruption. Packed rows are final.
    twice = pc.is_in(loose["run_id"], value_set=many["run_id"].combine_chunks())
    loose = loose.filter(pc.invert(twice))
    files_of_many = len(pack_paths(directory))
    if not loose.num_rows and files_of_many == 1:
        return many  # a pack is in the order of the run_ids
    table = pa.concat_tables([many, loose]).sort_by("run_id")
    if files_of_many > 1 and table.num_rows > 1:
        again = pc.equal(table["run_id"][1:], table["run_id"][:-1])
        if pc.any(again).as_py():
            run_id = table["run_id"][1:].filter(again)[0]
            raise ValueError(
                f"{Path(directory) / 'packs'}: run {run_id} is in two files, as when results were copied together. "
                "`sstkd-bench results unpack` makes single files of them, or names what differs"
            )
    return table


def packed(directory: str | Path, run_id: str) -> bool:
    """Whether a pack has the run's row, which then is ok."""
    return bool(_packed(directory, ["run_id"], [run_id]).num_rows)


def _packed(directory: str | Path, names: Sequence[str], run_ids: Collection[str] | None) -> Any:
    """The rows in packs."""
    condition = None if run_ids is None else _among(run_ids)
    tables = [read_whole_pack(str(path), needed(names), condition) for path in pack_paths(directory)]
    return pa.concat_tables(tables or [SCHEMA.empty_table()]).select(list(names))


def _among(run_ids: Collection[str]) -> Any:
    """Rows of these runs; the ends spare groups of rows without any of them, which the list alone does not."""
    name = pc.field("run_id")
    wanted = name.isin(pa.array(list(run_ids), pa.string()))
    return wanted & (name >= min(run_ids)) & (name <= max(run_ids)) if run_ids else wanted


def run_of(directory: str | Path, row: Mapping[str, Any]) -> "Run":
    """The run that a row describes in its column `spec`.

    Raises:
        ValueError: the column does not describe a run; names the row's file and the key.
    """
    from pydantic import ValidationError  # these two take longer to import than many rows to read

    from harness.experiment.spec import VERSIONS, Run

    try:
        run = Run.model_validate_json(row["spec"])
        if run.protocol.version != row["protocol_version"] and row["protocol_version"] in VERSIONS:
            # Until 1.1 the version was no key of the experiment.
            return run.model_copy(
                update={"protocol": run.protocol.model_copy(update={"version": row["protocol_version"]})}
            )
        return run
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(["spec", *map(str, first["loc"])])
        raise ValueError(
            f"{run_path(directory, row['run_id'])}: column {key}: {first['msg']}. The row does not say what was run: "
            "delete it and start the run again"
        ) from None


def find_run(directory: str | Path, start: str) -> str:
    """The run_id of the one row whose run_id begins with `start`.

    Raises:
        ValueError: there is no such row, or several.
    """
    matches = [run_id for run_id in finished(directory) if run_id.startswith(start)]
    if len(matches) != 1:
        found = ", ".join(matches) or "none"
        raise ValueError(
            f"{directory}: {start!r} names {len(matches)} rows ({found}); name one, see `sstkd-bench results list`"
        )
    return matches[0]


def finished(directory: str | Path) -> dict[str, str]:
    """Status by run_id of every row there is; reads those two columns only.

    Raises:
        ValueError: a corrupt file (named, with what to do).
    """
    table = read_rows(directory, ["run_id", "status"])
    return dict(zip(table["run_id"].to_pylist(), table["status"].to_pylist(), strict=True))


def read_row(path: str | Path) -> dict[str, Any]:
    """Read one file: every column of `SCHEMA`, maps as dicts, columns an older file lacks as None.

    Raises:
        ValueError: a corrupt file (named, with what to do).
        FileNotFoundError: there is no such file.
    """
    return records(read_files([str(path)]))[0]


def read_run(directory: str | Path, run_id: str) -> dict[str, Any]:
    """Read all columns of a run's row, from its own file or from a pack, as `read_row` gives it.

    Raises:
        ValueError: a corrupt file (named, with what to do).
        FileNotFoundError: there is no such row; names the file that would hold it.
    """
    found = _packed(directory, SCHEMA.names, [run_id])
    return records(found)[0] if found.num_rows else read_row(run_path(directory, run_id))


def _files(runs: Path, run_ids: Collection[str] | None) -> list[str]:
    if not runs.is_dir():
        return []
    keep = None if run_ids is None else {f"{run_id}.parquet" for run_id in run_ids}
    with os.scandir(runs) as entries:
        return sorted(
            entry.path
            for entry in entries
            if entry.name.endswith(".parquet")
            and not entry.name.startswith(".")
            and (keep is None or entry.name in keep)
        )


def _status(path: Path) -> str | None:
    try:
        status: str = read_files([str(path)], ["status"])["status"][0].as_py()
    except ValueError:
        return None  # a corrupt file is no result and may be replaced
    return status
