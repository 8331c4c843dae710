"""Disks that are full and folders that nobody may write: the command says which file or folder, by the name a user knows."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.results import packs, store
from tests.support import hostile, tiny, users
from tests.support.rows import make_row

pytestmark = pytest.mark.slow

SMALL = 3000
"""Bytes of a file beyond which the kernel refuses to write, as it does on a full disk."""


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What the commands import, before they are forked."""
    import pyarrow.dataset
    import pyarrow.json  # noqa: F401

    import harness.report.console
    import harness.report.write  # noqa: F401


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The tiny experiment with a row of every run."""
    folder = tmp_path / "place" / "here"
    folder.mkdir(parents=True)
    teacher, *students = tiny.plan(folder)
    directory, of_all = folder / "results" / "tiny", {"experiment": "tiny", "pair": "tiny", "data_hash": None}
    store.write_run(directory, {**make_row(role="teacher", **of_all), "run_id": teacher.run_id})
    for run in students:
        own = {"run_id": run.run_id, "teacher_run_id": teacher.run_id, "teacher_sha256": None}
        store.write_run(directory, {**make_row(run.method.name, **of_all), **own})
    return folder


@pytest.fixture
def closed(here: Path) -> Iterator[Path]:
    """The same, where nothing may be written."""
    folders = [folder for folder in here.rglob("*") if folder.is_dir()]
    for folder in folders:
        folder.chmod(0o500)
    yield here
    for folder in folders:
        folder.chmod(0o700)


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))


FULL: dict[str, tuple[list[str], str]] = {
    "tables": (["tables", "tiny.yaml"], "File too large: 'results/tiny/"),
    "pack": (["results", "pack", "results/tiny"], "no row was removed: 'results/tiny/packs'"),
    "unpack": (["results", "unpack", "results/tiny"], "File too large: 'results/tiny/runs/"),
    "pull": (["results", "pull", "results/tiny", "other"], "File too large: 'other/runs/"),
}


@pytest.mark.parametrize("command", FULL)
def test_a_full_disk(here: Path, command: str) -> None:
    directory, (arguments, words) = here / "results" / "tiny", FULL[command]
    if command == "unpack":
        packs.pack(directory)
    kept = set(store.finished(directory))
    ended = hostile.run(arguments, here, small_files)
    assert hostile.complaints(ended, [words], codes=(1,)) == [], ended.text
    assert set(store.finished(directory)) == kept
    assert not list(here.rglob("*.tmp"))


CLOSED: dict[str, tuple[list[str], str]] = {
    "tables": (["tables", "tiny.yaml"], "results/tiny cannot be written; --format"),
    "pack": (["results", "pack", "results/tiny"], "Permission denied: 'results/tiny'"),
    "unpack": (["results", "unpack", "results/tiny"], "Permission denied: 'results/tiny'"),
    "pull": (["results", "pull", "results/tiny", "results/more"], "Permission denied: 'results/more'"),
    "run": (
        ["run", "tiny.yaml", "--set", "pairs.0.teacher.steps=4"],
        "results/tiny cannot be written; choose another --results",
    ),
}


@pytest.mark.parametrize("command", CLOSED)
def test_a_folder_that_nobody_may_write(closed: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_to_check(*_: object, **__: object) -> None:
        """The gate trains a step, which takes seconds."""

    monkeypatch.setattr("harness.bench.Bench.require_ready", nothing_to_check)
    arguments, words = CLOSED[command]
    ended = hostile.run(arguments, closed, users.obey_permissions)
    assert hostile.complaints(ended, [words], codes=(2,)) == [], ended.text
    assert "/." not in ended.text, "a hidden file says nothing to its reader"


SHOWN: dict[str, Callable[[str], list[str]]] = {
    "run": lambda file: ["run", file],
    "tables": lambda file: ["tables", file, "--format", "md"],
}


@pytest.mark.parametrize("command", SHOWN)
def test_what_is_finished_is_shown_from_a_folder_that_nobody_may_write(closed: Path, command: str) -> None:
    ended = hostile.run(SHOWN[command]("tiny.yaml"), closed, users.obey_permissions)
    assert hostile.complaints(ended, ["Equal for all:", "kd"], codes=(0,)) == [], ended.text
