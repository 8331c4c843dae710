"""The loop: what it computes, what it refuses, and that an interrupted run ends where an undisturbed one does."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.distillers import METHODS, Distiller
from harness.experiment.recipe import Schedule
from harness.experiment.spec import Run
from harness.results import paths, store
from harness.training.batches import accumulation_steps, training_batches
from harness.training.execute import execute
from harness.training.loop import train
from harness.training.optimizers import lr_factor
from harness.training.progress import Progress
from harness.training.runtime import Runtime
from tests.support import tiny
from tests.support.kills import Killed, killed_at

SAME = ("dev_confusion", "val_confusion", "dev_miou", "curve", "losses", "weights_sha256", "student_init_sha256")


def local(experiment: Path, run: Run, **options: Any) -> Runtime:
    return Runtime.local(paths.checkpoint_directory(experiment, run.run_id), device=torch.device("cpu"), **options)


def finish(experiment: Path, run: Run) -> dict[str, Any]:
    execute(run, local(experiment, run), experiment)
    return store.read_row(paths.run_path(experiment, run.run_id))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Run]]:
    """A results folder with the tiny teacher in it, and the runs."""
    folder = tmp_path_factory.mktemp("tiny")
    runs = tiny.plan(folder, methods=["none", "kd", "cwd", "sstkd"])
    assert finish(folder, runs[0])["status"] == "ok"
    return folder, runs


def by_method(runs: list[Run], name: str) -> Run:
    return next(run for run in runs if run.role == "student" and run.method.name == name)


@pytest.fixture(scope="module")
def undisturbed(taught: tuple[Path, list[Run]]) -> Callable[[str], dict[str, Any]]:
    """The row of a method's run, which is trained once."""
    experiment, runs = taught
    return cache(lambda name: finish(experiment, by_method(runs, name)))


Undisturbed = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("name", ["none", "kd", "cwd", "sstkd"])
def test_every_method_gives_a_complete_row(taught: tuple[Path, list[Run]], undisturbed: Undisturbed, name: str) -> None:
    experiment, runs = taught
    run, row = by_method(runs, name), undisturbed(name)
    assert (row["status"], row["message"]) == ("ok", "")
    assert [point["step"] for point in row["curve"]] == [3, 6]
    assert row["dev_miou"] == row["curve"][-1]["dev_miou"]
    assert sum(row["dev_confusion"]) > 0 and sum(row["val_confusion"]) > 0
    terms = row["losses"][-1]["terms"]
    assert "task" in terms and (len(terms) > 1) == (name != "none")
    assert (
        row["step_ms"] > 0
        and row["student_latency_ms"] > 0
        and row["peak_memory_mb"] > 0
        and row["student_parameters"] > 0
    )
    teacher = store.read_row(paths.run_path(experiment, runs[0].run_id))
    assert row["teacher_sha256"] == (None if name == "none" else teacher["weights_sha256"])
    assert len(row["samples"]) == 4 and row["samples"][0]["image"] is None
    assert not paths.checkpoint_directory(experiment, run.run_id).exists()


def test_methods_start_from_the_same_student(undisturbed: Undisturbed) -> None:
    assert len({undisturbed(name)["student_init_sha256"] for name in ("none", "kd", "sstkd")}) == 1


@pytest.mark.parametrize(
    ("at", "name"),
    [
        (3, "none"),
        *(pytest.param(at, name, marks=pytest.mark.slow) for at, name in ((1, "none"), (5, "none"), (6, "none"))),
        (3, "sstkd"),
        pytest.param(6, "sstkd", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_like_an_undisturbed_one(
    taught: tuple[Path, list[Run]],
    undisturbed: Undisturbed,
    tmp_path: Path,
    name: str,
    at: int,
) -> None:
    """Before a checkpoint and after one, with and without modules of the method's own."""
    experiment, runs = taught
    run, expected = by_method(runs, name), undisturbed(name)
    copy = tmp_path / "again"
    for folder in ("runs", "weights"):
        (copy / folder).mkdir(parents=True)
    for path in (paths.run_path(experiment, runs[0].run_id), experiment / "weights" / f"{runs[0].run_id}.safetensors"):
        (copy / path.relative_to(experiment)).write_bytes(path.read_bytes())

    with killed_at(at):
        execute(run, local(copy, run), copy)
    assert run.run_id not in store.finished(copy)
    torch.manual_seed(12345)  # whatever the global stream holds must not matter
    again = finish(copy, run)
    assert again["resumed"] == (1 if at > 2 else 0)
    assert {k: again[k] for k in SAME} == {k: expected[k] for k in SAME}


def test_an_unreadable_checkpoint_is_not_the_end(
    taught: tuple[Path, list[Run]], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    run = by_method(taught[1], "none")
    folder = paths.checkpoint_directory(tmp_path, run.run_id)
    folder.mkdir(parents=True)
    (folder / "step-000000002.pt").write_bytes(b"half a checkpoi")
    said: list[Progress] = []
    execute(run, local(tmp_path, run, on_progress=said.append), tmp_path)
    row = store.read_row(paths.run_path(tmp_path, run.run_id))
    assert "step-000000002.pt is corrupt or partially written" in str(said[0].note)
    assert row["dev_confusion"] == undisturbed("none")["dev_confusion"]


def test_a_checkpoint_of_other_data_is_not_taken_up(
    taught: tuple[Path, list[Run]], undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a run on files that were changed in between would carry the hash of the new ones."""
    from harness.training import loop as module

    run, real = by_method(taught[1], "none"), module.guards.all_contributed

    def dies(*arguments: Any) -> None:
        raise Killed

    monkeypatch.setattr(module.guards, "all_contributed", dies)  # after the last checkpoint
    with pytest.raises(Killed):
        execute(run, local(tmp_path, run), tmp_path)
    monkeypatch.setattr(module.guards, "all_contributed", real)
    data = module.load_data(run.data)
    changed = replace(data, info=replace(data.info, content_hash="0" * 64))
    monkeypatch.setattr(module, "load_data", lambda spec, share: changed)
    said: list[Progress] = []
    execute(run, local(tmp_path, run, on_progress=said.append), tmp_path)
    row = store.read_row(paths.run_path(tmp_path, run.run_id))
    assert "is of other data" in str(said[0].note)
    assert row["resumed"] == 0 and row["data_hash"] == "0" * 64
    assert row["dev_confusion"] == undisturbed("none")["dev_confusion"]


@pytest.mark.slow
def test_accumulation_of_task_gradients_equals_the_whole_batch(tmp_path: Path) -> None:
    """Without batch statistics the split of a batch must not matter, however the void pixels are spread."""
    changes = {"methods": ["none"]}
    network = {"architecture": "fpn", "encoder": "tu-convnext_atto", "parameters": {"decoder_dropout": 0.0}}
    pairs = [{"name": "tiny", "teacher": network, "student": network}]
    losses = []
    for accumulate in (1, 4):
        overrides = [f"train.accumulate={accumulate}", "train.optimizer={name: sgd, lr: 0.01}", "train.steps=3"]
        run = tiny.plan(tmp_path, *overrides, pairs=pairs, **changes)[1]
        losses.append([point["terms"]["task"] for point in finish(tmp_path, run)["losses"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_non_finite_loss_fails_the_run_and_names_the_term(
    taught: tuple[Path, list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, runs = taught
    forward = METHODS["kd"].forward

    def poisoned(self: Distiller, view: Any) -> Any:
        terms = forward(self, view)
        return {"kd": terms["kd"] * (math.nan if view.progress > 0.4 else 1.0)}

    monkeypatch.setattr(METHODS["kd"], "forward", poisoned)
    run = by_method(runs, "kd").model_copy(update={"seed": 7})
    row = finish(experiment, run)
    assert row["status"] == "failed"
    assert "loss term kd is not finite at step 3" in row["message"]
    assert "Lower train.optimizer.lr" in row["message"]
    assert row["dev_confusion"] is None


class Idle(Distiller):
    """A distiller with a fault that can be chosen."""

    def __init__(self, pair: Any, fault: str) -> None:
        super().__init__()
        self.fault = fault
        if fault == "unused":
            self.forgotten = nn.Conv2d(1, 1, 1)

    def forward(self, view: Any) -> Any:
        value = view.student.logits.mean()
        return {
            "unused": {"x": value},
            "silent": {"x": value * 0},
            "detached": {"x": value.detach()},
            "vector": {"x": view.student.logits.mean((1, 2, 3))},
            "nothing": {},
        }[self.fault]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("unused", "trainable parameters get no gradient (first: distiller.forgotten"),
        ("silent", "loss term x was 0 in all 6 steps"),
        ("detached", "term x has no gradient"),
        ("vector", "term x has shape (4,); a term is a scalar"),
        ("nothing", "returns no loss terms"),
    ],
)
def test_faulty_methods_are_loud(
    taught: tuple[Path, list[Run]], monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    experiment, runs = taught
    from harness.training import loop as module

    monkeypatch.setattr(module, "build_method", lambda method, pair, seed: Idle(pair, fault))
    run = by_method(runs, "kd").model_copy(update={"seed": 8})
    (experiment / "runs" / f"{run.run_id}.parquet").unlink(missing_ok=True)
    row = finish(experiment, run)
    assert row["status"] == "failed"
    assert message in row["message"]


def test_a_teacher_in_train_mode_is_refused(taught: tuple[Path, list[Run]], monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, runs = taught
    from harness.training import loop as module

    real = module.build_teacher
    monkeypatch.setattr(module, "build_teacher", lambda *arguments: real(*arguments).train())
    run = by_method(runs, "kd").model_copy(update={"seed": 9})
    row = finish(experiment, run)
    real(run, module.load_data(run.data).info, experiment, torch.device("cpu")).eval()
    assert row["status"] == "failed" and "is in train mode" in row["message"]


def test_a_changed_teacher_file_is_refused(taught: tuple[Path, list[Run]], tmp_path: Path) -> None:
    experiment, runs = taught
    copy = tmp_path / "copy"
    (copy / "runs").mkdir(parents=True)
    row = paths.run_path(experiment, runs[0].run_id)
    (copy / "runs" / row.name).write_bytes(row.read_bytes())
    run = by_method(runs, "kd")
    missing = finish(copy, run)
    assert missing["status"] == "failed" and "the weight file is missing" in missing["message"]
    weights = copy / "weights" / f"{runs[0].run_id}.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"something else")
    changed = finish(copy, run)
    assert changed["status"] == "failed" and "It is a different file" in changed["message"]


def test_a_missing_teacher_row_says_so(taught: tuple[Path, list[Run]], tmp_path: Path) -> None:
    row = finish(tmp_path, by_method(taught[1], "kd"))
    assert row["status"] == "failed" and "has not been trained" in row["message"]


def test_a_given_teacher_is_evaluated_and_not_trained(taught: tuple[Path, list[Run]], tmp_path: Path) -> None:
    experiment, runs = taught
    weights = experiment / "weights" / f"{runs[0].run_id}.safetensors"
    trained = store.read_row(paths.run_path(experiment, runs[0].run_id))
    teacher = tiny.TINY["pairs"][0]["teacher"] | {
        "checkpoint": {"path": str(weights), "sha256": trained["weights_sha256"]}
    }
    pairs = [tiny.TINY["pairs"][0] | {"teacher": teacher}]
    given = tiny.plan(tmp_path, pairs=pairs)
    row = finish(tmp_path, given[0])
    assert (row["status"], row["steps"], row["losses"]) == ("ok", 0, [])
    assert row["dev_confusion"] == trained["dev_confusion"]
    assert finish(tmp_path, by_method(given, "kd"))["status"] == "ok"


def test_fp16_without_a_gpu_is_refused(taught: tuple[Path, list[Run]], tmp_path: Path) -> None:
    run = by_method(tiny.plan(tmp_path, "train.precision=fp16"), "none")
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        train(run, local(tmp_path, run), tmp_path)


@pytest.fixture
def small_files() -> Iterator[None]:
    """The kernel refuses to write a file beyond 100 kB, as it does on a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_and_leaves_no_row(
    taught: tuple[Path, list[Run]], tmp_path: Path, small_files: None
) -> None:
    run = by_method(taught[1], "none")
    with pytest.raises(OSError, match="File too large"):
        execute(run, local(tmp_path, run), tmp_path)
    assert store.finished(tmp_path) == {}
    assert not list(tmp_path.rglob("*.tmp"))


def test_weights_on_a_full_disk(tmp_path: Path, small_files: None) -> None:
    from harness.models import save_state

    with pytest.raises(OSError, match="File too large"):
        save_state({"x": torch.zeros(100_000)}, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("option", ["train.channels_last=true", "train.clip_norm=0.1", "train.schedule.name=cosine"])
def test_options_of_the_recipe_run(tmp_path: Path, option: str, precision: str) -> None:
    run = by_method(tiny.plan(tmp_path, option, f"train.precision={precision}", "train.steps=2"), "none")
    assert finish(tmp_path, run)["message"] == ""


def test_tensorboard_gets_every_report(taught: tuple[Path, list[Run]], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    from harness.execution.loggers import LOGGERS

    run = by_method(taught[1], "kd")
    log = LOGGERS["tensorboard"](tmp_path, run)
    log(Progress(note="no step yet"))
    log(Progress(step=3, terms={"task": 2.0, "kd": 0.5}, step_ms=7.0))
    log(Progress(step=6, terms={"task": 1.0, "kd": 0.25}, dev_miou=0.4, step_ms=7.0))
    (file,) = tmp_path.glob("*/events*")
    events = EventFileLoader(str(file)).Load()
    values = [(v.tag, e.step, v.tensor.float_val[0]) for e in events for v in e.summary.value]
    assert ("loss/kd", 6, 0.25) in values and ("loss/task", 3, 2.0) in values
    assert [step for tag, step, _ in values if tag == "dev_miou"] == [6]


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (Schedule(name="poly", power=0.9), 0, 1.0),
        (Schedule(name="poly", power=0.9), 50, 0.5**0.9),
        (Schedule(name="poly", power=2.0, warmup_steps=20), 60, 0.25),
        (Schedule(name="cosine"), 50, 0.5),
        (Schedule(name="cosine"), 25, 0.5 * (1 + math.cos(math.pi / 4))),
        (Schedule(name="constant"), 99, 1.0),
        (Schedule(name="constant", warmup_steps=10), 0, 0.1),
        (Schedule(name="poly", warmup_steps=10), 9, 1.0),
        (Schedule(name="poly", warmup_steps=10), 10, 1.0),
    ],
)
def test_learning_rate(schedule: Schedule, step: int, expected: float) -> None:
    assert lr_factor(schedule, step, 100) == pytest.approx(expected, rel=1e-12)


def test_loader_processes_do_not_change_the_samples(taught: tuple[Path, list[Run]], tmp_path: Path) -> None:
    run = by_method(taught[1], "none")
    from harness.training.build import load_data

    data = load_data(run.data)
    batches = [
        list(training_batches(data.train, data.info, run, local(tmp_path, run, loader_workers=workers), 1, 5))
        for workers in (0, 2)
    ]
    for here, there in zip(*batches, strict=True):
        assert torch.equal(here.image, there.image) and torch.equal(here.label, there.label)


def test_ranks_share_the_global_batch(taught: tuple[Path, list[Run]], tmp_path: Path) -> None:
    run = by_method(taught[1], "none")
    from harness.training.build import load_data

    data = load_data(run.data)
    (whole,) = training_batches(data.train, data.info, run, local(tmp_path, run), 0, 1)
    for rank in range(2):
        (part,) = training_batches(data.train, data.info, run, local(tmp_path, run, rank=rank, workers=2), 0, 1)
        assert torch.equal(part.image, whole.image[rank::2]) and torch.equal(part.label, whole.label[rank::2])
    with pytest.raises(ValueError, match="does not divide into 3 workers"):
        accumulation_steps(run.train, 3)


@pytest.mark.slow
def test_a_sum_over_images_means_the_global_batch_however_it_is_divided(tmp_path: Path) -> None:
    """`skd` multiplies by the images of a batch, in whose number workers and accumulation steps have no say."""
    found = []
    for accumulate in (1, 4):
        settings = (f"train.accumulate={accumulate}", "train.steps=1")
        runs = tiny.plan(tmp_path, *settings, methods=["none", {"kd": {"convention": "skd"}}])
        needed = [run for run in runs if run.role == "teacher" or run.method.name == "kd"]
        rows = {run.method.name: finish(tmp_path / str(accumulate), run) for run in needed}
        found.append(dict(rows["kd"]["losses"][0]["terms"])["kd"])
    assert found[1] == pytest.approx(found[0], rel=0.1)  # batch normalisation sees micro-batches
