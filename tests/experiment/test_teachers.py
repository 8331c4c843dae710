"""Several teachers of a pair: which runs there are, what they are called, and what is refused."""

import pytest

from harness.experiment import rules
from harness.experiment.budget import StepTime
from harness.experiment.plan import plan, timing_runs, within_budget
from harness.experiment.spec import Run
from harness.experiment.studies import studies_of
from harness.results.failures import title
from harness.results.find import name_of
from tests.support.base import BASE, load

THREE = "pairs.0.teacher.seeds=[0, 3, 5]"


def runs_of(tmp_path, *overrides):
    return plan(load(tmp_path, BASE, *overrides))


def test_every_teacher_teaches_every_method_and_none_is_shared(tmp_path):
    runs = runs_of(tmp_path, THREE, "methods=[none, kd, cwd]")
    teachers = runs[:3]
    assert [(r.role, r.seed) for r in teachers] == [("teacher", 0), ("teacher", 3), ("teacher", 5)]
    assert [(r.seed, r.method.name, r.teacher_seed) for r in runs[3:]] == [
        (seed, method, teacher)
        for seed in (0, 1)
        for method, teacher in (
            ("none", None),
            *((m, t) for t in (0, 3, 5) for m in ("kd", "cwd")),
        )
    ]
    by_seed = {r.seed: r.run_id for r in teachers}
    assert all(r.teacher_run == by_seed[0 if r.teacher_seed is None else r.teacher_seed] for r in runs[3:])
    assert len({r.run_id for r in runs}) == len(runs)


def test_more_teachers_train_nothing_again(tmp_path):
    before = {r.run_id for r in runs_of(tmp_path)}
    after = [r.run_id for r in runs_of(tmp_path, THREE)]
    assert before < set(after)


def test_one_seed_in_a_list_is_that_seed(tmp_path):
    one = runs_of(tmp_path, "pairs.0.teacher.seed=3")
    listed = runs_of(tmp_path, "pairs.0.teacher.seeds=[3]")
    assert [r.run_id for r in one] == [r.run_id for r in listed]
    assert {r.teacher_seed for r in listed} == {None}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [THREE, "pairs.0.teacher.seed=0"],
            "pairs.0.teacher.seeds: there is seed too, which is for one teacher. Delete",
        ),
        (["pairs.0.teacher.seeds=[1, 1]"], "pairs.0.teacher.seeds: 1 is listed twice; list each seed once"),
        (["pairs.0.teacher.seeds=[]"], "pairs.0.teacher.seeds: .*at least 1 item"),
        (["pairs.0.teacher.seeds=[-1]"], "pairs.0.teacher.seeds.0: .*greater than or equal to 0"),
    ],
)
def test_what_is_no_list_of_teachers_is_refused(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        load(tmp_path, BASE, *overrides)


def test_a_given_teacher_is_one(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"weights")
    given = f"pairs.0.teacher.checkpoint={{path: {tmp_path / 'w.pt'}}}"
    with pytest.raises(ValueError, match="the checkpoint is one trained teacher, and seeds train several"):
        load(tmp_path, BASE, given, THREE)


def test_steps_are_timed_and_points_are_tried_with_the_first_teacher(tmp_path):
    experiment = load(tmp_path, BASE, THREE, "budget.longer=true")
    runs = runs_of(tmp_path, THREE)
    timing = timing_runs(experiment)
    assert {r.teacher_run for r in timing} == {runs[0].run_id} and len(timing) == 6
    times = {("one", label): StepTime(ms=ms, repeats=(ms,)) for label, ms in (("none", 1.0), ("kd(weight=2.0)", 2.0))}
    longer = [r for r in within_budget(experiment, times) if r.control is not None]
    assert [r.seed for r in longer] == [0, 1]
    tuned = ["protocol.ruleset=tuned", "search={trials: 2, lr: [0.001, 0.1], seeds: [7, 8], fraction: 1.0}"]
    studies = studies_of(load(tmp_path, BASE, THREE, *tuned))
    assert {s.template.teacher.seed for s in studies} == {0} and len(studies) == 2


def test_names_tell_the_teacher(tmp_path):
    runs = runs_of(tmp_path, THREE)
    taught = next(r for r in runs if r.teacher_seed == 5)
    assert taught.who == "kd(weight=2.0) teacher 5" and runs[1].who == "teacher 3" and runs[0].who == "teacher"
    assert title(taught) == "pair one, method kd(weight=2.0), teacher 5, seed 0"
    assert taught.named["teacher_seed"] == 5 and "teacher_seed" not in runs[0].named
    assert name_of(taught, runs) == "kd/0/teacher5" and name_of(runs[3], runs) == "none/0"
    assert len({name_of(r, runs) for r in runs}) == len(runs)
    alone = runs_of(tmp_path)
    assert [name_of(r, alone) for r in alone] == ["teacher/0", "none/0", "kd/0", "none/1", "kd/1"]


def test_a_run_with_one_of_several_teachers_survives_the_way_to_a_worker(tmp_path):
    for run in runs_of(tmp_path, THREE):
        again = Run.model_validate_json(run.model_dump_json())
        assert again == run and again.run_id == run.run_id and again.teacher_seed == run.teacher_seed


def test_teachers_are_counted_by_pair(tmp_path):
    assert rules.teachers(load(tmp_path, BASE, THREE)) == {"one": 3} and rules.teachers(load(tmp_path)) == {"one": 1}
