"""The row: what is kept of one run, as an explicit Arrow schema, and the check every row passes before it is written.

Units are in the names: `_ms` milliseconds, `_seconds`, `_mb` 2**20 bytes; mIoU lies in [0, 1]. A confusion matrix is
row-major, num_classes**2 pixel counts, rows = label, columns = prediction.
"""

from collections.abc import Mapping
from datetime import datetime
from numbers import Integral, Real
from typing import Any

import numpy as np
import pyarrow as pa

from harness.results.validity import faults

HEAVY = ("samples", "curve", "losses", "gradients", "code_files")
"""Columns that `read_rows` reads only when they are asked for by name."""


def _schema() -> Any:
    text, whole, real = pa.string(), pa.int64(), pa.float64()
    moment = pa.timestamp("us", tz="UTC")
    point = pa.struct([pa.field("step", whole, False), pa.field("dev_miou", real, False)])
    loss = pa.struct(
        [pa.field("step", whole, False), pa.field("lr", real, False), pa.field("terms", pa.map_(text, real), False)]
    )
    pull = pa.struct([pa.field("step", whole, False), pa.field("terms", pa.map_(text, real), False)])
    share = pa.struct([pa.field("step", whole, False), pa.field("workers", whole, False)])
    sample = pa.struct(
        [
            pa.field("index", whole, False),
            pa.field("image", pa.binary()),
            pa.field("label", pa.binary()),
            pa.field("prediction", pa.binary(), False),
        ]
    )
    required = {
        # What was run.
        "run_id": text,
        "experiment": text,
        "status": text,
        "message": text,  # why it is not ok; empty when it is
        "role": text,
        "method": text,
        "method_parameters": text,  # JSON
        "seed": whole,
        "ruleset": text,
        "protocol_version": text,  # MAJOR.MINOR
        "budget_unit": text,
        "budget_amount": real,
        "steps": whole,
        "pair": text,
        "teacher_network": text,  # JSON
        "student_network": text,  # JSON
        "dataset": text,
        "dataset_parameters": text,  # JSON
        "ignore_index": whole,
        "absent_policy": text,
        "recipe": text,  # JSON: the train section
        "overrides": pa.list_(text),  # the --set values
        # Where and with what.
        "device": text,
        "workers": whole,
        "threads": whole,
        "precision": text,
        "resumed": whole,  # how often it went on from a checkpoint
        "code_version": text,
        "versions": pa.map_(text, text),
        "spec": text,  # JSON: the resolved run
        "started_at": moment,
        "finished_at": moment,
    }
    optional = {
        "teacher_run_id": text,
        "teacher_sha256": text,
        "student_init_sha256": text,
        "worker_history": pa.list_(share),  # where a resume changed the number of workers: how many, from which step on
        "caveat": text,  # what a reader must know of the method's values, e.g. that nobody verified them
        "weights_sha256": text,  # of the file with the trained weights
        "data_hash": text,
        "source_sha256": text,  # of the source files of methods and a network from outside
        "teacher_source_sha256": text,  # of those of a teacher from outside, in the row of a student that it taught
        "code_sha256": text,  # of the package's files that the numbers come from ...
        "code_files": pa.map_(text, text),  # ... and of each, the first 16 digits by path
        "num_classes": whole,
        "class_names": pa.list_(text),
        "palette": pa.list_(pa.list_(whole)),  # [r, g, b] of every class
        # Of a trial: its number and the method's label. Of a final run: what its point was searched with.
        "trial": whole,
        "trial_method": text,
        "search_trials": whole,  # of the method on this pair, ended early and failed ones included
        "search_seconds": real,  # of training and evaluation, in all of them
        "search_sha256": text,  # of the trials' run_ids
        "budget_step_ms": real,  # where the budget is one of seconds: a step was found to take so long
        "control": text,  # the student without distillation once more, with "equal seconds" or "equal steps"
        "floor_dev_miou": real,  # single-pixel baseline, grey or in colour
        "floor_val_miou": real,
        "taps": pa.list_(text),
        # What came out.
        "dev_confusion": pa.list_(whole),
        "val_confusion": pa.list_(whole),
        "dev_boundary_confusion": pa.list_(whole),  # of the pixels near class boundaries only
        "val_boundary_confusion": pa.list_(whole),
        "per_image_sha256": text,  # of the file with the confusion matrix of every val image
        "dev_miou": real,  # of the last step
        "val_miou": real,
        "best_dev_miou": real,
        "best_dev_step": whole,
        "curve": pa.list_(point),
        "losses": pa.list_(loss),
        "gradients": pa.list_(pull),  # norm of the gradient of each term with respect to the student
        # What it cost.
        "step_ms": real,  # median after warm-up
        "step_ms_p90": real,
        "data_ms": real,  # median wait for a batch
        "train_seconds": real,
        "eval_seconds": real,
        "wall_seconds": real,
        "together": whole,  # most runs that the process trained in step with each other, this one included
        "shared_seconds": real,  # of train_seconds, what was spent for several of them at once
        "peak_memory_mb": real,
        "student_parameters": whole,
        "extra_parameters": whole,  # trained by the distiller, gone afterwards
        "student_macs": whole,
        "student_latency_ms": real,  # median time to predict one dev image: one scale, no flip
        "samples": pa.list_(sample),  # PNG; label and prediction are 8-bit grey maps of class ids
    }
    fields = [pa.field(name, kind, False) for name, kind in required.items()]
    fields += [pa.field(name, kind, True) for name, kind in optional.items()]
    return pa.schema(fields)


SCHEMA = _schema()
"""The row. A column that is added later must be nullable: older files lack it and read as null."""


def checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with plain Python values in every column, ready for Arrow.

    Arrow itself would drop unknown keys, fill missing ones with null and coerce some types, all without a word.

    Raises:
        ValueError: an unknown column, a missing one, a wrong type, or values that contradict each other; names the
            column.
    """
    if unknown := sorted(set(row) - set(SCHEMA.names)):
        raise ValueError(f"unknown columns {unknown}; there are: {', '.join(SCHEMA.names)}")
    out = {field.name: _value(row.get(field.name), field, field.name) for field in SCHEMA}
    table = pa.Table.from_pylist([out], schema=SCHEMA)
    for column, _, why in faults(table, SCHEMA):
        raise ValueError(f"column {column}: {why}")
    return out


def _value(value: Any, field: Any, where: str) -> Any:
    """One value checked against an Arrow field, recursively; `where` is its place in the row, for the message."""
    kind = field.type
    if value is None:
        if field.nullable:
            return None
        raise ValueError(f"column {where}: missing; it is needed in every row")
    if pa.types.is_string(kind) and isinstance(value, str):
        return str(value)
    if pa.types.is_binary(kind) and isinstance(value, bytes):
        return value
    if pa.types.is_int64(kind) and isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if pa.types.is_float64(kind) and isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    if pa.types.is_timestamp(kind) and isinstance(value, datetime) and value.tzinfo is not None:
        return value
    if pa.types.is_list(kind) and isinstance(value, (list, tuple, np.ndarray)):
        items = value.tolist() if isinstance(value, np.ndarray) else value
        item = kind.value_field.with_nullable(False)
        return [_value(v, item, f"{where}[{i}]") for i, v in enumerate(items)]
    if pa.types.is_map(kind) and isinstance(value, Mapping):
        key, item = kind.key_field, kind.item_field.with_nullable(False)
        return [(_value(k, key, f"{where} key"), _value(v, item, f"{where}[{k!r}]")) for k, v in value.items()]
    if pa.types.is_struct(kind) and isinstance(value, Mapping):
        names = [f.name for f in kind]
        if unknown := sorted(set(value) - set(names)):
            raise ValueError(f"column {where}: unknown keys {unknown}; there are: {', '.join(names)}")
        return {f.name: _value(value.get(f.name), f, f"{where}.{f.name}") for f in kind}
    aware = " (with a time zone)" if pa.types.is_timestamp(kind) else ""
    raise ValueError(f"column {where}: {kind}{aware} is needed; given: {type(value).__name__} {value!r:.80}")
