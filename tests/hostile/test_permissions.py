"""Folders that a user may not read, enter or change: the file is named as its reader knows it, and nothing is lost."""

import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.execution import status_file
from harness.execution.status import Status
from harness.files import write_atomic
from harness.results import paths
from tests.support.users import as_another_user, folder_of_all

MODES = (0o000, 0o444, 0o555, 0o600)


@pytest.fixture
def place() -> Iterator[Path]:
    with folder_of_all() as folder:
        yield folder


@pytest.mark.parametrize("mode", MODES, ids=oct)
def test_a_file_in_a_folder_that_cannot_be_changed_is_named(place: Path, mode: int) -> None:
    (place / "r").mkdir()
    (place / "r").chmod(mode)

    def write() -> None:
        with pytest.raises(PermissionError) as caught:
            write_atomic(place / "r" / "row.parquet", b"x")
        assert caught.value.filename == str(place / "r" / "row.parquet"), str(caught.value)

    as_another_user(write)
    (place / "r").chmod(0o700)


@pytest.mark.parametrize("mode", MODES, ids=oct)
def test_a_run_goes_on_where_its_status_cannot_be_written(place: Path, mode: int) -> None:
    (place / "r").mkdir()
    (place / "r").chmod(mode)

    def update() -> None:
        status = Status([], {})
        file = status_file.StatusFile(place / "r")
        for _ in range(2):
            file.update(status, ended=True)
        assert len(status.notes) == 1 and str(paths.status_path(place / "r")) in status.notes[0]
        assert ".tmp" not in status.notes[0]

    as_another_user(update)
    (place / "r").chmod(0o700)


def test_a_status_that_cannot_be_read_is_named(place: Path) -> None:
    path = paths.status_path(place)
    path.write_text("{}")
    path.chmod(0o000)

    def read() -> None:
        with pytest.raises(PermissionError, match=r"status\.json"):
            status_file.read(place)

    as_another_user(read)


def test_a_command_of_another_user_is_seen_to_run(place: Path) -> None:
    found = {"pid": os.getpid(), "host": platform.node(), "process_began": status_file.process_began(os.getpid())}
    paths.status_path(place).write_text(
        json.dumps({**found, "began": 0.0, "written": 0.0, "ended": False, "doing": "", "running": []})
    )

    def look() -> None:
        assert status_file.is_alive(status_file.read(place) or {}) is True
        status = Status([], {})
        status_file.StatusFile(place).update(status)
        assert f"process {found['pid']} on" in status.notes[0]

    as_another_user(look)
