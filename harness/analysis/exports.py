"""Exported files beside the networks as they were trained: whose gain is left in the file, at what size and latency.

The comparison is that of the ordinary table, of the same lines and with the same statistics, made twice from the rows
of exports: of mIoU of the networks, and of mIoU of the files. Only exports of the weights that a run has now count,
judged on the whole of val, and within a table on one device, since int8 rounds differently on others.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.analysis.families import compared
from harness.analysis.labels import Label
from harness.analysis.lines import Comparison, MethodRow
from harness.analysis.stats import Score, score
from harness.analysis.tables import Block, Table
from harness.analysis.teachers import Crossing, mapping
from harness.results import store
from harness.results.exports import read_exports

Row = Mapping[str, Any]

_OTHER_RUNS = "of runs that are in no line here"
_OTHER_WEIGHTS = "of other weights than the run has now"
_PART = "judged on a part of val"
_AGAIN = "of what was exported again later"


@dataclass(frozen=True)
class Form:
    """What was exported: a table of its own.

    Attributes:
        target: e.g. "onnx".
        size_hw: height and width of a graph's images; None: any.
        batch: images at a time; None: any number.
        preprocessing: whether the graph takes RGB bytes and gives labels.
        calibration: train images by which it was quantised to int8; None: it is not.
        every_layer: whether its first and last layers were too.
    """

    target: str
    size_hw: tuple[int, int] | None = None
    batch: int | None = None
    preprocessing: bool = False
    calibration: int | None = None
    every_layer: bool = False

    @classmethod
    def of(cls, row: Row) -> "Form":
        """Of an export's row."""
        size = None if row["size_hw"] is None else (row["size_hw"][0], row["size_hw"][1])
        return cls(row["target"], size, row["batch"], row["preprocessing"], row["calibration"], row["every_layer"])

    @property
    def order(self) -> tuple[Any, ...]:
        """By which tables are sorted: targets, what is not quantised first."""
        return (
            self.target,
            self.calibration or 0,
            self.every_layer,
            self.size_hw or (0, 0),
            self.batch or 0,
            self.preprocessing,
        )

    @property
    def kind(self) -> str:
        """One word for the heads of columns: "int8", or the target."""
        return self.target if self.calibration is None else "int8"

    @property
    def text(self) -> str:
        """E.g. "onnx, int8 by 64 images of train, 512x1024, batch 1, with preprocessing"."""
        parts = (
            self.target,
            "" if self.calibration is None else f"int8 by {self.calibration} images of train",
            "every layer" if self.every_layer else "",
            "" if self.size_hw is None else f"{self.size_hw[0]}x{self.size_hw[1]}",
            "" if self.batch is None else f"batch {self.batch}",
            "with preprocessing" if self.preprocessing else "",
        )
        return ", ".join(filter(None, parts))


@dataclass(frozen=True)
class Timing:
    """Where and on what a latency was measured."""

    device: str
    threads: int
    hw: tuple[int, int]

    @classmethod
    def of(cls, row: Row) -> "Timing":
        """Of an export's row."""
        return cls(row["device"], row["threads"], (row["latency_hw"][0], row["latency_hw"][1]))

    @property
    def text(self) -> str:
        """E.g. "latency on NAME, 1 thread, 512x1024"."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return f"latency on {self.device}, {threads}, {self.hw[0]}x{self.hw[1]}"


@dataclass(frozen=True)
class ExportLine:
    """A method in one form.

    Attributes:
        method: its line in the ordinary table.
        place: the number of that line.
        trained, exported: mIoU on val in percent, of the networks and of their files, over the same runs; None where
            there is only a latency.
        gain_trained, gain_exported: compared with the student without distillation, in percentage points; None for
            that itself and where no seed pairs.
        size_bytes: median over runs.
        latency_ms: by timing, median over runs of the median of one call.
    """

    method: MethodRow
    place: int
    trained: Score | None
    exported: Score | None
    gain_trained: Comparison | None
    gain_exported: Comparison | None
    size_bytes: float
    latency_ms: Mapping[Timing, float]


@dataclass(frozen=True)
class ExportTable:
    """All methods of a block in one form.

    Attributes:
        block: the ordinary table's.
        form: what was exported.
        images: of val, all of which the files were judged on.
        device: on which they were judged.
        lines: of the methods that have exports.
        notes: what must be known of these exports.
    """

    block: Block
    form: Form
    images: int
    device: str
    lines: tuple[ExportLine, ...]
    notes: tuple[str, ...] = ()

    @property
    def timings(self) -> tuple[Timing, ...]:
        """All of its lines."""
        found = {timing for line in self.lines for timing in line.latency_ms}
        return tuple(sorted(found, key=lambda x: (x.device, x.threads, x.hw)))


@dataclass(frozen=True)
class Exports:
    """The tables of a comparison's exports, by block and form.

    Attributes:
        tables: may be empty; the notes of the last one say what was left out.
        left_out: how many rows are in none of them and why; empty where there are none.
    """

    tables: tuple[ExportTable, ...] = ()
    left_out: str = ""

    def of(self, block: Block) -> tuple[ExportTable, ...]:
        """The tables of a block."""
        return tuple(table for table in self.tables if table.block is block)


def read(directory: str | Path, table: Table) -> Exports:
    """The exports of the runs of a comparison.

    Args:
        directory: the experiment's results folder, with `exports/`.
        table: the comparison.

    Raises:
        ValueError: the row of an export or of a run is corrupt; names the file.
    """
    rows = read_exports(directory)
    if not rows:
        return Exports()
    compared_here = {run for block in table.blocks for line in block.methods for run in line.run_ids.values()}
    runs = sorted(compared_here & {row["run_id"] for row in rows})
    found = store.read_rows(directory, ["run_id", "weights_sha256"], run_ids=runs).to_pylist()
    return exported(table, {row["run_id"]: row["weights_sha256"] for row in found}, rows)


def exported(table: Table, weights: Mapping[str, str | None], rows: Sequence[Row]) -> Exports:
    """Compare exports.

    Args:
        table: the comparison of the runs.
        weights: SHA-256 of the weights of each of its runs that has exports, by run_id.
        rows: of exports, the one exported last last.
    """
    here = [row for row in rows if row["run_id"] in weights]
    current = [row for row in here if weights[row["run_id"]] == row["weights_sha256"]]
    left = Counter({_OTHER_RUNS: len(rows) - len(here), _OTHER_WEIGHTS: len(here) - len(current)})
    tables = []
    for block in table.blocks:
        runs = {run for line in block.methods for run in line.run_ids.values()}
        mine = [row for row in current if row["run_id"] in runs]
        whole = [row for row in mine if row["images"] == row["split_images"]]
        left[_PART] += len(mine) - len(whole)
        for form in sorted({Form.of(row) for row in whole}, key=lambda form: form.order):
            made, reasons = _table(block, form, [row for row in whole if Form.of(row) == form])
            tables.append(made)
            left += reasons
    said = _said(left)
    if tables and said:
        tables[-1] = replace(tables[-1], notes=(*tables[-1].notes, f"{said}."))
    return Exports(tuple(tables), said)


def _said(left: Counter[str]) -> str:
    count = sum(left.values())
    reasons = ", ".join(f"{n} {why}" for why, n in left.items() if n)
    return f"{count} export{'' if count == 1 else 's'} left out: {reasons}" if count else ""


def _table(block: Block, form: Form, rows: Sequence[Row]) -> tuple[ExportTable, Counter[str]]:
    """The table of rows of one form, and of how many rows neither mIoU nor latency is in it, by reason."""
    # A device that only timed a file has a row with the scores of the machine that exported it.
    own = [row for row in rows if row["device_agreement"] is None] or rows
    device = _judge(own)
    judged = {row["run_id"]: row for row in own if row["device"] == device}
    timed = {(row["run_id"], Timing.of(row)): row for row in rows}
    shown = {id(row) for row in (*judged.values(), *timed.values())}
    left = Counter({_AGAIN: sum(id(row) not in shown for row in rows)})
    trained, made = (
        {line.name: _values(line, judged, column) for line in block.methods} for column in ("student_miou", "miou")
    )
    gains = _gains(block, trained), _gains(block, made)
    lines = []
    for place, line in enumerate(block.methods):
        runs = set(line.run_ids.values())
        if not (mine := [row for row in timed.values() if row["run_id"] in runs]):
            continue
        by_timing: dict[Timing, list[float]] = {}
        for row in mine:
            by_timing.setdefault(Timing.of(row), []).append(row["latency_ms"])
        lines.append(
            ExportLine(
                method=line,
                place=place,
                trained=_score(line, trained[line.name]),
                exported=_score(line, made[line.name]),
                gain_trained=gains[0].get(line.name),
                gain_exported=gains[1].get(line.name),
                size_bytes=float(np.median([row["size_bytes"] for row in mine])),
                latency_ms={timing: float(np.median(values)) for timing, values in by_timing.items()},
            )
        )
    notes = tuple(_notes(block, lines, judged, rows, device))
    return ExportTable(block, form, rows[0]["split_images"], device, tuple(lines), notes), left


def _judge(rows: Sequence[Row]) -> str:
    """The device on which most runs were judged; of several the one of the last export."""
    count = Counter(device for device, _ in {(row["device"], row["run_id"]) for row in rows})
    last = {row["device"]: i for i, row in enumerate(rows)}
    found: str = max(count, key=lambda device: (count[device], last[device]))
    return found


def _values(line: MethodRow, judged: Mapping[str, Row], column: str) -> Mapping[Any, float]:
    """mIoU in percent by the keys of the line's runs, of those that have an export."""
    keys = [key for key, run in line.run_ids.items() if run in judged]
    return mapping(keys, np.array([100 * judged[line.run_ids[key]][column] for key in keys]))


def _score(line: MethodRow, values: Mapping[Any, float]) -> Score | None:
    if not values:
        return None
    found = score(list(values.values()))
    every = line.miou.of if line.miou is not None else ""
    return replace(found, of=every if found.n == len(line.run_ids) else f"{found.n} of {len(line.run_ids)}")


def _gains(block: Block, values: Mapping[Label, Mapping[Any, float]]) -> dict[Label, Comparison]:
    """Each line against the student without distillation, in the same family of comparisons as the ordinary table.

    Failed runs count as they do there: they have no file, and no gain over them is significant.
    """
    named = {line.reference: line.name for line in block.methods if line.reference}
    controls = {line.name: block.line(line.control) for line in block.methods if line.control}
    own = {name: control.name for name, control in controls.items() if control is not None}
    teachers = {str(place): int(x.seed or 0) for place, x in enumerate(block.teachers)} if block.others else {}
    found, _ = compared(values, {name: set() for name in values}, named, own, Crossing(teachers))
    out = {}
    for line in block.methods:
        if (c := found.get((line.name, "none"))) is not None:
            ordinary = line.vs_none
            out[line.name] = c if ordinary is None else replace(c, lost=ordinary.lost, won=ordinary.won)
    return out


def _notes(
    block: Block, lines: Sequence[ExportLine], judged: Mapping[str, Row], rows: Sequence[Row], device: str
) -> Iterable[str]:
    without = [x.label for x in block.methods if x.run_ids and all(line.method is not x for line in lines)]
    if without:
        yield f"Not exported: {', '.join(without)}."
    only = len({row["run_id"] for row in rows} - judged.keys())
    if only:
        runs = "1 run was" if only == 1 else f"{only} runs were"
        yield f"{runs} judged on other devices than {device}, and only their latency is shown."
    found: dict[str, set[str]] = {}
    for row in judged.values():
        for package, version in json.loads(row["versions"]).items():
            found.setdefault(package, set()).add(str(version))
    several = [f"{package} {', '.join(sorted(each))}" for package, each in sorted(found.items()) if len(each) > 1]
    if several:
        yield f"Written or run by several versions: {'; '.join(several)}."


@dataclass(frozen=True)
class ExportCost:
    """A method's exports on a task: mIoU of the files in percent, and what they cost.

    Attributes:
        label: the method.
        task: the pair on its dataset.
        miou: mean over seeds.
        size_mib: median over the task's methods, since a method does not affect the network that is exported.
        latency_ms: by timing, as `size_mib`.
    """

    label: str
    task: str
    miou: float
    size_mib: float
    latency_ms: Mapping[Timing, float]


def costs(table: ExportTable, task: str) -> list[ExportCost]:
    """One point for each method of a table whose files were judged.

    Args:
        table: the table.
        task: what its pair is called.
    """
    size = float(np.median([line.size_bytes for line in table.lines])) / 2**20
    latency = {
        timing: float(np.median([line.latency_ms[timing] for line in table.lines if timing in line.latency_ms]))
        for timing in table.timings
    }
    return [
        ExportCost(line.method.label, task, line.exported.mean, size, latency)
        for line in table.lines
        if line.exported is not None
    ]
