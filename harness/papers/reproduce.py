"""Reproduces a paper's table: an experiment for each of its datasets, and the state of each cell."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.analysis.labels import REFERENCES
from harness.experiment import yaml_reader
from harness.papers.cells import NOT_RUN, Cell
from harness.papers.lines import Ours, PaperTable, ours_of, parts_of
from harness.papers.protocols import (
    ATTNFD,
    CIRKD,
    CIRKDV2,
    CIRKDV2_SEGFORMER,
    CONTEXT,
    CWD_AUTHOR,
    MGD,
    MMSEG,
    NETWORKS,
    SKD,
)
from harness.papers.published import CONFIRMED
from harness.papers.tables import PAPERS

BASES = {
    (SKD, "cityscapes"): "cityscapes.yaml",
    (SKD, "voc2012"): "voc2012.yaml",
    (SKD, "ade20k"): "ade20k.yaml",
    (CIRKD, "cityscapes"): "cityscapes_cirkd.yaml",
    (CIRKD, "voc2012"): "voc2012_cirkd.yaml",
    (CIRKD, "ade20k"): "ade20k_cirkd.yaml",
}
"""The file in `experiments/` with a protocol's data and recipe, by protocol and dataset."""
SHORT = {
    SKD: "skd",
    CIRKD: "cirkd",
    MMSEG: "mmseg",
    CONTEXT: "mmseg",
    MGD: "mgd",
    CWD_AUTHOR: "cwd-author",
    CIRKDV2: "cirkdv2",
    CIRKDV2_SEGFORMER: "cirkdv2-segformer",
    ATTNFD: "attnfd",
}
"""Short names of protocols, for the names of experiments."""
WEIGHTS = {"tu-resnet101": "resnet101-imagenet.pth", "tu-resnet18": "resnet18-imagenet.pth"}
"""Files below ${WEIGHTS} with encoders trained on ImageNet; a network of half width has none."""


@dataclass(frozen=True)
class Part:
    """The experiment for one dataset of a table.

    Attributes:
        name: name of its file.
        dataset: dataset of its columns.
        results: name of the experiment and its results folder; the tables of one protocol share their runs.
        data: the experiment file's content; None if the protocol's recipe is unknown.
    """

    name: str
    dataset: str
    results: str
    data: Mapping[str, Any] | None


def find_table(table: str) -> PaperTable:
    """The table of this id.

    Raises:
        ValueError: there is none, or it has nothing to train.
    """
    by_id = {each.id: each for tables in PAPERS.values() for each in tables}
    if table not in by_id:
        raise ValueError(f"unknown table {table!r}. Allowed: {', '.join(by_id)}")
    if not by_id[table].columns:
        raise ValueError(f"{table}: nothing is trained for it. Compute it: sstkd-bench tables FILE --paper PAPER")
    return by_id[table]


def parts(table: PaperTable, experiments: Path) -> list[Part]:
    """The experiments of a table, dataset by dataset.

    Args:
        table: a table with columns.
        experiments: the folder with the files of `BASES`.

    Raises:
        ValueError: a file is not YAML.
        FileNotFoundError: a file is missing.
    """
    return [_part(table, dataset, experiments) for dataset in dict.fromkeys(c.dataset for c in table.columns)]


def results_name(table: PaperTable, dataset: str) -> str:
    """Name of the experiment for a table's columns of this dataset."""
    return f"{SHORT[table.protocol]}-{dataset}"


def _part(table: PaperTable, dataset: str, experiments: Path) -> Part:
    name, results = f"{table.id}-{dataset}", results_name(table, dataset)
    students = dict.fromkeys(c.student for c in table.columns if c.dataset == dataset and c.student in NETWORKS)
    base = BASES.get((table.protocol, dataset))
    if base is None or table.teacher not in NETWORKS or not students:
        return Part(name, dataset, results, None)
    document, _ = yaml_reader.read(experiments / base)
    data = document["metadata"]["experiment"] if "metadata" in document else document
    resources = {key: value for key, value in data["resources"].items() if key != "address"}
    pairs = [
        {"name": f"{_slug(table.teacher)}-to-{_slug(s)}", "teacher": _network(table.teacher), "student": _network(s)}
        for s in students
    ]
    methods = [_written(ours) for ours in _methods(table, dataset)]
    # Whether a published figure repeats is another question than where a gain comes from.
    own = {"name": results, "pairs": pairs, "methods": methods, "controls": False, "resources": resources}
    return Part(name, dataset, results, {**data, **own})


def _methods(table: PaperTable, dataset: str) -> list[Ours]:
    """Each of our methods for the columns of a dataset once, baselines first."""
    found: dict[str, Ours] = {f"{name}{{}}": (name, {}) for name in REFERENCES}
    for line in table.lines:
        for column in table.columns:
            ours = ours_of(line, column) if column.dataset == dataset else None
            if ours is not None:
                found.setdefault(ours[0] + json.dumps(dict(ours[1]), sort_keys=True), ours)
    return list(found.values())


def _written(ours: Ours) -> Any:
    """As an experiment file writes it: `name`, `{name: {parameter: value}}`, or a list of these for a sum."""
    written = [{name: dict(parameters)} if parameters else name for name, parameters in parts_of(ours)]
    return written if len(written) > 1 else written[0]


def _slug(name: str) -> str:
    return name.lower().replace("(0.5)", "-half").replace("+", "plus")


def _network(name: str) -> dict[str, Any]:
    architecture, encoder, parameters = NETWORKS[name]
    network: dict[str, Any] = {"architecture": architecture, "encoder": encoder}
    if parameters:
        return network | {"parameters": dict(parameters)}
    return network | {"encoder_weights": {"path": f"${{WEIGHTS}}/{WEIGHTS[encoder]}"}}


MARGIN = 0.5
"""Percentage points by which a reproduction may differ from the published figure."""


def state(cell: Cell, seeds: int, margin: float = MARGIN) -> str:
    """The state of a cell, by a test of equivalence (D. J. Schuirmann, two one-sided tests, 1987).

    Args:
        cell: as measured so far.
        seeds: planned number of runs; a teacher has one.
        margin: percentage points, > 0, that count as equal.

    Returns:
        `not run`, `running (n of N)`; `reproduced`: the 90 % interval of the measured mean lies within the margin of
        the published figure, so each one-sided test has level 0.05; `not reproduced`: the 95 % interval lies outside of
        it; `undecided`: neither, so more seeds are needed; `measured` if there is no interval or no figure that
        somebody printed, or the reason why it cannot be run.

    Raises:
        ValueError: a margin that is not positive.
    """
    if not margin > 0:
        raise ValueError(f"margin={margin}: a number of percentage points above 0, e.g. {MARGIN}")
    if cell.measured is None:
        return cell.why_not or NOT_RUN
    m, wanted = cell.measured, 1 if cell.line == "teacher" else seeds
    if m.n < wanted:
        return f"running ({m.n} of {wanted})"
    inner, outer = m.interval(0.9), m.interval(0.95)
    if cell.figure is None or cell.figure.sure not in CONFIRMED:
        return "measured"
    if inner.low is None or inner.high is None or outer.low is None or outer.high is None:
        return "measured"
    low, high = cell.figure.value - margin, cell.figure.value + margin
    if low < inner.low and inner.high < high:
        return "reproduced"
    return "not reproduced" if outer.high < low or high < outer.low else "undecided"
