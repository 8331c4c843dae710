"""The second table of docs/camvid.md, from rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness import metrics
from harness.results import paths, store

SHOWN = ("road", "building", "pavement", "car", "pedestrian", "pole")


def score_lines(directory: Path) -> list[str]:
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for run_id in store.finished(directory):
        row = store.read_row(paths.run_path(directory, run_id))
        name = "teacher" if row["role"] == "teacher" else row["method"]
        rows.setdefault(name, []).append(metrics.of_row(row))
    head = ["network", "mIoU", "pixel accuracy", "boundary mIoU", *SHOWN]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for name in ("teacher", "none", "kd", "cwd", "sstkd"):
        values = [
            [row["val"]["miou"], row["val"]["pixel_accuracy"], row["val_boundary"]["miou"]]
            + [row["val"]["class_iou"][label] for label in SHOWN]
            for row in rows[name]
        ]
        lines.append(f"| {name} | " + " | ".join(f"{100 * v:.1f}" for v in np.mean(values, axis=0)) + " |")
    return lines
