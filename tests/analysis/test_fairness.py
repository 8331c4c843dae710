"""The fairness report: what is compared, what makes it unfair, and that a failed run is a loss; `power` on top."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from typer.testing import CliRunner

from harness.analysis import fairness, power
from harness.analysis.comparison import COLUMNS, quick_table
from harness.analysis.labels import Label
from harness.analysis.lines import MethodRow
from harness.analysis.simultaneous import critical
from harness.analysis.tables import Block
from harness.cli.app import app
from harness.experiment.load import load
from harness.experiment.method import Method, method_entry
from harness.experiment.signatures import plain
from harness.report.formats import to_json, to_markdown
from harness.report.write import write_report
from harness.results import store
from harness.results.schema import SCHEMA
from tests.support import tiny
from tests.support.rows import make_experiment, make_row

METHODS = ("none", "kd", "cwd", "sstkd")


def block(
    rows: list[dict[str, Any]], methods: tuple[str, ...] = METHODS, seeds: tuple[int, ...] | None = None
) -> Block:
    schema = pa.schema([SCHEMA.field(c) for c in COLUMNS])
    table = pa.Table.from_pylist([{c: r.get(c) for c in COLUMNS} for r in rows], schema)
    return quick_table(table, methods, seeds).blocks[0]


def equally_fast(seeds: int = 5) -> list[dict[str, Any]]:
    return [row | {"step_ms": 100.0} for row in make_experiment(seeds=seeds)]


def unfair(found: Block) -> list[str]:
    return [finding.text for finding in found.findings if finding.unfair]


def notes(found: Block) -> list[str]:
    return [finding.text for finding in found.findings if not finding.unfair]


def test_lines_of_which_the_same_seeds_have_other_code_are_told_once() -> None:
    """Forty sentences that differ in a name hide what else must be known."""
    old, new, other = ("a" * 64, "b" * 64, "c" * 64)
    code = {"none": (old, old, new), "kd": (other, other, new), "cwd": (old, new, new), "sstkd": (new, new, new)}
    rows = [
        r | {"code_sha256": code[r["method"]][r["seed"]]} if r["role"] == "student" else r for r in make_experiment()
    ]
    said = [text for text in block(rows).caveats if "different code" in text]
    assert said == [
        "rows of one line were made by different code, seeds 0, 1; 2: none, kd",
        "rows of one line were made by different code, seeds 0; 1, 2: cwd",
    ]


def test_a_fair_comparison_says_what_is_compared_and_finds_nothing_unfair() -> None:
    found = block(equally_fast())
    assert unfair(found) == []
    assert found.compared.startswith(
        "Compared on lite2-to-tiny on texmosaic: none, kd, cwd, sstkd, each against none and kd, paired over 5 seeds; 5 comparisons"
    )


def test_few_seeds_and_missing_runs_are_unfair() -> None:
    found = unfair(block(equally_fast(seeds=2)))
    assert found == ["2 seeds: 5 or more are needed to tell a gain from luck"]
    rows = [r for r in equally_fast() if (r["method"], r["seed"]) != ("cwd", 1)]
    assert unfair(block(rows)) == ["cwd: 1 of 5 runs are missing; its mean is over fewer seeds"]


def test_a_method_or_a_control_without_rows_is_said() -> None:
    rows = [r for r in make_experiment(seeds=5) if r["method"] not in ("kd", "sstkd")]
    found = unfair(block(rows))
    assert "not run: sstkd" in found
    assert any(text.startswith("the control kd is missing") for text in found)


def test_defaults_chosen_on_the_tables_own_dataset_are_unfair() -> None:
    """Read from the rows' values, not from what a line is called; and said before anything runs."""

    def rows(dataset: str, **given: float) -> list[dict[str, Any]]:
        entry = method_entry("sstkd")
        values = {"method_parameters": json.dumps(plain(entry, entry.parameters.model_validate(given)))}
        return [row | {"dataset": dataset} | (values if row["method"] == "sstkd" else {}) for row in equally_fast()]

    def said(dataset: str, **given: float) -> list[str]:
        return [text for text in unfair(block(rows(dataset, **given))) if "very dataset" in text]

    (text,) = said("texmosaic")
    assert text.startswith("sstkd: the defaults of w_re, w_str were chosen by results on this very dataset")
    method = Method(name="sstkd", parameters={"w_re": 3.0, "w_str": 0.27, "w_adv": 0.0})
    assert (method.chosen_on("texmosaic"), method.chosen_on("texmosaic", searched=True)) == ((), ("w_re", "w_str"))
    (text,) = said("texmosaic", w_str=0.9)
    assert text.startswith("sstkd: the defaults of w_re were")
    assert said("texmosaic", w_re=5.0, w_str=0.9) == said("texmosaic", w_re=0.0, w_str=0.9) == []
    assert said("landcover") == []
    sides = [fairness.Side(Label.read(label), 5, 5, chosen=("w_re",)) for label in ("sstkd", "sstkd(levels=[4])")]
    (text,) = fairness._chosen(sides, "tuned")
    assert text.startswith("sstkd, sstkd(levels=[4]): the defaults, where the search begins, of w_re were")
    before = fairness.of_experiment(load(Path("experiments/quickstart.yaml")))["unet-r18d-to-r10t"][1]
    assert [x.text for x in before if x.unfair and "very dataset" in x.text] == [said("texmosaic")[0]]


@pytest.mark.parametrize(
    ("warm_up", "teacher", "expected"),
    [
        (5, {"steps": 6}, ""),
        (6, {"steps": 9}, "students (6 steps)"),
        (7, {"steps": 7}, "students (6 steps) and the teacher (7 steps)"),
        (6, {}, "students (6 steps) and the teacher (6 steps)"),
    ],
)
def test_a_warm_up_that_does_not_end_is_said(
    tmp_path: Path, warm_up: int, teacher: dict[str, int], expected: str
) -> None:
    train = tiny.TINY["train"] | {"schedule": {"warmup_steps": warm_up}}
    network = {key: value for key, value in tiny.TINY["pairs"][0]["teacher"].items() if key != "steps"}
    pairs = [tiny.TINY["pairs"][0] | {"teacher": network | teacher}]
    ((_, found),) = fairness.of_experiment(load(tiny.write(tmp_path, train=train, pairs=pairs))).values()
    said = [x.text for x in found if "warm-up" in x.text]
    assert len(said) == bool(expected) and all(f"{warm_up}) ends after {expected}: " in text for text in said)


def test_unequal_searches_are_unfair_and_searched_is_exploratory() -> None:
    of_search = {"ruleset": "searched", "search_seconds": 9.0, "search_sha256": "ab" * 32}
    rows = [row | {"search_trials": 20 if row["method"] == "cwd" else 12} | of_search for row in equally_fast()]
    found = block(rows)
    assert unfair(found) == ["unequal search: 20 trials for cwd, 12 for none"]
    assert any(text.startswith("exploratory") for text in notes(found))


def test_equal_trials_that_took_longer_are_a_note() -> None:
    of_search = {"ruleset": "tuned", "search_trials": 12, "search_sha256": "ab" * 32}
    rows = [row | {"search_seconds": 30.0 if row["method"] == "sstkd" else 10.5} | of_search for row in equally_fast()]
    found = block(rows)
    assert unfair(found) == []
    assert "equal trials are not equal compute; seconds of the search relative to none: sstkd 2.86" in notes(found)


def test_a_budget_of_seconds_does_not_hold_for_trials(tmp_path: Path) -> None:
    search = {"search": {"trials": 4, "lr": [1e-3, 1e-2]}, "protocol": {"ruleset": "tuned"}}
    for unit in ("seconds", "steps"):
        file = tiny.write(tmp_path, budget={"unit": unit}, seeds=[0, 1, 2], **search)
        ((_, findings),) = fairness.of_experiment(load(file, [])).values()
        said = "the budget of seconds holds for the final runs; trials are equal in number and in steps"
        assert (said in [finding.text for finding in findings]) == (unit == "seconds")


def test_a_weak_teacher_and_a_student_below_the_single_pixel_baseline_are_unfair() -> None:
    weak = [make_row(role="teacher", dev_miou=0.4), *make_experiment(seeds=5)[1:]]
    assert any("the teacher (40.00) is no better" in text for text in unfair(block(weak)))
    low = [r | {"floor_val_miou": 0.9} for r in make_experiment(seeds=5)]
    assert any("is no better than the single-pixel baseline (90.00)" in text for text in unfair(block(low)))


def test_unequal_time_per_step_is_unfair_unless_a_baseline_had_as_long() -> None:
    rows = [r | {"step_ms": 200.0 if r["method"] == "sstkd" else 100.0} for r in make_experiment(seeds=5)]
    said = "equal steps are not equal compute; seconds per step relative to none: sstkd 2.00"
    (found,) = unfair(block(rows))
    assert found.startswith(said) and "budget: {longer: true}" in found
    recipe = json.dumps({"steps": 600, "batch_size": 8, "optimizer": {"name": "adamw", "lr": 0.002}})
    rows += [
        make_row("none", seed, run_id=f"longer-{seed}", control="equal seconds", steps=600, recipe=recipe)
        | {"budget_amount": 600.0, "budget_step_ms": 100.0, "step_ms": 100.0}
        for seed in range(5)
    ]
    longer = block(rows)
    assert unfair(longer) == [] and any(text.startswith(said) for text in notes(longer))
    assert [x.label for x in longer.methods] == ["none", "kd", "none at equal seconds", "cwd", "sstkd"]
    assert longer.references == {"none": "none", "kd": "kd"} and longer.budget == "300 steps"
    assert "none at equal seconds: 600 steps, from a measured 100 ms per step" in longer.caveats


def test_a_budget_of_seconds_is_equal_compute_whatever_the_steps() -> None:
    rows = [
        r | {"budget_unit": "seconds", "budget_amount": 30.0, "step_ms": 200.0 if r["method"] == "sstkd" else 100.0}
        | ({"steps": 150, "recipe": r["recipe"].replace("300", "150")} if r["method"] == "sstkd" else {})
        for r in make_experiment(seeds=5)
    ]  # fmt: skip
    found = block(rows)
    assert unfair(found) == [] and found.budget == "30 seconds"
    # Timed on idle workers and run on busy ones: 150 steps of 0.3 s are more than the baseline's 300 of 0.1 s.
    busy = block([r | {"step_ms": 300.0} if r["method"] == "sstkd" else r for r in rows])
    (text,) = unfair(busy)
    assert text.startswith("training times are not equal; relative to none: sstkd 1.50.")
    assert "delete step_times" in text
    with pytest.raises(ValueError, match="different budget_amount"):
        block([*rows[:-1], rows[-1] | {"budget_amount": 31.0}])


def test_different_devices_are_a_note() -> None:
    rows = equally_fast()
    rows[-1] |= {"device": "NVIDIA A100", "step_ms": 1.0}
    found = block(rows)
    (text,) = [text for text in notes(found) if "different devices" in text]
    assert "(cpu, NVIDIA A100): rounding differs; times and memory are those on cpu alone" in text
    assert {line.step_s for line in found.methods} == {0.1}  # of `sstkd` four of five runs
    others = [row | {"device": "NVIDIA A100"} if row["method"] == "sstkd" else row for row in rows]
    assert [line.step_s for line in block(others).methods if line.name.method == "sstkd"] == [None]


def test_a_failed_run_is_a_loss_and_not_a_gap() -> None:
    level = {"none": 0.5, "sstkd": 0.7}
    rows = [
        r | {"val_miou": level.get(r["method"], 0.6) + 1e-3 * r["seed"] + 1e-5 * (i * i % 7)}
        for i, r in enumerate(make_experiment(seeds=6))
    ]
    whole = next(x for x in block(rows).methods if x.label == "sstkd")
    assert whole.vs_none is not None and whole.vs_none.significant and "▲" in whole.vs_none.text
    for row in rows:
        if (row["method"], row["seed"]) == ("sstkd", 5):
            row.update(status="failed", dev_miou=None, val_miou=None)
    found = block(rows)
    line = {x.label: x for x in found.methods}
    assert line["sstkd"].vs_none is not None and not line["sstkd"].vs_none.significant
    assert line["sstkd"].vs_none.text.endswith("; 1 lost") and "▲" not in line["sstkd"].vs_none.text
    assert any(text.startswith("sstkd: 1 of 6 runs failed; they count as lost") for text in unfair(found))
    # Seen from the other side: what stays behind a method that failed cannot be called worse.
    for row in rows:
        if (row["method"], row["seed"]) == ("none", 0):
            row.update(status="failed", dev_miou=None, val_miou=None)
    kd = next(x for x in block(rows).methods if x.label == "kd")
    assert kd.vs_none is not None and kd.vs_none.won == 1 and kd.vs_none.lost == 0


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [6, 10])
def test_false_wins_of_methods_that_diverge(seeds: int) -> None:
    """No method differs from the baseline; two of three lose one run in five. Wins stay below 5 %."""
    rng, trials, wins, names = np.random.default_rng(seeds), 150, 0, ("none", "kd", "cwd", "sstkd")
    for _ in range(trials):
        values = 0.6 + rng.normal(0, 0.02, seeds) + rng.normal(0, 0.008, (4, seeds))
        lost = (rng.random((4, seeds)) < 0.2) & np.array([[False], [False], [True], [True]])
        rows = [
            {
                **dict.fromkeys(COLUMNS),
                "run_id": f"{n}{s}",
                "experiment": "e",
                "role": "student",
                "method": n,
                "seed": s,
            }
            | {"method_parameters": "{}", "pair": "p", "dataset": "d", "protocol_version": "1.1", "recipe": "{}"}
            | {"ruleset": "published", "budget_unit": "steps", "budget_amount": 1.0, "steps": 1, "device": "cpu"}
            | {"status": "failed" if lost[m, s] else "ok", "val_miou": None if lost[m, s] else float(values[m, s])}
            for m, n in enumerate(names)
            for s in range(seeds)
        ]
        lines = block(rows, names).methods
        wins += any(
            c is not None and c.significant and c.difference.mean > 0 for x in lines for c in (x.vs_none, x.vs_kd)
        )
    assert wins / trials <= 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5


def test_the_report_is_in_every_footer_and_stored(tmp_path: Path) -> None:
    rows = make_experiment(seeds=2)
    for row in rows:
        store.write_run(tmp_path, row)
    paths = write_report(tmp_path, METHODS, [0, 1])
    said = "unfair: 2 seeds: 5 or more are needed to tell a gain from luck"
    assert f"- {said}" in paths["markdown"].read_text()
    assert said in paths["html"].read_text()
    stored = json.loads(paths["fairness"].read_text())
    assert stored["pairs"][0]["findings"][0] == {"unfair": True, "text": said.removeprefix("unfair: ")}
    table = quick_table(store.read_rows(tmp_path, list(COLUMNS)), METHODS, [0, 1])
    assert to_json(table) == paths["fairness"].read_text()
    assert paths["markdown"].read_text().startswith(to_markdown(table))


def test_an_experiment_is_judged_before_it_runs(tmp_path: Path) -> None:
    experiment = load(tiny.write(tmp_path, methods=["none", "cwd"], seeds=[0, 1]), [])
    ((text, findings),) = fairness.of_experiment(
        experiment, {("tiny", "student", "none"): 0.1, ("tiny", "student", "cwd"): 0.25}
    ).values()
    assert text.startswith(
        "Compared on tiny on texmosaic: none, cwd, each against none and kd, paired over 2 seeds; 1 comparison,"
    )
    said = list(map(str, findings))
    assert "unfair: 2 seeds: 5 or more are needed to tell a gain from luck" in said
    assert any(s.startswith("unfair: the control kd is missing") for s in said)
    assert any(
        "relative to none: cwd 2.50, and no student without distillation was trained for as long" in s for s in said
    )


def test_comparisons_are_counted_as_the_table_counts_them(tmp_path: Path) -> None:
    experiment = load(tiny.write(tmp_path, methods=["none", "kd", "cwd", "sstkd"], seeds=[0, 1, 2, 3, 4]), [])
    assert f"{block(make_experiment(seeds=5)).comparisons} comparisons" in fairness.of_experiment(experiment)["tiny"][0]


@pytest.mark.torch
def test_check_prints_the_report(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["check", str(tiny.write(tmp_path)), "--no-measure", "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "tiny on texmosaic: none, kd, each against none and kd, paired over 1 seed;" in done.output
    assert "unfair: 1 seed: 5 or more are needed" in done.output


def test_power_is_that_of_the_standard_deviation_at_the_corrected_level() -> None:
    found = block(make_experiment(seeds=5))
    shown = {x.label: x for x in power.by_method(found, [5, 12])}
    assert set(shown) == {"kd", "cwd", "sstkd"}
    values = {x.label: np.array([x.values[s] for s in range(5)]) for x in found.methods}
    deltas = values["cwd"] - values["none"]
    cwd = shown["cwd"]
    assert (cwd.n, cwd.difference) == (5, pytest.approx(deltas.mean()))
    # The table's interval is as wide as this deviation says.
    (line,) = (x for x in found.methods if x.label == "cwd")
    assert line.vs_none is not None and line.vs_none.difference.half is not None
    pairs = ((1, 0), (2, 0), (3, 0), (2, 1), (3, 1))
    level = critical(pairs, [12] * 5)
    assert line.vs_none.difference.half == pytest.approx(
        stats.t.ppf(1 - level / 2, 12) * cwd.deviation.mean / 5**0.5, rel=1e-6
    )
    for n, smallest in cwd.smallest.items():
        freedom = 3 * (n - 1)
        shift = smallest / cwd.deviation.mean * n**0.5
        bound = stats.t.ppf(1 - critical(pairs, [freedom] * 5) / 2, freedom)
        assert stats.nct.sf(bound, freedom, shift) == pytest.approx(0.8, abs=1e-3)
    assert cwd.seeds is not None and cwd.seeds >= 5
    wider = replace(found, methods=tuple(closer(x) for x in found.methods))
    again = {x.label: x for x in power.by_method(wider, [5])}["cwd"]
    assert again.seeds is not None and again.seeds > 5
    again = {x.label: x for x in power.by_method(wider, [again.seeds, again.seeds - 1])}["cwd"]
    assert again.smallest[again.seeds or 0] <= abs(again.difference) < again.smallest[(again.seeds or 0) - 1]


def closer(line: MethodRow) -> MethodRow:
    """The line with a mean that a tenth of its difference to 55 % is left of."""
    mean = float(np.mean(list(line.values.values())))
    return replace(line, values={seed: value - 0.9 * (mean - 55) for seed, value in line.values.items()})


def test_power_says_nothing_without_pairs() -> None:
    assert power.by_method(block(make_experiment(seeds=1)), [3]) == []
    assert power.phrase(block(make_experiment(seeds=1))) is None
    assert "5 seeds detect a difference of" in str(power.phrase(block(make_experiment(seeds=3))))


def test_the_power_command(tmp_path: Path) -> None:
    file = tiny.write(tmp_path, seeds=[0, 1, 2])
    nothing = CliRunner().invoke(app, ["power", str(file), "--results", str(tmp_path / "results")])
    assert nothing.exit_code == 2 and "no results yet" in nothing.output
    for run in tiny.plan(tmp_path, seeds=[0, 1, 2]):
        name = "none" if run.role == "teacher" else run.method.name
        row = make_row(name, run.seed, role=run.role, run_id=run.run_id, experiment="tiny", pair="tiny")
        store.write_run(tmp_path / "results" / "tiny", row | {"teacher_run_id": run.teacher_run, "data_hash": None})
    done = CliRunner().invoke(app, ["power", str(file), "--results", str(tmp_path / "results"), "--seeds", "7"])
    assert done.exit_code == 0, done.output
    assert "7 seeds" in done.output and "seeds needed" in done.output and "10 seeds" not in done.output
    bad = CliRunner().invoke(app, ["power", str(file), "--seeds", "1"])
    assert bad.exit_code == 2
