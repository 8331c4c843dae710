"""Failures of every kind: methods of one's own, full disks, folders with garbage. What is said, kept, and where."""

import itertools
import json
import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from harness.experiment.spec import Run
from harness.results import paths, store
from harness.training.execute import execute
from harness.training.runtime import Runtime
from tests.hostile.broken_methods import FAULTS
from tests.support import hostile, tiny
from tests.support.rows import make_row
from tests.support.searches import experiment, write_trial

pytestmark = pytest.mark.slow

METHOD = "tests.hostile.broken_methods:Broken"
FILE = Path(__file__).with_name("broken_methods.py").name
SHORT = {**tiny.TINY["train"], "steps": 2, "eval_every": None, "checkpoint_every": None, "schedule": {}}
# Faults that this package finds in what the method returns; the method's own code raises nothing.
FOUND_BY_US = {"nan", "none", "list", "float", "vector", "number as name"}
SAYS = {
    "shape": "must match the size of tensor",
    "nan": "loss term x is not finite",
    "vector": "term x has shape (4,)",
    "exit": "SystemExit: 0",
    "recursion": "RecursionError: ",
    "memory": "lower train.batch_size",
    "mute": "Mute: (its text cannot be shown: ZeroDivisionError)",
    "long": "(500000 characters)",
    "import": "nothing_of_this_name",
}


class Trained:
    """A trained teacher, and data that is loaded once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._shared = folder, {}
        assert self.run(self.plan()[0]) == "ok"

    def plan(self, **parameters: Any) -> list[Run]:
        methods = ["none", {METHOD: parameters}] if parameters else ["none"]
        return tiny.plan(self.folder, train=SHORT, methods=methods, pairs=self.pairs)

    @property
    def pairs(self) -> list[Any]:
        pair = tiny.TINY["pairs"][0]
        return [{**pair, "teacher": {**pair["teacher"], "steps": 1}}]

    def share(self, key: str, make: Any) -> Any:
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def run(self, run: Run, **options: Any) -> str:
        return tiny.in_process(run, self.folder, share=self.share, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("failures"))


CASES = [*itertools.product(FAULTS, [0.0]), ("shape", 0.5), ("nan", 0.5), ("exit", 0.5)]
CASES += [(f"init {fault}", 0.0) for fault in ("exit", "recursion", "key")]


@pytest.mark.parametrize(("fault", "since"), CASES, ids=str)
def test_a_method_that_fails(trained: Trained, fault: str, since: float) -> None:
    """At the first try, in the method's own file and line, named, with its traceback as a file."""
    run = trained.plan(fault=fault, since=since)[-1]
    assert trained.run(run) == "failed"
    row, text = store.read_run(trained.folder, run.run_id), paths.failure_path(trained.folder, run.run_id).read_text()
    message = row["message"]
    for part in ("pair tiny", f"method {METHOD}(", "seed 0", f"traceback: failures/{run.run_id}.txt", "--retry-failed"):
        assert part in message, message
    assert SAYS.get(fault.removeprefix("init "), "") in message and len(message) < 3000
    assert (f"[{FILE}:" in message) == (fault not in FOUND_BY_US), message
    assert fault.startswith("init ") or f"step {int(2 * since)};" in message
    assert text.startswith(run.run_id) and (fault in FOUND_BY_US or FILE in text)
    assert "Traceback (most recent call last)" in text or "cannot be printed" in text
    assert not list(trained.folder.glob("checkpoints/*/step-*"))


@pytest.mark.parametrize("by", ["method", "library"])
def test_an_exit_is_the_methods_though_a_library_watches_exits(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """wandb puts functions of its own in the place of sys.exit; one that Ray's signal handler calls ends the process."""
    names: dict[str, Any] = {"sys": sys, "before": sys.exit}
    source = "def exit(code=0):\n    before(code)\ndef handler(*ignored):\n    sys.exit(0)\n"
    exec(compile(source, "/lib/site-packages/watching.py", "exec"), names)
    run = trained.plan(fault="value", since=0.0)[-1]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "exit", names["exit"])
        patch.setitem(FAULTS, "value", names["handler"] if by == "library" else FAULTS["exit"])
        if by == "library":
            with pytest.raises(SystemExit):
                trained.run(run)
        else:
            assert trained.run(run) == "failed"
            assert "must not end the process" in store.read_run(trained.folder, run.run_id)["message"]


def test_a_fault_is_tried_once_even_where_more_tries_are_left(trained: Trained) -> None:
    """As a worker does it: a machine's error would be raised, to be tried again elsewhere."""
    run = trained.plan(fault="shape", since=0.25)[-1]
    assert execute(run, Runtime.local(device=torch.device("cpu")), trained.folder, last_try=False) == "failed"


def test_the_traceback_goes_when_the_run_has_finished(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained.plan(fault="value", since=0.75)[-1]
    with monkeypatch.context() as patch:
        patch.setitem(FAULTS, "value", lambda s, t: s.nothing)
        patch.setattr("tests.hostile.broken_methods.Broken.forward", lambda self, view: FAULTS["value"](view, view))
        assert trained.run(run) == "failed"
    assert paths.failure_path(trained.folder, run.run_id).is_file()
    assert trained.run(run) == "ok"  # two steps, at progress 0 and 0.5
    assert not paths.failure_path(trained.folder, run.run_id).exists()


@pytest.mark.parametrize(
    ("column", "value"), [("dev_miou", float("nan")), ("curve", "text"), ("num_classes", 1.5), ("unknown", 1)]
)
def test_a_row_that_cannot_be_written_keeps_what_was_measured(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, value: Any
) -> None:
    from harness.training import loop

    real, run = loop.measured, trained.plan()[-1]
    monkeypatch.setattr(loop, "measured", lambda *arguments: {**real(*arguments), column: value})
    runtime = Runtime.local(device=torch.device("cpu"), share=trained.share)
    assert execute(run, runtime, tmp_path, last_try=False) == "failed"
    row = store.read_run(tmp_path, run.run_id)
    assert column in row["message"] and "pair tiny, method none" in row["message"]
    assert column == "unknown" or (row["losses"] and row["val_miou"] is not None)
    assert column in ("unknown", "num_classes") or row["dev_confusion"]


@pytest.fixture
def small_files() -> Iterator[None]:
    """The kernel refuses to write a file beyond 100 bytes, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failure_on_a_full_disk_is_the_disks(
    trained: Trained, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = trained.plan(fault="key", since=0.01)[-1]
    request.getfixturevalue("small_files")
    with pytest.raises(OSError, match="File too large"):
        execute(run, Runtime.local(device=torch.device("cpu"), share=trained.share), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_row_is_written_though_its_traceback_cannot_be(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "failures").write_text("a file where the folder should be")
    run = trained.plan(fault="vector", since=0.01)[-1]
    assert execute(run, Runtime.local(device=torch.device("cpu"), share=trained.share), tmp_path) == "failed"
    assert "The traceback cannot be written: [Errno 17]" in store.read_run(tmp_path, run.run_id)["message"]


# What no command expects: one line, a file, exit code 3


UNEXPECTED = [
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    cv2.error("OpenCV(5.0) resize.cpp:1: error: (-215) inv_scale_x > 0"),
    Exception("The current node timed out during startup."),
    RuntimeError("torch says\nthis in\nseveral lines"),
    KeyError("teacher"),
    IndexError(),
    AssertionError("ours"),
    TypeError("x" * 100_000),
    ZeroDivisionError("\x1b[31m"),
]


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_an_error_that_no_command_expects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    folder = tmp_path / "place" / "here"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr("harness.experiment.load.load", fail)
    ended = hostile.run(["check", "e.yaml"], folder)
    (kept,) = folder.glob("sstkd-bench-error-*.txt")
    words = [f"error: unexpected {type(error).__name__}: ", str(kept)]
    assert hostile.complaints(ended, words, codes=(3,)) == []
    assert ended.text.count("\n") == 1 and kept.stat().st_mode & 0o077 == 0
    assert "Traceback (most recent call last)" in kept.read_text()


# `status`: what a results folder may hold


NOW = 1_000_000_000.0
STATUS = {"pid": 1, "process_began": "0", "host": platform.node(), "began": NOW, "written": NOW, "ended": False}
STATUS |= {"doing": "", "running": [], "counts": {}, "eta_seconds": None}
WRONG = {
    "no JSON": "{",
    "empty": "",
    "zeros": "\0" * 100,
    "a list": "[]",
    "a number": "1e999",
    "nested": "[" * 100_000,
    "long": json.dumps({**STATUS, "doing": "x" * 11_000_000}),
    **{
        f"without {key}": json.dumps({k: v for k, v in STATUS.items() if k != key})
        for key in ("pid", "host", "written")
    },
    **{f"{key} of another kind": json.dumps({**STATUS, key: {}}) for key in ("pid", "began", "running", "doing")},
    "running of numbers": json.dumps({**STATUS, "running": [1]}),
}
ODD = {
    "no finite times": {"began": float("nan"), "written": float("inf")},
    "times to come": {"began": 1e15, "written": 1e15},
    "a pid that cannot be": {"pid": 10**30},
    "the pid of all": {"pid": -1},
    "escapes": {"host": "\x1b]0;x\x07", "doing": "\x1b[2J", "running": [{"pair": "\x1b[31m", "step": "\x1b"}]},
    "odd runs": {"host": "elsewhere", "running": [{}, {"step": {}, "dev_miou": "x", "since": [], "node": 5}] * 500},
    "long": {"host": "h" * 100_000},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "place" / "here"
    (folder / "results" / "tiny").mkdir(parents=True)
    tiny.write(folder)
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_a_status_that_no_run_wrote(folder: Path, name: str) -> None:
    (folder / "results" / "tiny" / "status.json").write_text(WRONG[name])
    ended = hostile.run(["status", "tiny.yaml"], folder)
    assert hostile.complaints(ended, ["error: results/tiny/status.json", "delete it"], codes=(2,)) == []


@pytest.mark.parametrize("name", ODD)
def test_a_status_with_odd_values(folder: Path, name: str) -> None:
    (folder / "results" / "tiny" / "status.json").write_text(json.dumps({**STATUS, **ODD[name]}))
    ended = hostile.run(["status", "tiny.yaml"], folder)
    assert hostile.complaints(ended, ["results/tiny: 3 runs: 0 ok, 0 failed, 3 waiting"], codes=(0,)) == []


def test_status_of_failed_runs_and_of_this_process(folder: Path) -> None:
    from harness.execution.status import Status
    from harness.execution.status_file import StatusFile
    from harness.training.progress import Progress

    directory, runs = folder / "results" / "tiny", tiny.plan(folder)
    message = "ValueError: \x1b[31m" + "m" * 1000
    store.write_run(
        directory,
        {**make_row("none", 0, status="failed", message=message), "run_id": runs[1].run_id, "data_hash": None},
    )
    paths.failure_path(directory, runs[1].run_id).parent.mkdir()
    paths.failure_path(directory, runs[1].run_id).write_text("Traceback")
    status = Status(runs, {run.run_id: "waiting" for run in runs})
    status.change(runs[0], "running")
    status.report(runs[0].run_id, Progress(step=2, steps=3, dev_miou=0.25, step_ms=1500.0, node="abc"))
    StatusFile(directory).update(status)
    words = [
        *("3 runs: 0 ok, 1 failed, 2 waiting", f"process {os.getpid()} on ", "1 running, 2 waiting, ETA"),
        *("tiny teacher: step 2/3  dev mIoU 25.0  1.500 s/step  for ", "  on node abc", "1 failed:"),
        *("none seed 0: ValueError: \\x1b[31mmmm", f"failures/{runs[1].run_id}.txt"),
    ]
    assert hostile.complaints(hostile.run(["status", "tiny.yaml"], folder), words, codes=(1,)) == []
    StatusFile(directory).update(status, ended=True)
    ended = hostile.run(["status", "tiny.yaml"], folder)
    assert hostile.complaints(ended, ["no command runs; the last one ended "], codes=(1,)) == []


def test_a_status_that_would_be_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "results" / "tiny" / "status.json")
    ended = hostile.run(["status", "tiny.yaml"], folder)
    assert hostile.complaints(ended, ["error: results/tiny/status.json", "delete it"], codes=(2,)) == []


def test_what_runs_is_said_though_a_row_is_corrupt(folder: Path) -> None:
    directory = folder / "results" / "tiny"
    (directory / "runs").mkdir()
    (directory / "runs" / f"{tiny.plan(folder)[1].run_id}.parquet").write_bytes(b"PAR1 no")
    (directory / "status.json").write_text(json.dumps({**STATUS, "host": "elsewhere"}))
    words = ["process 1 on elsewhere", "error: results/tiny/runs/"]
    assert hostile.complaints(hostile.run(["status", "tiny.yaml"], folder), words, codes=(2,)) == []


def test_two_commands_in_a_folder_do_not_speak_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has the file; the second says so once, and has it when the first has ended."""
    from harness.execution import status_file
    from harness.execution.status import Status

    monkeypatch.setattr(status_file, "EACH_SECONDS", 0.0)
    monkeypatch.setattr(status_file, "CHANGE_SECONDS", 0.0)
    first = {**STATUS, "pid": os.getppid(), "process_began": status_file.process_began(os.getppid())}
    path, status = paths.status_path(tmp_path), Status([], {})
    path.write_text(json.dumps(first))
    file = status_file.StatusFile(tmp_path)
    for _ in range(3):
        file.update(status)
    assert json.loads(path.read_text()) == first
    (note,) = status.notes
    assert note.startswith(f"process {os.getppid()} on {platform.node()} works in {tmp_path} too")
    path.write_text(json.dumps({**first, "process_began": "0"}))  # killed; its number is another process's now
    file.update(status)
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_status_is_written_again_when_the_disk_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.execution import status_file
    from harness.execution.status import Status

    monkeypatch.setattr(status_file, "EACH_SECONDS", 0.0)
    monkeypatch.setattr(status_file, "CHANGE_SECONDS", 0.0)
    file, status = status_file.StatusFile(tmp_path / "x"), Status([], {})
    (tmp_path / "x").write_text("a file where the folder should be")
    for _ in range(2):
        file.update(status)
    assert len(status.notes) == 1 and "cannot be written" in status.notes[0]
    (tmp_path / "x").unlink()
    file.update(status)
    assert paths.status_path(tmp_path / "x").is_file()


def test_a_process_that_has_ended_is_not_alive_while_nobody_asks_how() -> None:
    from harness.execution import status_file

    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not status_file.is_alive({**STATUS, "pid": pid, "process_began": "1"})
    assert status_file.process_began(pid) is None
    os.waitpid(pid, 0)


def test_a_command_that_is_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.experiment.load.load", interrupt)
    assert hostile.complaints(hostile.run(["check", "tiny.yaml"], folder), ["interrupted"], codes=(130,)) == []


def test_an_error_is_not_longer_than_a_terminal_bears(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("x" * 1_000_000)

    monkeypatch.setattr("harness.experiment.load.load", fail)
    ended = hostile.run(["check", "tiny.yaml"], folder)
    assert hostile.complaints(ended, ["(1,000,000 characters)"], codes=(2,)) == []


def test_a_message_for_a_row_is_bounded_whatever_the_class_and_the_file_are_called(tmp_path: Path) -> None:
    from harness.results import failures, record

    kind = type("K" * 100_000, (Exception,), {})
    code = compile("def f(kind): raise kind('ghp' '_0123456789abcdefABCDEF')", "/x/" + "\udcff" * 300 + ".py", "exec")
    names: dict[str, Any] = {}
    exec(code, names)
    with pytest.raises(kind) as caught:
        names["f"](kind)
    text = failures.message(caught.value)
    assert len(text) < 1000 and text.encode() and "ghp_" not in text
    run = tiny.plan(tmp_path)[1]
    failures.keep(tmp_path, run, caught.value)
    record.write_row(run, tmp_path, {}, "failed", f"its worker was lost: cannot reach https://ann:{12345}@host/x")
    assert "ann:***@host/x" in store.read_run(tmp_path, run.run_id)["message"]
    assert "ghp_" not in paths.failure_path(tmp_path, run.run_id).read_text()


def test_a_full_terminal_of_an_unexpected_error(tmp_path: Path) -> None:
    """Nothing can be flushed: still one line and exit code 3."""
    import subprocess
    import sys

    program = "import sys, harness.cli as c, harness.cli.app as a\n"
    program += "def app(): sys.stdout.write('x'); raise KeyError('k')\na.app = app\nc.main()"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )
    assert done.stderr.startswith("error: unexpected KeyError") and done.stderr.count("\n") == 1
    assert done.returncode == 3


def test_status_of_a_search_that_is_not_complete(folder: Path) -> None:
    experiment(folder, methods=["none", "kd"])
    ended = hostile.run(["status", "tiny.yaml"], folder)
    words = ["search: 16 trials: 0 ok, 0 failed, 16 waiting", "1 runs: 0 ok, 0 failed, 1 waiting"]
    assert hostile.complaints(ended, words, codes=(0,)) == []


def test_status_of_trials(folder: Path) -> None:
    """Which trials run, how far, since when and where; and which failed, with their tracebacks."""
    from harness.execution.status_file import StatusFile
    from harness.experiment.studies import studies_of, trial_run
    from harness.search import outcome, points
    from harness.search.status import TrialStatus
    from harness.training.progress import Progress

    of, directory = experiment(folder, methods=["none", "kd"]), folder / "results" / "tiny"
    study = studies_of(of)[1]
    values = points.drawn(of, studies_of(of))[1]
    failed = write_trial(directory, study, 0, values[0], status="failed", message="ValueError: \x1b[31mno")
    search = paths.search_folder(directory)
    paths.failure_path(search, failed).parent.mkdir()
    paths.failure_path(search, failed).write_text("Traceback")
    status = TrialStatus(outcome.outcomes(of, directory))
    run = trial_run(study, 1, "sobol", values[1])
    status.begin(run)
    status.report(run.run_id, Progress(step=3, steps=6, dev_miou=0.25, step_ms=20.0, node="gpu1"))
    StatusFile(search).update(status)
    words = [
        *("search: 16 trials: 0 ok, 1 failed, 15 waiting", f"process {os.getpid()} on ", "1 running, 14 waiting"),
        *(f"tiny {run.label} trial 2: step 3/6  dev mIoU 25.0  0.020 s/step  for ", "  on node gpu1"),
        *("search: 1 failed:", "trial 1: ValueError: \\x1b[31mno", f"search/failures/{failed}.txt"),
        *("1 runs: 0 ok, 0 failed, 1 waiting", "teachers only"),
    ]
    ended = hostile.run(["status", "tiny.yaml"], folder)
    assert hostile.complaints(ended, words, codes=(1,)) == []


GARBAGE = ("runs", "failures", "weights", "packs", "step_times", "search")


@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.parametrize("kind", ["a file", "a link to nothing", "odd files"])
def test_garbage_in_the_results_folder(folder: Path, name: str, kind: str) -> None:
    place = folder / "results" / "tiny" / name
    if kind == "a file":
        place.write_text("x")
    elif kind == "a link to nothing":
        place.symlink_to("nowhere")
    else:
        (place / "sub.parquet").mkdir(parents=True)
        (place / ".hidden.parquet.tmp").write_text("x")
        (place / "note.txt").write_text("x")
    ended = hostile.run(["status", "tiny.yaml"], folder)
    assert hostile.complaints(ended, ["results/tiny"], codes=(0, 2)) == []
