"""Rows of exports travel with those of their runs: packed, fetched and moved aside; what is no such row is named."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.results import exports, packs, paths, reuse, store
from harness.results.exports import exports_folder, files_folder, read_exports, write_export
from harness.results.pull import pull
from harness.results.storage import Storage
from tests.support.commands import call
from tests.support.rows import START, make_experiment, make_export

LATER = START + timedelta(days=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows of runs, and of two exports of each student."""
    base = tmp_path / "results" / "made"
    for row in make_experiment(("none", "kd"), 2):
        row |= {"weights_sha256": f"{row['seed']:064x}"} if row["role"] == "student" else {}
        store.write_run(base, row | {"samples": None})
        if row["role"] == "student":
            for calibration in (64, None):
                write_export(base, make_export(row, calibration=calibration))
    return base


def names(base: Path) -> set[str]:
    return {path.name for path in exports_folder(base).glob("*.parquet")}


def again(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The same export, measured a day later."""
    own = {name: value for name, value in row.items() if name != "export_id"}
    return own | {"exported_at": LATER, "latency_ms": 9.0} | changes


def test_packed_rows_read_as_single_ones(folder: Path) -> None:
    before = read_exports(folder)
    assert len(before) == 8 and packs.pack(folder).exports == 8
    assert names(folder) == {"packed.parquet"} and read_exports(folder) == before
    assert packs.pack(folder).exports == 0 and read_exports(folder) == before
    packs.unpack(folder)
    assert len(names(folder)) == 8 and read_exports(folder) == before


def test_what_is_measured_again_after_packing_counts(folder: Path) -> None:
    first = read_exports(folder)[0]
    packs.pack(folder)
    newer = write_export(folder, again(first))
    assert len(read_exports(folder)) == 8 and read_exports(folder)[-1] == newer
    assert packs.pack(folder).exports == 1
    assert names(folder) == {"packed.parquet"} and read_exports(folder)[-1] == newer
    packs.unpack(folder)
    assert len(names(folder)) == 8 and newer in read_exports(folder)


def test_an_interrupted_pack_loses_and_doubles_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_exports(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            exports.pack(folder)
    assert len(names(folder)) == 9 and read_exports(folder) == before
    exports.pack(folder)
    assert names(folder) == {"packed.parquet"} and read_exports(folder) == before


def test_a_pack_that_does_not_read_back_removes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "_read", lambda path: [])
    with pytest.raises(OSError, match="did not read back as written; no row was removed"):
        exports.pack(folder)
    assert len(names(folder)) == 9


def test_rows_are_fetched_and_files_are_not(folder: Path, tmp_path: Path) -> None:
    (files_folder(folder) / "x-onnx").mkdir(parents=True)
    (files_folder(folder) / "x-onnx" / "model.onnx").write_bytes(b"x")
    here = tmp_path / "here"
    assert pull(Storage(folder), here).exports == 8
    assert read_exports(here) == read_exports(folder) and not files_folder(here).exists()
    assert pull(Storage(folder), here).exports == pull(Storage(folder), here, trusting=True).exports == 0
    # Of one export the row that was measured last stays, wherever it comes from.
    there_later, here_later = read_exports(folder)[:2]
    write_export(folder, again(there_later))
    write_export(here, again(here_later))
    assert pull(Storage(folder), here).exports == 1
    assert [row["export_id"] for row in read_exports(here)[-2:]] == sorted(
        row["export_id"] for row in (there_later, here_later)
    )
    said = call("results", "pull", folder, tmp_path / "third").output
    assert "5 rows fetched, 0 already present, 8 rows of exports" in said


def test_packed_rows_are_fetched_one_by_one(folder: Path, tmp_path: Path) -> None:
    exports.pack(folder)
    assert pull(Storage(folder), tmp_path / "here").exports == 8
    assert len(names(tmp_path / "here")) == 8 and read_exports(tmp_path / "here") == read_exports(folder)


def test_a_corrupt_file_of_exports_is_named_and_all_else_is_fetched(folder: Path, tmp_path: Path) -> None:
    (exports_folder(folder) / f"{'0' * 16}.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"exports/0000000000000000\.parquet: .*Delete it and export again"):
        pull(Storage(folder), tmp_path / "here")
    assert len(read_exports(tmp_path / "here")) == 8 and len(store.finished(tmp_path / "here")) == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"export_id": "../../outside"}, "column export_id: ../../outside; 16 hexadecimal digits are needed"),
        ({"miou": 1.5}, "column miou: 1.5; allowed are 0 to 1"),
        ({"miou": float("nan")}, "column miou: nan; allowed are 0 to 1"),
        ({"latency_ms": float("inf")}, "column latency_ms: inf; a finite number is needed, 0 or more"),
        ({"latency_hw": [1, 2, 3]}, r"column latency_hw: \[1, 2, 3\]; height and width are needed"),
        ({"versions": "[]"}, "column versions: list; an object is needed"),
    ],
)
def test_a_row_that_no_export_has_is_refused(folder: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    row = read_exports(folder)[0] | change
    path = exports_folder(folder) / "bad.parquet"
    pq.write_table(pa.Table.from_pylist([row], schema=exports.SCHEMA), path)
    with pytest.raises(ValueError, match=rf"bad\.parquet: {said}\. Delete it and export again"):
        read_exports(folder)
    with pytest.raises(ValueError, match=said):
        pull(Storage(folder), tmp_path / "here")
    assert not (tmp_path.parent / "outside.parquet").exists()


@pytest.mark.parametrize("packing", [False, True])
def test_exports_go_aside_with_their_run(folder: Path, packing: bool) -> None:
    before = read_exports(folder)
    run_id = before[0]["run_id"]
    mine = [row for row in before if row["run_id"] == run_id]
    for name in (f"{run_id}-onnx", "another-onnx"):
        (files_folder(folder) / name).mkdir(parents=True)
    if packing:
        exports.pack(folder)
    reuse.set_aside(folder, [run_id])
    (aside,) = (folder / "replaced").iterdir()
    assert read_exports(aside) == mine and paths.run_path(aside, run_id).is_file()
    assert read_exports(folder) == [row for row in before if row not in mine]
    assert [path.name for path in files_folder(aside).iterdir()] == [f"{run_id}-onnx"]
    assert [path.name for path in files_folder(folder).iterdir()] == ["another-onnx"]


def test_nothing_goes_aside_while_a_row_is_packed(folder: Path) -> None:
    run_id = read_exports(folder)[0]["run_id"]
    packs.pack(folder)
    with pytest.raises(ValueError, match=r"is packed\. First: sstkd-bench results unpack"):
        reuse.set_aside(folder, [run_id])
    assert len(read_exports(folder)) == 8 and not (folder / "replaced").exists()
