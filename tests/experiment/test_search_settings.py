"""The section `search`, the runs that follow from it, and what their rows may be compared with."""

import json

import pytest

from harness.analysis import comparison
from harness.experiment.load import load
from harness.experiment.plan import outline, plan
from harness.experiment.rules import Found
from harness.experiment.search_settings import FIRST_SEED, Source
from harness.experiment.space import FACTOR, LR
from harness.experiment.studies import studies_of, trial_run
from harness.results import paths, store
from harness.results.schema import checked
from harness.search import outcome as best
from tests.support import tiny
from tests.support.rows import make_row
from tests.support.searches import TUNED, experiment, fill, rises_with, searched, write_point, write_trial


def said(folder, **changes):
    with pytest.raises(ValueError) as error:
        load(tiny.write(folder, **changes))
    return str(error.value)


def section(ruleset="tuned", **search):
    return {"protocol": {"ruleset": ruleset}, "search": {"trials": 4, "lr": [0.001, 0.01]} | search}


MISTAKES = [
    ({"protocol": {"ruleset": "tuned"}}, "search: missing; the ruleset tuned needs"),
    ({"search": TUNED["search"]}, "search: not for the ruleset published. Delete it, or write protocol:"),
    (section(lr=[0.01, 0.001]), "search.lr: is [low, high] with low < high; given [0.01, 0.001]"),
    (section(lr=[0.01]), "search.lr.1: the list ends before this item"),
    (section(trials=0), "search.trials: Input should be greater than 0"),
    (section(seed=7), "search.seed: the ruleset tuned has several search seeds. Write seeds: [7, 8]"),
    (
        section(seeds=[7]),
        "search.seeds: 2 or more are needed, since one run does not tell a point from luck; given [7]",
    ),
    (section(seeds=[7, 7]), "search.seeds: 7 is there twice"),
    (section(seeds=[0, 7]), "search.seeds: 0 is one of seeds; a final run is never a trial"),
    ({**section(), "seeds": [0, 1001]}, "search.seeds: 1001 is one of seeds; a final run is never a trial"),
    (section(steps=3), "search.steps: the ruleset tuned has a share of train.steps. Write fraction: 0.5"),
    (section(fraction=0.3), "search.fraction: 2 steps end in the warm-up"),
    (section(fraction=0), "search.fraction: Input should be greater than 0"),
    (section(fraction=1.5), "search.fraction: Input should be less than or equal to 1"),
    (section("searched", algorithm="random", seed=0), "search.seed: 0 is one of seeds; a final run is never a trial"),
    (section("searched", algorithm="random", steps=2), "search.steps: 2 steps end in the warm-up"),
    (section("searched", algorithm="random", seeds=[5, 6]), "search.seeds: only for the ruleset tuned; the ruleset"),
    (section("searched", algorithm="random", fraction=0.5), "search.fraction: only for the ruleset tuned; the ruleset"),
    (section("searched", algorithm="random", untied=True), "search.untied: only for the ruleset tuned; the ruleset"),
    (section(algorithm="tpe"), "search.algorithm: only for the ruleset searched"),
    (section(minutes=3), "search.minutes: only for the ruleset searched"),
    (section(grace=3), "search.grace: only for the ruleset searched"),
    (section("searched"), "search.algorithm: missing; the ruleset searched allows random, asha"),
    (section("searched", algorithm="bohb"), "search.algorithm: Input should be 'random', 'asha', 'hyperband' or 'tpe'"),
    (section("searched", algorithm="tpe", grace=2), "search.grace: only for asha, not tpe"),
    (section("searched", algorithm="random", reduction=2), "search.reduction: only for asha and hyperband, not random"),
    (section("searched", algorithm="asha", reduction=1), "search.reduction: Input should be greater than 1"),
    (section("searched", algorithm="asha", grace=6), "search.grace: is below the 6 steps of a trial"),
    (
        section("searched", algorithm="asha", steps=3),
        "asha needs evaluations during a trial; give train.eval_every below its 3",
    ),
    (section(trails=3), "search.trails: unknown key. Did you mean 'trials'?"),
    ({**section(), "given": [[]]}, "given: unknown key. It is filled in from methods"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_named_with_its_key_and_remedy(tmp_path, changes, message):
    text = said(tmp_path, **changes)
    assert message in text and str(tmp_path / "tiny.yaml") in text


def test_published_runs_know_nothing_of_searches(tmp_path):
    for run in plan(load(tiny.write(tmp_path))):
        assert not {"trial", "source"} & run.identity().keys()


def test_an_experiment_with_a_search_has_no_runs_before_it(tmp_path):
    with pytest.raises(
        ValueError, match=r"ruleset: tuned.*sstkd-bench tune FILE; then: sstkd-bench run FILE --from-search"
    ):
        plan(experiment(tmp_path))
    assert len(outline(experiment(tmp_path))) == 3
    with pytest.raises(ValueError, match="nothing to tune: the ruleset is published"):
        studies_of(load(tiny.write(tmp_path)))


def found_for(of, lr=0.005, **values):
    return {
        study.key: Found(
            {each.name: values.get(each.name, lr if each.name == LR else each.low) for each in study.space},
            Source(trials=4, seconds=8.0, sha256="ab" * 32),
        )
        for study in studies_of(of)
    }


def test_final_runs_have_the_best_point_and_its_search(tmp_path):
    methods = ["none", {"kd": {"temperature": 2}}]
    of = experiment(tmp_path, "search.untied=true", methods=methods, seeds=[0, 1])
    runs = plan(of, found_for(of, weight=3.0))
    teacher, none, kd = runs[0], runs[1], runs[2]
    assert [run.role for run in runs] == ["teacher", *["student"] * 4]
    assert teacher.train.optimizer.lr == 0.002 and teacher.source is None
    assert none.train.optimizer.lr == kd.train.optimizer.lr == 0.005
    assert (kd.method.parameters["weight"], kd.method.parameters["temperature"]) == (3.0, 2.0)
    assert kd.source.trials == 4 and kd.trial is None
    assert kd.train.steps == 6 and kd.train.checkpoint_every == 2


def test_what_the_search_took_does_not_change_a_run(tmp_path):
    of = experiment(tmp_path)
    found = found_for(of)
    slower = {k: Found(f.point, f.source.model_copy(update={"seconds": 99.0})) for k, f in found.items()}
    other = {k: Found(f.point, f.source.model_copy(update={"sha256": "cd" * 32})) for k, f in found.items()}
    ids = [[run.run_id for run in plan(of, each)] for each in (found, slower, other)]
    assert ids[0] == ids[1] and ids[0][0] == ids[2][0] and set(ids[0][1:]).isdisjoint(ids[2][1:])


def test_trials_have_steps_and_seed_of_their_own(tmp_path):
    study = studies_of(searched(tmp_path, "random", "search.steps=4", "search.seed=77"))[1]
    run = trial_run(study, 2, "sobol", {LR: 0.004, "weight": 2.0, "temperature": 3.0})
    assert (run.train.steps, run.seed, run.train.optimizer.lr, run.trial.number) == (4, 77, 0.004, 2)
    assert run.train.checkpoint_every is None  # with each evaluation, where an algorithm may pause a trial
    assert type(run).model_validate_json(run.model_dump_json()) == run
    assert run.identity()["trial"]["changes"] == [], "run_ids of earlier searches stay"


def test_outcomes_count_everything_and_take_the_first_of_equals(tmp_path):
    of = searched(tmp_path, "random", methods=["none"])
    (study,) = studies_of(of)
    for number, (score, status) in enumerate([(0.4, "ok"), (0.6, "ok"), (0.9, "skipped"), (None, "failed")]):
        write_trial(tmp_path, study, number, {LR: 0.001 * (1 + number)}, dev_miou=score, status=status, seconds=3.0)
    (outcome,) = best.outcomes(of, tmp_path)
    assert outcome.complete and outcome.seconds == 12.0
    assert (outcome.count("ok"), outcome.count("skipped"), outcome.count("failed")) == (2, 1, 1)
    assert outcome.best.number == 1 and not outcome.tied, "a trial that was ended early is never the best"
    assert outcome.cells == ("tiny", "none", "60.00", "lr=0.002", "2 ok, 1 ended early, 1 failed", "12 s")
    write_trial(tmp_path, study, 3, {LR: 0.004}, dev_miou=0.6)
    (outcome,) = best.outcomes(of, tmp_path)
    assert outcome.best.number == 1 and [t.number for t in outcome.tied] == [3]
    assert "60.00 (tie of 2, the first is taken)" in outcome.cells


def test_an_incomplete_search_says_what_is_missing(tmp_path):
    of = experiment(tmp_path)
    none, kd = studies_of(of)
    with pytest.raises(
        ValueError, match=r"tiny, none: 0 of 8 trials are finished. Finish the search: sstkd-bench tune F\n.*kd"
    ):
        best.found(of, tmp_path, "F")
    fill(tmp_path, of, rises_with(LR))
    assert best.found(of, tmp_path, "F")[kd.key].source.trials == 8
    for path in (tmp_path / "search" / "runs").glob("*.parquet"):
        if store.read_row(path)["trial_method"] == "kd":
            path.unlink()
    for number in range(4):
        write_point(tmp_path, kd, number, {LR: 0.002, FACTOR: 1.0 + number}, None, None)
    with pytest.raises(
        ValueError,
        match=r"kd: none of its 4 points was successful with every search seed \(why\). Fix the cause, then delete their rows",
    ):
        best.found(of, tmp_path, "F")
    assert none.key[1] == "none"


def test_a_search_is_complete_when_its_time_is_up(tmp_path):
    of = searched(tmp_path, "random", "search.minutes=0.1", methods=["none"])
    (study,) = studies_of(of)
    write_trial(tmp_path, study, 0, {LR: 0.002}, seconds=5.0)
    assert not best.outcomes(of, tmp_path)[0].complete
    write_trial(tmp_path, study, 1, {LR: 0.003}, seconds=1.0, status="skipped")
    (outcome,) = best.outcomes(of, tmp_path)
    assert outcome.complete and "2 of 4: 1 ok, 1 ended early; time is up" in outcome.cells
    assert best.found(of, tmp_path, "F")[study.key].source.trials == 2


def test_the_best_points_are_written_as_a_table(tmp_path):
    import pyarrow.parquet as pq

    of = experiment(tmp_path)
    fill(tmp_path, of, rises_with("weight"))
    path = best.write(best.outcomes(of, tmp_path), tmp_path)
    none, kd = pq.read_table(path).to_pylist()
    assert (none["method"], none["ok"], none["wanted"], none["ruleset"], none["algorithm"]) == (
        "none",
        8,
        8,
        "tuned",
        "sobol",
    )
    assert len(none["tied"]) == 3 and json.loads(kd["point"]).keys() == {LR, "weight"}
    assert store.read_row(paths.run_path(tmp_path / "search", kd["run_id"]))["dev_miou"] == kd["dev_miou"]
    assert kd["seeds"] == [1000, 1001] and kd["dev_miou_by_seed"] == [kd["dev_miou"]] * 2


def final(method, seed=0, trials=8, lr=0.002, **changes):
    recipe = {"steps": 300, "batch_size": 8, "optimizer": {"name": "adamw", "lr": lr}}
    of_search = {
        "ruleset": "tuned",
        "recipe": json.dumps(recipe),
        "search_trials": trials,
        "search_seconds": 10.0,
        "search_sha256": f"{sum(map(ord, method)):064x}",
    }
    return make_row(method, seed, **of_search | changes)


def table_of(*rows):
    import pyarrow as pa

    return comparison.quick_table(pa.Table.from_pylist([checked(row) for row in rows], schema=store.SCHEMA))


def test_the_learning_rate_may_differ_after_a_search_and_nothing_else():
    block = table_of(final("none", lr=0.001), final("kd", lr=0.004)).blocks[0]
    assert block.rules == "tuned (8 trials per method)"
    assert "kd: learning rate 0.004; best of 8 trials, 10 s" in block.caveats
    assert block.methods[0].search_trials == 8 and block.methods[0].search_seconds == 10.0
    with pytest.raises(ValueError, match="different recipe"):
        table_of(
            final("none"), final("kd", recipe=json.dumps({"steps": 300, "batch_size": 4, "optimizer": {"lr": 0.1}}))
        )
    published = [make_row(m, recipe=json.dumps({"optimizer": {"lr": lr}})) for m, lr in (("none", 0.1), ("kd", 0.2))]
    with pytest.raises(ValueError, match="different recipe"):
        table_of(*published)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([final("none"), final("kd", ruleset="searched")], "different ruleset"),
        ([final("none"), make_row("kd")], "different ruleset"),
        ([final("none"), final("kd", trials=16)], "different search_trials are not comparable: 16 in .*, 8 in "),
        ([final("none"), final("none", 1, search_sha256="0" * 64)], "none: rows with different search_sha256"),
        ([final("none", trial=0, trial_method="none")], "is a trial of a search and no result"),
    ],
)
def test_rows_of_different_searches_do_not_mix(rows, message):
    with pytest.raises(ValueError, match=message):
        table_of(*rows)


def test_searched_methods_may_have_had_different_numbers_of_trials():
    rows = [final("none", ruleset="searched"), final("kd", trials=16, ruleset="searched")]
    assert table_of(*rows).blocks[0].rules == "searched (8-16 trials per method)"


def test_the_first_search_seed_is_still_the_one_of_published_rows():
    assert FIRST_SEED == 1000
