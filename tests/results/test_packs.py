"""Many rows in few files: packed rows read as single ones do, and nothing is lost on the way."""

import errno
import os
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from harness.analysis.comparison import COLUMNS, quick_table
from harness.cli.app import app
from harness.results import packs, paths, store
from harness.results.pull import pull
from harness.results.storage import Storage
from tests.support.rows import make_experiment, make_row


@pytest.fixture
def folder(tmp_path):
    for row in (*make_experiment(), make_row("okd", 0, "failed")):
        store.write_run(tmp_path, row)
    return tmp_path


def loose(folder):
    return {path.stem for path in (folder / "runs").glob("*.parquet")}


def everything(folder, **more):
    return store.read_rows(folder, store.SCHEMA.names, **more)


def test_packed_rows_read_as_single_ones(folder):
    before, table = everything(folder), quick_table(store.read_rows(folder, list(COLUMNS)))
    packed = packs.pack(folder)
    students = {r["run_id"] for r in before.to_pylist() if r["role"] == "student" and r["status"] == "ok"}
    assert packed.rows == len(students) and 0 < packed.after < packed.before
    # Teachers' rows and failures stay as they are: runs look for the former, a later run may replace the latter.
    assert loose(folder) == set(before["run_id"].to_pylist()) - students
    assert everything(folder).equals(before)
    assert quick_table(store.read_rows(folder, list(COLUMNS))) == table
    for run_id in students:
        assert store.read_run(folder, run_id) == dict(
            next(r for r in before.to_pylist(maps_as_pydicts="strict") if r["run_id"] == run_id)
        )


@pytest.mark.parametrize("packing", [False, True])
def test_selections_hold_for_packed_rows(folder, packing):
    some = [*everything(folder)["run_id"].to_pylist()[3:6], "not-there"]
    asked = [{}, {"run_ids": some}, {"status": "ok"}, {"status": "failed"}, {"status": "ok", "run_ids": some}]
    expected = [everything(folder, **each) for each in asked]
    if packing:
        packs.pack(folder)
    for each, rows in zip(asked, expected, strict=True):
        assert everything(folder, **each).equals(rows)


def test_rows_added_later_are_read_beside_packs_and_packed_next(folder):
    packs.pack(folder)
    store.write_run(folder, make_row("cwd", 11))
    before = everything(folder)
    assert packs.pack(folder).rows == 1
    assert len(list((folder / "packs").iterdir())) == 2
    assert everything(folder).equals(before)
    assert packs.pack(folder).rows == 0 and everything(folder).equals(before)


def test_a_packed_row_is_never_replaced(folder):
    row = make_row("cwd", 0)
    packs.pack(folder)
    assert store.write_run(folder, {**row, "dev_miou": 0.9}) is False
    assert store.write_run(folder, make_row("cwd", 0, "failed")) is False
    assert store.finished(folder)[row["run_id"]] == "ok" and row["run_id"] not in loose(folder)


def test_unpacked_rows_are_single_files_again(folder):
    before, files = everything(folder), loose(folder)
    packs.pack(folder)
    assert packs.unpack(folder) == len(files) - len(before.filter(pa.compute.equal(before["role"], "teacher"))) - 1
    assert loose(folder) == files and not (folder / "packs").exists()
    assert everything(folder).equals(before)


def test_an_interrupted_pack_loses_and_doubles_nothing(folder, monkeypatch):
    before, files, count = everything(folder), loose(folder), []

    def stop(path):
        count.append(path)
        if len(count) == 3:
            raise KeyboardInterrupt
        os.unlink(path)

    monkeypatch.setattr(packs, "_remove", stop)
    with pytest.raises(KeyboardInterrupt):
        packs.pack(folder)
    assert len(loose(folder)) == len(files) - 2 and everything(folder).equals(before)
    monkeypatch.undo()
    assert packs.pack(folder).rows == 0  # they are in the pack; only their files go
    assert len(loose(folder)) < len(files) - 2 and everything(folder).equals(before)


def test_what_a_killed_pack_left_goes_with_the_next(folder):
    packs.pack(folder)
    (folder / "packs/.0123.1-a.tmp").write_bytes(b"half of a pack")
    packs.unpack(folder)
    assert not (folder / "packs").exists()


def test_a_full_disk_leaves_the_rows_as_they_were(folder, monkeypatch):
    before, files = everything(folder), loose(folder)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        packs.pack(folder)
    assert loose(folder) == files and list((folder / "packs").iterdir()) == []
    assert everything(folder).equals(before)


def test_a_pack_that_does_not_read_back_is_not_kept(folder, monkeypatch):
    files = loose(folder)
    write = pq.ParquetWriter.write_table

    def other(self, table, *args, **kwargs):
        changed = pa.array([0.5] * table.num_rows, pa.float64())
        write(self, table.set_column(table.schema.get_field_index("dev_miou"), "dev_miou", changed), *args, **kwargs)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", other)
    with pytest.raises(OSError, match="did not read back"):
        packs.pack(folder)
    assert loose(folder) == files and list((folder / "packs").iterdir()) == []


def test_a_row_of_the_same_run_with_other_content_stays_and_is_named(folder):
    row = make_row("cwd", 0)
    packs.pack(folder)
    other = folder.parent / "elsewhere"
    store.write_run(other, {**row, "dev_miou": 0.123})
    os.rename(paths.run_path(other, row["run_id"]), paths.run_path(folder, row["run_id"]))
    for change in (packs.pack, packs.unpack):
        with pytest.raises(ValueError, match=f"{row['run_id']}.parquet.*packs.*differ in dev_miou.*Move one away"):
            change(folder)
        assert store.read_row(paths.run_path(folder, row["run_id"]))["dev_miou"] == 0.123
        assert store.read_run(folder, row["run_id"])["dev_miou"] == row["dev_miou"]


def test_an_interrupted_unpack_goes_on(folder, monkeypatch):
    before, write, count = everything(folder), store.write_file, []
    packs.pack(folder)

    def stop(path, table):
        count.append(path)
        if len(count) == 4:
            raise KeyboardInterrupt
        write(path, table)

    monkeypatch.setattr(store, "write_file", stop)
    with pytest.raises(KeyboardInterrupt):
        packs.unpack(folder)
    assert everything(folder).equals(before)
    monkeypatch.undo()
    assert packs.unpack(folder) == 12 and everything(folder).equals(before)


def test_a_run_in_two_packs_is_no_second_result(folder):
    """As when packs of one experiment were copied together from two places."""
    packs.pack(folder)
    (path,) = (folder / "packs").iterdir()
    path.with_name("copy.parquet").write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"packs: run cwd-0-0123456789ab is in two files.*results unpack"):
        everything(folder)
    assert packs.unpack(folder) == 24 and len(loose(folder)) == 14


def test_two_at_a_time_wait_for_each_other(folder):
    before, made = everything(folder), []
    both = [threading.Thread(target=lambda: made.append(packs.pack(folder).rows)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(made) == [0, 12] and everything(folder).equals(before)


def test_one_row_is_found_without_reading_the_others(folder):
    """Row groups whose run_ids lie elsewhere are left alone, so that damage there does no harm."""
    packs.pack(folder)
    (path,) = (folder / "packs").iterdir()
    pq.write_table(pq.read_table(path), path, row_group_size=3, **packs.WRITING)
    with pq.ParquetFile(path) as file:
        last = file.metadata.row_group(3).column(0)
        data = bytearray(path.read_bytes())
    data[last.data_page_offset + last.total_compressed_size // 2] ^= 0xFF
    path.write_bytes(data)
    assert store.read_run(folder, "cwd-0-0123456789ab")["method"] == "cwd"
    with pytest.raises(ValueError, match="not a readable pack"):
        everything(folder)


def test_a_damaged_pack_is_named(folder):
    packs.pack(folder)
    (path,) = (folder / "packs").iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path.name}: not a readable pack"):
        everything(folder)


def test_rows_that_are_packed_while_they_are_read_are_found(folder, monkeypatch):
    before, listed = everything(folder), store._files

    def late(runs, run_ids):
        files = listed(runs, run_ids)
        monkeypatch.setattr(store, "_files", listed)
        packs.pack(folder)  # after the list was made: the files are gone when they are opened
        return files

    monkeypatch.setattr(store, "_files", late)
    assert everything(folder).equals(before)


def test_pulling_sees_packed_rows(folder, tmp_path_factory):
    here = tmp_path_factory.mktemp("here")
    pull(Storage(folder), here)
    packs.pack(here)
    pulled = pull(Storage(folder), here)
    assert (pulled.new, pulled.kept) == (0, len(loose(folder)))
    row = make_row("cwd", 0)
    paths.run_path(folder, row["run_id"]).unlink()
    store.write_run(folder, {**row, "weights_sha256": "00" * 32})
    with pytest.raises(ValueError, match="differ in weights_sha256"):
        pull(Storage(folder), here)


def test_packed_rows_at_a_source_are_not_passed_over(folder, tmp_path_factory):
    packs.pack(folder)
    with pytest.raises(ValueError, match=r"some of its rows are packed\. There: sstkd-bench results unpack"):
        pull(Storage(folder), tmp_path_factory.mktemp("here"))


def test_the_commands(folder):
    ran = CliRunner().invoke(app, ["results", "pack", str(folder)])
    assert ran.exit_code == 0, ran.output
    assert "12 rows packed into one file" in ran.output
    shown = CliRunner().invoke(app, ["results", "show", str(folder), make_row("cwd", 0)["run_id"]])
    assert shown.exit_code == 0 and '"method": "cwd"' in shown.output
    ran = CliRunner().invoke(app, ["results", "unpack", str(folder)])
    assert ran.exit_code == 0 and "12 rows are single files again" in ran.output
    ran = CliRunner().invoke(app, ["results", "pack", str(folder / "nowhere")])
    assert ran.exit_code == 2 and "there is no such results folder" in ran.output
    (folder / "empty").mkdir()
    ran = CliRunner().invoke(app, ["results", "pack", str(folder / "empty")])
    assert ran.exit_code == 2 and "no results yet" in ran.output


def test_a_list_of_many_single_files_names_the_command_that_packs_them(folder, monkeypatch):
    words = ["results", "list", str(folder)]
    quiet = CliRunner().invoke(app, words)
    assert quiet.exit_code == 0 and quiet.stderr == ""
    monkeypatch.setattr("harness.cli.results.MANY_FILES", len(list((folder / "runs").iterdir())))
    said = CliRunner().invoke(app, words)
    assert said.stdout == quiet.stdout and f"    sstkd-bench results pack {folder}" in said.stderr.splitlines()
    packs.pack(folder)
    assert CliRunner().invoke(app, words).stderr == ""
