"""Latency that another device measured, by the script of `sstkd-bench export --bench-script`, as a row of an export."""

import json
import math
import statistics
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.borders import one_line, quoted
from harness.results.exports import read_exports, write_export
from harness.results.find import experiment_folders

KIND = "sstkd-bench latency"
LARGEST_FILE, MOST_CALLS, LONGEST_NAME = 2**24, 100_000, 100
LOCAL = "CPUExecutionProvider"


def add_latency(file: Path, results: Path) -> tuple[Path, dict[str, Any]]:
    """Add what a device measured to the export of the same model, as a row of its own.

    mIoU and agreement stay those of the machine that exported; what the device's labels have in common with that
    machine's is `device_agreement`.

    Args:
        file: that the script wrote.
        results: folder of all results, or the results folder of one experiment.

    Returns:
        The experiment's folder and the row.

    Raises:
        ValueError: the file is not what the script writes, or no export has this model; names the key.
    """
    said = _read(file)
    found = [
        (folder, row)
        for folder in experiment_folders(results)
        for row in read_exports(folder)
        if row["sha256"] == said["sha256"] and row["device_agreement"] is None
    ]
    if not found:
        raise ValueError(
            f"{file}: sha256 {said['sha256'][:12]}... is of no model exported below {results}; it was changed or "
            "exported again since, or give the results folder of its export with --results"
        )
    # One that was judged on the whole split is in the tables.
    folder, row = max(found, key=lambda each: (each[1]["images"] == each[1]["split_images"], each[1]["exported_at"]))
    if said["batch"] != (row["batch"] or 1) or row["size_hw"] not in (None, said["hw"]):
        raise ValueError(f"{file}: batch {said['batch']} and hw {said['hw']} are not those of the export")
    taken = sorted(said["latency_ms"])
    device = said["device"] if said["provider"] == LOCAL else f"{said['device']}, {said['provider']}"
    measured = {
        "device": device,
        "threads": said["threads"],
        "latency_hw": said["hw"],
        "latency_ms": statistics.median(taken),
        "latency_ms_p90": taken[math.ceil(0.9 * len(taken)) - 1],
        "latency_calls": len(taken),
        "student_latency_ms": None,
        "device_agreement": said["agreement"],
        "versions": json.dumps(said["versions"], sort_keys=True),
        "exported_at": datetime.now(timezone.utc),
    }
    return folder, write_export(folder, {key: row[key] for key in row if key != "export_id"} | measured)


def _read(file: Path) -> dict[str, Any]:
    """What a file holds, all of it as the script writes it.

    Raises:
        ValueError: it is not; names the key.
    """
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{file}: is larger than a file of bench.py")
        said = json.loads(file.read_bytes())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read as JSON: {one_line(error, 200)}") from None
    if not isinstance(said, dict) or said.get("kind") != KIND:
        raise ValueError(f"{file}: is no file of the bench.py that `sstkd-bench export --bench-script` writes")
    for key, (holds, allowed) in _ALLOWED.items():
        if key not in said or not holds(said[key]):
            raise ValueError(f"{file}: {key} {quoted(said.get(key))}: has to be {allowed}")
    return said


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= LONGEST_NAME and value.isprintable()


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 < value <= most


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most  # not so for NaN


_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "sha256": (lambda v: isinstance(v, str) and len(v) == 64, "64 hex digits"),
    "device": (_is_name, f"a name of 1 to {LONGEST_NAME} printable characters"),
    "provider": (_is_name, "the name of a provider of onnxruntime"),
    "threads": (lambda v: _is_count(v, 4096), "a number from 1 to 4096"),
    "batch": (lambda v: _is_count(v, 1024), "a number from 1 to 1024"),
    "hw": (
        lambda v: isinstance(v, list) and len(v) == 2 and all(_is_count(side, 16384) for side in v),
        "height and width in pixels",
    ),
    "agreement": (lambda v: _is_number(v, 0, 1), "a share from 0 to 1"),
    "latency_ms": (
        lambda v: isinstance(v, list) and 0 < len(v) <= MOST_CALLS and all(_is_number(ms, 1e-6, 1e9) for ms in v),
        f"1 to {MOST_CALLS} times in milliseconds",
    ),
    "versions": (
        lambda v: isinstance(v, dict) and len(v) <= 20 and all(_is_name(k) and _is_name(x) for k, x in v.items()),
        "versions by package",
    ),
}
