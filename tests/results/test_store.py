import errno
import json
import os
import subprocess
import sys
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.results import paths, store
from tests.support.rows import make_experiment, make_row


def names(directory):
    return sorted(p.name for p in (directory / "runs").iterdir())


def test_a_row_comes_back_as_it_was(tmp_path):
    row = make_row("sstkd", 1)
    assert store.write_run(tmp_path, row) is True
    back = store.read_row(paths.run_path(tmp_path, row["run_id"]))
    assert {name: back[name] for name in row} == row
    assert [name for name in back if back[name] is None] == [n for n in store.SCHEMA.names if row.get(n) is None]


def test_a_teachers_pictures_come_back(tmp_path):
    row = make_row(role="teacher")
    store.write_run(tmp_path, row)
    assert store.read_row(paths.run_path(tmp_path, row["run_id"]))["samples"] == row["samples"]


def test_numpy_values_are_welcome(tmp_path):
    row = make_row(steps=np.int64(4), dev_miou=np.float32(0.5), num_classes=2, dev_confusion=np.array([4, 0, 1, 3]))
    store.write_run(tmp_path, row)
    back = store.read_row(paths.run_path(tmp_path, row["run_id"]))
    assert (back["steps"], back["dev_miou"], back["dev_confusion"]) == (4, 0.5, [4, 0, 1, 3])


def test_what_an_evaluation_adds_comes_back(tmp_path):
    added = {
        "dev_boundary_confusion": list(range(36)),
        "val_boundary_confusion": [0] * 36,
        "per_image_sha256": "ab" * 32,
    }
    row = make_row(**added)
    store.write_run(tmp_path, row)
    back = store.read_row(paths.run_path(tmp_path, row["run_id"]))
    assert {name: back[name] for name in added} == added


def test_an_ok_row_is_never_replaced(tmp_path):
    assert store.write_run(tmp_path, make_row(dev_miou=0.5))
    for later in (make_row(dev_miou=0.9), make_row(status="failed")):
        assert store.write_run(tmp_path, later) is False
    assert store.read_rows(tmp_path, ["dev_miou"])["dev_miou"].to_pylist() == [0.5]


@pytest.mark.parametrize("first", ["failed", "skipped"])
def test_a_row_without_result_is_replaced(tmp_path, first):
    run_id = make_row()["run_id"]
    assert store.write_run(tmp_path, make_row(status=first))
    assert store.finished(tmp_path) == {run_id: first}
    assert store.write_run(tmp_path, make_row())
    assert store.finished(tmp_path) == {run_id: "ok"}


def without(column):
    return {k: v for k, v in make_row().items() if k != column}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (make_row(mIoU=0.5), r"unknown columns \['mIoU'\]"),
        (without("pair"), "column pair: missing"),
        (make_row(pair=None), "column pair: missing"),
        (make_row(steps=300.0), "column steps: int64 is needed; given: float 300.0"),
        (make_row(resumed=True), "column resumed: int64"),
        (make_row(dev_miou="0.5"), "column dev_miou: double"),
        (make_row(device=b"cpu"), "column device: string"),
        (make_row(class_names="abc"), "column class_names: list"),
        (make_row(class_names=["a", None]), r"column class_names\[1\]: missing"),
        (make_row(versions={"torch": 2}), r"column versions\['torch'\]: string"),
        (make_row(curve=[{"step": 1, "miou": 0.2}]), "column curve.*unknown keys.*step, dev_miou"),
        (make_row(curve=[{"step": 1}]), r"column curve\[0\]\.dev_miou: missing"),
        (make_row(losses=[{"step": 1, "lr": 0.1, "terms": {"kd": None}}]), r"terms\['kd'\]: missing"),
        (make_row(started_at=datetime(2026, 1, 1)), "column started_at.*time zone"),
        (make_row(status="done"), "column status: 'done'; allowed are ok, failed, skipped"),
        (make_row(role="assistant"), "column role"),
        (make_row(run_id="../escape"), "column run_id"),
        (make_row(run_id=".hidden"), "column run_id"),
        (make_row(spec="{"), "column spec: not JSON"),
        (make_row(protocol_version="1"), "MAJOR.MINOR"),
        (make_row(message="hm"), "column message"),
        (make_row(status="failed", message=""), "column message"),
        (make_row(dev_confusion=[1, 2, 3]), r"column dev_confusion: 3 counts; num_classes\*\*2"),
        (make_row(val_confusion=[1] * 35), r"column val_confusion: 35 counts; num_classes\*\*2"),
        (make_row(dev_boundary_confusion=[1] * 37), r"column dev_boundary_confusion: 37 counts; num_classes\*\*2"),
        (make_row(val_boundary_confusion=[]), r"column val_boundary_confusion: 0 counts; num_classes\*\*2"),
        (make_row(per_image_sha256=b"ab"), "column per_image_sha256: string"),
        (make_row(dev_miou=None), "column dev_miou: missing"),
        (make_row(dev_miou=float("nan")), "column dev_miou: nan"),
    ],
)
def test_a_wrong_row_is_refused_by_column(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        store.write_run(tmp_path, row)
    assert list(tmp_path.iterdir()) == []


def test_reading_leaves_heavy_columns_out_unless_asked(tmp_path):
    for row in make_experiment(seeds=2):
        store.write_run(tmp_path, row)
    store.write_run(tmp_path, make_row("cwd", 7, "failed"))
    table = store.read_rows(tmp_path)
    assert table.num_rows == 10
    assert table.schema.names == [n for n in store.SCHEMA.names if n not in store.HEAVY]
    assert store.read_rows(tmp_path, ["curve", "seed"]).schema.names == ["curve", "seed"]
    assert store.read_rows(tmp_path, status="failed").num_rows == 1
    assert store.read_rows(tmp_path, status=["ok", "failed"]).num_rows == 10
    assert store.read_rows(tmp_path, ["run_id"], run_ids=["kd-0-0123456789ab", "gone"]).num_rows == 1
    with pytest.raises(ValueError, match=r"unknown columns \['miou'\]"):
        store.read_rows(tmp_path, ["miou"])
    with pytest.raises(ValueError, match=r"unknown status \['done'\]"):
        store.read_rows(tmp_path, status="done")


def test_nothing_there_reads_as_nothing(tmp_path):
    assert store.finished(tmp_path / "never") == {}
    empty = store.read_rows(tmp_path, ["run_id", "dev_miou"])
    assert empty.num_rows == 0 and empty.schema.names == ["run_id", "dev_miou"]


def test_hidden_and_foreign_files_are_passed_over(tmp_path):
    store.write_run(tmp_path, make_row())
    (tmp_path / "runs" / ".half.parquet").write_bytes(b"PAR1")
    (tmp_path / "runs" / "README.md").write_text("notes")
    assert len(store.finished(tmp_path)) == 1


@pytest.mark.parametrize("content", [b"", b"PAR1 cut", b"x" * 5000])
def test_a_corrupt_file_is_named_with_the_remedy(tmp_path, content):
    store.write_run(tmp_path, make_row("kd", 0))
    bad = paths.run_path(tmp_path, "cut")
    bad.write_bytes(content)
    for read in (store.finished, store.read_rows, lambda _: store.read_row(bad)):
        with pytest.raises(ValueError, match=r"cut\.parquet.*Delete the file and start the run again"):
            read(tmp_path)


def test_a_flipped_bit_is_an_error_and_not_another_number(tmp_path):
    row = make_row(spec=json.dumps({"note": "x" * 4000}))
    store.write_run(tmp_path, row)
    path = paths.run_path(tmp_path, row["run_id"])
    with pq.ParquetFile(path) as file:
        columns = file.metadata.row_group(0)
        at = next(
            c.data_page_offset + c.total_compressed_size - 1
            for c in map(columns.column, range(columns.num_columns))
            if c.path_in_schema == "dev_miou"
        )
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Delete the file"):
        store.read_rows(tmp_path, ["dev_miou"])


def test_a_result_takes_the_place_of_a_corrupt_file(tmp_path):
    row = make_row()
    path = paths.run_path(tmp_path, row["run_id"])
    path.parent.mkdir()
    path.write_bytes(b"PAR1 cut")
    assert store.write_run(tmp_path, row)
    assert store.finished(tmp_path) == {row["run_id"]: "ok"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, call):
    store.write_run(tmp_path, make_row(status="failed"))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    for row in (make_row(), make_row("cwd")):
        with pytest.raises(OSError, match=r"No space.*runs/[^.].*\.parquet"):
            store.write_run(tmp_path, row)
    monkeypatch.undo()
    assert names(tmp_path) == ["kd-0-0123456789ab.parquet"]
    assert store.finished(tmp_path) == {"kd-0-0123456789ab": "failed"}


def test_a_file_of_an_older_schema_reads_with_nulls(tmp_path):
    store.write_run(tmp_path, make_row())
    path = paths.run_path(tmp_path, make_row()["run_id"])
    with pq.ParquetFile(path) as file:
        old = file.read().drop_columns(["student_macs", "samples"])
    pq.write_table(old, path)
    assert store.read_rows(tmp_path, ["student_macs"])["student_macs"].to_pylist() == [None]
    assert store.read_row(path)["samples"] is None


def test_many_rows_in_a_pack_read_without_a_loop(tmp_path):
    store.write_run(tmp_path, make_row())
    with pq.ParquetFile(paths.run_path(tmp_path, make_row()["run_id"])) as file:
        one = file.read().select(["status", "dev_miou"])
    ids = pa.array([f"{i:08d}" for i in range(50_000)])
    (tmp_path / "packs").mkdir()
    many = pa.concat_tables([one] * len(ids)).append_column("run_id", ids).combine_chunks()
    pq.write_table(many, tmp_path / "packs" / "a.parquet")
    assert store.read_rows(tmp_path, ["dev_miou"], status="ok").num_rows == 50_001


def test_reading_results_loads_neither_torch_nor_ray():
    code = "import sys; from harness.results import store; from harness.analysis import comparison, stats, tables\n"
    code += "from harness.report import page, plots, write; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "ray", "matplotlib", "scipy", "rich", "PIL"}


def test_a_row_is_found_by_the_beginning_of_its_run_id(tmp_path):
    for run_id in ("abc1", "abd2"):
        store.write_run(tmp_path, make_row(run_id=run_id))
    assert store.find_run(tmp_path, "abc") == store.find_run(tmp_path, "abc1") == "abc1"
    with pytest.raises(ValueError, match=r"'ab' names 2 rows \(abc1, abd2\)"):
        store.find_run(tmp_path, "ab")
    with pytest.raises(ValueError, match=r"'x' names 0 rows \(none\)"):
        store.find_run(tmp_path, "x")
