"""Terms that are out of proportion to the task loss are said by `run`, `check` and the table."""

import shutil
from pathlib import Path

import pytest

from harness.experiment.resources import Resources
from harness.results import paths, store
from harness.training import proportions
from tests.support import tiny
from tests.support.commands import call

OUTSIZED = {"kd": {"weight": 5000.0}}
TEXT = "kd is over 20 times the task loss at first; its weight is meant for another setting"


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ({"task": 1.0}, ""),
        ({"task": 1.0, "kd": 20.0, "critic": -19.0}, ""),
        ({"task": -0.1, "kd": 2.1}, TEXT),
        ({"task": 1.0, "b": 21.0, "a": -30.0}, "a, b are over 20 times the task loss at first; their weights are"),
    ],
)
def test_what_is_large(terms: dict[str, float], text: str) -> None:
    found = proportions.large(terms)
    assert found.startswith(text) and bool(found) == bool(text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of a teacher and of two students, one with a term that is out of proportion."""
    folder = tmp_path_factory.mktemp("trained")
    for run in tiny.plan(folder, methods=["kd", "none", OUTSIZED]):
        if run.method.name == "kd" or run.role == "teacher":
            notes = []
            assert tiny.in_process(run, folder / "tiny", on_progress=lambda p, n=notes: n.append(p.note)) == "ok"
            said = [note for note in notes if note and "times the task loss" in note]
            assert len(said) == (run.method.label == "kd(weight=5000.0)")
    return folder


def test_the_first_step_is_that_of_the_run(trained: Path) -> None:
    directory = trained / "tiny"
    for run in tiny.plan(trained, methods=["kd", "none", OUTSIZED])[1:]:
        if run.method.name == "kd":
            found = proportions.first_step(run, Resources(), directory)
            row = store.read_row(paths.run_path(directory, run.run_id))
            assert found == pytest.approx(dict(row["losses"][0]["terms"]), rel=1e-5)
            assert ("another setting" in (row["caveat"] or "")) == (run.method.label != "kd")


def test_check_and_the_table_say_it(trained: Path) -> None:
    file = tiny.write(trained, methods=["kd", "none", OUTSIZED])
    said = call("check", file, "--results", trained).stdout
    assert f"note: pair tiny, kd(weight=5000.0): {TEXT}" in said and "tiny, kd:" not in said
    table = call("tables", file, "--results", trained, "--format", "md").stdout
    assert f"- kd: {TEXT} (kd(weight=5000.0))" in table.replace("\\", "")


def test_check_needs_no_weights_of_a_finished_teacher(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "tiny" / "runs", tmp_path / "tiny" / "runs")
    said = call("check", tiny.write(tmp_path, methods=["kd", "none", OUTSIZED]), "--results", tmp_path).stdout
    assert "times the task loss" not in said and "3 runs" not in said and "4 runs" in said
