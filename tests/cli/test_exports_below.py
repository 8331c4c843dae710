"""`tables --with exports`: the tables of exported files below the ordinary one, in every format."""

import csv
import io
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from harness.analysis.export_sheets import sheets
from harness.analysis.exports import read
from harness.report.console import print_sheet
from harness.report.write import table_of
from harness.results import store
from harness.results.exports import write_export
from tests.support.commands import call, refused
from tests.support.rows import make_experiment, make_export, make_row
from tests.support.tiny import plan, write

METHODS = ["none", "kd", "cwd"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder with exports of every student but one."""
    directory = tmp_path / "results" / "made"
    for i, row in enumerate(make_experiment(("none", "kd", "cwd"), 3)):
        if row["role"] == "student":
            row |= {"weights_sha256": f"{i:064x}"}
            if (row["method"], row["seed"]) != ("cwd", 2):
                write_export(directory, make_export(row))
        store.write_run(directory, row | {"samples": None})
    return directory


def test_the_terminal_shows_them_below(folder: Path) -> None:
    plain, more = call("tables", folder).stdout, call("tables", folder, "--with", "exports").stdout
    assert more.startswith(plain) and "exported" not in plain
    below = more[len(plain) :]
    head = next(line for line in below.splitlines() if line.startswith("method"))
    for name in ("mIoU as trained", "mIoU int8", "vs none int8", "MiB", "latency on CPU of one kind, 1 thread, 96x96"):
        assert name in head
    assert "lite2-to-tiny on texmosaic, exported: onnx, int8 by 64 images of train" in below
    assert "(n=2 of 3)" in next(line for line in below.splitlines() if line.startswith("cwd"))


@pytest.mark.parametrize(
    ("form", "word"), [("md", "| mIoU int8 |"), ("latex", "& mIoU int8 &"), ("html", "mIoU int8<")]
)
def test_every_format_has_them(folder: Path, form: str, word: str) -> None:
    assert word in call("tables", folder, "--with", "exports", "--format", form).stdout
    assert word not in call("tables", folder, "--format", form).stdout


@pytest.mark.parametrize("width", [60, 80, 110])
def test_a_narrow_window_shows_every_cell(folder: Path, width: int) -> None:
    """Cells are broken before brackets, and columns that do not fit go below."""
    table, _ = table_of(folder)
    for device in ("CPU [of] another kind (family 3)", "CPU of a third kind"):
        row = store.read_run(folder, next(iter(table.blocks[0].methods[0].run_ids.values())))
        write_export(folder, make_export(row, device=device, latency_ms=1234.0))
    (sheet,) = sheets(read(folder, table), "made")
    print_sheet(sheet, Console(file=(out := io.StringIO()), width=width, color_system=None))
    words = Counter(out.getvalue().split())
    wanted = Counter(word for cells in sheet.rows for cell in cells[1:] for word in str(cell).split())
    wanted += Counter(word for column in sheet.columns[1:] for word in column.name.split())
    assert not {word: count for word, count in wanted.items() if words[word] < count}
    assert max(map(len, out.getvalue().splitlines())) <= width


def test_a_csv_file_has_a_line_for_each_method_and_form(folder: Path) -> None:
    text = call("tables", folder, "--with", "exports", "--format", "csv").stdout
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["export_target"] for line in lines] == ["", "", "", "onnx", "onnx", "onnx"]
    assert lines[5]["method"] == "cwd" and lines[5]["export_file_miou_percent_n"] == "2"
    assert float(lines[5]["export latency on CPU of one kind, 1 thread, 96x96 (ms)"]) == 1.5
    alone = list(csv.DictReader(io.StringIO(call("tables", folder, "--format", "csv").stdout)))
    assert [{name: line[name] for name in alone[0]} for line in lines[:3]] == alone


def test_of_an_experiment_file(tmp_path: Path) -> None:
    path = write(tmp_path, methods=METHODS)
    for i, run in enumerate(plan(tmp_path, methods=METHODS)):
        row = make_row("none" if run.role == "teacher" else run.method.name, run.seed, role=run.role, run_id=run.run_id)
        row |= {"experiment": "tiny", "pair": "tiny", "teacher_run_id": run.teacher_run, "data_hash": None}
        row |= {} if run.role == "teacher" else {"weights_sha256": f"{i:064x}"}
        store.write_run(tmp_path / "r" / "tiny", row | {"samples": None})
    words = ("tables", path, "--results", tmp_path / "r", "--with", "exports")
    first = f"First:\n    sstkd-bench export {path} --all --to onnx"
    for more in ((), ("--format", "md")):
        assert f"{tmp_path / 'r' / 'tiny'}: no exports yet. {first}" in refused(*words, *more)
    write_export(tmp_path / "r" / "tiny", make_export(row, weights_sha256="f" * 64))
    assert f"1 export left out: 1 of other weights than the run has now. {first}" in refused(*words)
    write_export(tmp_path / "r" / "tiny", make_export(row))
    shown = call(*words).stdout
    assert "Not exported: none, kd." in shown and "1 export left out: 1 of other weights" in shown
    page = (tmp_path / "r" / "tiny" / "report.html").read_text()
    assert ">Exports<a " in page and "mIoU int8" in page


def test_what_is_not_offered_is_named(folder: Path) -> None:
    assert refused("tables", folder, "--with", "expotrs") == "error: --with expotrs: allowed is exports\n"
    said = refused("tables", folder, "--with", "exports", "--paper", "sstkd")
    assert "--with exports belongs to an experiment's own table; leave it or --paper out" in said
    (folder / "exports" / "bad.parquet").write_bytes(b"x")
    assert "bad.parquet: " in (said := refused("tables", folder, "--with", "exports")) and "export again" in said
