"""Trials of a search and step times are rows, too: those of other data are neither reused nor counted."""

from pathlib import Path
from typing import Any

import pytest

from harness.bench import Bench
from harness.experiment.load import load
from harness.experiment.plan import timing_runs
from harness.experiment.spec import Run
from harness.experiment.studies import studies_of, trial_run
from harness.results import content, paths, record, reuse, store
from harness.search import points
from tests.support import searches, tiny

THEN, NOW = "a" * 64, "b" * 64
CHANGED = rf"rows are not of today's content:(.|\n)*data {THEN[:12]}... in the row, {NOW[:12]}... today"
RESULT: dict[str, Any] = {
    "num_classes": 2,
    "dev_confusion": [1, 0, 0, 1],
    "dev_miou": 0.5,
    "step_ms": 10.0,
    "device": "cpu",
    "train_seconds": 1.5,
    "eval_seconds": 0.5,
    "data_hash": THEN,
}


@pytest.fixture(autouse=True)
def other_data_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "data_hash", lambda self: NOW)
    monkeypatch.setattr(Bench, "_launch", lambda *_: pytest.fail("something was launched"))


def test_trials_of_other_data(tmp_path: Path) -> None:
    of = searches.experiment(tmp_path)
    bench = Bench(of, tmp_path / "results", tmp_path / "tiny.yaml")
    studies = studies_of(of)
    for study, drawn in zip(studies, points.drawn(of, studies), strict=True):
        for number, values in enumerate(drawn):
            run = trial_run(study, number, "sobol", values)
            record.write_row(run, paths.search_folder(bench.directory), RESULT, "ok")
    for asked in (bench.tune, bench.runs, bench.run, bench.require_current, bench.table):
        with pytest.raises(ValueError, match=CHANGED):
            asked()
    kept = len(store.finished(paths.search_folder(bench.directory)))
    bench._set_aside()
    assert kept == 8 and store.finished(paths.search_folder(bench.directory)) == {}


def test_step_times_of_other_data(tmp_path: Path) -> None:
    bench = Bench(load(tiny.write(tmp_path, budget={"unit": "seconds"})), tmp_path / "results")
    for run in timing_runs(bench.experiment):
        record.write_row(run, paths.times_folder(bench.directory), RESULT, "ok")
    for asked in (bench.runs, bench.run, bench.require_current, bench.table):
        with pytest.raises(ValueError, match=CHANGED):
            asked()
    bench._set_aside()
    assert store.finished(paths.times_folder(bench.directory)) == {}


def test_students_of_a_changed_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's weights are the same, its source is another: what it taught is another, too."""
    (tmp_path / "myteacher.py").write_text("class Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    network = {"architecture": "myteacher:Net", "taps": {"stage1": "a", "logits": "b"}}
    runs = tiny.plan(tmp_path, pairs=[{**tiny.TINY["pairs"][0], "teacher": network}])

    def write(run: Run, folder: Path, *without: str) -> None:
        teacher = "myteacher:Net" if run.method.name == "kd" else None
        code = content.code_columns(run.method.name, run.network.architecture, "texmosaic", teacher=teacher)
        own = {"weights_sha256": THEN, "teacher_sha256": THEN if teacher else None}
        record.write_row(run, folder, {**RESULT, **own, **code} | dict.fromkeys(without), "ok")

    for run in runs:
        write(run, tmp_path / "new")
        write(run, tmp_path / "old", "teacher_source_sha256")
        write(run, tmp_path / "again")
    (tmp_path / "myteacher.py").write_text("class Net: ...  # changed\n")
    teacher, none, kd = runs
    paths.run_path(tmp_path / "again", teacher.run_id).unlink()
    write(teacher, tmp_path / "again")
    for folder, expected in (("new", "stale"), ("old", "stale"), ("again", "ok")):
        for ids in (None, [none.run_id, kd.run_id]):
            found = reuse.standings(tmp_path / folder, ids, lambda: None)
            assert ids or found[teacher.run_id].state == expected
            assert found[none.run_id].state == "ok" and found[kd.run_id].state == "stale", folder
            assert found[kd.run_id].reasons[0].startswith("source files of the teacher ")
