"""An experiment and its results folder: what is pending, how it is run, what comes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.execution import launcher
from harness.execution.status import Status
from harness.experiment.load import load
from harness.experiment.plan import outline, timing_runs
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.results import store
from harness.results.paths import times_folder, weights_path
from harness.training import gate
from tests.support import tiny
from tests.support.rows import make_row
from tests.support.searches import TUNED


def row_of(run: Run, status: str = "ok") -> dict[str, Any]:
    network = {"role": run.role, "pair": run.pair, "teacher_run_id": run.teacher_run, "data_hash": None}
    network |= {"weights_sha256": None}
    return make_row(run.method.name, run.seed, status, run_id=run.run_id, experiment="tiny", **network)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., harness.Bench]:
    def made(*overrides: str, **changes: Any) -> harness.Bench:
        file = tiny.write(tmp_path, **changes)
        return harness.Bench(load(file, overrides), tmp_path / "results", file)

    return made


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was launched, call by call; every run gets a row, that of kd says failed the first time."""
    calls: list[list[str]] = []

    def run_all(runs: Any, resources: Any, directory: Path, on_update: Any, retry_failed: bool, judge: Any) -> None:
        calls.append([run.run_id for run in runs])
        status = Status(runs, {run.run_id: "waiting" for run in runs})
        for run in runs:
            state = "failed" if run.method.name == "kd" and not retry_failed else "ok"
            status.change(run, state)
            if run.role == "teacher":
                weights_path(directory, run.run_id).parent.mkdir(exist_ok=True)
                weights_path(directory, run.run_id).write_bytes(b"weights")
            store.write_run(directory, row_of(run, state))
        on_update(status)

    monkeypatch.setattr(launcher, "run_all", run_all)
    return calls


def test_what_there_is_to_do(make: Callable[..., harness.Bench]) -> None:
    bench = make()
    runs = bench.runs()
    assert [(run.role, run.label) for run in runs] == [("teacher", "none"), ("student", "none"), ("student", "kd")]
    assert bench.pending() == runs and set(bench.states().values()) == {"waiting"}
    assert not bench.directory.exists(), "looking makes no folder"
    store.write_run(bench.directory, row_of(runs[0]))
    store.write_run(bench.directory, row_of(runs[2], "failed"))
    assert bench.pending() == [runs[1]] and bench.pending(retry_failed=True) == runs[1:]
    assert list(bench.states().values()) == ["ok", "waiting", "failed"]


def test_a_run_of_the_whole_and_its_table(make: Callable[..., harness.Bench], launched: list[list[str]]) -> None:
    bench, seen = make(), []
    states = bench.run(on_update=seen.append)
    assert list(states.values()) == ["ok", "ok", "failed"] and len(launched) == 1 and len(seen) == 1
    assert bench.run() == states and len(launched) == 1, "a failed run is not run again unless asked"
    assert set(bench.run(retry_failed=True).values()) == {"ok"} and len(launched) == 2
    assert bench.pending(retry_failed=True) == []
    (block,) = bench.table().blocks
    assert [line.label for line in block.methods] == ["none", "kd"]
    assert not (bench.directory / "table.md").exists(), "a look at the table writes nothing"
    bench.write_report()
    assert (bench.directory / "table.md").read_text().startswith(bench.table().to_markdown())


def test_plain_students_are_trained_beside_the_teacher_that_steps_are_timed_with(
    make: Callable[..., harness.Bench], launched: list[list[str]]
) -> None:
    bench = make("controls=true", "seeds=[0, 1]")
    bench.run(retry_failed=True)
    teacher, *students = outline(bench.experiment)
    plain = [run.run_id for run in students if run.method.name == "none"]
    timing = [run.run_id for run in timing_runs(bench.experiment)]
    assert launched[0] == [teacher.run_id, *plain] and launched[1] == [teacher.run_id, *timing]
    assert launched[2] == [run.run_id for run in bench.runs()] and bench.pending() == []
    assert [run.control for run in bench.runs() if run.method.name == "none" and run.role == "student"] == [
        None,
        "equal seconds",
    ] * 2


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"budget": {"unit": "seconds"}}, 1),  # their steps are not known yet
        ({"seeds": [0, 1, 2]}, 4),
        ({"resources": {"concurrent": 1}}, 1),  # nobody idles
    ],
)
def test_which_students_go_with_the_teacher(
    make: Callable[..., harness.Bench], launched: list[list[str]], changes: dict[str, Any], first: int
) -> None:
    make("controls=true", **changes).run(retry_failed=True)
    assert len(launched[0]) == first


def test_steps_are_timed_with_the_first_of_several_teachers(
    make: Callable[..., harness.Bench], launched: list[list[str]]
) -> None:
    bench = make("controls=true", "pairs.0.teacher.seeds=[0, 1, 2]")
    bench.run(retry_failed=True)
    teacher, *_ = outline(bench.experiment)
    plain = next(run for run in outline(bench.experiment) if run.role == "student" and run.method.name == "none")
    assert launched[0] == [teacher.run_id, plain.run_id]


def test_rows_of_an_earlier_protocol_are_told_from_none_at_all(make: Callable[..., harness.Bench]) -> None:
    before = make("protocol.version=1.1")
    for run in before.runs():
        store.write_run(before.directory, row_of(run) | {"protocol_version": "1.1"})
    assert before.pending() == [] and before.table().blocks
    with pytest.raises(
        ValueError, match=r"no results yet, and the rows there are of other runs \(protocol: \{version: \"1"
    ):
        make().table()


def test_several_teachers_are_trained_crossed_and_compared(
    make: Callable[..., harness.Bench], launched: list[list[str]]
) -> None:
    bench = make("pairs.0.teacher.seeds=[0, 1, 2]", "seeds=[0, 1]")
    states = bench.run(retry_failed=True)
    assert set(states.values()) == {"ok"} and len(states) == 3 + 2 + 6
    assert len(launched[0]) == 11 and bench.pending() == []
    (block,) = bench.table().blocks
    none, kd = block.methods
    assert (none.expected, kd.expected, kd.missing) == (2, 6, 0) and len(block.teachers) == 3
    one = make("seeds=[0, 1]")
    assert one.pending() == [] and len(one.table().blocks[0].methods[1].run_ids) == 2


def test_an_interruption_is_passed_on(make: Callable[..., harness.Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "run_all", interrupted)
    bench = make()
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert len(bench.pending()) == 3


def test_a_method_that_does_not_apply_is_found_before_training(
    make: Callable[..., harness.Bench], launched: list[list[str]]
) -> None:
    bench = make(methods=["none", {"sstkd": {"stages": ["stage9"]}}])
    with pytest.raises(ValueError, match="stage9"):
        bench.run()
    assert launched == []


def test_only_what_is_pending_is_built_before_a_run(
    make: Callable[..., harness.Bench], launched: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, built = make(), list[str]()
    monkeypatch.setattr(gate, "require", lambda runs, *_: built.extend(run.run_id for run in runs))
    for run in bench.runs()[:2]:
        store.write_run(bench.directory, row_of(run))
    (pending,) = bench.pending()
    bench.run()
    assert built == [pending.run_id], "a finished run needs no network and no package any more"
    assert len(launched) == 1 and bench.pending() == []


def test_without_results_it_says_what_to_do(make: Callable[..., harness.Bench]) -> None:
    bench = make()
    with pytest.raises(ValueError, match=r"no results yet\. Run it first: sstkd-bench run .*tiny\.yaml"):
        bench.table()
    with pytest.raises(ValueError, match="no results yet"):
        harness.compare([bench])


def test_what_cannot_be_compared_or_read_is_refused(make: Callable[..., harness.Bench], tmp_path: Path) -> None:
    bench: Any = make()
    with pytest.raises(ValueError, match=r"one Bench given; a list of them is needed"):
        harness.compare(bench)
    with pytest.raises(ValueError, match=r"str given; a list of Bench is needed"):
        harness.compare([bench.file])
    with pytest.raises(
        ValueError, match=r'overrides is the text "train.steps=2"; a list is needed: \["train.steps=2"\]'
    ):
        harness.load(bench.file, "train.steps=2")


def test_a_search_comes_first(make: Callable[..., harness.Bench], launched: list[list[str]]) -> None:
    bench = make(**TUNED)
    for ask in (bench.runs, bench.pending, bench.run):
        with pytest.raises(ValueError, match=r"0 of 8 trials (.|\n)*sstkd-bench tune"):
            ask()
    assert launched == []


def test_before_steps_are_timed_the_runs_are_those_that_need_no_time(make: Callable[..., harness.Bench]) -> None:
    bench = make(budget={"longer": True}, methods=["none", "cwd"])
    before = bench.runs()
    assert before and not any(run.control for run in before)
    assert bench.pending() == [*before, *timing_runs(bench.experiment)]
    bench.run()
    (longer,) = (run for run in bench.runs() if run.control)
    assert [run for run in bench.runs() if run != longer] == before and bench.pending() == []


def test_a_run_that_times_steps_has_its_gpus_to_itself(
    make: Callable[..., harness.Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two on one GPU would time each other; the training runs share it as the file says."""
    for given, whole in ((0.0, 0.0), (0.25, 1.0), (1.0, 1.0), (2.0, 2.0)):
        timing = Resources(gpus_per_worker=given, loggers=("tensorboard",)).of_timing
        assert (timing.gpus_per_worker, timing.loggers) == (whole, ())
    asked: list[int | None] = []
    monkeypatch.setattr(launcher, "run_all", lambda runs, resources, *rest: asked.append(resources.concurrent))
    monkeypatch.setattr(Resources, "of_timing", property(lambda self: self.model_copy(update={"concurrent": 7})))
    bench = make(methods=["none"], budget={"longer": True})
    with pytest.raises(ValueError, match="has not been timed"):
        bench.run()
    assert asked == [7], "for the runs that come first"


def test_steps_of_a_budget_in_seconds_are_timed_first(make: Callable[..., harness.Bench], launched: Any) -> None:
    bench = make(budget={"unit": "seconds"}, methods=["none", "cwd"])
    with pytest.raises(ValueError, match="has not been timed yet: sstkd-bench run"):
        bench.runs()
    assert set(bench.states().values()) == {"waiting"}
    states = bench.run()
    teacher, timing, final = launched
    assert (
        len(teacher) == 1
        and timing[0] == teacher[0]
        and set(timing[1:]) <= store.finished(times_folder(bench.directory)).keys()
    )
    assert weights_path(times_folder(bench.directory), teacher[0]).read_bytes() == b"weights"
    assert list(states) == final == [run.run_id for run in bench.runs()] and set(states.values()) == {"ok"}
    assert bench.run() == states and len(launched) == 3, "nothing is timed twice"
