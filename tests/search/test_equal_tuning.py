"""The ruleset `tuned`: the published point first, the mean over search seeds, and spaces of equal size."""

import functools
import json

import numpy as np
import pytest

from harness.distillers import METHODS, Distiller
from harness.experiment.load import load
from harness.experiment.plan import plan
from harness.experiment.space import FACTOR, FACTORS, LR, WEIGHTS, space_of, tied_space_of, values_in
from harness.experiment.studies import studies_of, trial_run
from harness.search import outcome as best
from harness.search import points
from tests.search.test_points import method, names
from tests.support import tiny
from tests.support.searches import experiment, fill, rises_with, searched, write_point, write_trial

RANGE = (1e-3, 1e-2)


def drawn(of):
    studies = studies_of(of)
    return dict(zip([study.label for study in studies], points.drawn(of, studies), strict=True))


# Trial 0


@pytest.mark.parametrize("untied", ["false", "true"])
def test_point_0_is_the_published_one_as_it_is(tmp_path, untied):
    """Neither moved into the ranges nor rounded: here its learning rate is below the lowest."""
    override = (f"search.untied={untied}", "train.optimizer.lr=0.00012345678")
    of = experiment(tmp_path, *override, methods=["none", "kd", "sstkd", {"cwd": {"tau": 2}}])
    of_published = plan(load(tiny.write(tmp_path, methods=["none", "kd", "sstkd", {"cwd": {"tau": 2}}]), override[1:]))
    students = {run.method.label: run for run in of_published if run.role == "student"}
    for study in studies_of(of):
        run = trial_run(study, 0, "sobol", drawn(of)[study.label][0])
        assert run.method == students[study.label].method
        assert run.train.optimizer == students[study.label].train.optimizer and run.train.optimizer.lr < RANGE[0]
        row = json.loads(json.dumps(run.method.parameters))
        assert run.method.parameters == row


def test_the_other_points_are_those_of_the_sequence_and_inside_the_ranges(tmp_path):
    kd = drawn(experiment(tmp_path, "search.trials=9"))["kd"]
    unit = points.unit_points(1000, 8, "sobol")
    assert len(kd) == 9 and all(RANGE[0] <= values[LR] <= RANGE[1] for values in kd[1:])
    assert [values[FACTOR] for values in kd[1:]] == [float(f"{0.1 * 100**u:.6g}") for u in unit[:, 1]]
    assert len(drawn(experiment(tmp_path, "search.trials=1"))["kd"]) == 1, "the published point alone"


def test_the_points_are_drawn_before_the_first_trial_and_the_same_for_every_seed(tmp_path):
    of = experiment(tmp_path, "search.trials=3")
    studies = studies_of(of)
    points.keep(tmp_path / "search", of, studies, points.drawn(of, studies))
    import pyarrow.parquet as pq

    rows = pq.read_table(tmp_path / "search" / points.FILE).to_pylist()
    assert len(rows) == 2 * 3 * 2 and len({row["run_id"] for row in rows}) == 12
    assert len({row["values"] for row in rows if row["method"] == "kd"}) == 3


def test_a_searched_search_has_no_published_point_and_is_identified_as_before(tmp_path):
    of = searched(tmp_path, "random")
    studies = studies_of(of)
    unit = points.unit_points(1000, 4, "random")
    assert drawn(of)["kd"][0][LR] == studies[1].space[0].at(float(unit[0, 0]))
    definition = points._definition(of, studies)
    assert definition["search"].keys() == {
        *("trials", "lr", "steps", "seed", "algorithm", "minutes", "grace", "reduction")
    }
    assert definition["search"]["seed"] == 1000
    (lr, *_) = definition["methods"]["tiny, kd"]["space"]
    assert lr.keys() == {"name", "low", "high", "optional", "needs"}


# The score of a point


def test_a_point_is_trained_with_every_search_seed(tmp_path):
    of = experiment(tmp_path, "search.seeds=[7, 8, 9]", "search.fraction=0.5")
    study = studies_of(of)[1]
    runs = [trial_run(study, 1, "sobol", drawn(of)["kd"][1], seed) for seed in study.seeds]
    assert [run.seed for run in runs] == [7, 8, 9] and len({run.run_id for run in runs}) == 3
    assert {run.train.steps for run in runs} == {3} and len({run.trial for run in runs}) == 1


def test_the_best_point_has_the_highest_mean(tmp_path):
    """Point 1 has the single best trial, point 2 the best mean."""
    of = experiment(tmp_path, "search.trials=3", methods=["none"])
    (study,) = studies_of(of)
    for number, scores in enumerate([(0.50, 0.52), (0.70, 0.40), (0.58, 0.60)]):
        write_point(tmp_path, study, number, drawn(of)["none"][number], *scores)
    (outcome,) = best.outcomes(of, tmp_path)
    assert outcome.best.number == 2 and outcome.best.dev_miou == pytest.approx(0.59)
    assert [p.dev_miou for p in outcome.points] == pytest.approx([0.51, 0.55, 0.59])


def test_a_point_with_a_failed_or_missing_trial_is_not_selected(tmp_path):
    of = experiment(tmp_path, "search.trials=3", methods=["none"])
    (study,) = studies_of(of)
    for number, scores in enumerate([(0.50, 0.52), (0.90, None), (0.95,)]):
        write_point(tmp_path, study, number, drawn(of)["none"][number], *scores)
    (outcome,) = best.outcomes(of, tmp_path)
    assert outcome.best.number == 0 and outcome.cells[4] == "5 of 6: 4 ok, 1 failed"
    assert [p.dev_miou is None for p in outcome.points] == [False, True, True]
    assert not outcome.complete, "a trial is missing"
    write_trial(tmp_path, study, 2, drawn(of)["none"][2], seed=study.seeds[1], status="failed")
    (outcome,) = best.outcomes(of, tmp_path)
    assert outcome.complete and outcome.best.number == 0 and outcome.cells[4] == "4 ok, 2 failed"
    assert outcome.cells[3].endswith("(published)")


def test_where_every_point_has_a_failed_trial_the_message_says_why(tmp_path):
    of = experiment(tmp_path, "search.trials=2", methods=["none"])
    (study,) = studies_of(of)
    for number in range(2):
        write_point(tmp_path, study, number, drawn(of)["none"][number], 0.5, None)
    with pytest.raises(ValueError, match=r"none of its 2 points was successful with every search seed \(why\)"):
        best.found(of, tmp_path, "F")


def test_the_cost_counts_every_trial(tmp_path):
    of = experiment(tmp_path, "search.trials=3", methods=["none"])
    (study,) = studies_of(of)
    for number in range(3):
        for seed in study.seeds:
            write_trial(tmp_path, study, number, drawn(of)["none"][number], seed=seed, seconds=3.0)
    (outcome,) = best.outcomes(of, tmp_path)
    assert (outcome.wanted, len(outcome.trials), outcome.seconds) == (6, 6, 18.0)
    assert best.found(of, tmp_path, "F")[study.key].source.trials == 6


def test_a_final_run_has_the_settings_of_the_best_point(tmp_path):
    of = experiment(tmp_path, "search.trials=5", methods=["none", "sstkd"])
    fill(tmp_path, of, rises_with(FACTOR))
    outcome = best.outcomes(of, tmp_path)[1]
    factor = max(values[FACTOR] for values in drawn(of)["sstkd"])
    assert outcome.best.point[FACTOR] == factor > 1
    run = next(run for run in plan(of, best.found(of, tmp_path, "F")) if run.method.name == "sstkd")
    trial = trial_run(studies_of(of)[1], outcome.best.number, "sobol", outcome.best.point)
    assert run.method == trial.method and run.train.optimizer == trial.train.optimizer
    assert run.method.parameters["w_re"] == pytest.approx(factor)
    assert run.method.parameters["critic_lr"] == 0.0004, "no loss weight"
    (_, line) = [json.loads(best._line(each)["point"]) for each in best.outcomes(of, tmp_path)]
    assert line.keys() == {LR, "w_re", "w_str", "w_sta"}


# Spaces


@pytest.mark.parametrize("name", METHODS)
def test_tied_spaces_have_equally_many_dimensions(name):
    """One more than the student without distillation has, whatever the method declares."""
    space = tied_space_of(method(name), (), RANGE)
    assert names(space) == ([LR] if name == "none" else [LR, FACTOR])
    if name != "none":
        parameters = method(name).parameters
        assert dict(space[1].tied) == {w: parameters[w] for w in METHODS[name].weights if parameters[w]}
        assert (space[1].low, space[1].high) == FACTORS


def test_given_weights_and_those_of_0_are_not_scaled():
    given = tied_space_of(method("sstkd", w_adv=0.02, w_re=0.0), ("w_adv", "w_re"), RANGE)
    assert [name for name, _ in given[1].tied] == ["w_str", "w_sta"]
    assert [name for name, _ in tied_space_of(method("af-dcd"), (), RANGE)[1].tied] == ["feature", "contrast"]
    assert names(tied_space_of(method("kd"), ("weight",), RANGE)) == [LR]


def test_a_sum_has_one_factor(tmp_path):
    of = experiment(tmp_path, methods=["none", ["kd", {"sstkd": {"w_re": 0}}]])
    space = studies_of(of)[1].space
    assert names(space) == [LR, FACTOR]
    assert [name for name, _ in space[1].tied] == ["kd.weight", "sstkd.w_str", "sstkd.w_sta"]


def test_untied_is_what_the_method_declares(tmp_path):
    of = experiment(tmp_path, "search.untied=true", methods=["none", "sstkd"])
    assert studies_of(of)[1].space == space_of(method("sstkd"), (), RANGE)
    assert studies_of(searched(tmp_path, "random"))[1].space == space_of(method("kd"), (), RANGE)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_a_factor_can_be_read_from_the_parameters_of_a_row(tmp_path, name):
    of = experiment(tmp_path, "search.trials=40", methods=["none", name])
    study = studies_of(of)[1]
    for number, values in enumerate(points.drawn(of, [study])[0]):
        run = trial_run(study, number, "sobol", values)
        parameters = json.loads(json.dumps(run.method.parameters))
        assert values_in(study.space, parameters, run.train.optimizer.lr) == values


def test_a_space_depends_on_neither_dataset_nor_pair(tmp_path):
    first = tiny.TINY["pairs"][0]
    other = {**first, "name": "other", "student": {**first["student"], "encoder": "tu-resnet10t"}}
    of = experiment(tmp_path, pairs=[first, other], methods=["none", "sstkd"])
    elsewhere = experiment(tmp_path, data={"name": "texmosaic"}, methods=["none", "sstkd"])
    a, b, c, d = (study.space for study in studies_of(of))
    assert [a, b] == [c, d] == [study.space for study in studies_of(elsewhere)]


def test_the_loss_weights_of_a_method_that_names_none():
    assert Distiller.weights == WEIGHTS


@functools.cache
def sobol(seed):
    return points.unit_points(seed, 8, "sobol")


def shortfall(dimensions, published, repeats=150):
    """Mean distance of the chosen point to the optimum, in percentage points, over searches of 8 points with two seeds.

    Each hyper-parameter costs 10 points at one end of its range if the optimum is at the other; a trial's noise has a
    standard deviation of 1 point. The published point is 0.2 of the range away from the optimum, in any direction.
    """
    rng, found = np.random.default_rng(0), []
    for seed in range(repeats):
        best_at = rng.uniform(0.2, 0.8, dimensions)
        tried = sobol(seed)[:, :dimensions]
        if published:
            tried = np.vstack([best_at + rng.choice([-0.2, 0.2], dimensions), tried[:7]])
        cost = 10 * ((tried - best_at) ** 2).sum(1)
        found.append(cost[(cost + rng.normal(0, 1, (2, 8)).mean(0)).argmin()])
    return float(np.mean(found))


def test_tied_spaces_leave_less_to_the_size_of_the_space():
    """By a quadratic model: below the optimum with 1, 2 and 5 dimensions; the last is sstkd untied, without its critic."""
    before = {n: shortfall(n, published=False) for n in (1, 5)}
    after = {n: shortfall(n, published=True) for n in (1, 2)}
    assert before[5] - before[1] > 2 * (after[2] - after[1]) > 0
    assert shortfall(5, published=True) < before[5]
