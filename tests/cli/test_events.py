"""The events that `run --json` writes, one JSON object per line."""

import io
import json

import pyarrow as pa
import pytest

from harness.analysis.columns import HEADER, cells
from harness.analysis.comparison import quick_table
from harness.cli import events
from harness.cli.events import Events
from harness.execution.status import Status
from harness.results.schema import SCHEMA, checked
from harness.training.progress import Progress
from tests.support.rows import make_experiment
from tests.support.tiny import plan

NAN, INF = float("nan"), float("inf")
STEP = {"step": 3, "steps": 6, "loss": 1.5, "terms": {"task": 1.0, "kd": 0.5}, "dev_miou": 0.5, "step_ms": 1000.0}


@pytest.fixture
def now(monkeypatch):
    """A clock that stands until it is set."""
    time = [100.0]
    monkeypatch.setattr(events.time, "monotonic", lambda: time[0])
    return time


@pytest.fixture
def status(tmp_path):
    runs = plan(tmp_path)
    return Status(runs, {run.run_id: "waiting" for run in runs})


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def read(stream):
    """The events since the last look."""
    text = stream.getvalue()
    stream.seek(0)
    stream.truncate()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_a_run_from_start_to_end(status, now):
    stream, (teacher, none, kd) = io.StringIO(), status.runs
    with Events(stream, why={none.run_id: "out of memory"}.get) as show:
        show(status)
        assert read(stream) == []
        status.notes.append('a note with "quotes"\n')
        status.change(teacher, "running")
        now[0] += 5
        show(status)
        about = {"run_id": teacher.run_id, "pair": "tiny", "method": "none", "seed": 0, "role": "teacher"}
        assert read(stream) == [
            {"event": "note", "text": 'a note with "quotes"\n'},
            {"event": "start", **about, "elapsed_seconds": 5.0, "eta_seconds": None},
        ]
        status.report(
            teacher.run_id, Progress(**{**STEP, "device": {"memory_mb": 100.0, "utilization": NAN}, "node": "n"})
        )
        show(status)
        show(status)
        reported = {"state": "running", **STEP, "device": {"memory_mb": 100.0, "utilization": None}, "node": "n"}
        assert read(stream) == [{"event": "progress", **about, **reported, "elapsed_seconds": 5.0, "eta_seconds": 12.0}]
        status.report(teacher.run_id, Progress(step=4))
        show(status)
        assert read(stream) == []  # too soon after the last one
        now[0] += 1
        show(status)
        assert [(event["event"], event["step"]) for event in read(stream)] == [("progress", 4)]
        status.change(teacher, "ok")
        status.change(none, "failed")
        show(status)
        ok, failed = read(stream)
        assert ok["event"] == "end" and ok["state"] == "ok" and ok["step"] == 4 and ok["message"] is None
        assert failed["state"] == "failed" and failed["message"] == "out of memory" and failed["step"] is None
        status.change(kd, "running")
        status.report(kd.run_id, Progress(**STEP))
        status.change(kd, "ok")
        show(status)
        assert [(event["event"], event["run_id"]) for event in read(stream)] == [
            ("start", kd.run_id),
            ("end", kd.run_id),
        ]


def test_numbers_that_json_does_not_have_are_null(status, now):
    stream, run = io.StringIO(), status.runs[0]
    status.change(run, "running")
    status.report(run.run_id, Progress(**{**STEP, "loss": NAN, "terms": {"task": INF, "kd": -INF}, "dev_miou": None}))
    Events(stream)(status)
    progress = read(stream)[-1]
    assert progress["loss"] is None and progress["terms"] == {"task": None, "kd": None}


def test_the_end_of_it_all(now):
    stream = io.StringIO()
    show = Events(stream)
    now[0] += 2.5
    show.done(["ok", "ok", "failed", "waiting"], interrupted=True)
    assert read(stream) == [
        {
            "event": "done",
            "counts": {"ok": 2, "failed": 1, "skipped": 0, "waiting": 1},
            "interrupted": True,
            "elapsed_seconds": 2.5,
        }
    ]


def test_the_table(now):
    stream = io.StringIO()
    rows = [checked(row) for row in make_experiment(("none", "kd"), seeds=2)]
    table = quick_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    Events(stream).table(table)
    (event,) = read(stream)
    (block,) = table.blocks
    assert event["event"] == "table" and event["columns"] == list(HEADER) and event["headline"] == block.headline
    assert event["rows"] == [list(cells(line)) for line in block.methods]
