"""The tables of exports as sheets: their columns, cells and remarks; `harness.analysis.exports` computes them."""

from typing import Any

from harness.analysis.columns import cell_of_difference, numbers_of_difference
from harness.analysis.exports import ExportLine, Exports, ExportTable
from harness.analysis.sheets import Cell, Column, Remark, Section, Sheet

FIELDS = (
    "mIoU in percent on val over n exported seeds, mean ± standard deviation, of the networks as trained and of the "
    "files by their own runtime ({kind}), both judged at one scale without mirroring; vs none: difference to the "
    "student without distillation in percentage points, paired by seed, with 95 % intervals that hold together for all "
    "comparisons of what is in this table; MiB: size of a run's files; latency: milliseconds of a call with {images}, "
    "the median over runs of the medians over calls."
)

WHAT = (
    "mIoU in percent on val of the networks as trained and of the exported files, and gains over none in percentage "
    "points with simultaneous 95 % intervals"
)


def sheets(found: Exports, experiment: str) -> list[Sheet]:
    """A sheet for each table.

    Args:
        found: the tables.
        experiment: its name.
    """
    return [sheet_of(table, f"{experiment}-exports-{i + 1}", experiment) for i, table in enumerate(found.tables)]


def head(table: ExportTable) -> tuple[Column, ...]:
    """The columns of a table."""
    kind = table.form.kind
    names = ("mIoU as trained", f"mIoU {kind}", "vs none as trained", f"vs none {kind}", "MiB")
    timings = (f"{timing.text} (ms)" for timing in table.timings)
    return Column("method", "left"), *map(Column, (*names, *timings))


def cells(table: ExportTable, line: ExportLine) -> tuple[Cell, ...]:
    """A line's cells, a column each."""
    reference = line.method.reference == "none"

    return (
        Cell(line.method.label),
        *(Cell("–" if x is None else x.text) for x in (line.trained, line.exported)),
        *(
            cell_of_difference(c, x, reference)
            for c, x in ((line.gain_trained, line.trained), (line.gain_exported, line.exported))
        ),
        Cell(f"{line.size_bytes / 2**20:.2f}"),
        *(Cell(_ms(line.latency_ms.get(timing))) for timing in table.timings),
    )


def _ms(value: float | None) -> str:
    """Three digits."""
    return "–" if value is None else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def sheet_of(table: ExportTable, id: str, experiment: str) -> Sheet:
    """The table for `harness.report`.

    Args:
        table: the table.
        id: of the sheet.
        experiment: name of the experiment.
    """
    block, form = table.block, table.form
    about = f"Judged on all {table.images} images of val, by {table.device}."
    batch = "one image" if form.batch in (None, 1) else f"{form.batch} images"
    return Sheet(
        id,
        f"{block.where}, exported: {form.text}",
        head(table),
        tuple(cells(table, line) for line in table.lines),
        (
            Section("about", about, above=True),
            Section("exports", remarks=tuple(map(Remark, table.notes))),
            Section("fields", FIELDS.format(kind=form.kind, images=batch)),
        ),
        lambda: [_record(table, line, experiment) for line in table.lines],
        alone=True,
        what=WHAT,
    )


def _record(table: ExportTable, line: ExportLine, experiment: str) -> dict[str, Any]:
    """The numbers behind a line, unrounded; None where there is none."""
    block, form = table.block, table.form
    size = None if form.size_hw is None else f"{form.size_hw[0]}x{form.size_hw[1]}"
    found: dict[str, Any] = {"experiment": experiment, "protocol": block.protocol, "dataset": block.dataset}
    found |= {"pair": block.pair, "method": line.method.label}
    found |= {"export_target": form.target, "export_size": size, "export_batch": form.batch}
    found |= {"export_preprocessing": form.preprocessing, "export_calibration_images": form.calibration}
    found |= {"export_every_layer": form.every_layer}
    found |= {"export_images": table.images, "export_device": table.device, "export_size_bytes": line.size_bytes}
    for what, x, c in (("trained", line.trained, line.gain_trained), ("file", line.exported, line.gain_exported)):
        numbers = (None, None, 0) if x is None else (x.mean, x.deviation, x.n)
        names = (f"export_{what}_miou_percent_{name}" for name in ("mean", "deviation", "n"))
        found |= dict(zip(names, numbers, strict=True)) | numbers_of_difference(f"export_{what}_vs_none", c)
    return found | {f"export {timing.text} (ms)": line.latency_ms.get(timing) for timing in table.timings}
