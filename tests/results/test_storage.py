"""A folder and an object store behave alike; checkpoints are written atomically; rows merge by run_id."""

import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.results import paths, store
from harness.results.paths import search_folder, times_folder
from harness.results.pull import PARTS, pull
from harness.results.storage import Storage
from harness.training.checkpoints import Checkpoints
from tests.support import s3
from tests.support.rows import START, make_row

pytestmark = [
    # moto leaves sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3.server() as uri:
        yield uri


@pytest.fixture(params=["folder", "file URI", "S3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "S3":
        return Storage(request.getfixturevalue("bucket")).below(tmp_path.name)
    return Storage(tmp_path if request.param == "folder" else f"file://{tmp_path}").below("here")


def test_what_is_written_is_read_listed_and_removed(storage: Storage) -> None:
    assert storage.entries() == storage.entries("runs") == []
    storage.write("runs/b.parquet", b"second")
    storage.write("runs/a.parquet", b"first")
    storage.write("runs/a.parquet", b"1st")
    storage.write("weights/c", b"")
    listed = storage.entries("runs")
    assert [(entry.name, entry.size) for entry in listed] == [("a.parquet", 3), ("b.parquet", 6)]
    assert all(abs(entry.modified - time.time()) < 3600 for entry in listed)
    assert storage.read("runs/a.parquet") == b"1st" and storage.read("weights/c") == b""
    assert Storage(storage.uri).below("runs").read("b.parquet") == b"second"
    storage.remove("runs/a.parquet")
    storage.remove("runs/a.parquet")
    with pytest.raises(FileNotFoundError, match=r"runs/a\.parquet"):
        storage.read("runs/a.parquet")
    assert storage.folders() == ["runs", "weights"] and storage.folders("runs") == storage.folders("nothing") == []
    storage.remove_folder("runs")
    storage.remove_folder("nothing")
    assert storage.entries("runs") == [] and storage.read("weights/c") == b""
    assert storage.folders() == ["weights"]


def test_hidden_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".half.tmp").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    assert Storage(tmp_path).entries() == []


@pytest.mark.parametrize(
    "place",
    [
        "s3://key:" + "secret@bucket/x",
        "s3://bucket/x?access_key=a&secret_key=topsecret",
        "s3://bucket?session_token=topsecret",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(place: str) -> None:
    with pytest.raises(ValueError, match="must not carry credentials") as caught:
        Storage(place)
    assert "secret@" not in str(caught.value) and "topsecret" not in str(caught.value)


def test_an_unknown_kind_of_storage_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="floppy://a/b: no storage that pyarrow knows"):
        Storage("floppy://a/b")


def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    missing = Storage(bucket.replace("bucket/", "nobucket/"))
    with pytest.raises(OSError, match=r"s3://nobucket/results/a: .*NO_SUCH_BUCKET.*Check the address"):
        missing.write("a", b"")


# Checkpoints


def state(step: int) -> dict[str, Any]:
    return {"step": step, "x": torch.full((3,), float(step))}


def take(saved: Checkpoints) -> tuple[Any, list[str]]:
    said: list[str] = []
    found = saved.load(lambda state: None, said.append)
    return (None if found is None else found["step"]), said


@pytest.mark.parametrize("background", [False, True])
def test_the_last_few_checkpoints_stay(storage: Storage, background: bool) -> None:
    saved = Checkpoints(storage, keep=2, background=background)
    assert take(saved) == (None, [])
    for step in (1, 2, 3, 10):
        saved.save(step, state(step))
    saved.wait()
    assert saved.steps() == [10, 3]
    found = Checkpoints(storage).load(lambda state: None)
    assert found["step"] == 10 and torch.equal(found["x"], torch.full((3,), 10.0))
    saved.drop()
    assert saved.steps() == [] and take(saved) == (None, [])


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "tail", "noise"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(storage: Storage, damage: str) -> None:
    saved = Checkpoints(storage, keep=3)
    for step in (1, 2):
        saved.save(step, state(step))
    content = storage.read("step-000000002.pt")
    middle = len(content) // 2
    storage.write(
        "step-000000002.pt",
        {
            "cut": content[:middle],
            "empty": b"",
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "tail": content[:-1],
            "noise": os.urandom(len(content)),
        }[damage],
    )
    step, said = take(saved)
    assert step == 1
    assert len(said) == 1 and "step-000000002.pt is corrupt or partially written" in said[0]
    assert saved.steps() == [1]


def test_a_refused_checkpoint_does_not_outlive_the_ones_that_follow(tmp_path: Path) -> None:
    """Else a run that starts again would keep the old last one, and drop its own as the older."""
    saved = Checkpoints(tmp_path)
    saved.save(100, state(100))
    assert saved.load(lambda state: "is of other data") is None
    saved.save(5, state(5))
    assert saved.steps() == [5]


def test_a_checkpoint_cannot_execute_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "executed"),)

    saved = Checkpoints(tmp_path / "c")
    saved.save(1, {"step": 1, "x": Evil()})
    step, said = take(saved)
    assert step is None and "cannot be read" in said[0]
    assert not (tmp_path / "executed").exists()


def test_in_the_background_the_state_is_that_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, write = threading.Event(), Checkpoints._write

    def slow(self: Checkpoints, *arguments: Any) -> None:
        begin.wait(10)
        write(self, *arguments)

    monkeypatch.setattr(Checkpoints, "_write", slow)
    saved, x = Checkpoints(tmp_path, background=True), torch.zeros(3)
    saved.save(1, {"step": 1, "deep": [{"x": x}]})
    x += 1  # the next training step
    assert saved.steps() == []
    begin.set()
    saved.wait()
    assert torch.equal(saved.read(1)["deep"][0]["x"], torch.zeros(3))


def test_an_error_in_the_background_is_raised_at_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Storage, "write", full)
    saved = Checkpoints(tmp_path, background=True)
    saved.save(1, state(1))
    with pytest.raises(OSError, match="No space left"):
        saved.save(2, state(2))


def test_what_a_dead_process_left_is_swept(tmp_path: Path) -> None:
    old, new = tmp_path / ".step-1.pt.1-a.tmp", tmp_path / ".step-1.pt.2-b.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    Checkpoints(tmp_path).load(lambda state: None)
    assert not old.exists() and new.exists()  # another process may still be writing the other one


# Rows are fetched


def put(place: Storage | Path, row: dict[str, Any], scratch: Path) -> bytes:
    directory = scratch / "made"
    paths.run_path(directory, row["run_id"]).unlink(missing_ok=True)
    store.write_run(directory, row)
    content = paths.run_path(directory, row["run_id"]).read_bytes()
    where = Storage(place) if isinstance(place, Path) else place
    where.write(f"runs/{row['run_id']}.parquet", content)
    return content


def failed(row: dict[str, Any], minutes: int) -> dict[str, Any]:
    when = {"finished_at": START + timedelta(minutes=minutes)}
    return {**row, "status": "failed", "message": "why", "dev_miou": None, "dev_confusion": None, **when}


def test_rows_are_merged_by_run_id(storage: Storage, tmp_path: Path) -> None:
    here, row, other = tmp_path / "results" / "x", make_row("kd", 0), make_row("kd", 1)
    with pytest.raises(FileNotFoundError, match="no results yet"):
        pull(storage, here)
    content = put(storage, row, tmp_path)
    put(storage, failed(other, 1), tmp_path)
    assert pull(storage, here).new == 2
    assert paths.run_path(here, row["run_id"]).read_bytes() == content
    assert (pull(storage, here).new, pull(storage, here).kept) == (0, 2)
    put(storage, other, tmp_path)  # it was run again, and is finished now
    assert pull(storage, here).new == 1
    put(storage, failed(other, 99), tmp_path)  # never the other way round
    assert pull(storage, here).new == 0
    assert set(store.finished(here).values()) == {"ok"}


def test_rows_of_step_times_and_of_a_search_come_home_too(storage: Storage, tmp_path: Path) -> None:
    here = tmp_path / "results" / "x"
    assert {folder(here) for folder in (times_folder, search_folder)} == {here / part for part in PARTS}
    for seed, part in enumerate(PARTS):
        put(storage.below(part), make_row("kd", 1 + seed), tmp_path)
    assert pull(storage, here).new == 0  # no run has ended yet
    assert [len(store.finished(here / part)) for part in PARTS] == [1, 1]
    put(storage, make_row("kd", 0), tmp_path)
    assert pull(storage, here).new == 1
    assert [len(store.finished(folder)) for folder in (here, *(here / part for part in PARTS))] == [1, 1, 1]
    put(storage.below(PARTS[0]), {**make_row("kd", 1), "weights_sha256": "f" * 64}, tmp_path)
    put(storage, make_row("kd", 5), tmp_path)
    with pytest.raises(ValueError, match=f"{PARTS[0]}/runs/.*differ in weights_sha256"):
        pull(storage, here)
    assert len(store.finished(here)) == 2  # what can be merged is


def test_two_results_of_one_run_are_an_error_that_names_both(storage: Storage, tmp_path: Path) -> None:
    here, row, other = tmp_path / "results" / "x", make_row("kd", 0), make_row("cwd", 0)
    put(here, row, tmp_path)
    put(storage, {**row, "weights_sha256": "f" * 64}, tmp_path)
    put(storage, other, tmp_path)
    with pytest.raises(ValueError, match=rf"{row['run_id']}.parquet .*differ in weights_sha256.*Delete the one"):
        pull(storage, here)
    assert store.read_row(paths.run_path(here, row["run_id"]))["weights_sha256"] is None
    assert other["run_id"] in store.finished(here)  # what can be merged is


def test_the_same_result_made_twice_is_no_conflict(storage: Storage, tmp_path: Path) -> None:
    here, row = tmp_path / "results" / "x", make_row("kd", 0)
    put(here, row, tmp_path)
    put(storage, {**row, "step_ms": 1.0, "finished_at": START + timedelta(days=1)}, tmp_path)
    assert (pull(storage, here).new, pull(storage, here).kept) == (0, 1)


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1"])
def test_a_damaged_row_is_named_and_not_taken(storage: Storage, tmp_path: Path, content: bytes) -> None:
    storage.write("runs/0123.parquet", content)
    with pytest.raises(ValueError, match=r"runs/0123.parquet: not a readable row"):
        pull(storage, tmp_path / "results")
    assert list((tmp_path / "results" / "runs").iterdir()) == []


def test_finished_rows_that_are_here_need_not_be_read_again(storage: Storage, tmp_path: Path) -> None:
    here, row, other = tmp_path / "results" / "x", make_row("kd", 0), make_row("kd", 1)
    put(here, row, tmp_path)
    put(here, failed(other, 1), tmp_path)
    storage.write(f"runs/{row['run_id']}.parquet", b"never looked at")
    put(storage, other, tmp_path)
    assert (pull(storage, here, trusting=True).new, pull(storage, here, trusting=True).kept) == (1, 2)
    with pytest.raises(ValueError, match="not a readable row"):
        pull(storage, here)


def test_a_row_under_another_name_is_refused(storage: Storage, tmp_path: Path) -> None:
    content = put(storage, make_row("kd", 0), tmp_path)
    storage.write("runs/0123.parquet", content)
    with pytest.raises(ValueError, match=r"0123.parquet: holds the row of"):
        pull(storage, tmp_path / "results")


def test_weights_come_when_they_are_asked_for(storage: Storage, tmp_path: Path) -> None:
    here, row = tmp_path / "results", make_row("kd", 0)
    put(storage, row, tmp_path)
    storage.write(f"weights/{row['run_id']}.safetensors", b"weights")
    storage.write("weights/elsewhere.safetensors", b"of a run that has no row")
    assert pull(storage, here).weights == 0
    assert pull(storage, here, weights=True).weights == 1
    assert (here / "weights" / f"{row['run_id']}.safetensors").read_bytes() == b"weights"
    assert len(list((here / "weights").iterdir())) == 1
