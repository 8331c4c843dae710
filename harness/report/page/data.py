"""The data of the results page as compact JSON: each different value is stored once."""

import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.columns import cells
from harness.analysis.labels import REFERENCES
from harness.analysis.tables import Table
from harness.borders import script_json, shell, without_folders
from harness.metrics import class_iou

Row = Mapping[str, Any]

_LONG = ("spec", "curve", "losses", "samples", "palette", "class_names", *(
    f"{split}_{kind}" for split in ("dev", "val") for kind in ("confusion", "boundary_confusion")
))  # fmt: skip
COLUMNS = (
    *("pair", "method", "seed", "role", "status", "dev mIoU", "best dev mIoU", "val mIoU", "s/step", "minutes"),
    *("code", "run"),
)
"""Columns of the table of runs."""


def page_data(rows: Sequence[Row], table: Table, experiment_file: str, total: int | None = None) -> str:
    """JSON for a script element, escaped so that it cannot end the element.

    Args:
        rows: rows of the runs on the page, as dicts.
        table: their comparison.
        experiment_file: experiment file for the command that repeats a run.
        total: number of rows of the experiment, if `rows` are not all.

    Returns:
        An object of `missing` (number of rows not on the page), `columns`, `rows` (the values of `COLUMNS` for each
        run), `facts` (by name: the distinct `values`, and `at`, the index of each run's value, -1 for none), `iou` (of
        each run's classes), and `blocks` (pair, dataset, labels of the references, and for every line its label, texts
        and runs by seed).
    """
    names = {run: line.label for block in table.blocks for line in block.methods for run in line.run_ids.values()}
    places = {str(row["run_id"]): i for i, row in enumerate(rows)}
    texts: dict[int, str] = {}  # by identity: rows share equal values
    data = {
        "missing": 0 if total is None else total - len(rows),
        "columns": COLUMNS,
        "rows": [_row(row, names) for row in rows],
        "facts": _facts([_fact(row, experiment_file, texts) for row in rows]),
        "iou": [_class_iou(row) for row in rows],
        "blocks": [
            {
                "pair": block.pair,
                "dataset": block.dataset,
                "references": [block.references.get(name) for name in REFERENCES],
                "teacher": places.get(block.teacher.run_id or ""),
                "lines": [
                    {
                        "label": line.label,
                        "cells": cells(line)[1:],
                        "runs": {str(seed): places[run] for seed, run in line.run_ids.items() if run in places},
                    }
                    for line in block.methods
                ],
            }
            for block in table.blocks
        ],
    }
    return script_json(data)


def _row(row: Row, names: Mapping[str, str]) -> list[Any]:
    def percent(name: str) -> float | None:
        known = row["status"] == "ok" and row[name] is not None and math.isfinite(row[name])
        return round(100 * row[name], 2) if known else None

    what = "teacher" if row["role"] == "teacher" else names.get(row["run_id"], row["method"])
    step = None if row["step_ms"] is None else float(f"{row['step_ms'] / 1000:.3g}")
    minutes = None if row["wall_seconds"] is None else round(row["wall_seconds"] / 60, 1)
    scores = [percent(name) for name in ("dev_miou", "best_dev_miou", "val_miou")]
    head = [row["pair"], what, row["seed"], row["role"], row["status"]]
    return [*head, *scores, step, minutes, row["code_version"], row["run_id"]]


def _fact(row: Row, experiment_file: str, texts: dict[int, str]) -> dict[str, str]:
    facts = {}
    for name, value in row.items():
        if name not in _LONG and value is not None and value != "":
            facts[name] = texts.get(id(value)) or texts.setdefault(id(value), without_folders(_plain(value)))
    if row["losses"]:
        last = row["losses"][-1]
        facts |= {f"loss at step {last['step']}: {name}": f"{value:.5g}" for name, value in last["terms"].items()}
    again = ["sstkd-bench", "run", experiment_file]
    for override in row["overrides"]:
        again += ["--set", override]
    facts["repeat"] = without_folders(shell(*again))
    return facts | {
        f"spec.{key}": _indented(json.dumps(value)) for key, value in sorted(json.loads(row["spec"]).items())
    }


@functools.lru_cache(100_000)
def _indented(text: str) -> str:
    return without_folders(json.dumps(json.loads(text), indent=1))


def _facts(runs: Sequence[Mapping[str, str]]) -> dict[str, dict[str, list[Any]]]:
    out: dict[str, dict[str, list[Any]]] = {}
    for name in dict.fromkeys(name for facts in runs for name in facts):
        values: dict[str, int] = {}
        at = [values.setdefault(facts[name], len(values)) if name in facts else -1 for facts in runs]
        out[name] = {"values": list(values), "at": at}
    return out


def _class_iou(row: Row) -> list[float | None] | None:
    """IoU of each class in percent."""
    if row["dev_confusion"] is None:
        return None
    return [None if np.isnan(v) else round(100 * float(v), 1) for v in iou_of(row)]


def iou_of(row: Row) -> NDArray[np.float64]:
    """IoU of every class on dev, (K,), of an evaluated row."""
    iou: NDArray[np.float64] = class_iou(np.reshape(row["dev_confusion"], (row["num_classes"], -1)))
    return iou


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
