"""Rows from Parquet files, checked: single files of one row each, and packs of many.

Whatever is wrong with a file or a row is a ValueError that names file and column and says what to do.
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.borders import quoted
from harness.results.schema import SCHEMA
from harness.results.validity import CONFUSIONS, faults

MAX_PACKED = 10_000_000
"""Rows of one pack; more are no benchmark's."""
_DELETE = "Delete the file and start the run again"
_RESTORE = "Restore it from a copy, or delete it and run its runs again"
_SMALLEST = 12  # bytes of a Parquet file without columns


def read_files(files: Sequence[str], columns: Sequence[str] | None = None) -> Any:
    """The rows of single files as a table, in the files' order; all columns of `SCHEMA`, or these.

    Raises:
        ValueError: a corrupt file, not exactly one row in a file, a row in a file of another name, or a row that breaks
            a rule (file and column are named, with what to do).
        FileNotFoundError: a file does not exist.
    """
    names = SCHEMA.names if columns is None else list(columns)
    if not files:
        return SCHEMA.empty_table().select(names)
    for file in files:
        _require_complete(file)
    table = _read_single(files, needed(names)).combine_chunks()  # checks of thousands of chunks would take seconds
    stems = pa.array([_stem(file) for file in files], pa.string())
    if len(table) != len(files) or not pc.all(pc.equal(table["run_id"], stems)).as_py():
        _name_misplaced(files)
    for column, at, why in faults(table, SCHEMA):
        raise ValueError(f"{files[at]}: column {column}: {why}. {_DELETE}")
    return table.select(names)


def _read_single(files: Sequence[str], names: list[str]) -> Any:
    """The rows of single files, not checked; of files with more rows than one, not much more than one for each."""
    try:
        found, rows = [], 0
        for batch in _dataset(files).scanner(columns=names, cache_metadata=False).to_batches():
            found.append(batch)
            rows += batch.num_rows
            if rows > len(files):
                break
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        if len(files) == 1:
            raise ValueError(f"{files[0]}: not a readable row ({_said(error)}). {_DELETE}") from error
        for half in (files[: len(files) // 2], files[len(files) // 2 :]):
            _read_single(half, names)
        raise  # not of one file
    return pa.Table.from_batches(found, schema=pa.schema([SCHEMA.field(name) for name in names]))


def _name_misplaced(files: Sequence[str]) -> None:
    """Refuse the first file that does not hold exactly the row it is named after."""
    for file in files:
        count = pq.read_metadata(file).num_rows
        if count != 1:
            raise ValueError(f"{file}: holds {count} rows; a run's file holds exactly one. {_DELETE}")
        run_id = _read_single([file], ["run_id"])["run_id"][0].as_py()
        if run_id is None:
            raise ValueError(f"{file}: column run_id: missing; it is needed in every row. {_DELETE}")
        if run_id != _stem(file):
            raise ValueError(
                f"{file}: column run_id: holds the row of {quoted(ascii(run_id))}; a row's file is named after its "
                "run_id. Delete the file, or give it its name back"
            )


def _require_complete(file: str) -> None:
    """Refuse a file that does not end as Parquet does: cheaper than reading it."""
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise ValueError(f"{file}: not a readable row (not a file). Move it away")
    with open(file, "rb") as content:
        size = content.seek(0, os.SEEK_END)
        content.seek(max(0, size - 4))
        if content.read() != b"PAR1" or size < _SMALLEST:
            raise ValueError(f"{file}: not a readable row (not a Parquet file, or only a part of one). {_DELETE}")


def _stem(file: str) -> str:
    return os.path.basename(file).removesuffix(".parquet")


def needed(names: Sequence[str]) -> list[str]:
    """These columns, and those that rules compare them with."""
    sized = ["num_classes"] if not {*CONFUSIONS, "class_names", "palette"}.isdisjoint(names) else []
    return list(dict.fromkeys([*names, "run_id", "status", *sized]))


def read_whole_pack(file: str, names: list[str], condition: Any) -> Any:
    """Columns of a pack's rows, or of those that fulfil a condition.

    Raises:
        ValueError: a corrupt pack, or a row that breaks a rule (pack, run and column are named).
    """
    if not stat.S_ISREG(os.stat(file).st_mode):
        raise ValueError(f"{file}: not a readable pack (not a file). Move it away")
    with _named_pack(file):
        with pq.ParquetFile(file) as opened:
            if opened.metadata.num_rows > MAX_PACKED:
                raise ValueError(f"{file}: {opened.metadata.num_rows} rows; at most {MAX_PACKED} are read. {_RESTORE}")
        table = _dataset([file]).to_table(columns=names, filter=condition)
    _check_pack(file, table)
    return table


def read_pack(file: str | Path) -> Iterator[Any]:
    """The rows of a pack, all columns, a group of rows at a time.

    Raises:
        ValueError: a corrupt pack, or a row that breaks a rule (pack, run and column are named).
    """
    with _named_pack(str(file)), pq.ParquetFile(file, page_checksum_verification=True) as opened:
        for i in range(opened.num_row_groups):
            group = opened.read_row_group(i)
            for field in SCHEMA:
                if field.name not in group.column_names:
                    group = group.append_column(field.with_nullable(True), pa.nulls(group.num_rows, field.type))
            group = group.select(SCHEMA.names)
            if group.schema != SCHEMA:
                group = group.cast(pa.schema([field.with_nullable(True) for field in SCHEMA]))
            _check_pack(str(file), group)
            group = group if group.schema == SCHEMA else group.cast(SCHEMA)
            yield group


def _check_pack(file: str, table: Any) -> None:
    """Refuse rows of a pack that break a rule."""
    for column, at, why in faults(table, SCHEMA):
        run_id = quoted(ascii(table["run_id"][at].as_py()))
        raise ValueError(f"{file}: the row of run {run_id}: column {column}: {why}. {_RESTORE}")
    if table.num_rows > 1 and pc.any(pc.equal(table["run_id"][1:], table["run_id"][:-1])).as_py():
        raise ValueError(f"{file}: holds a run twice. {_RESTORE}")


@contextlib.contextmanager
def _named_pack(file: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a readable pack ({_said(error)}). {_RESTORE}") from error


def parse_row(content: bytes, where: str) -> dict[str, Any]:
    """The row in a file's content, as `read_row` gives it.

    Args:
        content: the bytes of a row's file.
        where: its name, for the message.

    Raises:
        ValueError: the content is not a readable row.
    """
    try:
        table = _format().make_fragment(pa.BufferReader(content)).scanner(schema=SCHEMA).head(2)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{where}: not a readable row ({_said(error)}). {_DELETE}") from None
    if table.num_rows != 1:
        count = "no row" if not table.num_rows else "several rows"
        raise ValueError(f"{where}: holds {count}; a run's file holds exactly one. {_DELETE}")
    for column, _, why in faults(table, SCHEMA):
        raise ValueError(f"{where}: column {column}: {why}. {_DELETE}")
    return records(table)[0]


def records(table: Any) -> list[dict[str, Any]]:
    """The rows of a table as dicts, with maps as dicts.

    Raises:
        ValueError: a map has a key twice.
    """
    try:
        rows: list[dict[str, Any]] = table.to_pylist(maps_as_pydicts="strict")
    except KeyError as error:
        raise ValueError(f"a row has a key twice in one of its maps (versions, losses): {error}") from None
    return rows


def _said(error: Exception) -> str:
    """Arrow's own words on one line, shortened."""
    return " ".join(str(error).split())[:300]


def _dataset(files: Sequence[str]) -> Any:
    import pyarrow.dataset as ds

    return ds.dataset(list(files), schema=SCHEMA, format=_format())


def _format() -> Any:
    import pyarrow.dataset as ds

    # Checksums turn a flipped bit into an error instead of another number.
    scan = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    return ds.ParquetFileFormat(default_fragment_scan_options=scan)
