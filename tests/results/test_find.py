"""Which run is meant: by run_id, its beginning, method/seed, in one experiment's folder or in all of them."""

import json

import pytest

from harness.experiment.method import Method
from harness.results import store
from harness.results.find import find_finished, name_of
from tests.support import tiny
from tests.support.rows import make_row


@pytest.fixture
def results(tmp_path):
    for name, pair in (("one", "a-to-b"), ("two", "c-to-d")):
        for method, seed, status in (("none", 0, "ok"), ("kd", 0, "ok"), ("kd", 1, "failed")):
            row = make_row(method, seed, status=status, pair=pair, experiment=name)
            store.write_run(tmp_path / name, {**row, "run_id": f"{name[0]}{method}{seed}"})
        store.write_run(tmp_path / name, {**make_row(role="teacher", pair=pair), "run_id": f"{name[0]}t0"})
    (tmp_path / "reproduce").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "run", "found"),
    [
        ("", "okd0", "okd0"),
        ("", "ok", "okd0"),
        ("one", "kd/0", "okd0"),
        ("two", "kd/0", "tkd0"),
        ("", "a-to-b/none/0", "onone0"),
        ("two", "teacher/0", "tt0"),
        ("", " OKD0 ", "okd0"),
        ("one", " kd/0\n", "okd0"),
    ],
)
def test_a_run_is_found(results, folder, run, found):
    directory, row = find_finished(results / folder, run)
    assert row["run_id"] == found and directory == results / ("one" if found[0] == "o" else "two")
    assert row["spec"] is not None


def test_the_runs_that_are_meant_are_listed(results):
    with pytest.raises(ValueError, match=r"'kd/0' names 2 rows; .* folder of its experiment") as error:
        find_finished(results, "kd/0")
    assert "okd0  one: a-to-b/kd/0" in str(error.value) and "tkd0  two: c-to-d/kd/0" in str(error.value)


def test_a_control_is_not_meant_by_its_method(results):
    row = make_row("none", 0, control="equal seconds", pair="a-to-b")
    store.write_run(results / "one", {**row, "run_id": "ocontrol"})
    assert find_finished(results / "one", "none/0")[1]["run_id"] == "onone0"


def test_of_two_variants_of_a_method_one_is_meant_by_its_line_in_the_table(results):
    row = make_row("kd", 0, pair="a-to-b", experiment="one")
    parameters = {**json.loads(row["method_parameters"]), "temperature": 2.5}
    store.write_run(results / "one", {**row, "run_id": "ohot", "method_parameters": json.dumps(parameters)})
    label = Method(name="kd", parameters=parameters).label
    assert "temperature=2.5" in label
    assert find_finished(results / "one", f"{label}/0")[1]["run_id"] == "ohot"
    assert find_finished(results / "one", f"a-to-b/{label}/0")[1]["run_id"] == "ohot"
    with pytest.raises(ValueError, match=r"names 2 rows; name one by the beginning of its run_id, or as pair/method"):
        find_finished(results / "one", "kd/0")


def test_a_trial_of_a_search_has_no_network(results):
    row = make_row("kd", 7, pair="a-to-b", experiment="one")
    store.write_run(results / "one", {**row, "run_id": "otrial", "trial": 3, "trial_method": "kd"})
    with pytest.raises(
        ValueError, match="otrial is a trial of a search, whose network is not kept; choose a final run"
    ):
        find_finished(results / "one", "otr")
    with pytest.raises(ValueError, match="names 0 rows"):
        find_finished(results / "one", "kd/7")


@pytest.mark.parametrize("run", ["", " ", "zzz", "kd/9", "kd/", "/", "../one", "kd/0\x1b[2J", "kd/0/0/0"])
def test_what_is_no_run_is_said(results, run):
    with pytest.raises(ValueError, match=r"names 0 rows|the run is") as error:
        find_finished(results, run)
    assert "\x1b" not in str(error.value)


def test_a_failed_run_says_why(results):
    with pytest.raises(ValueError, match=r"okd1 failed: step 120: .*; choose a finished run"):
        find_finished(results / "one", "kd/1")


def test_a_folder_without_results(tmp_path):
    with pytest.raises(ValueError, match="no results yet"):
        find_finished(tmp_path, "kd/0")
    with pytest.raises(ValueError, match="no such folder"):
        find_finished(tmp_path / "x", "kd/0")


def test_the_shortest_name_of_a_run_is_understood(tmp_path):
    pair = tiny.TINY["pairs"][0]
    methods = ["none", {"kd": {"weight": 1.0}}, {"kd": {"weight": 2.0}}]
    for pairs in ([pair], [pair, {**pair, "name": "other", "teacher": {**pair["teacher"], "steps": 2}}]):
        runs = tiny.plan(tmp_path, pairs=pairs, methods=methods)
        names = [name_of(run, runs) for run in runs]
        prefix = "" if len(pairs) == 1 else "tiny/"
        assert names[: 2 * len(pairs)].count(f"{prefix}teacher/0") == 1 and f"{prefix}none/0" in names
        assert len(set(names)) == len(runs)
        for run, name in zip(runs, names, strict=True):
            assert name == run.run_id or run.method.label == run.method.name


def test_of_several_teachers_one_is_named(tmp_path):
    for teacher in (0, 4):
        network = json.dumps({"architecture": "fpn", "encoder": "tu-efficientnet_lite2", "seed": teacher})
        row = make_row("kd", 0, teacher_network=network, teacher_run_id=f"t{teacher}", experiment="many")
        store.write_run(tmp_path / "many", {**row, "run_id": f"kd{teacher}"})
    with pytest.raises(ValueError, match="names 2 rows") as error:
        find_finished(tmp_path, "kd/0")
    assert "lite2-to-tiny/kd/0/teacher4" in str(error.value)
    assert find_finished(tmp_path, "kd/0/teacher4")[1]["run_id"] == "kd4"
    assert find_finished(tmp_path, "lite2-to-tiny/kd/0/teacher0")[1]["run_id"] == "kd0"
