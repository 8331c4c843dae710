"""Runs that are fed with the same batches and teacher's passes: each ends as it would alone, whatever the others do."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.datasets import DataInfo
from harness.distillers import METHODS, Distiller
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.results import paths, store
from harness.taps import Pair, Taps, View
from harness.training import feed as feed_module
from harness.training import proportions
from harness.training.build import load_data
from harness.training.execute import execute, execute_together
from harness.training.loop import steps
from harness.training.runtime import Runtime
from tests.support import tiny
from tests.support.kills import killed_at

SAME = (
    *("status", "dev_confusion", "val_confusion", "curve", "losses", "weights_sha256", "student_init_sha256"),
    *("teacher_sha256", "data_hash", "steps", "samples"),
)
NAMES = [name for name in METHODS if name not in ("none", "kd")]


class Writes(Distiller):
    """A method that writes into what it is given."""

    def __init__(self, pair: Pair, *, what: str = "taps", since: float = 0.4) -> None:
        super().__init__()
        self.what, self.since = what, since

    def forward(self, view: View) -> dict[str, Tensor]:
        term = (view.student.logits - view.taught().logits).square().mean()
        if view.progress >= self.since:
            if self.what == "values":  # seen by no counter of torch's
                view.labels.numpy()[:] = 0
            else:
                {"taps": view.taught().logits, "labels": view.labels}[self.what].mul_(0)
        return {"term": term}


class Raises(Distiller):
    """A method that fails in the middle of a run."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()

    def forward(self, view: View) -> dict[str, Tensor]:
        if view.progress >= 0.5:
            raise RuntimeError("no more")
        return {"term": (view.student.logits - view.taught().logits).square().mean()}


HERE = "tests.training.test_together"


def local(folder: Path, run: Run) -> Runtime:
    return Runtime.local(paths.checkpoint_directory(folder, run.run_id), device=torch.device("cpu"))


def row(folder: Path, run: Run) -> dict[str, Any]:
    return store.read_run(folder, run.run_id)


def alike(folder: Path, other: Path, run: Run) -> None:
    one, two = row(folder, run), row(other, run)
    assert {k: one[k] for k in SAME} == {k: two[k] for k in SAME}, run.label


class Folders:
    """A folder with the teacher in which runs are made alone, once; and copies in which they are made together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "alone"
        self.teacher = tiny.plan(folder)[0]
        assert execute(self.teacher, local(self.folder, self.teacher), self.folder) == "ok"

    def alone(self, runs: list[Run]) -> Path:
        for run in runs:
            if run.run_id not in store.finished(self.folder):
                execute(run, local(self.folder, run), self.folder)
        return self.folder

    def copy(self, to: Path, teacher: Run | None = None) -> Path:
        for path in (paths.run_path, paths.weights_path):
            run_id = (teacher or self.teacher).run_id
            source, target = path(self.folder, run_id), path(to, run_id)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
        return to

    def together(self, runs: list[Run], to: Path, **options: Any) -> dict[str, str]:
        ended: dict[str, str] = {}
        execute_together(
            {run.run_id: run for run in runs},
            {run.run_id: local(to, run) for run in runs},
            to,
            lambda run_id: None,
            ended.__setitem__,
            **options,
        )
        return ended


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    torch.set_num_threads(1)
    return Folders(tmp_path_factory.mktemp("together"))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the teacher has seen, pass by pass."""
    seen: list[int] = []
    real = feed_module.Feed._taps
    monkeypatch.setattr(feed_module.Feed, "_taps", lambda self, image: (seen.append(len(image)), real(self, image))[1])
    return seen


def test_two_ways_of_the_same_runs(folders: Folders, tmp_path: Path, passes: list[int]) -> None:
    """Dropout in the student, another number of steps, and micro-batches among them."""
    for number, changes in enumerate(
        (["train.gradients_every=2"], ["pairs.0.student.parameters.decoder_dropout=0.5", "train.accumulate=2"])
    ):
        teacher, *runs = tiny.plan(tmp_path, *changes, methods=["none", "kd", "cwd", "sstkd"])
        longer = runs[0].model_copy(
            update={"control": "equal seconds", "train": runs[0].train.model_copy(update={"steps": 9})}
        )
        runs = [*runs, longer]
        alone = folders.alone([teacher, *runs])
        to = folders.copy(tmp_path / str(number), teacher)
        passes.clear()
        assert set(folders.together(runs, to).values()) == {"ok"}
        assert passes == ([4] * 6 if number == 0 else [2] * 12)
        for run in runs:
            alike(alone, to, run)
            assert row(to, run)["gradients"] == row(alone, run)["gradients"]
            assert row(to, run)["together"] == 5 and row(alone, run)["together"] == 1
            assert 0 < row(to, run)["shared_seconds"] < row(to, run)["train_seconds"]
            assert row(to, run)["peak_memory_mb"] is None and row(alone, run)["peak_memory_mb"] > 0


@pytest.mark.slow
def test_every_method_ends_as_it_would_alone(folders: Folders, tmp_path: Path) -> None:
    runs = tiny.plan(tmp_path, methods=["none", *NAMES])[1:]
    alone, to = folders.alone(runs), folders.copy(tmp_path / "to")
    assert set(folders.together(runs, to).values()) == {"ok"}
    for run in runs:
        alike(alone, to, run)


@pytest.mark.parametrize("what", ["taps", "labels"])
def test_one_that_writes_into_what_all_are_given_fails_alone(
    folders: Folders, tmp_path: Path, passes: list[int], what: str
) -> None:
    methods = ["none", "kd", {f"{HERE}:Writes": {"what": what}}, f"{HERE}:Raises", "cwd"]
    runs = tiny.plan(tmp_path, methods=methods)[1:]
    alone, to = folders.alone(runs), folders.copy(tmp_path / "to")
    passes.clear()
    ended = folders.together(runs, to)
    assert [ended[run.run_id] for run in runs] == ["ok", "ok", "failed", "failed", "ok"]
    assert len(passes) == 7, "once more, after it was written"
    for run in runs:
        if ended[run.run_id] == "ok":
            alike(alone, to, run)
        else:
            assert row(alone, run)["status"] == "failed" and row(alone, run)["message"] == row(to, run)["message"]
    found = "writes into the images, labels or teacher's taps" in row(to, runs[2])["message"]
    assert found == (what == "taps"), "torch sees by itself that the labels of the task loss have changed"
    assert "no more" in row(to, runs[3])["message"]


def test_a_write_past_the_counters_is_seen_at_the_first_step(folders: Folders, tmp_path: Path) -> None:
    runs = tiny.plan(tmp_path, methods=["none", {f"{HERE}:Writes": {"what": "values", "since": 0.0}}, "cwd"])[1:]
    alone, to = folders.alone([runs[0], runs[2]]), folders.copy(tmp_path / "to")
    assert list(folders.together(runs, to).values()).count("failed") == 1
    alike(alone, to, runs[0])
    alike(alone, to, runs[2])


@pytest.mark.parametrize("way", ["alone", "together"])
def test_what_fails_while_a_step_is_fed_is_recorded(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """An image that cannot be read, before the last step: of all runs that asked for it, at that step."""
    runs = tiny.plan(tmp_path, methods=["none", "kd"])[1:]
    to = folders.copy(tmp_path / "to")
    from harness.training import batches

    real = batches._Steps.__getitem__

    def broken(self: Any, step: int) -> Any:
        if step == 3:
            raise ValueError("0007.png: not an image")
        return real(self, step)

    monkeypatch.setattr(batches._Steps, "__getitem__", broken)
    if way == "together":
        assert set(folders.together(runs, to).values()) == {"failed"}
    else:
        assert {execute(run, local(to, run), to) for run in runs} == {"failed"}
    for run in runs:
        assert "0007.png: not an image" in row(to, run)["message"] and ", step 3;" in row(to, run)["message"]
    monkeypatch.setattr(batches._Steps, "__getitem__", real)
    assert set(folders.together(runs, to).values()) == {"ok"}


@pytest.mark.parametrize(
    ("how", "said"), [("writes", "the teacher writes into"), ("draws", "the teacher draws random")]
)
def test_a_teacher_is_fixed_and_leaves_the_images_as_they_are(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, said: str
) -> None:
    real = feed_module.compiled

    def wrapped(network: Any, wanted: bool) -> Any:
        def of(image: Tensor) -> Any:
            image.mul_(1.0) if how == "writes" else torch.rand(1)
            return real(network, wanted)(image)

        return of

    monkeypatch.setattr(feed_module, "compiled", wrapped)
    run, to = tiny.plan(tmp_path)[2], folders.copy(tmp_path / "to")
    assert execute(run, local(to, run), to) == "failed" and said in row(to, run)["message"]


def test_a_run_without_a_teacher_does_not_pay_for_one(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = feed_module.Feed._taps
    monkeypatch.setattr(feed_module.Feed, "_taps", lambda self, image: (time.sleep(0.5), real(self, image))[1])
    none, kd = tiny.plan(tmp_path)[1:]
    to = folders.copy(tmp_path / "to")
    folders.together([none, kd], to)
    one, other = row(to, none), row(to, kd)
    assert one["step_ms"] + 400 < other["step_ms"] and one["train_seconds"] + 2.4 < other["train_seconds"]
    assert other["shared_seconds"] > 2.9 and other["wall_seconds"] > one["wall_seconds"] + 2.4


def test_runs_of_different_batches_are_refused(folders: Folders, tmp_path: Path) -> None:
    to = folders.copy(tmp_path / "to")
    with pytest.raises(ValueError, match="kd and kd see different batches"):
        folders.together(tiny.plan(tmp_path, seeds=[0, 1], methods=["none", "kd"])[2::2], to)


def test_what_does_not_fit_into_memory_is_not_begun(folders: Folders, tmp_path: Path) -> None:
    runs, to = tiny.plan(tmp_path, methods=["none", "kd", "cwd"])[1:], folders.copy(tmp_path / "to")
    assert list(folders.together(runs, to, memory=1).values()) == ["ok", "waiting", "waiting"]
    assert set(folders.together(runs[1:], to).values()) == {"ok"}


def test_out_of_memory_beside_others_is_not_the_runs_fault(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, to = tiny.plan(tmp_path, methods=["none", "kd"])[1:], folders.copy(tmp_path / "to")

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate")

    with monkeypatch.context() as patch:
        patch.setattr(feed_module.Feed, "_taps", full)
        with pytest.raises(torch.OutOfMemoryError):
            folders.together(runs, to)
        assert execute(runs[1], local(to, runs[1]), to) == "failed", "by itself it is"
    assert not set(store.finished(to)) & {runs[0].run_id}


@pytest.mark.parametrize("at", [1, 7, 12])
def test_runs_that_stand_at_different_steps_meet_again(
    folders: Folders, tmp_path: Path, passes: list[int], at: int
) -> None:
    """Killed at the `at`-th turn of all: some have a checkpoint of step 2 or 4, others not yet."""
    runs = tiny.plan(tmp_path, methods=["none", "kd", "cwd"])[1:]
    alone, to = folders.alone(runs), folders.copy(tmp_path / "to")
    with killed_at(at):
        folders.together(runs, to)
    assert not set(store.finished(to)) & {run.run_id for run in runs}
    passes.clear()
    assert set(folders.together(runs, to).values()) == {"ok"}
    assert len(passes) <= 6
    for run in runs:
        alike(alone, to, run)


def test_a_machines_error_is_raised_and_nothing_is_lost(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tiny.plan(tmp_path, methods=["none", "kd"])[1:]
    alone, to = folders.alone(runs), folders.copy(tmp_path / "to")
    from harness.training import loop

    real, calls = loop.evaluate, 0

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise ConnectionResetError("gone")
        return real(*arguments, **options)

    monkeypatch.setattr(loop, "evaluate", failing)
    with pytest.raises(ConnectionResetError):
        folders.together(runs, to)
    monkeypatch.setattr(loop, "evaluate", real)
    assert set(folders.together(runs, to).values()) == {"ok"}
    for run in runs:
        alike(alone, to, run)


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 1)
        self.classifier = nn.Conv2d(8, num_classes, 1)

    def forward(self, image):
        return self.classifier(self.second(self.first(image)))
"""
TAPS = {"stage1": "first", "decoder": "second", "logits": "classifier"}


def test_the_teacher_of_a_student_with_its_own_statistics_sees_the_datasets(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `normalize: dataset` it was trained on them; in training, and where `check` looks at the first step."""
    (tmp_path / "ownnet.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    student = {"architecture": "ownnet:Net", "taps": TAPS, "input": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}}
    pair = tiny.TINY["pairs"][0] | {"student": student}
    run, to = tiny.plan(tmp_path, pairs=[pair])[2], folders.copy(tmp_path / "to")
    data = load_data(run.data).info
    need = next(steps(run, local(to, run), to))
    assert need.data.info.mean == pytest.approx((25.5, 51.0, 76.5)) and need.shown.mean == data.mean
    seen: list[DataInfo] = []
    real = proportions.converted
    monkeypatch.setattr(
        proportions, "converted", lambda image, now, wanted: (seen.append(wanted), real(image, now, wanted))[1]
    )
    proportions.first_step(run, Resources(), to)
    assert [info.mean for info in seen] == [data.mean]


def test_a_teachers_nan_is_no_write() -> None:
    image, label = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    maps = torch.full((1, 2, 4, 4), float("nan"))
    watched = feed_module._Watched(feed_module.Piece(image, label, Taps({}, maps, maps, maps)), values=True)
    assert not watched.written()
    label.numpy()[:] = 1
    assert watched.written()
