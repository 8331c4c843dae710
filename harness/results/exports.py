"""What is known of the exports of an experiment's runs: one row in one Parquet file each, beside the runs.

`<results>/<experiment>/exports/<export_id>.parquet`; the files themselves lie where they were asked for.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

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
    "sha256": _TEXT,  # of the files, by name
    "size_bytes": _WHOLE,
    "versions": _TEXT,  # JSON
    "code_version": _TEXT,
    "exported_at": pa.timestamp("us", tz="UTC"),
    # How it was judged.
    "split": _TEXT,
    "images": _WHOLE,
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
    "student_latency_ms": _REAL,  # of what was exported, in PyTorch and in the same process
}
NULLABLE = ("size_hw", "batch", "calibration", "largest_difference")
SCHEMA = pa.schema([pa.field(name, kind, name in NULLABLE) for name, kind in _COLUMNS.items()])


def exports_folder(directory: str | Path) -> Path:
    """The folder of an experiment's export rows."""
    return Path(directory) / "exports"


def files_folder(directory: str | Path) -> Path:
    """Where exported files go if no other folder is given."""
    return exports_folder(directory) / "files"


def export_id(row: Mapping[str, Any]) -> str:
    """Sixteen hex digits of what was exported, in which form, by which versions and measured where."""
    form = ("run_id", "weights_sha256", "target", "size_hw", "batch", "preprocessing", "calibration")
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
    path = exports_folder(directory) / f"{whole['export_id']}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue().to_pybytes())
    return whole


def read_exports(directory: str | Path) -> list[dict[str, Any]]:
    """The rows of all exports, the latest last.

    Raises:
        ValueError: a file cannot be read, or holds something else; names it.
    """
    rows = []
    for path in sorted(exports_folder(directory).glob("[!.]*.parquet")):
        try:
            table = pq.ParquetFile(path).read()
            if table.schema != SCHEMA or len(table) != 1:
                raise ValueError("it holds no row of an export of this version")
            rows += table.to_pylist()
        except (OSError, pa.ArrowException, ValueError) as error:
            raise ValueError(f"{path}: {error}. Delete it and export again") from None
    return sorted(rows, key=lambda row: (row["exported_at"], row["export_id"]))
