import pytest

from harness.experiment import plan as protocol
from harness.experiment.method import Method
from harness.experiment.spec import Experiment
from tests.support.tiny import plan

NETWORK = {"architecture": "fpn", "encoder": "resnet18"}


def experiment(**changes):
    base = {
        "name": "e",
        "data": {"name": "texmosaic"},
        "pairs": ({"name": "p", "teacher": {**NETWORK, "steps": 7, "lr": 0.5, "seed": 9}, "student": NETWORK},),
        "train": {"steps": 4, "batch_size": 2},
        "seeds": (0, 1),
        "methods": ("none", "kd"),
    }
    return Experiment.model_validate({**base, **changes})


def test_the_plan_is_teachers_first_then_seed_by_seed(tmp_path):
    runs = plan(tmp_path, seeds=[3, 1], methods=["none", "kd", "cwd"])
    assert [(r.role, r.seed, r.method.name) for r in runs] == [
        ("teacher", 0, "none"),
        *(("student", seed, method) for seed in (3, 1) for method in ("none", "kd", "cwd")),
    ]
    assert len({r.run_id for r in runs}) == len(runs)
    assert {r.teacher_run for r in runs[1:]} == {runs[0].run_id}


def test_the_teacher_has_its_own_steps_rate_and_seed():
    run = protocol.plan(experiment())[0]
    assert (run.train.steps, run.train.optimizer.lr, run.seed) == (7, 0.5, 9)
    assert (run.teacher, run.teacher_run, run.method) == (None, None, Method(name="none"))


def test_the_teacher_follows_the_recipe_where_it_says_nothing():
    pair = {"name": "p", "teacher": NETWORK, "student": NETWORK}
    run = protocol.plan(experiment(pairs=(pair,)))[0]
    assert run.train == experiment().train and run.seed == 0


def test_every_method_gets_the_same_but_the_method():
    runs = [r for r in protocol.plan(experiment()) if r.role == "student" and r.seed == 1]
    assert [r.method.name for r in runs] == ["none", "kd"]
    assert len({r.model_copy(update={"method": Method(name="none")}).model_dump_json() for r in runs}) == 1


def test_the_teachers_network_is_the_teachers():
    teacher = {"architecture": "unet", "encoder": "resnet50", "parameters": {"encoder_depth": 4}}
    runs = protocol.plan(experiment(pairs=({"name": "p", "teacher": teacher, "student": NETWORK},)))
    assert runs[0].network.model_dump(exclude_defaults=True) == teacher
    assert runs[1].network.model_dump(exclude_defaults=True) == NETWORK
    assert type(runs[0].network) is type(runs[1].network)


def test_a_given_checkpoint_is_evaluated_by_the_teachers_run():
    weights = {"path": "/w.pt", "sha256": "a" * 64}
    runs = protocol.plan(
        experiment(pairs=({"name": "p", "teacher": {**NETWORK, "checkpoint": weights}, "student": NETWORK},))
    )
    assert [r.checkpoint is not None for r in runs] == [True, False, False, False, False]


def test_pairs_may_share_a_teacher():
    pairs = tuple(
        {"name": name, "teacher": NETWORK, "student": {"architecture": "unet", "encoder": name}}
        for name in ("resnet18", "resnet34")
    )
    runs = protocol.plan(experiment(pairs=pairs))
    assert [r.role for r in runs].count("teacher") == 1
    assert len(runs) == 1 + 2 * 2 * 2 and len({r.teacher_run for r in runs[1:]}) == 1


def test_no_comparison_without_the_plain_student():
    with pytest.raises(ValueError, match="the control 'none' is missing"):
        protocol.plan(experiment(methods=("kd",)))
