"""The data of the results page as compact JSON: each different value is stored once."""

import functools
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.labels import REFERENCES
from harness.analysis.tables import Block
from harness.analysis.teachers import key_text
from harness.borders import script_json, shell, without_folders
from harness.metrics import hits_and_unions
from harness.report.page.tables import cells

Row = Mapping[str, Any]

_LONG = ("spec", "curve", "losses", "gradients", "samples", "palette", "class_names", *(
    f"{split}_{kind}" for split in ("dev", "val") for kind in ("confusion", "boundary_confusion")
))  # fmt: skip
_COUNTS_AT_ONCE = 2**20  # of confusion matrices that `ious` has in memory together
COLUMNS = (
    *("pair", "method", "seed", "role", "status", "dev mIoU", "best dev mIoU", "val mIoU", "s/step", "minutes"),
    *("code", "run"),
)
"""Columns of the table of runs."""


def page_data(
    rows: Sequence[Row],
    blocks: Sequence[tuple[str, Block]],
    iou: Sequence[NDArray[np.float64] | None],
    file_of: Callable[[Row], str],
    total: int | None = None,
    several: bool = False,
) -> str:
    """JSON for a script element, escaped so that it cannot end the element.

    Args:
        rows: rows of the runs on the page, as dicts.
        blocks: their comparisons, each with the name of its pair on its dataset.
        iou: of each row, by class.
        file_of: the experiment file of a row, for the command that repeats it.
        total: number of rows of the experiment, if `rows` are not all.
        several: whether the rows are of several experiments, each with a folder of its own.

    Returns:
        An object of `missing` (number of rows not on the page), `several`, `columns`, `rows` (the values of `COLUMNS`
        for each run), `facts` (by name: the distinct `values`, and `at`, which of them is each run's: `_coded`), `iou`
        (of each run's classes), and `blocks` (where, labels of the references, and for every line its label,
        texts and runs by seed, or "teacher T, seed S").
    """
    names = {
        run: f"{line.label}, teacher {key[0]}" if isinstance(key, tuple) else line.label
        for _, block in blocks
        for line in block.methods
        for key, run in line.run_ids.items()
    }
    places = {str(row["run_id"]): i for i, row in enumerate(rows)}
    data = {
        "missing": 0 if total is None else total - len(rows),
        "several": several,
        "columns": COLUMNS,
        "rows": [_row(row, names) for row in rows],
        "facts": _facts(rows, file_of),
        "iou": [None if k is None else [None if v != v else round(100 * v, 1) for v in k.tolist()] for k in iou],
        "blocks": [
            {
                "where": where,
                "references": [block.references.get(name) for name in REFERENCES],
                "teacher": places.get(block.teacher.run_id or ""),
                "lines": [
                    {
                        "label": line.label,
                        "cells": cells(line),
                        "runs": {key_text(key): places[run] for key, run in line.run_ids.items() if run in places},
                    }
                    for line in block.methods
                ],
            }
            for where, block in blocks
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


def _facts(rows: Sequence[Row], file_of: Callable[[Row], str]) -> dict[str, dict[str, list[Any]]]:
    """By name the different texts, and which of them is each run's; names in the order of the runs that have them."""
    names = [name for name in (rows[0] if rows else ()) if name not in _LONG]
    columns = {name: _column([row[name] for row in rows], _fact) for name in names}
    losses, spec = (defaultdict[str, list[str | None]](lambda: [None] * len(rows)) for _ in range(2))
    for i, row in enumerate(rows):
        for last in row["losses"][-1:] if row["losses"] else ():
            for term, value in last["terms"].items():
                losses[f"loss at step {last['step']}: {term}"][i] = f"{value:.5g}"
        for key, value in json.loads(row["spec"]).items():
            spec[f"spec.{key}"][i] = _indented(json.dumps(value))
    columns |= {name: _column(texts, _itself) for name, texts in losses.items()}
    asked: dict[tuple[str, int], tuple[str, Sequence[str]]] = {}
    for row in rows:
        asked.setdefault((file_of(row), id(row["overrides"])), (file_of(row), row["overrides"]))
    columns["repeat"] = _column(
        [asked[file_of(row), id(row["overrides"])] for row in rows], lambda given: _command(*given)
    )
    columns |= {name: _column(texts, _itself) for name, texts in sorted(spec.items())}

    def first(name: str) -> int:
        return next(i for i, place in enumerate(columns[name]["at"]) if place >= 0)

    known = sorted((name for name, column in columns.items() if column["values"]), key=first)
    return {name: {**columns[name], "at": _coded(columns[name]["at"])} for name in known}


def _column(values: Sequence[Any], text: Callable[[Any], str | None]) -> dict[str, list[Any]]:
    """The different texts of values, and which of them is each value's, -1 for none.

    An object is looked at once: rows share equal values.
    """
    texts: dict[str, int] = {}
    places = {}
    for key, value in dict(zip(map(id, values), values, strict=True)).items():
        found = text(value)
        places[key] = -1 if found is None else texts.setdefault(found, len(texts))
    return {"values": list(texts), "at": [places[key] for key in map(id, values)]}


def _coded(places: Sequence[int]) -> list[int]:
    """Places plus one, so that 0 is none; -n says that what stands before it comes n times more. Runs are in the order
    of the tables, so that most of their facts repeat."""
    out: list[int] = []
    for place, run in itertools.groupby(places):
        more = sum(1 for _ in run) - 1
        out += [place + 1, -more] if more else [place + 1]
    return out


def _itself(text: str | None) -> str | None:
    return text


def _fact(value: Any) -> str | None:
    return None if value is None or value == "" else without_folders(_plain(value))


def _command(experiment_file: str, overrides: Sequence[str]) -> str:
    again = ["sstkd-bench", "run", experiment_file]
    for override in overrides:
        again += ["--set", override]
    return without_folders(shell(*again))


@functools.lru_cache(100_000)
def _indented(text: str) -> str:
    return without_folders(json.dumps(json.loads(text), indent=1))


def ious(rows: Sequence[Row]) -> list[NDArray[np.float64] | None]:
    """IoU of every class on val, (K,), of each row; None of a row that was not evaluated."""
    out: list[NDArray[np.float64] | None] = [None] * len(rows)
    sizes: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        if row["val_confusion"] is not None:
            sizes.setdefault(row["num_classes"], []).append(i)
    for classes, places in sizes.items():
        few = max(1, _COUNTS_AT_ONCE // classes**2)
        for start in range(0, len(places), few):
            part = places[start : start + few]
            counts = np.stack([rows[i]["val_confusion"] for i in part]).reshape(-1, classes, classes)
            hits, unions = np.moveaxis(hits_and_unions(counts), 1, 0)
            found = np.divide(hits, unions, out=np.full(hits.shape, np.nan), where=unions > 0)
            for i, values in zip(part, found, strict=True):
                out[i] = values
    return out


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value)
