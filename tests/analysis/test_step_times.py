"""Budgets of seconds: steps that follow from a method's step time, the controls, and the rows behind the times."""

import time
import types
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from typer.testing import CliRunner

from harness.cli.app import app
from harness.distillers import Distiller
from harness.execution.workspace import Workspace, copy_teacher
from harness.experiment import rules
from harness.experiment.budget import StepTime
from harness.experiment.load import load
from harness.experiment.plan import plan, timing_runs
from harness.experiment.resources import Resources
from harness.experiment.spec import Experiment, Run
from harness.results import paths, step_times, store
from harness.results.paths import times_folder, weights_path
from harness.taps import Pair, View
from harness.training import cost
from tests.support import tiny
from tests.support.rows import make_row

Times = dict[tuple[str, str], StepTime]


class Clock:
    """Time that passes by a millisecond whenever it is asked for, and while a `Slow` method works."""

    now = 0.0

    @classmethod
    def perf_counter(cls) -> float:
        cls.now += 1e-3
        return cls.now


class Slow(Distiller):
    """A method whose step takes so many seconds more than the baseline's, by `Clock`."""

    needs_teacher = False

    def __init__(self, pair: Pair, *, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, view: View) -> dict[str, Tensor]:
        Clock.now += self.seconds
        return {"idle": 1e-9 * view.student.logits.float().abs().mean()}


def experiment(folder: Path, *overrides: str, **changes: Any) -> Experiment:
    return load(tiny.write(folder, **changes), overrides)


def given(**ms: float) -> Times:
    return {("tiny", label): StepTime(ms=value, repeats=(value,)) for label, value in ms.items()}


def steps(runs: list[Run]) -> dict[str, int]:
    return {run.label: run.train.steps for run in runs if run.role == "student"}


def test_steps_are_the_seconds_over_the_step_time(tmp_path: Path) -> None:
    runs = plan(
        experiment(tmp_path, budget={"unit": "seconds", "seconds": 6.0}, methods=["none", "kd", "cwd"]),
        times=given(none=100.0, kd=200.0, cwd=130.0),
    )
    assert steps(runs) == {"none": 60, "none at equal steps": 30, "kd": 30, "cwd": 46}
    by_label = {run.label: run for run in runs if run.role == "student"}
    assert by_label["kd"].step_time == StepTime(ms=200.0, repeats=(200.0,))
    assert {run.budget.seconds for run in by_label.values()} == {6.0}
    assert next(run for run in runs if run.role == "teacher").train.steps == 3  # the same teacher as ever


def test_without_seconds_they_are_those_of_the_plain_students_steps(tmp_path: Path) -> None:
    made = experiment(tmp_path, "train.steps=300", budget={"unit": "seconds"})
    runs = plan(made, times=given(none=7.1, kd=14.2))
    assert steps(runs) == {"none": 300, "none at equal steps": 150, "kd": 150}


def test_a_longer_plain_student_beside_equal_steps(tmp_path: Path) -> None:
    made = experiment(tmp_path, "train.steps=300", budget={"longer": True}, methods=["none", "kd", "cwd"])
    runs = plan(made, times=given(none=100.0, kd=200.0, cwd=130.0))
    assert steps(runs) == {"none": 300, "none at equal seconds": 600, "kd": 300, "cwd": 300}
    plain = plan(experiment(tmp_path, "train.steps=300", methods=["none", "kd", "cwd"]))
    ids = {run.run_id for run in runs if run.control is None}
    assert ids == {run.run_id for run in plain}, "the methods' runs are the ones they are without the control"
    assert rules.labels(made) == ["none", "kd", "cwd", "none at equal seconds"]


def test_a_budget_that_ends_in_the_warm_up_is_an_error(tmp_path: Path) -> None:
    made = experiment(tmp_path, budget={"unit": "seconds", "seconds": 0.3})
    with pytest.raises(ValueError, match=r"kd on tiny has 1 steps of 200 ms, all within the warm-up"):
        plan(made, times=given(none=100.0, kd=200.0))


def test_a_shortened_experiment_keeps_its_longer_control(tmp_path: Path) -> None:
    """Where all steps of a budget in steps are within the warm-up, so may be those of the control."""
    made = experiment(
        tmp_path, "train.steps=3", "train.schedule.warmup_steps=50", budget={"longer": True}, methods=["none", "kd"]
    )
    assert steps(plan(made, times=given(none=100.0, kd=200.0)))["none at equal seconds"] == 6


def test_runs_wait_for_step_times(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="these have not been measured yet"):
        plan(experiment(tmp_path, budget={"unit": "seconds"}))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"seconds": 3.0}, "only with unit: seconds"),
        ({"unit": "seconds", "longer": True}, "only with unit: steps"),
        ({"unit": "seconds", "seconds": 0}, "greater than 0"),
        ({"unit": "minutes"}, "minutes"),
    ],
)
def test_wrong_budgets_are_named(tmp_path: Path, budget: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(tmp_path, budget=budget)


def written(made: Experiment, folder: Path, ms: dict[str, list[float]], **changes: Any) -> None:
    for run in timing_runs(made):
        row = make_row(run.method.name, run.seed, run_id=run.run_id, experiment="tiny", pair="tiny", data_hash=None)
        row |= {"step_ms": ms[run.method.label][run.seed], "trial": run.seed, "trial_method": run.method.label}
        store.write_run(folder, row | changes)


def test_a_time_is_the_median_of_the_repeats(tmp_path: Path) -> None:
    made = experiment(tmp_path, budget={"unit": "seconds"})
    with pytest.raises(ValueError, match=r"a step of none on tiny has not been timed yet: sstkd-bench run e.yaml"):
        step_times.times(made, tmp_path, "e.yaml")
    written(made, times_folder(tmp_path), {"none": [100.0, 900.0, 110.0], "kd": [210.0, 190.0, 200.0]})
    found = step_times.times(made, tmp_path, "e.yaml")
    assert found["tiny", "none"] == StepTime(ms=110.0, repeats=(100.0, 900.0, 110.0))
    assert found["tiny", "kd"].ms == 200.0


def test_times_of_two_kinds_of_device_are_an_error(tmp_path: Path) -> None:
    made = experiment(tmp_path, budget={"unit": "seconds"})
    ms = {"none": [1.0, 1.0, 1.0], "kd": [1.0, 1.0, 1.0]}
    written(made, times_folder(tmp_path), ms)
    last = timing_runs(made)[-1].run_id
    paths.run_path(times_folder(tmp_path), last).unlink()
    store.write_run(times_folder(tmp_path), make_row("kd", 2, run_id=last, device="NVIDIA A100", step_ms=1.0))
    with pytest.raises(ValueError, match=r"different devices \(NVIDIA A100, cpu\)"):
        step_times.times(made, tmp_path, "e.yaml")


def test_with_equal_steps_a_failed_timing_costs_no_other_run(tmp_path: Path) -> None:
    """The longer control follows from those that could be timed, on the device where most were; none without `none`."""
    made = experiment(tmp_path, "train.steps=300", budget={"longer": True}, methods=["none", "kd", "cwd"])
    ms = {"none": [100.0] * 3, "kd": [150.0] * 3, "cwd": [900.0] * 3}
    for failing, expected in (("cwd", 450), ("kd", 2700), ("none", None)):
        folder = tmp_path / failing
        for run in timing_runs(made):
            name = run.method.name
            other = {"device": "NVIDIA A100"} if (name, run.seed) == ("kd", 2) else {}
            row = make_row(name, run.seed, "failed" if name == failing else "ok", run_id=run.run_id, **other)
            store.write_run(times_folder(folder), row | ({} if name == failing else {"step_ms": ms[name][run.seed]}))
        runs = plan(made, times=step_times.times(made, folder, "e.yaml"))
        assert [run.train.steps for run in runs if run.control is not None] == ([] if expected is None else [expected])
        assert {"none", "kd", "cwd"} == {run.method.name for run in runs if run.role == "student"}


def test_a_method_that_cannot_be_timed_is_named(tmp_path: Path) -> None:
    made = experiment(tmp_path, budget={"unit": "seconds"})
    for run in timing_runs(made):
        status = "failed" if run.method.name == "kd" else "ok"
        row = make_row(
            run.method.name, run.seed, status, run_id=run.run_id, message="" if status == "ok" else "no room"
        )
        store.write_run(times_folder(tmp_path), row)
    with pytest.raises(ValueError, match=r"timing kd on tiny failed: no room\. Fix the cause, then delete this row"):
        step_times.times(made, tmp_path, "e.yaml")


@pytest.mark.slow
def test_a_method_twice_as_slow_gets_half_of_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timed by the runs that time steps, with a clock that no load of the machine disturbs."""
    own = types.SimpleNamespace(
        perf_counter=Clock.perf_counter, monotonic=time.monotonic, process_time=time.process_time
    )
    monkeypatch.setattr(cost, "time", own)
    name = f"{__name__}:Slow"
    made = experiment(
        tmp_path,
        budget={"unit": "seconds", "seconds": 40.0},
        methods=["none", {name: {"seconds": 0.001}}],
    )
    for run in timing_runs(made):
        assert tiny.in_process(run, times_folder(tmp_path)) == "ok"
    runs = plan(made, times=step_times.times(made, tmp_path, "e.yaml"))
    plain, slower = (run for run in runs if run.role == "student" and run.control is None)
    assert [run.step_time.ms for run in (plain, slower) if run.step_time] == pytest.approx([1, 2])
    assert plain.train.steps == pytest.approx(40_000, abs=1)
    assert slower.train.steps == pytest.approx(plain.train.steps / 2, abs=1)
    control = next(run for run in runs if run.control == "equal steps")
    assert control.train.steps == slower.train.steps


@pytest.mark.slow
def test_the_control_is_a_row_of_its_own(tmp_path: Path) -> None:
    made = experiment(tmp_path, budget={"longer": True}, methods=["none", "kd"])
    runs = plan(made, times=given(none=10.0, kd=20.0))
    for run in runs:
        assert tiny.in_process(run, tmp_path / "r") == "ok"
    control = next(run for run in runs if run.control is not None)
    row = store.read_row(paths.run_path(tmp_path / "r", control.run_id))
    assert (row["control"], row["steps"], row["budget_unit"], row["budget_step_ms"]) == (
        "equal seconds",
        12,
        "steps",
        10,
    )
    others = [store.read_row(paths.run_path(tmp_path / "r", run.run_id)) for run in runs if run.control is None]
    assert {(row["control"], row["budget_step_ms"]) for row in others} == {(None, None)}


def test_check_says_what_the_steps_will_be(tmp_path: Path) -> None:
    # Enough steps that kd has some after the warm-up, however slow this machine is at the moment.
    file = tiny.write(tmp_path, budget={"unit": "seconds"}, train={**tiny.TINY["train"], "steps": 600})
    done = CliRunner().invoke(app, ["check", str(file), "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "none at equal steps seed 0" in done.output
    assert "estimates until `run` has timed them" in done.output
    made = load(file, [])
    written(made, times_folder(tmp_path / "tiny"), {"none": [10.0] * 3, "kd": [20.0] * 3})
    again = CliRunner().invoke(app, ["check", str(file), "--results", str(tmp_path), "--no-measure"])
    assert again.exit_code == 0 and "estimates" not in again.output
    line = next(line for line in again.output.splitlines() if " kd seed 0" in line)
    assert line.split()[-3:] == ["300", "not", "run"]


@pytest.mark.parametrize("stored", [False, True])
def test_a_teacher_is_lent_to_a_folder_below(tmp_path: Path, stored: bool) -> None:
    """With a storage its weights may be there only, and its row here."""
    directory = tmp_path / "results" / "tiny"
    resources = Resources(storage=str(tmp_path / "bucket")) if stored else Resources()
    store.write_run(directory, make_row(role="teacher", run_id="teacher"))
    source, folder = Workspace(directory, resources), times_folder(directory)
    target = Workspace(folder, Resources(storage=str(tmp_path / "bucket" / "tiny")) if stored else resources)
    if stored:
        source.place.write("weights/teacher.safetensors", b"weights")
    else:
        weights_path(directory, "teacher").parent.mkdir(parents=True)
        weights_path(directory, "teacher").write_bytes(b"weights")
    for _ in range(2):
        copy_teacher("teacher", directory, source, folder, target)
        assert target.place.read("weights/teacher.safetensors") == b"weights"
        assert target.status("teacher") == "ok"
    with pytest.raises(ValueError, match="the teacher's row is missing"):
        copy_teacher("other", directory, source, folder, target)
