"""Whose a failure is, and where: a table of errors, without Ray and without training."""

import errno
import json
import pickle
import traceback
from collections import Counter, defaultdict
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import torch

from harness.errors import RunFailed, WorkerLost, machine_failed, text_of
from harness.execution import ray_train
from harness.execution.launcher import _Launch
from harness.execution.messages import Outcome, lost
from harness.execution.queue import Queue
from harness.execution.status import Status
from harness.execution.workspace import Workspace
from harness.experiment.resources import Resources
from harness.results import failures, paths, record, store
from harness.results.pull import pull
from harness.results.storage import Storage
from harness.training.execute import require_sound
from tests.support import tiny


def made(name: str, *bases: type[BaseException]) -> BaseException:
    """An error of a class that cannot be imported here."""
    return type(name, bases or (RuntimeError,), {})("said")


MACHINE = [
    WorkerLost("gone"),
    ConnectionResetError("peer"),
    TimeoutError("storage"),
    FileNotFoundError(errno.ENOENT, "a mount that this node lacks"),
    OSError("AWS Error NETWORK_CONNECTION during GetObject"),
    OSError(errno.EIO, "Input/output error"),
    EOFError(),
    BrokenProcessPool("a child was killed"),
    made("ActorDiedError", type("RayError", (Exception,), {})),
    made("DistBackendError", type("DistError", (RuntimeError,), {})),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("NCCL communicator was aborted"),
    RuntimeError("[third_party/gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:41"),
    RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
]
RUN = [
    ValueError("batch"),
    FloatingPointError("loss term kd is not finite"),
    RuntimeError("The size of tensor a (4) must match the size of tensor b (3)"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:113] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: device-side assert triggered"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    NotImplementedError(),
    KeyError("logits"),
    IndexError(),
    TypeError("forward() takes 1 positional argument"),
    AttributeError("no attribute"),
    ZeroDivisionError(),
    AssertionError(),
    ImportError("No module named 'mine'"),
    SystemExit(3),
    IsADirectoryError(errno.EISDIR, "Is a directory"),
    made("UnidentifiedImageError", OSError),
]


@pytest.mark.parametrize("error", MACHINE, ids=lambda error: f"{type(error).__name__}-{str(error)[:20]}")
def test_what_another_machine_may_do_better(error: BaseException) -> None:
    assert machine_failed(error)


@pytest.mark.parametrize("error", RUN, ids=lambda error: f"{type(error).__name__}-{str(error)[:20]}")
def test_what_would_fail_again(error: BaseException) -> None:
    assert not machine_failed(error)


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def code(path: Path | str) -> Any:
    """A function of a file, which calls what it is given."""
    names: dict[str, Any] = {"__name__": Path(path).stem}
    exec(compile("\n\ndef call(then):\n    return then()\n", str(path), "exec"), names)
    return names["call"]


def failed(*functions: Any) -> BaseException:
    """The error where each function calls the next and the last raises; without this test's own frames."""

    def call(rest: tuple[Any, ...]) -> Any:
        return rest[0](lambda: call(rest[1:])) if rest else int("x")

    with pytest.raises(ValueError) as caught:
        call(functions)
    return caught.value


def test_a_frame_is_the_users_where_it_is_in_nobody_elses_code(tmp_path: Path) -> None:
    """A path with this package's name in it is not this package; what is installed or standard is nobody's."""
    ours, mine = code(Path(failures.__file__).with_name("ours.py")), code(tmp_path / "harness" / "mine.py")
    theirs, standard = code(tmp_path / "lib" / "site-packages" / "theirs.py"), code(json.__file__)
    method = code(tmp_path / "lib" / "site-packages" / "method.py")
    here = Path(__file__).name

    def place(*functions: Any, packages: tuple[str, ...] = ()) -> str:
        error, trace = failed(*functions), []
        for frame, line in traceback.walk_tb(error.__traceback__):
            if Path(frame.f_code.co_filename).name != here:
                trace.append((frame, line))
        shorter = None
        for frame, line in reversed(trace):
            shorter = TracebackType(shorter, frame, frame.f_lasti, line)
        return failures.place(error.with_traceback(shorter), packages)

    assert place(ours, mine, theirs, standard) == "mine.py:4"
    assert place(ours, mine, ours, theirs) == "mine.py:4"
    assert place(ours, theirs, standard) == "ours.py:4"
    assert place(mine, ours, theirs) == "ours.py:4", "who calls this package is no place of an error in it"
    assert place(theirs, standard) == ""
    # An installed package that the method is named by is the user's.
    assert place(ours, method, theirs) == "ours.py:4"
    assert place(ours, method, theirs, packages=("method",)) == "method.py:4"


def test_the_message_names_the_run_and_what_to_do(tmp_path: Path) -> None:
    teacher, _, kd = tiny.plan(tmp_path, methods=["none", {"kd": {"temperature": 2.0}}])
    said = record.failure(ValueError("x" * 5000), kd)
    assert "(pair tiny, method kd(temperature=2.0), seed 0; traceback: failures/" in said and "5000 characters" in said
    assert said.endswith("Fix the cause, then re-run with --retry-failed")
    assert "lower train.batch_size" in record.failure(torch.OutOfMemoryError("CUDA out of memory"), teacher)
    assert "pair tiny, teacher, seed 0" in record.failure(MemoryError(), teacher)
    assert text_of(Mute()) == "(its text cannot be shown: ZeroDivisionError)" and "Mute: (" in record.failure(
        Mute(), kd
    )
    failures.keep(tmp_path, kd, raised(Mute()))
    failures.keep(tmp_path, teacher, raised(ValueError("\udcff")))
    for run in (kd, teacher):
        text = paths.failure_path(tmp_path, run.run_id).read_text()
        assert text.startswith(f"{run.run_id}: {failures.title(run)}\n") and "test_whose_failure.py" in text


def launch(directory: Path, runs: Any, resources: Resources) -> _Launch:
    """A launch without Ray: only what it does when a run has ended."""
    made: Any = object.__new__(_Launch)
    status = Status(runs, {run.run_id: "waiting" for run in runs})
    made._queue, made._status = Queue(runs, status.state), status
    made._resources, made._directory, made._workspace = resources, directory, Workspace(directory, resources)
    made._spent = defaultdict(float)
    made._tries, made._reached, made._collect, made._fetched = Counter(), {}, lambda: None, []
    return made


def test_a_worker_that_dies_is_noted_by_name_and_its_last_words_are_kept(tmp_path: Path) -> None:
    run = tiny.plan(tmp_path)[1]
    one = launch(tmp_path, [run], Resources(max_failures=1))
    one._queue.take("a", (), None)
    error = WorkerLost("the actor died\n  at line 7", ("a",))
    for _ in range(2):
        one._status.change(run, "running")
        one._finish(lost(run, error, "a"))
    assert one._status.notes == [
        f"pair tiny, method none, seed 0 ({run.run_id}): resumed, since its worker or machine failed "
        "(the actor died at line 7)"
    ]
    row = store.read_run(tmp_path, run.run_id)
    assert row["status"] == "failed" and "worker died 2 times without progress; last: the actor died" in row["message"]
    assert row["wall_seconds"] > 0, "what its attempts took"
    assert f"(pair tiny, method none, seed 0; details: failures/{run.run_id}.txt)" in row["message"]
    assert "the actor died\n  at line 7" in paths.failure_path(tmp_path, run.run_id).read_text()


def test_a_rank_fails_as_what_it_is(tmp_path: Path) -> None:
    """What one rank does wrong ends the others with errors of the network: those are not the cause."""
    run = tiny.plan(tmp_path)[1]
    workspace, peer = Workspace(tmp_path, Resources()), RuntimeError("gloo: Connection closed by peer")
    told = ({0: peer, 1: pickle.loads(pickle.dumps(RunFailed("rank 1: ...", run.run_id)))}, "message", {0: "a", 1: "b"})
    assert ray_train._failed([run], workspace, *told) == {run.run_id: "failed"}
    assert str(told[0][1]) == "rank 1: ..."
    other = tiny.plan(tmp_path)[2]  # trained in step with it
    assert ray_train._failed([run, other], workspace, *told) == {run.run_id: "failed", other.run_id: "lost"}
    with pytest.raises(WorkerLost, match="rank 0: RuntimeError: gloo"):
        ray_train._failed([run], workspace, {0: peer}, "message", {0: "a"})
    assert store.finished(tmp_path) == {}
    shape = pickle.loads(pickle.dumps(RuntimeError("size mismatch")))  # as it comes from another process
    assert ray_train._failed([run], workspace, {0: peer, 1: shape}, "the traceback", {}) == {run.run_id: "failed"}
    assert "rank 1: RuntimeError: size mismatch (pair tiny" in store.read_run(tmp_path, run.run_id)["message"]
    assert "the traceback" in paths.failure_path(tmp_path, run.run_id).read_text()


def test_a_traceback_is_published_and_pulled_with_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "machine"))
    run = tiny.plan(tmp_path)[1]
    workspace = Workspace(Path("/somewhere/results/tiny"), Resources(storage=str(tmp_path / "storage")))
    error, there, home = raised(ValueError("of a worker")), tmp_path / "storage" / "tiny", tmp_path / "home"
    failures.keep(workspace.folder, run, error)
    record.write_row(run, workspace.folder, {}, "failed", record.failure(error, run))
    workspace.publish(run.run_id)
    assert pull(Storage(there), home).new == 1
    assert "of a worker" in paths.failure_path(home, run.run_id).read_text()
    paths.failure_path(home, run.run_id).unlink()
    assert pull(Storage(there), home).new == 0
    assert paths.failure_path(home, run.run_id).is_file()
    failures.forget(workspace.folder, run.run_id)  # it has finished since
    workspace.publish(run.run_id)
    assert not paths.failure_path(there, run.run_id).exists()


def test_an_outcome_has_all_that_is_known(tmp_path: Path) -> None:
    run = tiny.plan(tmp_path)[1]
    assert lost(run, KeyError(), "a") == Outcome(run, "lost", "KeyError", "", "a")


def test_a_process_that_lost_its_gpu_takes_no_other_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A label out of range is the run's own fault; the next run of the process is not to blame."""

    def broken(device: torch.device) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    require_sound(torch.device("cpu"))
    with pytest.raises(WorkerLost, match="an earlier run has left this process without its GPU"):
        require_sound(torch.device("cuda"))
