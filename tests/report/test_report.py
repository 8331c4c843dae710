import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

from harness.analysis import columns
from harness.analysis.columns import HEADER
from harness.analysis.comparison import quick_table
from harness.analysis.sheets import Remark
from harness.report.console import print_table
from harness.report.formats import to_csv, to_html, to_json, to_latex, to_markdown
from harness.report.page.colours import class_colours, colourise
from harness.report.plots.curves import Curve, Panel, curve_figure, panel
from harness.report.plots.style import BIG, INK, figure_svg, marker_path, style
from harness.results import store
from harness.results.schema import checked
from tests.support.rows import PALETTE, make_experiment, make_row, png

METHODS = ["none", "kd", "cwd", "sstkd"]


def points(curve):
    """The column `curve` as (steps, values)."""
    return curve and tuple(np.array([point[name] for point in curve]) for name in ("step", "dev_miou"))


def arrow(rows):
    return pa.Table.from_pylist([checked(r) for r in rows], schema=store.SCHEMA)


def scores(method, values, **changes):
    """Rows of one method with the given mIoUs, seeds 0, 1, ...; None leaves the seed out."""
    given = enumerate(values)
    return [make_row(method, s, dev_miou=v, best_dev_miou=v, **changes) for s, v in given if v is not None]


def cells(table, name, block=0):
    one = table.blocks[block]
    line = next(x for x in one.methods if x.label == name)
    return dict(zip(HEADER, columns.cells(line), strict=True))


@pytest.fixture(scope="module")
def rows():
    found = [r for r in make_experiment() if (r["method"], r["seed"]) != ("cwd", 2)]
    return [*found, make_row("cwd", 2, "failed")]


# --- the comparison


def test_cells_in_percentage_points_with_intervals():
    table = quick_table(arrow(scores("none", [0.50, 0.52, 0.54]) + scores("kd", [0.51, 0.55, 0.56])))
    kd = cells(table, "kd")
    assert kd["mIoU (val)"] == "54.00 ± 2.65 (n=3)" and kd["dev"] == "54.00"
    # Differences 1, 3, 2 points: mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.3027.
    assert kd["vs none"] == "+2.00 [-0.48, +4.48]"
    assert kd["vs kd"] == "–"
    assert cells(table, "none")["vs kd"] == "-2.00 [-4.48, +0.48]"
    assert cells(table, "none")["vs none"] == "–"


def test_a_small_p_value_is_not_0():
    none, kd = [0.50, 0.52, 0.54, 0.51, 0.53], [0.60, 0.6201, 0.64, 0.61, 0.63]
    line = quick_table(arrow(scores("none", none) + scores("kd", kd))).blocks[0].methods[1]
    (hint,) = (measure.hint(line) for measure in columns.MEASURES if measure.column.name == "vs none")
    assert hint == "p < 0.001 (paired t, Holm < 0.001)"


def test_a_mark_needs_an_interval_without_0_over_five_seeds():
    none, kd = [0.50, 0.52, 0.54, 0.51, 0.53], [0.52, 0.55, 0.558, 0.535, 0.55]
    few = quick_table(arrow(scores("none", none[:4]) + scores("kd", kd[:4])))
    assert cells(few, "kd")["vs none"] == "+2.33 [+1.47, +3.18]"
    alone = quick_table(arrow(scores("none", none) + scores("kd", kd)))
    # Differences 2, 3, 1.8, 2.5, 2 points; one comparison of two methods is the paired t-test.
    assert cells(alone, "kd")["vs none"] == "+2.26 [+1.65, +2.87] ▲"
    assert cells(alone, "none")["vs kd"] == "-2.26 [-2.87, -1.65] ▼"
    many = quick_table(arrow(scores("none", none) + scores("kd", kd) + scores("cwd", [0.4, 0.7, 0.5, 0.6, 0.5])))
    # The spread of another method widens all intervals: it is pooled.
    assert many.blocks[0].comparisons == 3
    assert "▲" not in cells(many, "kd")["vs none"] and cells(many, "kd")["vs none"].startswith("+2.26 [-")
    lines = {x.label: x for x in many.blocks[0].methods}
    assert lines["kd"].vs_none.p_holm == pytest.approx(3 * lines["kd"].vs_none.p_paired)
    assert lines["none"].vs_kd.p_holm == lines["kd"].vs_none.p_holm


def test_failed_and_missing_cells_are_printed(rows):
    table = quick_table(arrow(rows), [*METHODS, "dist"], seeds=[0, 1, 2, 3])
    assert [x.label for x in table.blocks[0].methods] == [*METHODS, "dist"]
    assert cells(table, "dist")["mIoU (val)"] == "not run"
    assert re.fullmatch(
        r"\d\d\.\d\d ± \d+\.\d\d \(n=2\); failed \(1 of 4\); not run \(1 of 4\)", cells(table, "cwd")[HEADER[1]]
    )
    assert table.blocks[0].notes == ("cwd, seed 2: failed: step 120: loss term 'cwd' is nan",)
    all_failed = scores("none", [0.5, 0.6]) + [make_row("kd", s, "failed") for s in (0, 1)]
    assert cells(quick_table(arrow(all_failed)), "kd")[HEADER[1]] == "failed (2 of 2)"
    skipped = [*scores("none", [0.5]), make_row("cwd", 0, "skipped")]
    assert cells(quick_table(arrow(skipped)), "cwd")[HEADER[1]] == "skipped (1 of 1)"


def test_a_difference_without_interval_is_not_printed_and_fewer_pairs_are_counted():
    one = quick_table(arrow(scores("none", [0.5]) + scores("kd", [0.7])))
    assert cells(one, "kd")[HEADER[1]] == "70.00 (n=1)"
    assert cells(one, "kd")["vs none"] == "no interval (n=1)"
    fewer = quick_table(arrow(scores("none", [0.5, 0.52]) + scores("kd", [0.7, 0.71, 0.72])))
    assert cells(fewer, "kd")["vs none"].endswith("(n=2)")
    apart = quick_table(arrow(scores("none", [None, 0.5]) + scores("kd", [0.7])))
    assert cells(apart, "kd")["vs none"] == "no pair"


def test_controls_come_first_and_are_always_there():
    table = quick_table(arrow(scores("sstkd", [0.6]) + scores("none", [0.5])), ["sstkd", "none"])
    assert [x.label for x in table.blocks[0].methods] == ["none", "kd", "sstkd"]
    assert cells(table, "kd")[HEADER[1]] == "not run"


def test_parameter_sets_of_one_method_are_lines_of_their_own():
    def cwd(tau, value):
        parameters = json.dumps({"tau": tau, "weight": 50.0})
        return make_row("cwd", 0, run_id=f"cwd-{tau}", method_parameters=parameters, dev_miou=value)

    rows = arrow([*scores("none", [0.5]), cwd(1.0, 0.61), cwd(4.0, 0.64)])
    # A label names only what differs from the defaults, as the experiment's own labels do.
    table = quick_table(rows, ["none", "cwd(tau=1.0)", "cwd"])
    assert [x.label for x in table.blocks[0].methods] == ["none", "kd", "cwd(tau=1.0)", "cwd"]
    assert cells(table, "cwd(tau=1.0)")[HEADER[1]].startswith("61.00")
    assert cells(table, "cwd")[HEADER[1]].startswith("64.00")
    for methods in ([], ["cwd"]):
        labels = [x.label for x in quick_table(rows, methods).blocks[0].methods]
        assert labels == ["none", "kd", "cwd(tau=1.0)", "cwd(tau=4.0)"]


def test_pairs_are_blocks_with_single_pixel_baseline_and_teacher_above():
    second = [r | {"run_id": "b" + r["run_id"], "pair": "b"} for r in make_experiment(seeds=1)[1:]]
    table = quick_table(arrow(make_experiment(seeds=2) + second))
    assert [b.pair for b in table.blocks] == ["b", "lite2-to-tiny"]
    for block in table.blocks:  # A teacher may serve several pairs.
        assert re.search(r"11\.03.*Teacher: 7\d\.\d\d \(600 steps, n=1\)", block.headline)
    assert table.blocks[0].methods[0].expected == 1


@pytest.mark.parametrize(
    ("teachers", "words"),
    [
        ([], "weights given (sha256 abababababab), not measured here"),
        ([make_row(role="teacher", status="failed")], "failed: step 120"),
        ([make_row(role="teacher", steps=0)], "(weights given, n=1)"),
    ],
)
def test_the_teacher_line_says_what_there_is(teachers, words):
    assert words in quick_table(arrow([*teachers, *scores("none", [0.5])])).blocks[0].headline


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"worker_history": [{"step": 0, "workers": 2}, {"step": 9, "workers": 1}]},
            "different elastic_workers are not comparable: False in .*, True in",
        ),
        ({"protocol_version": "1.1"}, "different protocol are not comparable: 1.0 in .*, 1.1 in"),
        ({"experiment": "other"}, "different experiment"),
        ({"data_hash": "ef" * 32}, "pair 'lite2-to-tiny': rows with different data_hash"),
        ({"recipe": json.dumps({"steps": 300, "batch_size": 16})}, r'recipe.*"batch_size": 8.*"batch_size": 16'),
        ({"budget_unit": "seconds"}, "budget_unit"),
        ({"ruleset": "tuned"}, "ruleset"),
        ({"absent_policy": "zero"}, "absent_policy"),
        ({"teacher_sha256": "00" * 32}, "teacher_sha256"),
        ({"student_init_sha256": "11" * 32}, "seed 1: rows with different student_init_sha256"),
        ({"run_id": "z"}, "two results for one cell"),
    ],
)
def test_rows_that_are_not_comparable_are_refused_by_name(change, message):
    rows = make_experiment(METHODS[:2], seeds=2)
    odd = make_row("kd", 1, **change)
    kept = [r for r in rows if r["run_id"] != odd["run_id"] or "run_id" in change]
    with pytest.raises(ValueError, match=message):
        quick_table(arrow([*kept, odd]))


def test_where_files_lie_and_how_often_they_are_saved_is_no_difference():
    def row(method, **recipe):
        network = json.dumps({"encoder_weights": {"path": recipe.pop("path"), "sha256": "aa"}})
        return make_row(method, recipe=json.dumps({"steps": 300, **recipe}), student_network=network)

    quick_table(arrow([row("none", checkpoint_every=10, path="/a"), row("kd", checkpoint_every=20, path="/b")]))


def test_no_students_no_table():
    with pytest.raises(ValueError, match="no student rows"):
        quick_table(arrow([make_row(role="teacher")]))


# --- what is printed


def test_markdown_shows_messages_as_they_are(rows):
    bad = make_row("kd", 5, "failed", message="a | b\n<b> *x* `y`")
    text = to_markdown(quick_table(arrow([*rows, bad])))
    assert "a \\| b \\<b\\> \\*x\\* \\`y\\`" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "| " + " | ".join(HEADER) + " |"
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {8}


def test_csv_holds_the_unrounded_numbers(rows):
    table = quick_table(arrow(rows))
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [x["method"] for x in lines] == METHODS
    sstkd = table.blocks[0].methods[3]
    assert float(lines[3]["vs_none_low"]) == sstkd.vs_none.difference.low
    assert (lines[2]["ok"], lines[2]["failed"], lines[0]["vs_none_mean"]) == ("2", "1", "")


@pytest.mark.parametrize("width", [80, 160])
def test_terminal_table_fits_and_tears_no_number(rows, width):
    out = io.StringIO()
    table = quick_table(arrow(rows), METHODS)
    print_table(table, Console(file=out, width=width), "results/quickstart")
    text = out.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    assert "results/quickstart/report.html" in text
    assert all(cell in text for cell in cells(table, "sstkd").values())


def test_into_a_pipe_nothing_is_folded(rows, capsys):
    table = quick_table(arrow(rows), METHODS)
    print_table(table)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert {table.legend, table.blocks[0].compared, *map(str, table.blocks[0].findings)} <= set(lines)
    whole = cells(table, "sstkd")["vs none"]
    assert any(line.startswith("sstkd") and whole in line for line in lines)


# --- pictures


def test_curves_have_one_marked_line_per_method_and_words_on_the_axes(rows):
    table = quick_table(arrow(rows), [*METHODS, "dist"])
    one = panel(table.blocks[0], {r["run_id"]: points(r.get("curve")) for r in rows})
    assert one.curves[-1] is None
    (axes,) = curve_figure([one]).get_axes()
    labelled = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    names = [line.get_label() for line in labelled]
    assert names[:4] == ["none (n=3)", "kd (n=3)", "cwd (n=2)", "sstkd (n=3)"]
    assert names[4].startswith("teacher 7") and names[5] == "single-pixel baseline 11.0"
    assert len({(line.get_linestyle(), line.get_marker()) for line in labelled[:4]}) == 4
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training step", "mIoU on dev (%)")
    runs = [r for r in rows if r["method"] == "kd"]
    mean = [100 * np.mean([r["curve"][k]["dev_miou"] for r in runs]) for k in range(6)]
    np.testing.assert_allclose(labelled[1].get_ydata(), mean)


def test_no_two_methods_look_the_same():
    assert len({repr(style(i)) for i in range(60)}) == 60
    assert INK not in {style(i)[0] for i in range(1, 60)}


def test_of_twenty_methods_each_has_a_colour_and_a_marker_of_its_own():
    looks = [style(i) for i in range(21)]
    assert len({colour for colour, *_ in looks}) == len({repr(marker) for *_, marker in looks}) == 21
    # Dots have no line style: colour and marker alone tell more methods apart.
    assert len({(style(i)[0], marker_path(i)) for i in range(60)}) == 60
    for i in range(21):
        numbers = [abs(float(x)) for x in re.findall(r"-?[0-9.]+", marker_path(i))]
        assert max(numbers) == 0.5 and "e" not in marker_path(i)


def test_runs_with_one_evaluation_are_dots():
    def one(n):
        curve = ((np.array([50]), np.array([20.0])), (np.array([50]), np.array([30.0])))
        return Panel("pair", (*(Curve(f"method {i}", curve) for i in range(n)), None), 5.0, 60.0)

    assert one(3).single
    (axes,) = curve_figure([one(3)]).get_axes()
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"method {i} (n=2)" for i in range(3)]
    assert axes.get_xlabel() == "mIoU on dev (%)" and axes.get_legend_handles_labels()[1] == [
        "teacher 60.0", "single-pixel baseline 5.0"
    ]  # fmt: skip
    assert [float(x.get_xdata()[0]) for x in axes.get_lines() if x.get_markersize() == BIG] == [25.0] * 3
    many, few = (curve_figure([one(n)]).get_size_inches()[1] for n in (40, 3))
    assert many > few


def test_a_legend_beside_the_curves_leaves_them_their_height():
    curve = ((np.array([50, 100]), np.array([20.0, 30.0])),)
    one = Panel(
        "", tuple(Curve(f"kd(convention=canonical, temperature=4.0, weight={i}.0)", curve) for i in range(20)), 5, 60
    )
    figure = curve_figure([one], 9.6, 4.3, beside=True)
    figure.draw_without_rendering()
    (part,) = figure.subfigs
    (axes,), (legend,) = part.axes, part.legends
    box = legend.get_window_extent()
    assert box.x0 >= axes.get_window_extent().x1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1
    assert axes.get_window_extent().width > 0.5 * figure.bbox.width


def test_a_mean_curve_uses_only_the_steps_all_seeds_have():
    short, long = make_row("kd", 0), make_row("kd", 1)
    short["curve"] = short["curve"][1:3]
    table = quick_table(arrow([short, long]))
    one = panel(table.blocks[0], {r["run_id"]: points(r["curve"]) for r in (short, long)})
    assert one.curves[1].mean[0].tolist() == [100, 150]


def test_figures_repeat_byte_for_byte(rows):
    table = quick_table(arrow(rows))
    one = panel(table.blocks[0], {r["run_id"]: points(r.get("curve")) for r in rows})
    assert figure_svg(curve_figure([one])) == figure_svg(curve_figure([one]))
    with pytest.raises(ValueError, match="no panels"):
        curve_figure([])


def test_label_maps_take_the_palette_and_void_no_class():
    colours = class_colours(PALETTE, 6)
    image = Image.open(io.BytesIO(colourise(png(np.array([[0, 5], [255, 255]])), colours, 255)))
    pixels = np.asarray(image)
    assert pixels[0].tolist() == [PALETTE[0], PALETTE[5]]
    assert not any(pixels[1, x].tolist() in PALETTE for x in (0, 1))
    assert len(np.unique(class_colours(None, 21), axis=0)) == 21
    with pytest.raises(ValueError, match="id 9; there are 6 classes"):
        colourise(png(np.full((2, 2), 9)), colours, 255)
    with pytest.raises(ValueError, match="8-bit grey"):
        colourise(png(np.zeros((2, 2, 3))), colours, 255)
    with pytest.raises(ValueError, match="a label map is a PNG"):
        colourise(b"no", colours, 255)
    with pytest.raises(ValueError, match="3 colours"):
        class_colours(PALETTE, 3)


def test_what_must_be_known_of_a_method_is_under_the_table():
    rows = [row | {"caveat": "weights unverified" if row["method"] == "sstkd" else None} for row in make_experiment()]
    table = quick_table(arrow(rows))
    assert table.blocks[0].caveats == ("sstkd: weights unverified",)
    assert "- sstkd: weights unverified" in to_markdown(table)


def test_a_legend_of_many_methods_leaves_room_for_the_curves():
    curve = ((np.array([50, 100]), np.array([20.0, 30.0])),)
    few, many = (
        Panel("pair", tuple(Curve(f"a method with a long name {i}", curve) for i in range(n)), 5.0, 60.0)
        for n in (3, 24)
    )
    heights = []
    for one in (few, many):
        figure = curve_figure([one, one])
        figure.draw_without_rendering()
        for part in figure.subfigs:
            (axes,) = part.axes
            (legend,) = part.legends
            below = axes.get_tightbbox().y0
            assert legend.get_window_extent().y1 <= below + 1, "the legend lies on the axes"
            heights.append(axes.get_window_extent().height)
    assert max(heights) < 1.6 * min(heights)


def test_a_table_is_arrow_and_pandas(rows, monkeypatch):
    table = quick_table(arrow(rows), METHODS)
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    made = table.to_arrow()
    assert made.column_names == list(lines[0]) and made.to_pylist() == table.records()
    assert made["vs_none_mean"].to_pylist()[1] == float(lines[1]["vs_none_mean"])
    frame = table.to_pandas()
    assert frame["method"].tolist() == METHODS and frame["dev_miou_percent_n"].tolist() == [3, 3, 2, 3]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="to_pandas needs pandas"):
        table.to_pandas()


def test_a_remark_is_in_every_format(rows):
    """Whatever is added to a block's remarks: all formats walk the same sections."""
    table = quick_table(arrow(rows), METHODS)
    block = replace(table.blocks[0], caveats=("a caveat",), findings=(Remark("a finding", "unfair"),), images=("x: 1",))
    table = replace(table, blocks=(block,))
    out = io.StringIO()
    print_table(table, Console(file=out, width=200))
    written = [out.getvalue(), to_markdown(table), to_latex(table), to_html(table), to_json(table)]
    for text in written:
        for said in ("Single-pixel baseline", "300 steps per run", "a caveat", "a finding", "x: 1", "Compared on"):
            assert said in text
