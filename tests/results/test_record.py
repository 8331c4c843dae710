import errno
import json
import re
import subprocess

import pytest

import harness
from harness.experiment.spec import PROTOCOL_VERSION
from harness.results import paths, provenance, record, store
from tests.support.rows import make_row
from tests.support.tiny import plan


def result_columns(run):
    """What training adds to a row, made up."""
    made = make_row(run.method.name, run.seed)
    described = record._described(run)
    given = {"status", "message", "started_at", "finished_at"}
    return {k: v for k, v in made.items() if k not in described and k not in given}


def test_the_row_says_what_was_run(tmp_path):
    teacher, none, _ = plan(tmp_path)
    assert record.write_row(none, tmp_path, result_columns(none)) is True
    row = store.read_row(paths.run_path(tmp_path, none.run_id))
    assert (row["run_id"], row["status"], row["teacher_run_id"]) == (none.run_id, "ok", teacher.run_id)
    assert (row["protocol_version"], row["steps"], row["seed"]) == (PROTOCOL_VERSION, 6, 0)
    assert json.loads(row["spec"]) == none.model_dump(mode="json")
    assert json.loads(row["recipe"])["batch_size"] == 4
    assert set(row["versions"]) == {"python", "platform", *provenance.PACKAGES}
    assert record.write_row(none, tmp_path, {}, "failed", "later") is False


def test_a_failure_says_what_and_where():
    with pytest.raises(ValueError) as caught:
        store.read_rows(".", ["nothing"])
    assert re.fullmatch(r"ValueError: unknown columns \['nothing'\].* \[store\.py:\d+\]", record.failure(caught.value))
    assert record.failure(KeyError("x")) == "KeyError: 'x'"


def test_a_full_disk_is_told_from_other_errors():
    assert record.is_disk_full(OSError(errno.ENOSPC, "full"))
    assert not record.is_disk_full(OSError(errno.ENOENT, "none"))
    assert not record.is_disk_full(ValueError())


@pytest.mark.parametrize("answer", [FileNotFoundError("git"), PermissionError("git")])
def test_the_code_version_does_not_need_git(monkeypatch, answer):
    """A checkout copied to a machine without git: a finished run still gets its row."""

    def no_git(*_, **__):
        raise answer

    monkeypatch.setattr(subprocess, "run", no_git)
    monkeypatch.setattr(provenance.Path, "exists", lambda self: True)
    assert provenance.code_version.__wrapped__() == f"{harness.__version__}+uncommitted"
