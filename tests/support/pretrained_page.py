"""The second table of docs/pretrained.md, from rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness import metrics
from harness.results import paths, store

LINES = ("teacher", "none", "none at equal seconds", "kd", "cwd", "sstkd")
SHOWN = ("road", "building", "pavement", "car", "pedestrian", "pole")


def score_lines(directory: Path) -> list[str]:
    """mIoU, pixel accuracy and the IoU of some classes on val, means over seeds."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for run_id in store.finished(directory):
        row = store.read_row(paths.run_path(directory, run_id))
        name = "teacher" if row["role"] == "teacher" else row["method"]
        name = f"{name} at {row['control']}" if row["control"] else name
        rows.setdefault(name, []).append(metrics.of_row(row))
    lines = [f"| {' | '.join(['network', 'mIoU', 'pixel accuracy', *SHOWN])} |", "|---|" + "---:|" * (len(SHOWN) + 2)]
    for name in LINES:
        values = [
            [row["val"]["miou"], row["val"]["pixel_accuracy"]] + [row["val"]["class_iou"][label] for label in SHOWN]
            for row in rows[name]
        ]
        lines.append(f"| {name} | " + " | ".join(f"{100 * v:.1f}" for v in np.mean(values, axis=0)) + " |")
    return lines
