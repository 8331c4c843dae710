"""`tune`, `run --from-search`, `check` and the pictures, on rows of trials that are there already."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.bench import Bench
from harness.cli.app import app
from harness.experiment.load import load
from harness.experiment.plan import timing_runs
from harness.experiment.space import LR
from harness.experiment.studies import studies_of
from harness.report.plots.search import importance, trials_figure
from harness.results import record
from harness.results.paths import times_folder
from harness.search import outcome, points
from tests.support import tiny
from tests.support.searches import TUNED, experiment, fill, rises_with, searched, write_point, write_trial


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def done(tmp_path):
    """A complete search, its file and the folder of results."""
    of = experiment(tmp_path, methods=["none", "kd"])
    folder = tmp_path / "results" / "tiny"
    studies = studies_of(of)
    points.keep(folder / "search", of, studies, points.drawn(of, studies))
    fill(folder, of, rises_with("weight"))
    return tmp_path / "tiny.yaml", tmp_path / "results"


def test_a_complete_search_is_shown_without_ray(done):
    file, results = done
    text = call("tune", file, "--results", results, "--set", "resources.address=127.0.0.1:1").stdout
    assert "tie of 4, the first is taken" in text and "8 ok" in text and "(published)" in text and "lr=" in text
    assert f"sstkd-bench run {file} --from-search" in text
    assert "note: search of kd: point " in text and "if the search were repeated" in text
    assert (results / "tiny" / "search" / "best_so_far.csv").read_text().startswith("pair,method,points,trials,")
    for name in (outcome.FILE, "trials.png", "trials.svg", "best_so_far.png", "best_so_far.svg"):
        assert (results / "tiny" / "search" / name).stat().st_size > 1000


def test_the_same_as_json(done):
    file, results = done
    (line,) = call("tune", file, "--results", results, "--json").stdout.splitlines()
    event = json.loads(line)
    assert event["event"] == "search" and [row[1] for row in event["rows"]] == ["none", "kd"]
    assert len(event["remarks"]) == 2


@pytest.mark.parametrize("as_json", [False, True])
def test_an_interrupted_search_says_how_far_it_came(tmp_path, monkeypatch, as_json):
    of = experiment(tmp_path, methods=["none", "kd"])
    write_trial(tmp_path / "results" / "tiny", studies_of(of)[0], 0, {LR: 0.002})

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Bench, "tune", interrupted)
    options = ["--json"] if as_json else []
    result = call("tune", tmp_path / "tiny.yaml", "--results", tmp_path / "results", *options, code=130)
    assert "interrupted: 1 trials have finished" in result.stderr
    if as_json:
        *_, done = map(json.loads, result.stdout.splitlines())
        assert done["event"] == "done" and done["interrupted"]
        assert done["counts"] == {"ok": 1, "failed": 0, "skipped": 0, "waiting": 15}


def test_a_method_without_a_finished_trial_is_exit_code_1(tmp_path):
    of = experiment(tmp_path, methods=["none"])
    (study,) = studies_of(of)
    for number in range(4):
        write_point(tmp_path / "results" / "tiny", study, number, {LR: 0.002 + number * 1e-3}, None, None)
    result = call("tune", tmp_path / "tiny.yaml", "--results", tmp_path / "results", code=1)
    assert "8 failed" in result.stdout and "1 methods have no finished trial" in result.stderr


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, ["tune"], "nothing to tune: the ruleset is published"),
        ({}, ["run", "--from-search"], "its ruleset is published. Leave the option out"),
        (TUNED, ["run"], "First:\n    sstkd-bench tune FILE\n       then:\n    sstkd-bench run FILE --from-search"),
        (
            TUNED,
            ["run", "--from-search"],
            "tiny, none: 0 of 8 trials are finished. Finish the search:\n    sstkd-bench tune",
        ),
    ],
)
def test_mistakes_are_answered(tmp_path, changes, arguments, message):
    file = tiny.write(tmp_path, **changes)
    result = call(arguments[0], file, *arguments[1:], "--results", tmp_path / "results", code=2)
    assert message in result.stderr and "Traceback" not in result.output


@pytest.mark.torch
def test_check_lists_trials_and_final_runs(done):
    file, results = done
    text = call("check", file, "--results", results, "--no-measure").stdout
    lines = [line.split() for line in text.splitlines()]
    assert ["tiny", "teacher", "run", "1", "3", "0"] in lines
    assert ["tiny", "kd", "trials", "8", "6", "8"] in lines
    assert ["tiny", "kd", "final", "runs", "1", "6", "0"] in lines


RESULT = {"num_classes": 2, "dev_confusion": [1, 0, 0, 1], "dev_miou": 1.0}
RESULT |= {"val_confusion": [1, 0, 0, 1], "val_miou": 1.0}


@pytest.mark.torch
def test_check_lists_the_control_of_a_budget_with_its_steps(done):
    file, results = done
    command = ["check", file, "--results", results, "--no-measure"]
    budget = ["--set", "budget.longer=true"]
    text = call(*command, *budget).stdout
    assert "none at equal seconds  final" not in text and "the control that goes with them, are not known" in text
    of = load(file, ["budget.longer=true"])
    for run in timing_runs(of):
        ms = 10.0 if run.method.name == "none" else 20.0
        record.write_row(run, times_folder(results / "tiny"), RESULT | {"step_ms": ms, "device": "cpu"}, "ok")
    lines = [line.split() for line in call(*command, *budget).stdout.splitlines()]
    assert ["tiny", "none", "final", "runs", "1", "6", "0"] in lines
    assert ["tiny", "none", "at", "equal", "seconds", "final", "runs", "1", "12", "0"] in lines
    last = next(run for run in Bench(of, results, file).runs() if run.control is not None)
    record.write_row(last, results / "tiny", RESULT, "ok")
    lines = [line.split() for line in call(*command, *budget).stdout.splitlines()]
    assert ["tiny", "none", "at", "equal", "seconds", "final", "runs", "1", "12", "1"] in lines


@pytest.mark.torch
def test_the_search_of_another_recipe_is_not_taken(done):
    file, results = done
    for words in (["tune"], ["run", "--from-search"], ["check", "--no-measure"], ["tables"]):
        result = call(words[0], file, *words[1:], "--results", results, "--set", "train.batch_size=2", code=2)
        assert "trial.tiny.train.batch_size: 4 there, 2 here" in result.stderr


def test_the_report_has_the_best_score_so_far_and_the_remarks(done):
    file, results = done
    bench = Bench(load(file), results, file)
    for run in bench.runs():
        result = RESULT | {"train_seconds": 1.0, "eval_seconds": 1.0, "step_ms": 10.0, "device": "cpu"}
        record.write_row(run, bench.directory, result, "ok")
    bench.write_report()
    curves = (bench.directory / "best_so_far.csv").read_text().splitlines()
    assert curves[0].startswith("pair,method,points") and [line.split(",")[2] for line in curves[1:]] == list("124124")
    assert (bench.directory / "best_so_far.svg").is_file() and (bench.directory / "best_so_far.png").is_file()
    remark = "search of none: the published point is the best of 4; if the search were repeated"
    page = (bench.directory / "report.html").read_text()
    assert ">Search<a " in page and page.count('aria-label="best dev mIoU by points tried"') == 2
    for text in (page, (bench.directory / "table.md").read_text()):
        assert remark in text


def test_importance_finds_what_matters(tmp_path):
    of = experiment(tmp_path, "search.trials=16", "search.untied=true", methods=["none", "kd", "sstkd"])
    fill(tmp_path, of, rises_with("weight"))
    none, kd, sstkd = outcome.outcomes(of, tmp_path)
    assert importance(kd)["weight"] == (pytest.approx(1.0), 16)
    assert importance(kd)["temperature"][0] < 0.5
    assert importance(none) == {} == importance(sstkd), "the same score in all trials says nothing"
    few, elsewhere = experiment(tmp_path, methods=["none"]), tmp_path / "elsewhere"
    fill(elsewhere, few, rises_with(LR))
    assert importance(outcome.outcomes(few, elsewhere)[0]) == {}, "four trials are too few"


def test_every_kind_of_trial_can_be_drawn(tmp_path):
    of = searched(tmp_path, "random", "search.trials=5", methods=["none", "sstkd"])
    studies = studies_of(of)
    for study, drawn in zip(studies, points.drawn(of, studies), strict=True):
        for number, status in enumerate(("ok", "skipped", "failed", "ok")):
            score = None if status == "failed" else 0.4 + 0.1 * number
            values = drawn[number] | ({"w_adv": 0.0} if number == 3 and study.label == "sstkd" else {})
            write_trial(tmp_path, study, number, values, status=status, dev_miou=score)
    figure = trials_figure(outcome.outcomes(of, tmp_path))
    left, _, sstkd, _ = figure.axes
    assert "2 finished, 1 ended early (dashed), 1 failed (dotted)" in left.get_title(loc="left")
    lines = [line for line in sstkd.lines if line.get_marker() == "o"]
    # lr, four weights and the score: the critic's learning rate has no effect where the critic is off
    assert min(len(line.get_xdata()) for line in lines if not np.isnan(line.get_ydata()).any()) == 6
    with pytest.raises(ValueError, match="at least one"):
        trials_figure([])


def test_a_published_point_outside_the_ranges_is_drawn_inside_the_picture(tmp_path):
    of = experiment(tmp_path, "train.optimizer.lr=0.0001", methods=["none", "kd"])
    fill(tmp_path, of, rises_with(LR))
    left, *_ = trials_figure(outcome.outcomes(of, tmp_path)).axes
    heights = [line.get_ydata() for line in left.lines if line.get_marker() == "o"]
    assert len(heights) == 8 and min(map(min, heights)) == 0 and max(map(max, heights)) <= 1
    assert "0.0001" in [text.get_text() for text in left.texts]
