"""The pictures of the docs that committed rows make: `python -m tests.support.gallery [NAME ...]` draws them anew."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from harness.analysis import exports
from harness.analysis.across import across
from harness.analysis.compact import compact_rows
from harness.analysis.tables import Table
from harness.experiment import rules
from harness.experiment.load import load
from harness.experiment.spec import Experiment
from harness.report.across import pictures
from harness.report.plots.classes import class_figure, gains
from harness.report.plots.cost import cost_figure, points
from harness.report.plots.curves import curve_figure, panel
from harness.report.plots.forest import forest, forest_figure
from harness.report.plots.gradients import Ratios, gradient_figure
from harness.report.plots.search import best_so_far_figure, trials_figure
from harness.report.plots.sensitivity import of_block, sensitivity_figure
from harness.report.plots.style import FULL, figure_png
from harness.report.write import table_of
from harness.results import store
from harness.search.outcome import Outcome, outcomes

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "docs" / "assets"
EXAMPLES = ROOT / "results" / "examples"
_FILES = {"sensitivity-texmosaic": "sensitivity"}  # of folders that are named otherwise
MADE_BY = "3.11"
"""Of matplotlib: other versions place letters a little differently."""


def file_of(name: str) -> str:
    """The experiment file, without its ending, that was run into a folder of the examples."""
    return _FILES.get(name, name.replace("-", "_"))


def experiment_of(name: str) -> Experiment:
    """That experiment; its data need not be here."""
    return load(ROOT / "experiments" / f"{file_of(name)}.yaml", here=False)


@cache
def compared(name: str) -> tuple[Table, dict[str, dict[str, Any]]]:
    """The table of a folder of the examples, and its rows by run_id."""
    experiment, folder = experiment_of(name), EXAMPLES / name
    table, _ = table_of(folder, rules.labels(experiment), experiment.seeds)
    rows = compact_rows(folder, [name for name in store.SCHEMA.names if name != "samples"])
    return table, {row["run_id"]: row for row in rows}


@cache
def searched(name: str) -> tuple[Outcome, ...]:
    """The search in a folder of the examples."""
    return tuple(outcomes(experiment_of(name), EXAMPLES / name))


def curves(name: str, width: float = FULL) -> Figure:
    table, rows = compared(name)
    found = {run_id: row["curve"] for run_id, row in rows.items()}
    return curve_figure([panel(block, found) for block in table.blocks], width)


def differences(name: str, width: float = FULL) -> Figure:
    found = [one for block in compared(name)[0].blocks if (one := forest(block)) is not None]
    return forest_figure(found, width, stacked=width < FULL)


def classes(name: str, width: float = FULL) -> Figure:
    table, rows = compared(name)
    return class_figure([one for block in table.blocks if (one := gains(block, rows)) is not None], width)


def cost(name: str, width: float = FULL) -> Figure:
    table, rows = compared(name)
    return cost_figure([(block.where, points(block, rows)) for block in table.blocks], width)


def sensitivity(name: str, width: float = FULL) -> Figure:
    table, rows = compared(name)
    return sensitivity_figure([(block, of_block(block, rows)) for block in table.blocks], width)


def best_so_far(name: str, width: float = FULL) -> Figure:
    return best_so_far_figure(searched(name), width)


def trials(name: str, width: float = FULL) -> Figure:
    return trials_figure(searched(name), width)


def gradients(_: str, width: float = FULL) -> Figure:
    """Of numbers that are made up: no committed row has logged gradients."""
    steps = np.arange(1, 1000, 50)
    start = {"kd": {"kd": 0.8}, "sstkd": {"response": 0.8, "structural": 0.06, "statistical": 0.3}}
    found: dict[str, Ratios] = {
        label: {
            term: (steps, first * np.exp(-steps / 600) * (1 + 0.15 * np.sin(steps / 90 + 5 * first)))
            for term, first in terms.items()
        }
        for label, terms in start.items()
    }
    return gradient_figure([found], width)


DRAWN: dict[str, tuple[Callable[[str, float], Figure], str]] = {
    "quickstart-curves": (curves, "quickstart"),
    "believe-curves": (curves, "believe"),
    "pretrained-curves": (curves, "pretrained"),
    "gallery-forest": (differences, "compare-distillers"),
    "gallery-classes": (classes, "compare-distillers"),
    "gallery-cost": (cost, "quickstart"),
    "gallery-gradients": (gradients, ""),
    "gallery-trials": (trials, "quickstart-tuned"),
    "search-best-so-far": (best_so_far, "quickstart-tuned"),
    "sensitivity": (sensitivity, "sensitivity"),
    "sensitivity-texmosaic": (sensitivity, "sensitivity-texmosaic"),
}
"""By name of a picture the function that draws it, and the folder of the rows."""
ACROSS = {
    "compare-gains": ("gains", ("quickstart", "believe")),
    "compare-ranks": ("ranks", ("quickstart", "believe")),
    "compare-profile": ("profile", ("quickstart", "believe")),
    "compare-cost-texmosaic": ("cost-texmosaic", ("quickstart", "believe")),
    "export-int8": ("exports-camvid-onnx-int8-by-64-images-of-train", ("pretrained",)),
}
"""The same of those of `sstkd-bench compare`: what that calls it, and the folders."""


@cache
def across_pictures(names: tuple[str, ...]) -> dict[str, str | bytes]:
    """The files of `sstkd-bench compare`."""
    rows: dict[str, dict[str, Any]] = {}
    exported: list[exports.ExportTable] = []
    for name in names:
        table, mine = compared(name)
        rows |= mine
        exported += exports.read(EXAMPLES / name, table).tables
    return pictures(across([compared(name)[0] for name in names]), rows, exported)


def png(name: str) -> bytes:
    """A picture, drawn now."""
    if name in ACROSS:
        of, folders = ACROSS[name]
        content = across_pictures(folders)[f"{of}.png"]
        assert isinstance(content, bytes)
        return content
    draw, folder = DRAWN[name]
    return figure_png(draw(folder, FULL))


def main(names: list[str]) -> None:
    """Write the pictures with these names, or all."""
    for name in names or (*DRAWN, *ACROSS):
        (ASSETS / f"{name}.png").write_bytes(png(name))
        sys.stdout.write(f"{ASSETS / name}.png\n")


if __name__ == "__main__":
    main(sys.argv[1:])
