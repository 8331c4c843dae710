"""What is searched, and the points that are drawn before the first trial."""

import numpy as np
import pytest

from harness import seeds
from harness.distillers import METHODS
from harness.experiment.method import Method, method_entry
from harness.experiment.plan import outline
from harness.experiment.space import LR, OFF_SHARE, Dimension, point_of, space_of, values_at, values_in, with_point
from harness.experiment.studies import studies_of, trial_run
from harness.search import points
from harness.testing.case import Case
from tests.conformance.methods import SMALL
from tests.support.searches import experiment, searched


def method(name, **parameters):
    filled = method_entry(name).parameters(**parameters).model_dump(mode="json")
    return Method(name=name, parameters=filled)


def names(space):
    return [each.name for each in space]


def test_a_space_is_the_learning_rate_and_what_the_method_declares():
    assert names(space_of(method("none"), (), (1e-3, 1e-1))) == [LR]
    space = space_of(method("kd"), (), (1e-3, 1e-1))
    assert space[0] == Dimension(LR, 1e-3, 1e-1)
    assert names(space)[1:] == list(METHODS["kd"].space)


def test_what_the_file_gives_is_not_searched():
    assert names(space_of(method("kd", temperature=2.0), ("temperature",), (1e-3, 1e-1))) == [LR, "weight"]
    assert names(space_of(method("kd"), ("temperature", "weight"), (1e-3, 1e-1))) == [LR]


def test_what_hangs_on_a_term_that_the_file_puts_off_is_not_searched():
    on = space_of(method("sstkd", w_adv=0.05), ("w_adv",), (1e-3, 1e-1))
    off = space_of(method("sstkd", w_adv=0.0), ("w_adv",), (1e-3, 1e-1))
    assert "critic_lr" in names(on) and "critic_lr" not in names(off)


def test_a_sum_is_searched_in_all_its_parts(tmp_path):
    of = experiment(tmp_path, "search.untied=true", methods=["none", ["kd", {"sstkd": {"w_re": 0}}]])
    space = studies_of(of)[1].space
    assert names(space)[:3] == [LR, "kd.weight", "kd.temperature"]
    assert "sstkd.w_str" in names(space) and "sstkd.w_re" not in names(space)
    assert next(each for each in space if each.name == "sstkd.critic_lr").needs == "sstkd.w_adv"
    run = trial_run(studies_of(of)[1], 0, "sobol", values_at(space, [0.5] * len(space)))
    assert run.method.parameters["kd.weight"] == 1.0 and run.method.parts[0].parameters["weight"] == 1.0


def test_values_are_log_uniform_and_stay_in_their_range():
    each = Dimension("weight", 0.1, 10.0)
    assert [each.at(u) for u in (0.0, 0.5, 0.75)] == [0.1, 1.0, 3.16228]
    assert each.at(0.0) >= 0.1 and each.at(1 - 1e-12) <= 10.0
    assert each.inside(50.0) == 10.0 and each.inside(0.0) == 0.1
    drawn = np.log([each.at(u) for u in points.unit_points(3, 256, "sobol")[:, 0]])
    assert np.histogram(drawn, 8)[0] == pytest.approx([32] * 8, abs=1)  # rounding moves one over a border


def test_a_term_that_may_be_off_is_off_in_its_share_of_the_points():
    each = Dimension("w", 0.01, 1.0, optional=True)
    drawn = [each.at(u) for u in points.unit_points(0, 256, "sobol")[:, 5]]
    assert drawn.count(0.0) == OFF_SHARE * 256
    assert min(v for v in drawn if v) >= 0.01 and max(drawn) <= 1.0
    assert each.inside(0.0) == 0.0


def test_a_point_leaves_out_what_has_no_effect():
    space = (
        Dimension(LR, 1e-3, 1e-1),
        Dimension("w_adv", 0.01, 1, True),
        Dimension("critic_lr", 1e-4, 1e-3, needs="w_adv"),
    )
    assert point_of(space, {LR: 0.01, "w_adv": 0.0, "critic_lr": 2e-4}) == {LR: 0.01, "w_adv": 0.0}
    on = {LR: 0.01, "w_adv": 0.1, "critic_lr": 2e-4}
    assert point_of(space, on) == on
    without = with_point(method("sstkd"), point_of(space, {**on, "w_adv": 0.0}))
    assert without.parameters["critic_lr"] == method("sstkd").parameters["critic_lr"]
    assert values_in(space, with_point(method("sstkd"), on).parameters, 0.01) == on


def test_all_methods_are_tried_at_the_same_places():
    a, b = (points.unit_points(7, n, "sobol") for n in (5, 16))
    assert (a == b[:5]).all()
    assert (points.unit_points(8, 5, "sobol") != a).all()
    random = points.unit_points(7, 5, "random")
    assert (random == points.unit_points(7, 9, "random")[:5]).all() and (random != a).all()


def test_trial_by_trial_every_method_has_the_same_learning_rate(tmp_path):
    of = experiment(tmp_path, methods=["none", "kd", "sstkd"])
    none, kd, sstkd = points.drawn(of, studies_of(of))
    assert [v[LR] for v in none] == [v[LR] for v in kd] == [v[LR] for v in sstkd]
    assert len({v[LR] for v in none}) == 4 == len(kd)


def test_points_cover_the_space_better_than_chance():
    from scipy.stats import qmc

    sobol, random = (points.unit_points(0, 16, kind)[:, :3] for kind in ("sobol", "random"))
    assert qmc.discrepancy(sobol) < qmc.discrepancy(random)


def test_an_algorithm_that_learns_has_no_points_before(tmp_path):
    of = searched(tmp_path, "tpe")
    assert points.drawn(of, studies_of(of)) == [[], []]


def test_a_folder_has_one_search(tmp_path):
    def keep(*overrides, **changes):
        of = experiment(tmp_path, *overrides, **changes)
        studies = studies_of(of)
        points.keep(tmp_path / "search", of, studies, points.drawn(of, studies))

    keep()
    written = (tmp_path / "search" / points.FILE).read_bytes()
    keep("resources.concurrent=1", "train.checkpoint_every=1", "seeds=[0, 1]")
    assert (tmp_path / "search" / points.FILE).read_bytes() == written
    with pytest.raises(
        ValueError, match=r"search\.trials: 4 there, 5 here.*another name, or remove .*search to search anew"
    ):
        keep("search.trials=5")
    with pytest.raises(ValueError, match=r"trial\.tiny\.train\.batch_size: 4 there, 2 here\)"):
        keep("train.batch_size=2")
    with pytest.raises(
        ValueError, match=r"tiny, cwd\.parameters\.convention: nothing there, canonical here; .* and 7 more"
    ):
        keep(methods=["none", "cwd"])
    (tmp_path / "search" / points.FILE).write_bytes(b"no parquet")
    with pytest.raises(ValueError, match=r"cannot be read .*Remove .*search to search anew"):
        keep()


def test_trials_are_runs_of_their_own(tmp_path):
    of = experiment(tmp_path)
    studies = studies_of(of)
    drawn = points.drawn(of, studies)
    runs = [trial_run(s, n, "sobol", v) for s, vs in zip(studies, drawn, strict=True) for n, v in enumerate(vs)]
    assert len({run.run_id for run in runs}) == 8
    assert not {run.run_id for run in runs} & {run.run_id for run in outline(of)}
    assert {run.seed for run in runs} == {1000} and {run.trial.method for run in runs} == {"none", "kd"}
    same = trial_run(studies[0], 1, "sobol", drawn[0][0])
    assert same.run_id != runs[0].run_id, "two trials at one point are two trials"


@pytest.mark.parametrize("name", METHODS)
def test_every_point_of_every_method_can_be_built(name):
    """Over spaces as declared: each key is a parameter, and the class takes whatever is drawn."""
    small = SMALL.get(name, {})
    filled = method(name)
    space = space_of(filled, (), (1e-3, 1e-1))
    fields = method_entry(name).parameters.model_fields
    assert all(each.name == LR or fields[each.name].annotation is float for each in space)
    for row in points.unit_points(0, 4, "sobol"):
        point = point_of(space, values_at(space, list(row)))
        parameters = with_point(filled, point).parameters
        method_entry(name).parameters.model_validate(parameters, strict=False)
        changed = {key: parameters[key] for key in point if key != LR}
        Case(METHODS[name], {**small, **changed}).build()


def test_streams_of_points_have_names_of_their_own():
    assert seeds.derive(0, "sobol points") != seeds.derive(0, "random points")
