"""What the live loggers write, read back with their own libraries; nothing here needs a network."""

import json
import math
import multiprocessing
import os
import struct
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.execution import loggers
from harness.execution.loggers import LOGGERS, metrics, parameters, require, watch
from harness.experiment.spec import Run
from harness.training.progress import Progress
from tests.support import tiny
from tests.support.patience import PATIENCE

NAN = float("nan")


def report(step: int, **changes: Any) -> Progress:
    terms = {"task": 4.0 / step, "kd": 2.0 / step}
    common = Progress(step=step, steps=6, loss=6.0 / step, terms=terms, dev_miou=step / 10, step_ms=7.0)
    return replace(common, **changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return tiny.plan(tmp_path_factory.mktemp("plan"), methods=["none", "kd", {"sstkd": {"stages": ["stage1"]}}])


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user has it who never heard of these tools."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "WANDB_")):
            monkeypatch.delenv(name)


def test_numbers_of_a_report() -> None:
    assert metrics(report(2, dev_miou=None)) == {"loss/task": 2.0, "loss/kd": 1.0, "step_ms": 7.0}
    assert metrics(Progress(step=1)) == {}


def test_a_run_as_flat_parameters(runs: list[Run]) -> None:
    flat = parameters(runs[3])
    assert [flat[key] for key in ("pair", "role", "seed", "method")] == ["tiny", "student", 0, "sstkd"]
    assert flat["method.stages"] == "['stage1']" and flat["train.optimizer.lr"] == 0.002
    assert all(isinstance(value, str | int | float) for value in flat.values())
    assert parameters(runs[0])["role"] == "teacher"


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    require(["tensorboard"])
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    require([])
    for name, package in (("tensorboard", "tensorboard"), ("mlflow", "mlflow-skinny"), ("wandb", "wandb")):
        with pytest.raises(ValueError, match=rf"resources.loggers: {name} .* pip install {package} "):
            require([name])


def test_a_logger_that_fails_is_told_once_and_left_out(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Progress] = []
    folders: list[Path] = []

    def good(folder: Path, run: Run) -> Callable[[Progress], None]:
        folders.append(folder)
        return seen.append

    def later(folder: Path, run: Run) -> Callable[[Progress], None]:
        def log(progress: Progress) -> None:
            if progress.step is not None:
                raise ConnectionError("the server\nis down")

        return log

    def never(folder: Path, run: Run) -> Callable[[Progress], None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loggers, "LOGGERS", {"tensorboard": later, "mlflow": never, "wandb": good})
    told: list[str] = []
    log = watch(("tensorboard", "mlflow", "wandb"), tmp_path, runs[1], told.append)
    for progress in (Progress(note="begins"), report(1), report(2), Progress(ended="ok")):
        log(progress)
    assert told == [
        "the logger mlflow stopped: OSError: [Errno 28] No space left on device",
        "the logger tensorboard stopped: ConnectionError: the server is down",
    ]
    assert len(seen) == 4 and folders == [tmp_path / "wandb"]


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(tag, e.step, e.value) for tag in events.Tags()["scalars"] for e in events.Scalars(tag)]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_hides_the_steps_that_a_resumed_run_repeats(runs: list[Run], tmp_path: Path) -> None:
    for steps in ((2, 4), (3, 6)):  # interrupted after step 4, resumed from the checkpoint of step 2
        log = LOGGERS["tensorboard"](tmp_path, runs[2])
        for step in steps:
            log(report(step))
        log(Progress(ended="ok"))
    (folder,) = tmp_path.iterdir()
    assert [step for tag, step, _ in scalars(folder) if tag == "loss/kd"] == [2, 3, 6]


@pytest.mark.torch
def test_a_long_label_is_no_long_folder(tmp_path: Path) -> None:
    skd = {"skd": {"pixel": 0.123456789, "pairwise": 0.123456789, "holistic": 0.123456789, "scale": 0.123456789}}
    run = tiny.plan(tmp_path, methods=["none", ["kd", {"sstkd": {"stages": ["stage1"]}}, "cwd", skd]])[-1]
    run = run.model_copy(update={"pair": "p" * 100})
    log = LOGGERS["tensorboard"](tmp_path / "tb", run)
    log(report(1))
    log(Progress(ended="failed"))
    (folder,) = (tmp_path / "tb").iterdir()
    assert len(folder.name) < 200 and folder.name.endswith(run.run_id)


def log_run(name: str, folder: Path, run: Run, steps: tuple[int, ...], ended: str | None) -> None:
    log = LOGGERS[name](folder, run)
    log(Progress(note="no step yet"))
    for step in steps:
        log(report(step, dev_miou=None if step == 1 else step / 10))
    if ended:
        log(Progress(ended=ended))


def elsewhere(name: str, folder: Path, run: Run, steps: tuple[int, ...], ended: str | None = "ok") -> Any:
    """The same in a process of its own, which dies without a word when it is not told how the run ended."""
    process = multiprocessing.get_context("spawn").Process(target=log_run, args=(name, folder, run, steps, ended))
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestMlflow:
    """A store of files below the folder."""

    @pytest.fixture(autouse=True)
    def installed(self, environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("mlflow", reason="the extra `loggers` is not installed")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # for what reads the store here

    def client(self, folder: Path) -> Any:
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=(folder / "store").as_uri())

    def stored(self, folder: Path) -> dict[str, Any]:
        client = self.client(folder)
        experiment = client.get_experiment_by_name("tiny")
        return {run.data.tags["run_id"]: run for run in client.search_runs([experiment.experiment_id])}

    def test_three_runs_one_after_the_other(self, runs: list[Run], tmp_path: Path) -> None:
        folder = tmp_path / "a b ü" / "mlflow"
        for run, ended in zip(runs[1:], ("ok", "failed", "ok"), strict=True):
            log_run("mlflow", folder, run, (1, 3, 6), ended)
        stored = self.stored(folder)
        assert stored.keys() == {run.run_id for run in runs[1:]}
        kd = stored[runs[2].run_id]
        assert kd.info.status == "FAILED" and stored[runs[3].run_id].info.status == "FINISHED"
        assert kd.info.run_name == "tiny-kd-seed0"
        assert kd.data.params == {key: str(value) for key, value in parameters(runs[2]).items()}
        history = self.client(folder).get_metric_history(kd.info.run_id, "loss/kd")
        assert [(m.step, m.value) for m in history] == [(1, 2.0), (3, 2 / 3), (6, 1 / 3)]
        history = self.client(folder).get_metric_history(kd.info.run_id, "dev_miou")
        assert [(m.step, m.value) for m in history] == [(3, 0.3), (6, 0.6)]

    def test_a_run_goes_on_in_another_process(self, runs: list[Run], tmp_path: Path) -> None:
        process = elsewhere("mlflow", tmp_path, runs[2], (1, 2), ended=None)
        process.join(120)
        assert self.stored(tmp_path)[runs[2].run_id].info.status == "RUNNING"
        log_run("mlflow", tmp_path, runs[2], (), "lost")
        assert self.stored(tmp_path)[runs[2].run_id].info.status == "RUNNING"
        log_run("mlflow", tmp_path, runs[2], (2, 3), "ok")
        (run,) = self.stored(tmp_path).values()
        assert run.info.status == "FINISHED"
        history = self.client(tmp_path).get_metric_history(run.info.run_id, "loss/task")
        assert [m.step for m in history] == [1, 2, 2, 3]

    def test_workers_that_begin_at_once_share_one_experiment(self, runs: list[Run], tmp_path: Path) -> None:
        processes = [elsewhere("mlflow", tmp_path, run, (1,)) for run in runs[:2]]
        for process in processes:
            process.join(240)
        assert [process.exitcode for process in processes] == [0, 0]
        names = [experiment.name for experiment in self.client(tmp_path).search_experiments()]
        assert sorted(names) == ["Default", "tiny"] and len(self.stored(tmp_path)) == 2

    def test_a_server_finds_the_run_by_its_tag(
        self, runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
        for steps in ((1, 2), (3,)):
            log_run("mlflow", tmp_path / "unused", runs[1], steps, "ok")
        (run,) = self.stored(tmp_path).values()
        assert run.data.metrics["loss/task"] == 4 / 3 and not (tmp_path / "unused").exists()

    def test_numbers_that_are_none(self, runs: list[Run], tmp_path: Path) -> None:
        log = LOGGERS["mlflow"](tmp_path, runs[1])
        log(report(1, terms={"task": NAN}))
        assert math.isnan(self.stored(tmp_path)[runs[1].run_id].data.metrics["loss/task"])


def log_records(content: bytes) -> Iterator[bytes]:
    """Records of a file in LevelDB's log format, which W&B uses: blocks of 32 KiB, records in one or more pieces."""
    position, parts = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield parts
            parts = b""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
class TestWandb:
    """Offline files below the folder."""

    @pytest.fixture(autouse=True)
    def installed(self, environment: None) -> None:
        pytest.importorskip("wandb", reason="the extra `loggers` is not installed")

    def stored(self, folder: Path) -> list[dict[str, Any]]:
        """id, project, config, history and exit code of every file, in the order of their making."""
        from wandb.proto import wandb_internal_pb2

        found = []
        for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
            run: dict[str, Any] = {"history": [], "config": {}, "exit": None}
            for data in log_records(path.read_bytes()):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(data)
                if record.HasField("run"):
                    run |= {"id": record.run.run_id, "project": record.run.project, "name": record.run.display_name}
                    run["config"] |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
                if record.HasField("history"):
                    items = record.history.item
                    run["history"].append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
                if record.HasField("exit"):
                    run["exit"] = record.exit.exit_code
            found.append(run)
        return found

    def test_three_runs_one_after_the_other(self, runs: list[Run], tmp_path: Path) -> None:
        import wandb

        for run, ended in zip(runs[1:], ("ok", "failed", "ok"), strict=True):
            log_run("wandb", tmp_path / "wandb", run, (1, 3, 6), ended)
        assert wandb.run is None
        stored = self.stored(tmp_path / "wandb")
        assert [run["id"] for run in stored] == [run.run_id for run in runs[1:]]
        assert [run["exit"] for run in stored] == [0, 1, 0]
        kd = stored[1]
        assert kd["project"] == "tiny" and kd["name"] == "tiny-kd-seed0"
        assert {key: kd["config"][key] for key in parameters(runs[2])} == parameters(runs[2])
        assert [(point["step"], point["loss/kd"]) for point in kd["history"]] == [(1, 2.0), (3, 2 / 3), (6, 1 / 3)]
        assert [point.get("dev_miou") for point in kd["history"]] == [None, 0.3, 0.6]

    def test_a_run_goes_on_under_its_own_id(self, runs: list[Run], tmp_path: Path) -> None:
        process = elsewhere("wandb", tmp_path, runs[2], (1, 2), ended=None)
        process.join(120)
        deadline = time.monotonic() + PATIENCE
        while not self.stored(tmp_path)[0]["history"]:  # W&B's process notices and writes what it has
            assert time.monotonic() < deadline
            time.sleep(0.2)
        log_run("wandb", tmp_path, runs[2], (2, 3), "ok")
        stored = self.stored(tmp_path)
        assert {run["id"] for run in stored} == {runs[2].run_id}
        assert [point["step"] for run in stored for point in run["history"]] == [1, 2, 2, 3]


def test_the_end_of_one_run_leaves_the_others_their_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in step with each other log from one process; W&B's own process goes with the last of them."""
    calls: list[str] = []

    class Ours:
        def __init__(self, run_id: str) -> None:
            self.finish = lambda exit_code: calls.append(f"finish {run_id}")
            self.define_metric = self.log = lambda *_, **__: None

    package = types.SimpleNamespace(
        Settings=lambda **_: None, init=lambda id, **_: Ours(id), teardown=lambda: calls.append("teardown")
    )
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setattr(loggers, "require", lambda names: None)
    _, one, other = tiny.plan(tmp_path)
    logs = [loggers.wandb(tmp_path, run) for run in (one, other)]
    for log in logs:
        log(Progress(ended="ok"))
    assert calls == [f"finish {one.run_id}", f"finish {other.run_id}", "teardown"]
