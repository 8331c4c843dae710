import io

import pytest
from rich.console import Console

from harness import display
from harness.display import Display, clock, run_name
from harness.launch import Status
from tests.tiny import plan

STEP = {"step": 3, "steps": 6, "loss": 1.23456, "dev_miou": 0.5, "step_ms": 1000.0}


@pytest.fixture
def now(monkeypatch):
    """A clock that stands until it is set."""
    time = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: time[0])
    return time


@pytest.fixture
def status(tmp_path):
    runs = plan(tmp_path, methods=["none", {"sstkd": {"stages": ["stage1"]}}])
    return Status(runs, {run.run_id: "waiting" for run in runs})


def shown(terminal=False):
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def lines(console):
    """What was printed since the last look."""
    text = console.file.getvalue()
    console.file.seek(0)
    console.file.truncate()
    return text.splitlines()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (187, "3:07"),
        (3599.7, "1:00:00"),
        (3729, "1:02:09"),
        (90000, "25:00:00"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_names_of_runs(status):
    assert [run_name(run) for run in status.runs] == ["teacher", "none seed 0", "sstkd(stages=[stage1]) seed 0"]


def test_without_a_terminal_there_is_a_line_per_event_and_one_now_and_then(status, now):
    teacher, none, sstkd = (run.run_id for run in status.runs)
    console = shown()
    with Display(console) as show:
        show(status)
        assert lines(console) == []  # nothing has happened
        status.state[teacher] = "running"
        now[0] += 5
        show(status)
        assert lines(console) == ["[0:05] tiny teacher: running  0/3 runs, ETA ?"]
        status.progress[teacher] = dict(STEP)
        show(status)
        now[0] += 9.9
        show(status)
        assert lines(console) == []  # too soon
        now[0] += 0.1
        show(status)
        assert lines(console) == [
            "[0:15] tiny teacher: running  step 3/6  loss 1.235  dev mIoU 50.0  0/3 runs, ETA 0:12"
        ]
        status.state.update({teacher: "ok", none: "failed", sstkd: "running"})
        status.progress[sstkd] = {"note": "starts again"}
        show(status)
        assert lines(console) == [
            "[0:15] tiny teacher: ok  step 3/6  loss 1.235  dev mIoU 50.0  2/3 runs, ETA 0:06",
            "[0:15] tiny none seed 0: failed  2/3 runs, ETA 0:06",
            "[0:15] tiny sstkd(stages=[stage1]) seed 0: running  starts again  2/3 runs, ETA 0:06",
        ]
        show(status)
        assert lines(console) == []


def test_runs_that_had_a_row_before_are_not_announced(status, now):
    status.state = dict.fromkeys(status.state, "ok")
    console = shown()
    with Display(console) as show:
        show(status)
    assert lines(console) == []


def test_a_run_without_an_evaluation_yet(status, now):
    run_id = status.runs[0].run_id
    status.state[run_id] = "running"
    status.progress[run_id] = {**STEP, "dev_miou": None}
    for terminal in (False, True):
        console = shown(terminal)
        with Display(console) as show:
            show(status)
        assert "1.235" in "".join(lines(console))


def test_notes_are_told_once(status, now):
    console = shown()
    with Display(console) as show:
        for note in ("one [/b] [red]" + "x" * 200, "two"):
            status.notes.append(note)
            show(status)
    assert lines(console) == ["note: one [/b] [red]" + "x" * 200, "note: two"]


def test_the_live_table(status, now):
    """Labels with brackets are shown as they are."""
    run = status.runs[2]
    status.state.update({status.runs[0].run_id: "ok", status.runs[1].run_id: "failed", run.run_id: "running"})
    status.progress[run.run_id] = dict(STEP)
    console = shown(terminal=True)
    with Display(console) as show:
        show(status)
        show._live.refresh()
    text = "\n".join(lines(console))
    assert "2 of 3 runs finished (1 failed), 1 running, 0:00 elapsed, about 0:03 left" in text
    row = next(line for line in text.splitlines() if "3/6" in line)
    assert "sstkd(stages=[stage1]) seed 0" in row and "1.235" in row and "50.0" in row and "1.000" in row


def test_the_time_left_is_that_of_the_longest_run_when_few_are_left(tmp_path):
    runs = plan(tmp_path, "train.steps=100", "pairs.0.teacher.steps=100")
    state = {run.run_id: "running" for run in runs}
    progress = {run.run_id: {"step": 40, "step_ms": 1000.0} for run in runs}
    status = Status(runs, state, progress, slots=2)
    assert status.eta_seconds() == (60 + 60 + 60) / 2
    state.update({run.run_id: "ok" for run in runs[:-1]})
    assert status.eta_seconds() == 60  # not 30: one run cannot be shared between two slots
