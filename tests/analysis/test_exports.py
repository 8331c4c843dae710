"""Tables of exports against the ordinary comparison of rows whose mIoU is that of the file."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harness.analysis import exports
from harness.analysis.comparison import COLUMNS, quick_table
from harness.analysis.export_sheets import cells, head, sheets
from harness.analysis.exports import Exports, ExportTable, Form, Timing
from harness.analysis.tables import Table
from harness.report.formats import TABLE_FORMATS, to_csv, to_markdown
from harness.results import store
from harness.results.exports import write_export
from harness.results.schema import SCHEMA
from tests.support.rows import START, make_experiment, make_export, make_row

Rows = list[dict[str, Any]]


def runs(methods: tuple[str, ...] = ("none", "kd", "cwd"), seeds: int = 6) -> Rows:
    """Rows with weights, and mIoU that differs between seeds."""
    rng = np.random.default_rng(5)
    rows = make_experiment(methods, seeds)
    for i, row in enumerate(rows):
        if row["role"] == "student":
            value = {"none": 0.50, "kd": 0.53, "cwd": 0.55}[row["method"]] + float(rng.normal(0, 0.004))
            row |= {"weights_sha256": f"{i:064x}", "val_miou": value, "dev_miou": value}
    return rows


def made(rows: Rows, **changes: Any) -> Rows:
    """An export of each student, whose file loses some mIoU."""
    rng = np.random.default_rng(9)
    students = [row for row in rows if row["role"] == "student" and row["status"] == "ok"]
    return [make_export(r, miou=r["val_miou"] - 0.01 * float(rng.random()), **changes) for r in students]


def table(rows: Rows) -> Table:
    schema = pa.schema([SCHEMA.field(c) for c in COLUMNS])
    return quick_table(pa.Table.from_pylist([{c: r.get(c) for c in COLUMNS} for r in rows], schema))


def found(rows: Rows, exported: Rows) -> Exports:
    return exports.exported(table(rows), {r["run_id"]: r.get("weights_sha256") for r in rows}, exported)


def only(rows: Rows, exported: Rows) -> ExportTable:
    (one,) = found(rows, exported).tables
    return one


def with_miou(rows: Rows, exported: Rows, column: str) -> Table:
    """The ordinary comparison of the runs that have exports, with their mIoU."""
    by_run = {row["run_id"]: row for row in exported}
    there = [row for row in rows if row["role"] == "teacher" or row["run_id"] in by_run or row["status"] != "ok"]
    return table([r | ({"val_miou": by_run[r["run_id"]][column]} if r["run_id"] in by_run else {}) for r in there])


@pytest.mark.parametrize("lacking", [(), (("cwd", 1), ("cwd", 4), ("none", 2))])
def test_gains_are_those_of_the_ordinary_comparison(lacking: tuple[tuple[str, int], ...]) -> None:
    """With all exports, and with those of some seeds, over which n and the gain are then."""
    rows = runs()
    left = {row["run_id"] for row in rows if (row["method"], row["seed"]) in lacking}
    exported = [row for row in made(rows) if row["run_id"] not in left]
    one = only(rows, exported)
    for column, side in (("student_miou", "trained"), ("miou", "exported")):
        (wanted,) = with_miou(rows, exported, column).blocks
        for line in one.lines:
            expected = wanted.line(line.method.label)
            assert expected is not None and expected.miou is not None
            got = getattr(line, side)
            assert (got.mean, got.deviation, got.n) == pytest.approx(
                (expected.miou.mean, expected.miou.deviation, expected.miou.n)
            )
            assert getattr(line, f"gain_{side}") == expected.vs_none
            assert (expected.vs_none is None) == (line.method.reference == "none")
    if lacking:
        line = next(line for line in one.lines if line.method.label == "cwd")
        assert line.exported is not None and line.gain_exported is not None
        assert line.exported.text.endswith("(n=4 of 6)") and line.gain_exported.difference.n == 3
        assert str(cells(one, line)[4]).endswith("(n=3)")
    else:
        ordinary = {line.label: line.vs_none for block in table(rows).blocks for line in block.methods}
        assert {line.method.label: line.gain_trained for line in one.lines} == ordinary


def test_several_teachers_are_compared_as_in_the_ordinary_table() -> None:
    rows: Rows = [make_row(role="teacher", seed=s, run_id=f"t-{s}", weights_sha256=f"{s:x}" * 64) for s in (1, 2, 3)]
    for i, row in enumerate(runs(("none", "kd"), 4)):
        if row["method"] == "none" and row["role"] == "student":
            rows.append(row | {"teacher_run_id": "t-1", "teacher_sha256": None})
        for s in (1, 2, 3) if row["method"] == "kd" else ():
            value = row["val_miou"] + 0.003 * s + 0.001 * ((i * s) % 4)
            own = {"run_id": f"kd-{row['seed']}-{s}", "weights_sha256": f"{100 * s + i:064x}", "val_miou": value}
            rows.append(row | own | {"teacher_run_id": f"t-{s}", "teacher_sha256": f"{s:x}" * 64})
    exported = made(rows)
    one = only(rows, exported)
    (wanted,) = with_miou(rows, exported, "miou").blocks
    (line,) = [line for line in one.lines if line.method.label == "kd"]
    expected = wanted.line("kd")
    assert expected is not None and line.gain_exported == expected.vs_none is not None
    assert line.gain_exported.teachers == 3 and line.exported is not None
    assert line.exported.text.endswith("(n=3x4)")


def test_a_failed_run_forbids_a_significant_gain_of_files_too() -> None:
    rows = [r for r in runs(seeds=7) if (r["method"], r["seed"]) != ("cwd", 6)]
    rows.append(make_row("cwd", 6, "failed", run_id="cwd-lost"))
    one = only(rows, made(rows))
    gains = {line.method.label: line.gain_exported for line in one.lines}
    assert gains["kd"] is not None and gains["kd"].significant
    assert gains["cwd"] is not None and gains["cwd"].lost == 1 and not gains["cwd"].significant


def test_a_table_for_each_form_and_a_column_for_each_device() -> None:
    rows = runs(seeds=3)
    graph = {"calibration": None, "size_hw": [64, 128], "batch": 4, "preprocessing": True}
    exported = [
        *made(rows),
        *made(rows, device="CPU of another kind", threads=4, latency_ms=7.0),
        *made(rows, **graph),
    ]
    int8, fixed = sorted(found(rows, exported).tables, key=lambda x: x.form.kind)
    assert fixed.form == Form("onnx", (64, 128), 4, True) and fixed.form.kind == "onnx"
    assert fixed.form.text == "onnx, 64x128, batch 4, with preprocessing"
    assert int8.form.text == "onnx, int8 by 64 images of train"
    assert [column.name for column in head(int8)] == [
        "method", "mIoU as trained", "mIoU int8", "vs none as trained", "vs none int8", "MiB",
        "latency on CPU of another kind, 4 threads, 96x96 (ms)", "latency on CPU of one kind, 1 thread, 96x96 (ms)",
    ]  # fmt: skip
    assert [str(cell) for cell in cells(int8, int8.lines[1])[-3:]] == ["0.25", "7.00", "1.50"]
    assert [column.name for column in head(fixed)][2] == "mIoU onnx"
    (sheet,) = sheets(Exports((fixed,)), "made")
    assert "milliseconds of a call with 4 images" in sheet.sections[-1].head


def test_the_latency_is_the_median_over_runs() -> None:
    rows = runs(("none",), 4)
    exported = made(rows)
    for row, ms in zip(exported, (1.0, 2.0, 4.0, 9.0), strict=True):
        row["latency_ms"], row["size_bytes"] = ms, int(ms * 2**20)
    (line,) = only(rows, exported).lines
    assert line.latency_ms == {Timing("CPU of one kind", 1, (96, 96)): 3.0} and line.size_bytes == 3 * 2**20


def test_scores_are_those_of_one_device() -> None:
    """That on which most runs were judged: int8 rounds differently on others."""
    rows = runs(("none", "kd"), 3)
    exported = made(rows)
    other = [row | {"device": "A", "miou": 0.1, "exported_at": START + timedelta(days=1)} for row in exported]
    one = only(rows, [*exported[:5], *other[:3]])
    assert one.device == "CPU of one kind" and all(x.exported is not None and x.exported.mean > 40 for x in one.lines)
    one = only(rows, [*exported[:3], other[4]])
    (_, kd) = one.lines
    assert kd.exported is None and kd.gain_exported is None and {x.device for x in kd.latency_ms} == {"A"}
    assert [str(cell) for cell in cells(one, kd)[1:5]] == ["–", "–", "–", "–"]
    assert "1 run was judged on other devices than CPU of one kind, and only their latency is shown." in one.notes


def test_a_device_that_only_timed_a_file_judges_nothing() -> None:
    """Its row repeats the scores of the machine that exported the file."""
    rows = runs(("none", "kd"), 3)
    exported = made(rows)
    timed = [
        row | {"device": "phone", "device_agreement": 0.99, "versions": "{}", "latency_ms": 30.0} for row in exported
    ]
    one = only(rows, [*exported[:4], *timed])
    assert one.device == "CPU of one kind" and [timing.device for timing in one.timings] == [one.device, "phone"]
    assert [line.exported.n for line in one.lines if line.exported is not None] == [3, 1]
    assert one.notes == ("2 runs were judged on other devices than CPU of one kind, and only their latency is shown.",)


def test_what_is_left_out_is_counted() -> None:
    rows = runs(("none", "kd"), 3)
    exported = made(rows)
    later = START + timedelta(days=1)
    odd = [
        exported[0] | {"run_id": "nobody"},
        exported[1] | {"weights_sha256": "f" * 64},
        exported[2] | {"images": 199},
        exported[3] | {"versions": '{"onnxruntime": "1.24.0"}', "exported_at": later},
    ]
    result = found(rows, [*exported, *odd])
    assert result.left_out == (
        "4 exports left out: 1 of runs that are in no line here, 1 of other weights than the run has now, "
        "1 judged on a part of val, 1 of what was exported again later"
    )
    (one,) = result.tables
    assert one.notes == ("Written or run by several versions: onnxruntime 1.23.0, 1.24.0.", f"{result.left_out}.")
    assert all(line.exported is not None and line.exported.n == 3 for line in one.lines)
    assert only(rows, exported[:3]).notes == ("Not exported: kd.",) and not found(rows, odd[:2]).tables


def test_exports_of_a_part_of_val_alone_are_no_table() -> None:
    rows = runs(("none", "kd"), 3)
    result = found(rows, made(rows, images=20))
    assert result.tables == () and result.left_out == "6 exports left out: 6 judged on a part of val"
    (about, *_) = sheets(found(rows, made(rows, images=20, split_images=20)), "made")[0].sections
    assert about.head == "Judged on all 20 images of val, by CPU of one kind."


def test_it_is_read_from_a_folder(tmp_path: Path) -> None:
    rows = runs(("none", "kd"), 3)
    for row in rows:
        store.write_run(tmp_path, row | {"samples": None})
    assert exports.read(tmp_path, table(rows)) == Exports()
    for row in made(rows):
        write_export(tmp_path, row)
    (one,) = exports.read(tmp_path, table(rows)).tables
    assert one == only(rows, made(rows)) and one.images == 200


def test_every_format_has_the_tables_below_the_ordinary_ones() -> None:
    rows = runs(seeds=3)
    ordinary = table(rows)
    more = sheets(found(rows, [*made(rows), *made(rows, calibration=None, device="<b>|_")]), "quickstart")
    for name, form in TABLE_FORMATS.items():
        text = form(ordinary, more)
        assert "mIoU int8" in text or name == "csv"
        assert "<b>|_" not in text or name == "csv"
        assert form(ordinary, ()) == form(ordinary, [])
    text = to_markdown(ordinary, more)
    assert text.startswith(to_markdown(ordinary)) and text.count(ordinary.legend) == 1
    lines = to_csv(ordinary, more).splitlines()
    assert len(lines) == 1 + 3 + 6 and len({line.count(",") for line in lines if '"' not in line}) == 1
    for sheet in more:
        assert all(len(row) == len(sheet.columns) for row in sheet.rows) and sheet.sections[-1].head.count(".") == 1


def test_points_of_a_task_have_one_latency_and_size() -> None:
    """A method does not affect the network that is exported."""
    rows = runs(("none", "kd", "cwd"), 3)
    exported = made(rows)
    for row, ms in zip(exported, (1.0,) * 3 + (2.0,) * 3 + (9.0,) * 3, strict=True):
        row["latency_ms"] = ms
    points = exports.costs(only(rows, exported), "task")
    assert [p.label for p in points] == ["none", "kd", "cwd"] and {p.size_mib for p in points} == {0.25}
    assert [set(p.latency_ms.values()) for p in points] == [{2.0}] * 3
