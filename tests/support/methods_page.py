"""The table of docs/distillers.md on every method: what it gains, and whether the student comes nearer to its teacher.

`python -m tests.support.methods_page FILE FOLDER` prints it, FOLDER being the experiment's in the results folder. With
`--measure` the trained networks in FOLDER are first compared with their teacher, into `FOLDER/nearness.csv`.
"""

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from harness.analysis.columns import MEASURES
from harness.analysis.comparison import COLUMNS, quick_table
from harness.analysis.lines import MethodRow
from harness.experiment import rules
from harness.experiment.load import load
from harness.experiment.spec import Experiment
from harness.results import store
from tests.support.nearness import ends, of_runs

NAME = "nearness.csv"
SHOWN = ("mIoU (val)", "vs none", "vs kd", "s/step")
NEAR = ("agreement", "encoder", "decoder")
UNSEEN = ("adversarial", "critic")
"""Terms whose value does not tell how near the student is."""


def measure(directory: Path) -> None:
    """Writes `nearness.csv`: of every student its run_id and how near it is to the teacher of the others."""
    rows = store.read_rows(directory, ["run_id", "role", "method", "status"], status="ok").to_pylist()
    students = [row for row in rows if row["role"] == "student"]
    ids = [row["run_id"] for row in sorted(students, key=lambda row: (row["method"] == "none", row["run_id"]))]
    with (directory / NAME).open("w", newline="") as file:
        written = csv.writer(file, lineterminator="\n")
        written.writerow(["run_id", *NEAR])
        for row, near in of_runs(directory, ids):
            written.writerow([row["run_id"], *(f"{near[name]:.4f}" for name in NEAR)])


def table_lines(directory: Path, experiment: Experiment) -> list[str]:
    """The table: mIoU and differences as everywhere; the means over the seeds of the nearness and of the terms' course."""
    with (directory / NAME).open(newline="") as file:
        near = {row["run_id"]: {name: float(row[name]) for name in NEAR} for row in csv.DictReader(file)}
    rows = store.read_rows(directory, list(COLUMNS))
    (block,) = quick_table(rows, rules.labels(experiment), experiment.seeds).blocks
    head = ["method", *SHOWN, *NEAR, "loss terms, first to last"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 2) + "---|"]
    for line in block.methods:
        ids = list(line.run_ids.values())
        if ids:
            found = [store.read_run(directory, run_id) for run_id in ids]
            lines.append(_row(line, found, [near[run_id] for run_id in ids]))
    return lines


def _row(line: MethodRow, rows: list[Mapping[str, Any]], near: list[Mapping[str, float]]) -> str:
    cells = [str(each.cell(line)) for each in MEASURES if each.column.name in ("method", *SHOWN)]
    cells += [f"{mean(one[name] for one in near):.2f}" for name in NEAR]
    courses = [ends(row) for row in rows]
    terms = [name for name in courses[0] if name.split(".")[-1] not in UNSEEN]
    shown = [
        f"{name} {mean(c[name][0] for c in courses):.2g} to {mean(c[name][1] for c in courses):.2g}" for name in terms
    ]
    return f"| {' | '.join([*cells, '; '.join(shown) or '–'])} |"


if __name__ == "__main__":
    *flags, file, folder = sys.argv[1:]
    if "--measure" in flags:
        measure(Path(folder))
    print("\n".join(table_lines(Path(folder), load(file))))
