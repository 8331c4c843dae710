"""The page of a comparison over two datasets, from rows that are made up."""

from pathlib import Path
from typing import Any

from harness.analysis import exports
from harness.analysis.across import Across, across
from harness.analysis.compact import compact_rows
from harness.analysis.comparison import COLUMNS, quick_table
from harness.report.page.across import render
from harness.results import store
from harness.results.exports import write_export
from tests.support.rows import make_experiment, make_export

METHODS = ("none", "kd", "cwd", "sstkd")
LEVEL = {"none": 0.50, "kd": 0.51, "cwd": 0.53, "sstkd": 0.49}
READ = [name for name in store.SCHEMA.names if name not in ("samples", "curve", "gradients")]


def write_rows(folder: Path, pairs: int = 1, exported: bool = False, **changed: Any) -> None:
    """Five seeds of two datasets, each an experiment with pairs; on the second one cwd ran for two seeds only."""
    for dataset, shift in (("x", 0.0), ("y", 0.1)):
        for pair in range(pairs):
            for at, row in enumerate(make_experiment(METHODS, 5)):
                value = LEVEL[row["method"]] + shift + 0.01 * row["seed"] + 0.001 * ((7 * at) % 3)
                row |= {"experiment": dataset, "dataset": dataset, "pair": f"p{pair}", "val_miou": value}
                row |= {"run_id": f"{dataset}{pair}-{row['run_id']}", "samples": None, "dev_miou": value, **changed}
                if row["teacher_run_id"]:
                    row["teacher_run_id"] = f"{dataset}{pair}-{row['teacher_run_id']}"
                row |= {"weights_sha256": f"{at:064x}"} if row["role"] == "student" else {}
                if dataset == "y" and row["method"] == "cwd" and row["seed"] > 1:
                    continue
                store.write_run(folder / dataset, row)
                if exported and row["role"] == "student":
                    write_export(folder / dataset, make_export(row))


def read(folder: Path) -> tuple[Across, dict[str, dict[str, Any]], list[Any]]:
    """The comparison, its rows, and the tables of exports."""
    found, rows, exported = [], dict[str, dict[str, Any]](), list[Any]()
    for name in ("x", "y"):
        found.append(quick_table(store.read_rows(folder / name, COLUMNS), METHODS, range(5)))
        rows |= {row["run_id"]: row for row in compact_rows(folder / name, READ)}
        exported += exports.read(folder / name, found[-1]).tables
    return across(found), rows, exported


def page_of(folder: Path, reports: dict[str, str] | None = None) -> Path:
    """The page, written."""
    found, rows, exported = read(folder)
    path = folder / "compare.html"
    files = {name: f"experiments/{name}.yaml" for name in ("x", "y")}
    path.write_text(render(found, rows, exported, files, reports or {}), "utf-8")
    return path
