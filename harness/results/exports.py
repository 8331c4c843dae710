"""What is known of the exports of an experiment's runs: one row in one Parquet file each, beside the runs.

`<results>/<experiment>/exports/<export_id>.parquet`; the files themselves lie where they were asked for. `pack` puts
rows together in `exports/packed.parquet`. Of several rows with one export_id the one exported last counts.
"""

import glob
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.borders import quoted
from harness.files import write_atomic

_TEXT, _WHOLE, _REAL = pa.string(), pa.int64(), pa.float64()
_COLUMNS = {
    # What it is.
    "export_id": _TEXT,
    "run_id": _TEXT,
    "weights_sha256": _TEXT,
    "target": _TEXT,
    "size_hw": pa.list_(_WHOLE),  # null: any
    "batch": _WHOLE,  # null: any
    "preprocessing": pa.bool_(),
    "calibration": _WHOLE,  # train images by which it was quantised to int8; null: it is not
    "every_layer": pa.bool_(),  # whether its first and last layers were too
    "sha256": _TEXT,  # of the files, by name
    "size_bytes": _WHOLE,
    "versions": _TEXT,  # JSON
    "code_version": _TEXT,
    "exported_at": pa.timestamp("us", tz="UTC"),
    # How it was judged.
    "split": _TEXT,
    "images": _WHOLE,
    "split_images": _WHOLE,  # how many the split has
    "miou": _REAL,
    "student_miou": _REAL,  # of the network as it was trained, on the same images
    "agreement": _REAL,  # share of the pixels to which both give one label
    "largest_difference": _REAL,  # of a class score; null where labels come out
    # How fast it is: one image, after warm-up.
    "device": _TEXT,
    "threads": _WHOLE,
    "latency_hw": pa.list_(_WHOLE),
    "latency_ms": _REAL,  # median
    "latency_ms_p90": _REAL,
    "latency_calls": _WHOLE,
    "student_latency_ms": _REAL,  # of what was exported, in PyTorch and in the same process; null for another device
    "device_agreement": _REAL,  # of another device that timed it: share of the pixels with the labels found here; null
}
_TRIES = 3  # files may be packed while they are read
_AGAIN = "Delete it and export again"
NULLABLE = (
    *("size_hw", "batch", "calibration", "largest_difference"),
    *("student_latency_ms", "device_agreement"),
)
SCHEMA = pa.schema([pa.field(name, kind, name in NULLABLE) for name, kind in _COLUMNS.items()])


def exports_folder(directory: str | Path) -> Path:
    """The folder of an experiment's export rows."""
    return Path(directory) / "exports"


def files_folder(directory: str | Path) -> Path:
    """Where exported files go if no other folder is given."""
    return exports_folder(directory) / "files"


def export_id(row: Mapping[str, Any]) -> str:
    """Sixteen hex digits of what was exported, in which form, by which versions and measured where."""
    form = ("run_id", "weights_sha256", "target", "size_hw", "batch", "preprocessing", "calibration", "every_layer")
    of = (*form, "sha256", "versions", "device", "threads", "images")
    return hashlib.sha256(json.dumps({name: row[name] for name in of}, sort_keys=True).encode()).hexdigest()[:16]


def write_export(directory: str | Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """Write a row and return it; one of the same export is replaced, since it has been measured again.

    Args:
        directory: the experiment's directory.
        row: a value by column of `SCHEMA`, without `export_id`.

    Raises:
        ValueError: a column is missing, unknown or of another type.
    """
    whole = {"export_id": export_id(row), **row}
    if whole.keys() != set(SCHEMA.names):
        raise ValueError(f"columns missing or unknown: {', '.join(sorted(whole.keys() ^ set(SCHEMA.names)))}")
    try:
        table = pa.Table.from_pylist([whole], schema=SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"a value of another type: {error}") from None
    _write(_path(directory, whole["export_id"]), table)
    return whole


def read_exports(directory: str | Path) -> list[dict[str, Any]]:
    """The rows of all exports, packed ones too, the latest last.

    Raises:
        ValueError: a file cannot be read, or holds something else; names it.
    """
    for _ in range(_TRIES - 1):
        try:
            return _latest(row for path in _files(directory) for row in _read(path))
        except FileNotFoundError:  # packed since it was listed
            continue
    return _latest(row for path in _files(directory) for row in _read(path))


def merge(directory: str | Path, contents: Mapping[str, bytes]) -> tuple[int, list[str]]:
    """Add the rows of files from elsewhere.

    Args:
        directory: the experiment's directory.
        contents: of the files, by what an error calls them.

    Returns:
        How many rows are new here, or later than those that were here; and the errors of files that hold no such rows.

    Raises:
        ValueError: a file that is here cannot be read, or holds something else; names it.
    """
    ours = {row["export_id"]: row["exported_at"] for row in read_exports(directory)} if contents else {}
    new, problems = 0, []
    for where, content in contents.items():
        try:
            rows = _parsed(content, where)
        except ValueError as error:
            problems.append(str(error))
            continue
        for row in rows:
            if row["export_id"] not in ours or row["exported_at"] > ours[row["export_id"]]:
                _write(_path(directory, row["export_id"]), _table([row]))
                ours[row["export_id"]] = row["exported_at"]
                new += 1
    return new, problems


def pack(directory: str | Path) -> int:
    """Put all rows into one file; returns how many had a file of their own.

    A file is removed only after its rows were read back from the packed one, and not if it has changed meanwhile.

    Raises:
        ValueError: as `read_exports`.
        OSError: the disk is full or cannot be written, or the file could not be read back; no row is removed.
    """
    packed = _packed(directory)
    contents = {path: path.read_bytes() for path in _files(directory)}
    single = [path for path in contents if path != packed]
    if not single:
        return 0
    rows = _latest(row for path, content in contents.items() for row in _parsed(content, str(path)))
    _write(packed, _table(rows))
    if _read(packed) != rows:
        raise OSError(f"{packed}: the rows did not read back as written; no row was removed")
    for path in single:
        if path.read_bytes() == contents[path]:  # else it has been exported again meanwhile
            path.unlink()
    return len(single)


def unpack(directory: str | Path) -> int:
    """Make every packed row a single file again; returns their number.

    Raises:
        ValueError: as `read_exports`.
        OSError: the disk is full or cannot be written; the packed file is removed last.
    """
    packed = _packed(directory)
    if not packed.is_file():
        return 0
    rows = _read(packed)
    current = {row["export_id"]: row for row in read_exports(directory)}
    for row in rows:
        _write(_path(directory, row["export_id"]), _table([current[row["export_id"]]]))
    packed.unlink()
    return len(rows)


def move(directory: str | Path, to: str | Path, run_ids: Collection[str]) -> None:
    """Move the export rows of runs to another results folder, and their files if they lie in `files_folder`.

    Raises:
        ValueError: as `read_exports`; nothing is moved.
        OSError: a folder cannot be written; what was not moved is moved the next time.
    """
    for path, rows in {path: _read(path) for path in _files(directory)}.items():
        theirs = [row for row in rows if row["run_id"] in run_ids]
        for row in theirs:
            _write(_path(to, row["export_id"]), _table([row]))
        if theirs and len(theirs) < len(rows):
            _write(path, _table([row for row in rows if row["run_id"] not in run_ids]))
        elif theirs:
            path.unlink()
    for run_id in run_ids:
        for folder in files_folder(directory).glob(f"{glob.escape(run_id)}-*"):
            files_folder(to).mkdir(parents=True, exist_ok=True)
            folder.replace(files_folder(to) / folder.name)


def _path(directory: str | Path, export_id: str) -> Path:
    return exports_folder(directory) / f"{export_id}.parquet"


def _packed(directory: str | Path) -> Path:
    return exports_folder(directory) / "packed.parquet"


def _files(directory: str | Path) -> list[Path]:
    return sorted(exports_folder(directory).glob("[!.]*.parquet"))


def _latest(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row by export_id, the one exported last; in the order in which they were exported."""
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["exported_at"], row["export_id"])):
        found.pop(row["export_id"], None)
        found[row["export_id"]] = row
    return list(found.values())


def _table(rows: list[dict[str, Any]]) -> Any:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _write(path: Path, table: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue().to_pybytes())


def _read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file.

    Raises:
        ValueError: it cannot be read, or holds something else; names it.
        FileNotFoundError: it is not there any more.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path}: {error}. {_AGAIN}") from None
    return _parsed(content, str(path))


def _parsed(content: bytes, where: str) -> list[dict[str, Any]]:
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read()
        if table.schema != SCHEMA or not len(table):
            raise ValueError("it holds no row of an export of this version")
        table.validate(full=True)
        rows: list[dict[str, Any]] = table.to_pylist()
        for row in rows:
            _require_sound(row)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ValueError(f"{where}: {error}. {_AGAIN}") from None
    return rows


def _require_sound(row: Mapping[str, Any]) -> None:
    """Raise ValueError if a value is missing, or is none that an export has."""
    if missing := [name for name in SCHEMA.names if name not in NULLABLE and row[name] is None]:
        raise ValueError(f"column {missing[0]}: missing")
    if not re.fullmatch("[0-9a-f]{16}", row["export_id"]):  # it is a file's name
        raise ValueError(f"column export_id: {quoted(row['export_id'])}; 16 hexadecimal digits are needed")
    for name in ("miou", "student_miou", "agreement"):
        if not 0 <= row[name] <= 1:
            raise ValueError(f"column {name}: {row[name]}; allowed are 0 to 1")
    for name in ("images", "threads", "size_bytes", "latency_ms", "student_latency_ms"):
        if row[name] is not None and not (math.isfinite(row[name]) and row[name] >= 0):
            raise ValueError(f"column {name}: {row[name]}; a finite number is needed, 0 or more")
    for name in ("size_hw", "latency_hw"):
        if row[name] is not None and len(row[name]) != 2:
            raise ValueError(f"column {name}: {row[name]}; height and width are needed")
    if not isinstance(versions := json.loads(row["versions"]), dict):
        raise ValueError(f"column versions: {type(versions).__name__}; an object is needed")
