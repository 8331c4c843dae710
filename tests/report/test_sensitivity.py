"""The figure of how a method's mIoU depends on its hyper-parameters: which lines are a series, and what is drawn."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.analysis.comparison import quick_table
from harness.experiment.load import load
from harness.report.plots.sensitivity import of_block, sensitivity_figure, series
from harness.report.plots.style import figure_svg
from harness.report.write import write_report
from harness.results import store
from tests.support.rows import make_experiment, make_longer, make_settings

FILE = Path(__file__).parents[2] / "experiments" / "sensitivity.yaml"


def named(method, *parameters):
    """Lines of a method, called by their place."""
    return {f"{method} {i}": (method, json.dumps(each)) for i, each in enumerate(parameters)}


def found(*lines):
    return [(s.parameters, s.values, s.default) for s in series(named(*lines))]


@pytest.fixture(scope="module")
def experiment():
    return load(FILE)


def peak(method):
    """mIoU with the most where every weight that is on is the paper's; kd a little over none."""
    given = method.parameters
    factors = [given[name] / default for name, default in (("w_str", 0.9), ("w_sta", 1.15)) if given.get(name)]
    return {"none": 0.46, "kd": 0.49}.get(method.name) or 0.48 + 0.03 * len(factors) - 0.03 * np.log10(factors[0]) ** 2


@pytest.fixture(scope="module")
def rows(experiment):
    made = make_settings(experiment, peak)
    return [*made, *make_longer(made)]


@pytest.fixture(scope="module")
def block(experiment, rows):
    import pyarrow as pa

    from harness.results.schema import checked

    table = pa.Table.from_pylist([checked(row) for row in rows], schema=store.SCHEMA)
    return quick_table(table, [method.label for method in experiment.methods], experiment.seeds).blocks[0]


def by_id(rows):
    return {row["run_id"]: row for row in rows}


def test_lines_that_differ_in_one_number_are_a_series_by_rising_value():
    assert found("kd", {"weight": 9.0}, {"weight": 1}, {"weight": 3.0}) == [(("weight",), (1.0, 3.0, 9.0), 1.0)]
    (one,) = series(named("kd", {"weight": 9.0}, {"weight": 1}, {"weight": 3.0}))
    assert (one.method, one.labels, one.axis) == ("kd", ("kd 1", "kd 2", "kd 0"), "weight")


@pytest.mark.parametrize(
    "lines",
    [
        ("kd", {"weight": 1.0}, {"weight": 3.0}),
        ("kd", {"weight": 0.0}, {"weight": 1.0}, {"weight": 3.0}),
        ("kd", {"weight": 1.0}, {"weight": 3.0, "temperature": 2.0}, {"weight": 9.0}),
        ("sstkd", {"levels": [2]}, {"levels": [3]}, {"levels": [4]}),
        ("sstkd", {"boundary": "a"}, {"boundary": "b"}, {"boundary": "c"}),
        ("sstkd", {"w_str": 0.9, "w_sta": 1.0}, {"w_str": 1.8, "w_sta": 2.1}, {"w_str": 2.7, "w_sta": 3.0}),
        ("kd+cwd", {"kd.weight": 1.0}, {"kd.weight": 2.0}, {"kd.weight": 3.0}),
        ("none", {}),
        ("mine.of:Own", {"on": True}, {"on": False}, {"on": None}),
        ("mine.of:Own", {"w": float("inf")}, {"w": float("nan")}, {"w": -1.0}),
    ],
)
def test_no_series(lines):
    assert found(*lines) == []


def test_values_that_are_no_number_of_a_plot_are_left_out():
    lines = named("mine.of:Own", {"w": 10**400}, {"w": float("inf")}, {"w": 1}, {"w": 10}, {"w": 100})
    assert [s.values for s in series(lines)] == [(1.0, 10.0, 100.0)]


def test_a_common_factor_is_of_the_defaults_where_these_are_known():
    lines = [{"w_str": 0.09 * f, "w_sta": 1.15 * f} for f in (0.3, 1, 3)]
    (one,) = series(named("sstkd", *lines))
    assert one.parameters == ("w_str", "w_sta") and one.default == 1 and one.fixed == {}
    assert one.values == pytest.approx((0.3, 1, 3)) and one.axis == "w_str / 0.09 = w_sta / 1.15"
    (one,) = series(named("sstkd", *({"w_str": f, "w_sta": 2 * f} for f in (0.3, 1, 3))))
    assert (one.values, one.default, one.axis) == ((0.3, 1, 3), None, "w_str = w_sta / 2")


def test_a_method_that_is_not_known_here_has_no_default():
    (one,) = series(named("gone.away:Mine", *({"w": w, "t": 2.0, "u": "a"} for w in (1, 2, 4))))
    assert (one.default, one.values, one.fixed) == (None, (1.0, 2.0, 4.0), {})
    two = series(named("gone.away:Mine", *({"w": w, "t": t} for t in (0.0, 5.0) for w in (1, 2, 4))))
    assert [s.fixed for s in two] == [{"t": 0.0}, {"t": 5.0}]


def test_a_parameter_that_a_row_lacks_has_its_default():
    assert found("kd", {"weight": 3.0, "temperature": 1.0}, {"weight": 9.0}, {"temperature": 1.0}) == [
        (("weight",), (1.0, 3.0, 9.0), 1.0)
    ]


def test_a_grid_is_lines_and_columns_without_diagonals():
    sides = (0.1, 1.0, 10.0)
    grid = [{"w_str": a, "w_sta": b} for a in sides for b in sides]
    assert {s.parameters for s in series(named("sstkd", *grid))} == {("w_str",), ("w_sta",)}
    assert len(series(named("sstkd", *grid))) == 6


def test_the_study_of_sstkd_has_five(experiment):
    lines = {m.label: (m.name, json.dumps(m.parameters)) for m in experiment.methods}
    factors = (0.1, 0.3, 1, 3, 10, 100)
    structural, statistical = (tuple(w * f for f in factors) for w in (0.9, 1.15))
    alone = {"w_re": 0.0}  # the response at 1 is the default, and so is no critic
    wanted = [
        (("w_str",), structural, 0.09, alone | {"w_sta": 0.0}),
        (("w_sta",), statistical, 1.15, alone | {"w_str": 0.0}),
        (("w_str",), structural, 0.09, {"w_sta": 0.0}),
        (("w_sta",), statistical, 1.15, {"w_str": 0.0}),
        (("w_str", "w_sta"), structural, None, alone),
    ]
    assert [(s.parameters, s.default, s.fixed) for s in series(lines)] == [(p, d, f) for p, _, d, f in wanted]
    for one, (_, values, _, _) in zip(series(lines), wanted, strict=True):
        assert one.values == pytest.approx(values)


def test_the_picture_names_series_and_references(block, rows):
    text = figure_svg(sensitivity_figure([(block, of_block(block, by_id(rows)))]), text=True)
    words = re.findall(r">([^<>]+)</text>", text)
    for title in ("sstkd, w_re=0, w_sta=0", "sstkd, w_str=0", "sstkd, w_re=0"):
        assert title in words
    for line in block.methods:
        if line.label in ("none", "kd", "none at equal seconds"):
            assert f"{line.label} {line.miou.mean:.1f}" in words
    assert words.count("w_str") == 2 and words.count("w_str = w_sta / 1.278") == 1
    assert {"0.09", "0.27", "0.9", "90", "1.15", "115", "mIoU on val (%)", "the method's default"} <= set(words)
    assert "mean ± standard deviation (n=5)" in words


def test_a_default_outside_the_values_is_seen_and_a_dollar_is_no_formula(block, rows):
    (one, *_) = of_block(block, by_id(rows))
    one = replace(one, default=1e-3, fixed={"path": "$no{$"})
    figure = sensitivity_figure([(block, [one])])
    (axes,) = figure.axes
    assert axes.get_xlim()[0] < 1e-3 and axes.get_xlim()[1] > 90
    assert ">sstkd, path=$no{$</text>" in figure_svg(figure, text=True)


def test_points_are_where_the_rows_are(block, rows):
    figure = sensitivity_figure([(block, of_block(block, by_id(rows)))])
    axes = figure.axes
    assert len(axes) == 5 and all(each.get_xscale() == "log" for each in axes)
    mine = [
        row for row in rows if '"w_str": 0.09, "w_sta": 0.0' in row["method_parameters"] and row["run_id"][:2] == "2-"
    ]
    assert len(mine) == 5
    values = [100 * row["val_miou"] for row in mine]
    found = [line for line in axes[0].get_lines() if line.get_marker() == "o"]
    assert len(found) == 6 and sorted(found[0].get_ydata()) == pytest.approx(sorted(values))
    assert all(0.09 < x < 0.15 for x in found[0].get_xdata())
    (means,) = (line for line in axes[0].get_lines() if line.get_marker() == "^")
    assert (means.get_xdata()[0], means.get_ydata()[0]) == pytest.approx((0.09, np.mean(values)))


def test_lines_without_a_result_are_left_out(block, rows):
    """With two results left a series is none."""
    some = [line if "w_sta=0.0" not in line.label else replace(line, run_ids={}) for line in block.methods]
    left = of_block(replace(block, methods=tuple(some)), by_id(rows))
    assert [(s.parameters, dict(s.fixed).get("w_re", 1.0)) for s in left] == [
        (("w_sta",), 0.0), (("w_sta",), 1.0), (("w_str", "w_sta"), 0.0),
    ]  # fmt: skip
    assert of_block(replace(block, ruleset="tuned"), by_id(rows)) == []


def test_one_seed_has_a_mean_only(experiment, tmp_path):
    made = make_settings(experiment.model_copy(update={"seeds": (0,)}), peak)
    for row in made:
        store.write_run(tmp_path, row)
    files = write_report(tmp_path)
    assert files["sensitivity_png"].read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="no series: three lines"):
        sensitivity_figure([])


def test_it_is_two_files_and_on_the_page(tmp_path, rows):
    for row in rows:
        store.write_run(tmp_path, row)
    files = write_report(tmp_path)
    assert files["sensitivity_png"].name == "sensitivity.png" and files["sensitivity_svg"].name == "sensitivity.svg"
    assert files["sensitivity_svg"].read_text().count("<svg") == 1
    assert ">Sensitivity<a " in files["html"].read_text()


def test_an_ordinary_comparison_has_none(tmp_path):
    for row in make_experiment():
        store.write_run(tmp_path, row)
    files = write_report(tmp_path)
    assert "sensitivity_png" not in files and "Sensitivity" not in files["html"].read_text()
