"""The gate: every rule refuses what its runs could not do, `check` and `run` in the same words, before anything trains."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import harness
from harness.cli.app import app
from harness.cli.common import error_lines
from harness.datasets import Data
from harness.distillers import METHODS
from harness.execution import launcher
from harness.experiment.load import load
from harness.experiment.plan import outline
from harness.models import build, save_state
from harness.results import paths, store
from harness.training import gate
from harness.training.build import load_data
from tests.support import tiny
from tests.support.rows import make_row

DATA = {"name": "texmosaic", "parameters": {"size": 64, "train": 4, "dev": 2, "val": 1}}
DEEPLAB = "pairs.0.student={architecture: deeplabv3plus, encoder: tu-resnet10t}"
Prepare = Callable[[Path], list[str]]


def sets(*overrides: str) -> Prepare:
    return lambda folder: list(overrides)


def weights(key: str, spoil: Callable[[dict[str, torch.Tensor]], object]) -> Prepare:
    """The experiment's own weights for a key of the pair, with something spoilt."""

    def prepare(folder: Path) -> list[str]:
        experiment = load(tiny.write(folder, data=DATA))
        pair = experiment.pairs[0]
        if key == "teacher.checkpoint":
            state = build(pair.teacher, load_data(experiment.data).info.num_classes, 0).state_dict()
        else:
            state = build(getattr(pair, key.partition(".")[0]), 2, 0).encoder.state_dict()
        state = {name: value.clone() for name, value in state.items()}
        spoil(state)
        save_file(state, folder / "given.safetensors")
        return [f"pairs.0.{key}={{path: {folder / 'given.safetensors'}}}"]

    return prepare


def trained(spoil: Callable[[Path], object]) -> Prepare:
    """A teacher that an earlier run has trained, whose weights are spoilt afterwards."""

    def prepare(folder: Path) -> list[str]:
        experiment = load(tiny.write(folder, data=DATA))
        run, directory = outline(experiment)[0], folder / "results" / "tiny"
        network = build(run.network, load_data(run.data).info.num_classes, 0)
        file = paths.weights_path(directory, run.run_id)
        digest = save_state(network.state_dict(), file)
        named = {"run_id": run.run_id, "experiment": "tiny", "role": "teacher", "pair": "tiny", "teacher_run_id": None}
        store.write_run(directory, make_row("none", 0, "ok", **named) | {"weights_sha256": digest, "data_hash": None})
        spoil(file)
        return []

    return prepare


def first(state: dict[str, torch.Tensor]) -> str:
    return next(name for name, value in state.items() if value.ndim == 4)


def nan(state: dict[str, torch.Tensor]) -> None:
    state[first(state)].view(-1)[0] = float("nan")


def integers(state: dict[str, torch.Tensor]) -> None:
    state[first(state)] = state[first(state)].int()


def narrower(state: dict[str, torch.Tensor]) -> None:
    state[first(state)] = state[first(state)][:, :1].clone()


def another_size(state: dict[str, torch.Tensor]) -> None:
    name = first(state)
    state[name] = torch.zeros(1, 1, 1, 1)


RULES: dict[str, tuple[Prepare, str]] = {
    "batch and workers": (sets("resources.workers=3"), r"train\.batch_size: 4 does not divide into 3 workers"),
    "fp16": (sets("train.precision=fp16"), r"train\.precision: fp16 needs a GPU.*gpus_per_worker"),
    "tf32": (sets("train.precision=tf32"), r"train\.precision: tf32 needs a GPU.*gpus_per_worker"),
    "gpus": (sets("resources.gpus_per_worker=64"), r"resources\.gpus_per_worker: 64, but this machine has \d+ GPUs"),
    "encoder": (sets("pairs.0.student.encoder=tu-resnet10x"), r"pair tiny: .*cannot be built.*tu-resnet10"),
    "parameter": (
        sets("pairs.0.student.parameters={depth: 3}"),
        r"pair tiny: .*parameters \{'depth': 3\} cannot be built",
    ),
    "student's encoder": (weights("student.encoder_weights", nan), r"encoder_weights: .*given.*are not finite"),
    "teacher's encoder": (weights("teacher.encoder_weights", nan), r"encoder_weights: .*given.*are not finite"),
    "whole numbers": (weights("student.encoder_weights", integers), "is int32 in the file and float32 in the network"),
    "channels": (
        weights("student.encoder_weights", narrower),
        "from 1 to 16 channels.*from 3 to 16|16x1x3x3 in the file",
    ),
    "checkpoint NaN": (weights("teacher.checkpoint", nan), r"teacher\.checkpoint: .*given.*are not finite"),
    "checkpoint fit": (weights("teacher.checkpoint", another_size), r"teacher\.checkpoint: .*1x1x1x1 in the file and"),
    "teacher cut": (
        trained(lambda file: file.write_bytes(file.read_bytes()[:999])),
        "weights .*in the row, .*--rerun-changed",
    ),
    "method": (sets("methods=[none, {sstkd: {stages: [stage9]}}]"), r"pair tiny, method sstkd.*stage9"),
    "weight 0": (sets("methods=[none, {kd: {weight: 0}}]"), r"pair tiny, method kd\(weight=0\.0\): kd: weight"),
    "batch of 1": (sets(DEEPLAB, "train.batch_size=1"), r"train\.batch_size: 1 over accumulate 1 .*at least 2"),
    "pieces of 1": (
        sets(DEEPLAB, "train.batch_size=2", "train.accumulate=2"),
        r"train\.batch_size: 2 over accumulate 2",
    ),
    "crop": (
        sets("pairs.0.student={architecture: pan, encoder: tu-resnet10t}", "train.augment={crop_hw: [32, 32]}"),
        r"train\.augment\.crop_hw: 32x32 is too small for the student pan.*128x128",
    ),
}


@pytest.fixture(autouse=True)
def nothing_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_all(*_: object) -> None:
        raise AssertionError("something was launched")

    monkeypatch.setattr(launcher, "run_all", run_all)


@pytest.mark.parametrize("rule", RULES)
def test_check_says_what_run_says(rule: str, tmp_path: Path) -> None:
    prepare, message = RULES[rule]
    overrides = prepare(tmp_path)
    file = tiny.write(tmp_path, data=DATA)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)) as caught:
        harness.Bench(load(file, overrides), tmp_path / "results", file).run()
    given = [word for override in overrides for word in ("--set", override)]
    done = CliRunner().invoke(app, ["check", str(file), "--no-measure", "--results", str(tmp_path / "results"), *given])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == error_lines(str(caught.value), "ValueError")
    assert "weights_only" not in str(caught.value) and "Traceback" not in done.output


def test_every_rule_has_a_case() -> None:
    assert {rule.__name__ for rule in gate.RULES} == {
        *("recipe", "machine", "data", "networks", "given_weights", "trained_teacher", "loss", "method")
    }


def runs(folder: Path, *overrides: str, **changes: Any) -> list[Any]:
    return outline(load(tiny.write(folder, **({"data": DATA} | changes)), overrides))


def test_a_schedule_that_ends_before_a_control_is_refused(tmp_path: Path) -> None:
    override = "train.schedule={name: OneCycleLR, total_steps: 6}"
    *others, student = runs(tmp_path, override, methods=["none"])
    longer = student.train.model_copy(update={"steps": 9})
    control = student.model_copy(update={"train": longer, "control": "equal seconds"})
    resources = load(tmp_path / "tiny.yaml").resources
    gate.require([*others, student], resources, tmp_path)
    with pytest.raises(ValueError, match=r"OneCycleLR ends after 6 steps, and the run has 9"):
        gate.require([*others, student, control], resources, tmp_path)


def test_an_empty_split_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = runs(tmp_path)
    data = load_data(planned[0].data)
    monkeypatch.setattr(gate, "load_data", lambda spec: Data(data.info, data.train, [], data.val))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^data: texmosaic: dev has no image"):
        gate.require(planned, load(tmp_path / "tiny.yaml").resources, tmp_path)


def test_a_step_is_made_once_per_combination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = gate._Step.make

    def counted(self: Any, images: int, size: tuple[int, ...]) -> None:
        made.append(self.run.method.label)
        real(self, images, size)

    monkeypatch.setattr(gate._Step, "make", counted)
    built: list[str] = []
    monkeypatch.setattr(gate, "build", lambda network, *rest: built.append(network.encoder) or build(network, *rest))
    planned = runs(tmp_path, seeds=list(range(50)))
    assert len(planned) == 101
    gate.require(planned, load(tmp_path / "tiny.yaml").resources, tmp_path)
    assert sorted(made) == ["kd", "none", "none"], "teacher, baseline, kd"
    assert len(built) == 2


def test_a_method_with_an_error_of_its_own_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, view: Any) -> Any:
        return {"kd": view.student.logits.reshape(7, 11).mean()}

    monkeypatch.setattr(METHODS["kd"], "forward", broken)
    with pytest.raises(ValueError, match=r"^pair tiny, method kd: a training step of 4 images .*in the method: Run"):
        gate.require(runs(tmp_path), load(tmp_path / "tiny.yaml").resources, tmp_path)


MINE = "tests.hostile.broken_methods:Broken"


@pytest.mark.parametrize("fault", ["exit", "long", "value", "mute", "init exit", "init long"])
def test_a_method_of_ones_own_is_named_with_its_file_in_few_words(tmp_path: Path, fault: str) -> None:
    """One that ends the process, too: `check` would end without a word, as if all were well."""
    planned = runs(tmp_path, methods=["none", {MINE: {"fault": fault}}])
    with pytest.raises(ValueError, match=rf"^pair tiny, method {re.escape(MINE)}\(fault={fault}") as caught:
        gate.require(planned[-1:], load(tmp_path / "tiny.yaml").resources, tmp_path)
    text = str(caught.value)
    assert "[broken_methods.py:" in text or fault.endswith("long"), text
    assert "Correct" in text and len(text) < 1500


def test_a_method_that_needs_more_images_than_the_small_step_has_is_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = METHODS["kd"].forward

    def many(self: Any, view: Any) -> Any:
        if len(view.labels) < 3:
            raise ValueError("at least 3 images are needed")
        return real(self, view)

    monkeypatch.setattr(METHODS["kd"], "forward", many)
    resources = load(tiny.write(tmp_path)).resources
    gate.require(runs(tmp_path), resources, tmp_path)
    with pytest.raises(
        ValueError, match=r"method kd: a training step .* ValueError: at least 3 images are needed \[test_gate\.py"
    ):
        gate.require(runs(tmp_path, "train.batch_size=2"), resources, tmp_path)


def test_elsewhere_only_what_this_machine_can_know_is_looked_at(tmp_path: Path) -> None:
    elsewhere = ["resources.address=head:6379", "resources.gpus_per_worker=8", "train.precision=fp16"]
    experiment = load(tiny.write(tmp_path, data=DATA), elsewhere)
    gate.require(outline(experiment), experiment.resources, tmp_path)


def test_the_random_stream_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    gate.require(runs(tmp_path), load(tmp_path / "tiny.yaml").resources, tmp_path)
    assert torch.rand(1) == expected
