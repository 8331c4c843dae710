import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from harness.cli import progress, tune
from harness.cli.progress import Display
from harness.execution.status import Looker, Status
from harness.training.progress import Progress
from tests.support.tiny import plan

STEP = {"step": 3, "steps": 6, "loss": 1.23456, "dev_miou": 0.5, "step_ms": 1000.0}


@pytest.fixture
def now(monkeypatch):
    """A clock that stands until it is set."""
    time = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: time[0])
    return time


@pytest.fixture
def status(tmp_path):
    runs = plan(tmp_path, methods=["none", {"sstkd": {"stages": ["stage1"]}}])
    return waiting(runs)


def waiting(runs):
    return Status(runs, {run.run_id: "waiting" for run in runs})


def shown(terminal=False):
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def lines(console):
    """What was printed since the last look."""
    text = console.file.getvalue()
    console.file.seek(0)
    console.file.truncate()
    return text.splitlines()


def test_without_a_terminal_there_is_a_line_per_event_and_one_now_and_then(status, now):
    teacher, none, sstkd = status.runs
    console = shown()
    with Display(console, why={none.run_id: "RuntimeError: [b]out\nof memory"}.get) as show:
        show(status)
        assert lines(console) == []  # nothing has happened
        status.change(teacher, "running")
        now[0] += 5
        show(status)
        assert lines(console) == ["[0:05] tiny teacher: running  0/3 runs, ETA ?"]
        status.report(teacher.run_id, Progress(**STEP))
        show(status)
        now[0] += 9.9
        show(status)
        assert lines(console) == []  # too soon
        now[0] += 0.1
        show(status)
        assert lines(console) == [
            "[0:15] tiny teacher: running  step 3/6  loss 1.235  dev mIoU 50.0  0/3 runs, ETA 0:12"
        ]
        status.change(teacher, "ok")
        status.change(none, "failed")
        status.change(sstkd, "running")
        status.report(sstkd.run_id, Progress(note="starts again"))
        show(status)
        assert lines(console) == [
            "[0:15] tiny teacher: ok  step 3/6  loss 1.235  dev mIoU 50.0  2/3 runs, ETA 0:06",
            "[0:15] tiny none seed 0: failed  2/3 runs, ETA 0:06  RuntimeError: [b]out of memory",
            "[0:15] tiny sstkd(stages=[stage1]) seed 0: running  starts again  2/3 runs, ETA 0:06",
        ]
        show(status)
        assert lines(console) == []


def test_a_run_that_is_taken_up_again_begins_again(status, now):
    console = shown()
    teacher = status.runs[0]
    with Display(console) as show:
        for state in ("running", "waiting", "running"):
            status.change(teacher, state)
            show(status)
    assert [line.partition("  ")[0] for line in lines(console)] == ["[0:00] tiny teacher: running"] * 2


def test_many_runs_take_turns(tmp_path, now):
    """About one line a second in all, and nobody is left out."""
    status = waiting(plan(tmp_path, seeds=list(range(20)), methods=["none", "kd"])[1:])
    for run in status.runs:
        status.change(run, "running")
    console = shown()
    with Display(console) as show:
        show(status)
        assert len(lines(console)) == 40
        for _ in range(240):
            now[0] += 0.5
            show(status)
    said = lines(console)
    assert 100 <= len(said) <= 120
    assert len({line.split(": ")[0].partition("] ")[2] for line in said}) == 40


def test_runs_that_had_a_row_before_are_not_announced(status, now):
    status = Status(status.runs, {run.run_id: "ok" for run in status.runs})
    console = shown()
    with Display(console) as show:
        show(status)
    assert lines(console) == []


@pytest.mark.parametrize("terminal", [False, True])
def test_notes_and_ends_are_told_once(status, now, terminal):
    console = shown(terminal)
    teacher = status.runs[0]
    with Display(console) as show:
        for note in ("one [/b] [red]" + "x" * 200, "two"):
            status.notes.append(note)
            show(status)
        status.change(teacher, "running")
        status.report(teacher.run_id, Progress(**STEP))
        status.change(teacher, "ok")
        show(status)
        status.forget()
        show(status)
    said = [line for line in lines(console) if "note" in line or "teacher: ok" in line]
    assert [line.partition("note: ")[2] for line in said[:2]] == ["one [/b] [red]" + "x" * 200, "two"]
    assert len(said) == 3 and "step 3/6  loss 1.235  dev mIoU 50.0  1/3 runs" in said[2]


def test_a_terminal_without_a_cursor_gets_lines(status, now, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    console = shown(terminal=True)
    status.change(status.runs[0], "running")
    with Display(console) as show:
        show(status)
    assert lines(console) == ["[0:00] tiny teacher: running  0/3 runs, ETA ?"]


def test_the_live_screen_is_gone_at_the_end(status, now):
    console = shown(terminal=True)
    status.change(status.runs[2], "running")
    status.report(status.runs[2].run_id, Progress(**STEP))
    with Display(console) as show:
        show(status)
        assert any("sstkd(stages=[stage1])" in line and "3/6" in line for line in lines(console))
    assert console.file.getvalue().endswith("\x1b[1A\x1b[2K")  # the last line up was erased


def test_what_is_new(status):
    looker, (teacher, none, _) = Looker(), status.runs
    status.change(teacher, "running")
    assert [run_id for run_id, _ in looker.look(status).begun] == [teacher.run_id]
    status.change(teacher, "failed")
    status.change(none, "running")
    status.report(none.run_id, Progress(step=1))
    status.change(none, "ok")
    changes = looker.look(status)
    assert changes.begun == [(none.run_id, none)], "it began and ended unseen"
    assert changes.ended == [(teacher.run_id, teacher), (none.run_id, none)]
    changes = looker.look(status)
    assert not (changes.notes or changes.begun or changes.ended)


def test_a_second_launch_is_looked_at_from_its_beginning(status):
    looker = Looker()
    status.notes.append("of the first launch")
    for run in status.runs:
        status.change(run, "ok")
    assert len(looker.look(status).ended) == 3
    second = waiting(status.runs)
    second.notes.append("of the second launch")
    second.change(second.runs[0], "running")
    changes = looker.look(second)
    assert changes.notes == ["of the second launch"] and changes.begun == [(second.runs[0].run_id, second.runs[0])]


class OneByOne(dict):
    """By run_id; nobody may walk through it."""

    def __iter__(self):
        raise AssertionError("an update walks through every run")

    items = values = keys = __iter__


class Unwalked(list):
    """Nobody may walk through it."""

    __iter__ = OneByOne.__iter__


@pytest.mark.parametrize("terminal", [False, True])
def test_an_update_does_not_depend_on_how_many_runs_wait(status, terminal):
    """It looks at runs that run or have just changed; nothing walks through the others."""
    status.change(status.runs[0], "running")
    status.report(status.runs[0].run_id, Progress(**STEP))
    with Display(shown(terminal)) as show:
        show(status)
        status.runs = Unwalked(status.runs)
        for name in ("state", "_kind", "_steps"):
            setattr(status, name, OneByOne(getattr(status, name)))
        show(status)
        status.change(status.runs[0], "ok")
        show(status)
        with pytest.raises(AssertionError, match="walks"):
            list(status.runs)
        with pytest.raises(AssertionError, match="walks"):
            list(status.state.values())


def test_the_time_left_is_that_of_the_longest_run_when_few_are_left(tmp_path):
    runs = plan(tmp_path, "train.steps=100", "pairs.0.teacher.steps=100")
    status = waiting(runs)
    status.slots = 2
    for run in runs:
        status.change(run, "running")
        status.report(run.run_id, Progress(step=40, step_ms=1000.0))
    assert status.eta_seconds() == (60 + 60 + 60) / 2
    for run in runs[:-1]:
        status.change(run, "ok")
    assert status.eta_seconds() == 60  # not 30: one run cannot be shared between two slots


def test_the_screen_of_the_teachers_ends_when_the_trials_begin(status, now):
    """An algorithm's search prints a line per trial, for hours; a screen that no update reaches must not stand below it."""
    console = shown(terminal=True)
    with Display(console) as show:
        show(status)
        assert "\x1b[?25h" not in console.file.getvalue()  # the cursor is hidden while there is a screen
        of_trials = tune._trials(
            SimpleNamespace(experiment=SimpleNamespace(search=SimpleNamespace(trials=3, algorithm="asha"))), show
        )
        of_trials(SimpleNamespace(status="running"))
        assert "\x1b[?25h" in console.file.getvalue()
