"""The controls that an experiment lists by itself, and what they are controls of."""

import pytest

from harness.analysis import fairness
from harness.experiment import controls
from harness.experiment.method import Method
from harness.experiment.plan import outline
from harness.experiment.studies import studies_of
from tests.support.base import BASE, load

ON = "controls=true"


def labels(experiment):
    return [method.label for method in experiment.methods]


def listed(tmp_path, methods, *overrides):
    return load(tmp_path, BASE, f"methods={methods}", *overrides)


@pytest.mark.parametrize(
    ("methods", "added"),
    [
        ("[none]", ["kd"]),
        ("[none, kd]", []),
        ("[none, kd: {weight: 5}]", []),
        ("[none, sstkd]", ["kd"]),
        ("[none, sstkd: {w_re: 5}]", ["kd", "kd(weight=5.0)"]),
        ("[none, kd, sstkd]", []),
        ("[none, kd, sstkd: {w_re: 0}]", []),
        ("[none, kd, sstkd: {w_str: 0, w_sta: 0, w_adv: 0}]", []),
        ("[none, kd, sstkd: {w_re: 5}, sstkd: {w_re: 5, w_str: 0}]", ["kd(weight=5.0)"]),
        ("[none, kd, skd, ifvd]", ["kd(weight=10.0, convention=skd)", "kd(weight=10.0, convention=ifvd)"]),
        ("[none, kd, kt]", ["kd(temperature=4.0)"]),
        ("[none, kd, mgd]", []),  # the logits' term is another method's, not plain distillation
        ("[none, kd, at, fitnet, dsd, cirkd, dist, freekd, af-dcd]", []),
        ("[none, [kd, cwd]]", ["kd"]),
        ("[none, kd, [{kd: {weight: 2}}, cwd]]", ["kd(weight=2.0)"]),
        ("[none, kd, [skd, sstkd]]", []),
    ],
)
def test_response_terms_are_listed_once(tmp_path, methods, added):
    before = labels(listed(tmp_path, methods))
    assert labels(listed(tmp_path, methods, ON)) == [*before, *added]


def test_they_are_there_unless_a_file_says_otherwise(tmp_path):
    methods = "methods=[none, sstkd]"
    off, on = load(tmp_path, BASE, methods), load(tmp_path, BASE, methods, ON)
    default = load(tmp_path, BASE.replace("controls: false\n", ""), methods)
    assert [run.run_id for run in outline(default)] == [run.run_id for run in outline(on)]
    assert {run.run_id for run in outline(off)} < {run.run_id for run in outline(on)}


@pytest.mark.parametrize(
    ("changes", "longer"),
    [
        (["controls=false"], False),
        ([ON], True),
        ([ON, "budget.unit=seconds"], False),
        ([ON, "budget.longer=false"], False),
        (["controls=false", "budget.longer=true"], True),
    ],
)
def test_the_longer_control_follows_the_others_unless_it_is_given(tmp_path, changes, longer):
    assert load(tmp_path, BASE, *changes).budget.longer is longer


def test_the_method_without_its_own_terms():
    method = Method(
        name="sstkd", parameters={"w_re": 5.0, "w_str": 0.9, "w_sta": 1.15, "w_adv": 0.01, "temperature": 2.0}
    )
    alone = controls.baseline(method)
    assert alone.parameters == method.parameters | {"w_str": 0.0, "w_sta": 0.0, "w_adv": 0.0}
    assert controls.response_of(method).label == "kd(weight=5.0, temperature=2.0)"
    assert controls.response_of(alone) is None and controls.baseline(Method(name="cwd", parameters={})) is None
    assert controls.response_of(Method(name="nowhere.at.all:Mine")) is None
    assert controls.response_of(Method(name="sstkd", parameters={"levels": 3})) is None  # of another version


def test_which_are_controls_is_said(tmp_path):
    found = controls.described(listed(tmp_path, "[none, kd, sstkd: {w_re: 5}, ifvd]", ON).methods)
    assert found == {
        "none": "no distillation",
        "kd": "plain distillation",
        "kd(weight=5.0)": "plain distillation, the response term of sstkd(w_re=5.0)",
        "kd(weight=10.0, convention=ifvd)": "plain distillation, the response term of ifvd",
    }
    found = controls.described(listed(tmp_path, "[none, kd, at, dsd]", ON).methods)
    assert found["kd"] == "plain distillation, the response term of at, dsd"


def test_the_fairness_report_says_what_is_missing(tmp_path):
    def said(*overrides):
        ((_, findings),) = fairness.of_experiment(listed(tmp_path, "[none, kd, sstkd: {w_re: 5}]", *overrides)).values()
        return [finding.text for finding in findings if "response term" in finding.text]

    (text,) = said()
    assert "kd(weight=5.0) for sstkd(w_re=5.0)" in text and "controls: false" in text
    assert said(ON) == []


def test_a_search_leaves_what_a_control_takes_over(tmp_path):
    tuned = ["protocol.ruleset=tuned", "search={trials: 2, lr: [0.001, 0.1], seeds: [7, 8], fraction: 1.0}"]
    studies = studies_of(listed(tmp_path, "[none, sstkd: {w_re: 5}]", ON, *tuned))
    dimensions = {study.label: [each.name for each in study.space] for study in studies}
    assert dimensions["kd(weight=5.0)"] == ["optimizer.lr"]
    assert dimensions["kd"] == dimensions["sstkd(w_re=5.0)"] == ["optimizer.lr", "loss weights"]
