"""A checkpoint with a valid seal and anything inside: what does not make sense starts the run again, with the same bits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.experiment.spec import Run
from harness.models import state_sha256
from harness.results import paths, store
from harness.taps import Pair
from harness.training import guards, resume
from harness.training.build import build_method, build_network, load_data
from harness.training.checkpoints import Checkpoints, copied
from harness.training.optimizers import Optimizers
from harness.training.progress import Progress
from harness.training.runtime import Runtime
from harness.training.step import KDStep
from tests.support import tiny

SAME = ("dev_confusion", "val_confusion", "curve", "losses", "weights_sha256")
State = dict[str, Any]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, State, State]:
    """The run of the student without distillation, its row, and the state after its last step."""
    folder = tmp_path_factory.mktemp("tiny")
    data = {"name": "texmosaic", "parameters": {"size": 64, "train": 4, "dev": 2, "val": 1}}
    run = tiny.plan(folder, "train.steps=2", "train.eval_every=2", "train.schedule.warmup_steps=1", data=data)[1]
    states: list[State] = []

    def dies(*_: Any) -> None:
        states.append(Checkpoints(paths.checkpoint_directory(folder, run.run_id)).read(2))
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guards, "all_contributed", dies)
        with pytest.raises(Killed):
            tiny.in_process(run, folder)
    assert tiny.in_process(run, folder) == "ok"
    row = store.read_row(paths.run_path(folder, run.run_id))
    assert row["resumed"] == 1
    return run, row, states[0]


def changed(*keys: Any, to: Any) -> Callable[[State], None]:
    """Sets one place of a state; `to` may be a function of what was there."""

    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = to(state[keys[-1]]) if callable(to) else to

    return change


def first(state: State) -> str:
    return next(name for name, value in state["student"].items() if value.is_floating_point())


def poisoned(value: float) -> Callable[[State], None]:
    return lambda state: state["student"][first(state)].view(-1)[:1].fill_(value)


def without(*keys: str) -> Callable[[State], None]:
    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return change


def momenta(state: State, to: torch.Tensor) -> None:
    averages = state["optimizers"][0]["state"][0]
    averages[next(name for name, value in averages.items() if value.ndim)] = to


NONSENSE: dict[str, Callable[[State], None]] = {
    **{f"step {step}": changed("step", to=step) for step in (-3, 0, 3, 10**9, 1.0, True, None, "2", [2])},
    **{f"weights {value}": poisoned(value) for value in (float("nan"), float("inf"), -float("inf"))},
    **{f"no {key}": without(key) for key in ("step", "student", "distiller", "optimizers", "scaler", "log", "step_ms")},
    **{f"{key} is {to!r}": changed(key, to=to) for key in ("student", "optimizers", "log") for to in ([], {}, None, 3)},
    "integer weights": lambda state: state["student"].update({first(state): state["student"][first(state)].long()}),
    "a weight of another shape": lambda state: state["student"].update({first(state): torch.zeros(1)}),
    "a weight more": lambda state: state["student"].update(more=torch.zeros(1)),
    "no weight of that name": lambda state: state["student"].pop(first(state)),
    "an optimizer less": changed("optimizers", to=lambda each: each[:-1]),
    "an optimizer more": changed("optimizers", to=lambda each: each * 2),
    "other settings": changed("optimizers", 0, "param_groups", 0, "weight_decay", to=9.0),
    "an average of another shape": lambda state: momenta(state, torch.zeros(3, 3)),
    "an average that is not finite": lambda state: momenta(state, torch.tensor(float("nan"))),
    "parameters of other numbers": changed("optimizers", 0, "param_groups", 0, "params", to=[0]),
    "a log of other keys": lambda state: state["log"].update(more=1),
    "no sums": without("log", "since"),
    "sums of other ranks": changed("log", "since", "ranks", to=torch.zeros(0)),
    "a curve that is text": changed("log", "curve", to="curve"),
    "a curve of other points": changed("log", "curve", to=[{"a": 1}]),
    "times that are NaN": changed("step_ms", to=[float("nan")]),
    "times that are text": changed("step_ms", to="fast"),
}


@pytest.fixture(scope="module")
def fresh(halfway: tuple[Run, State, State]) -> resume.Trained:
    """What the run begins with."""
    run = halfway[0]
    data = load_data(run.data)
    student = build_network(run, data.info)
    info = student.info()
    method = build_method(run.method, Pair(info, info, data.info.num_classes), run.seed)
    step = KDStep(student, method, data.info.ignore_index)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return resume.Trained(student, method, Optimizers(run.train.optimizer, step, method), scaler)


def bits(trained: resume.Trained) -> tuple[str, list[Any]]:
    state = trained.state()
    return state_sha256(state["student"]), state["optimizers"]


def resumed(run: Run, state: Any, fresh: resume.Trained, folder: Path) -> tuple[int, str, int]:
    """The step from which a run goes on that finds this state, what it says, and how often it was resumed."""
    data_hash = load_data(run.data).info.content_hash
    Checkpoints(folder).save(2, state)
    said: list[Progress] = []
    runtime = Runtime.local(folder, device=torch.device("cpu"), on_progress=said.append)
    step, log, _ = resume.resume(runtime, run, data_hash, fresh)
    return step, " ".join(str(report.note) for report in said), log.resumed


@pytest.mark.parametrize("what", NONSENSE)
def test_a_checkpoint_that_makes_no_sense_starts_the_run_again(
    halfway: tuple[Run, State, State], fresh: resume.Trained, tmp_path: Path, what: str
) -> None:
    run, _, state = halfway
    state, before = copied(state), bits(fresh)
    NONSENSE[what](state)
    step, note, times = resumed(run, state, fresh, tmp_path)
    assert (step, times) == (0, 0)
    assert "step-000000002.pt" in note and "resuming from an earlier one, or from step 0" in note
    assert bits(fresh) == before and not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [[], 3, None, {}, {"run_id": 7}, "state"])
def test_a_checkpoint_of_something_else_is_not_used(
    halfway: tuple[Run, State, State], fresh: resume.Trained, tmp_path: Path, content: Any
) -> None:
    assert resumed(halfway[0], content, fresh, tmp_path)[0] == 0


@pytest.mark.parametrize("what", ["step -3", "weights nan", "an optimizer more"])
def test_such_a_run_ends_with_the_bits_of_one_that_was_never_interrupted(
    halfway: tuple[Run, State, State], tmp_path: Path, what: str
) -> None:
    run, row, state = halfway
    state = copied(state)
    NONSENSE[what](state)
    Checkpoints(paths.checkpoint_directory(tmp_path, run.run_id)).save(2, state)
    assert tiny.in_process(run, tmp_path) == "ok"
    again = store.read_row(paths.run_path(tmp_path, run.run_id))
    assert again["resumed"] == 0 and {k: again[k] for k in SAME} == {k: row[k] for k in SAME}


def test_a_step_that_blows_up_the_weights_does_not_end_ok(tmp_path: Path) -> None:
    """The loss of the only step is finite: what it did to the weights shows in the scores."""
    data = {"name": "texmosaic", "parameters": {"size": 64, "train": 4, "dev": 2, "val": 1}}
    sets = ("train.steps=1", "train.eval_every=1", "train.schedule.warmup_steps=0")
    run = tiny.plan(tmp_path, *sets, "train.optimizer={name: sgd, lr: 1e30}", data=data)[1]
    assert tiny.in_process(run, tmp_path) == "failed"
    message = store.read_row(paths.run_path(tmp_path, run.run_id))["message"]
    assert "not finite" in message and "Lower train.optimizer.lr" in message
