"""The forest plot: which differences it shows, where, and what tells them apart."""

from dataclasses import replace

import pytest

from harness.analysis.labels import Label
from harness.analysis.lines import Comparison, MethodRow
from harness.analysis.stats import Difference, Score
from harness.analysis.tables import Block, Teacher
from harness.report.plots.forest import PAPER, forest, forest_figure
from harness.report.plots.style import BIG, figure_svg, style
from harness.report.write import write_report
from harness.results import store
from tests.support.rows import make_experiment, make_row


def against(mean, half, n=5):
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return Comparison(Difference(mean, low, high, n))


def line(name, vs_none=None, vs_kd=None, mean: float | None = 60.0):
    return MethodRow(
        name=Label.read(name), run_ids={}, failed=0 if mean else 5, skipped=0, missing=0, expected=5,
        reference=name if name in ("none", "kd") else "", miou=Score(mean, 0.5, 5) if mean else None, vs_none=vs_none,
        vs_kd=vs_kd,
    )  # fmt: skip


@pytest.fixture(scope="module")
def block():
    methods = (
        line("none", None, against(-2.0, 1.0)),
        line("kd", against(2.0, 1.0)),
        line("none at equal seconds", against(5.0, 1.5), against(3.0, 4.0)),
        line("cwd", against(1.0, 3.0), against(-1.0, 3.0)),
        line("at", against(3.0, None, 1), against(1.0, None, 1)),
        line("dist", mean=None),
    )
    return Block(
        pair="lite2-to-tiny", dataset="texmosaic", protocol="2.0", ruleset="published", budget_amount=1000.0,
        budget_unit="steps", devices="cpu", floor=None, dev_floor=None, teacher=Teacher(), methods=methods,
        comparisons=7, notes=(),
    )  # fmt: skip


def texts(axes):
    return [text.get_text() for text in axes.texts]


def drawn(axes):
    """(difference, face, edge, marker) of the markers, from top to bottom."""
    found = [each for each in axes.get_lines() if each.get_markersize() == BIG]
    return [
        (float(each.get_xdata()[0]), each.get_markerfacecolor(), each.get_markeredgecolor(), each.get_marker())
        for each in found
    ]


def test_lines_are_in_the_tables_order_or_by_gain(block):
    assert forest(block).lines == ("kd", "none at equal seconds", "cwd", "at", "dist")
    # Without an interval a difference has no place among the others.
    assert forest(block, gain=True).lines == ("none at equal seconds", "kd", "cwd", "at", "dist")


def test_numbers_and_intervals_are_those_of_the_table(block):
    none, kd = forest_figure([forest(block)]).axes
    assert texts(none) == [
        "+2.00 [+1.00, +3.00] ▲", "+5.00 [+3.50, +6.50] ▲", "+1.00 [−2.00, +4.00]", "no interval (n=1)",
        "failed (5 of 5)",
    ]  # fmt: skip
    assert texts(kd) == ["reference", "+3.00 [−1.00, +7.00]", "−1.00 [−4.00, +2.00]", "no interval (n=1)", "–"]
    assert [x for x, *_ in drawn(none)] == [2.0, 5.0, 1.0] and [x for x, *_ in drawn(kd)] == [3.0, -1.0]
    ends = [tuple(map(float, each.get_xdata())) for each in none.get_lines() if len(each.get_xdata()) == 2]
    assert {(1.0, 3.0), (3.5, 6.5), (-2.0, 4.0)} <= set(ends)
    assert any(list(each.get_xdata()) == [0, 0] for each in none.get_lines())


def test_significant_is_filled_and_methods_look_as_in_the_curves(block):
    none, _ = forest_figure([forest(block)]).axes
    looks = [style(place) for place in (1, 2, 3)]
    assert [face for _, face, *_ in drawn(none)] == [looks[0][0], looks[1][0], PAPER]
    assert [edge for *_, edge, _ in drawn(none)] == [colour for colour, *_ in looks]
    assert [marker for *_, marker in drawn(none)] == [marker for *_, marker in looks]
    by_gain = forest_figure([forest(block, gain=True)]).axes[0]
    assert [edge for *_, edge, _ in drawn(by_gain)] == [looks[i][0] for i in (1, 0, 2)]


def test_an_interval_of_few_seeds_does_not_squeeze_the_others(block):
    wide = replace(block, methods=(*block.methods, line("fitnet", against(1.0, 400.0), against(1.0, 400.0))))
    none, _ = forest_figure([forest(wide)]).axes
    low, high = none.get_xlim()
    assert high - low < 40
    assert {4, 5} <= {each.get_marker() for each in none.get_lines()}  # arrows to both sides


@pytest.mark.parametrize("stacked", [False, True])
def test_letters_are_legible_and_inside(block, stacked):
    figure, again = (forest_figure([forest(block)], 3.7 if stacked else 7.2, stacked) for _ in range(2))
    assert figure_svg(figure) == figure_svg(again)
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [text for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high]
        for text in (*axes.texts, *ticks, *axes.get_yticklabels(), axes.title, axes.xaxis.label):
            if text.get_text():
                assert text.get_fontsize() >= 7
                box = text.get_window_extent()
                assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1, text.get_text()


def test_without_a_difference_there_is_no_plot(block, tmp_path):
    assert forest(replace(block, methods=(line("none"), line("dist", mean=None)))) is None
    with pytest.raises(ValueError, match="no forests"):
        forest_figure([])
    for row in (make_row("none", seed) for seed in (0, 1)):
        store.write_run(tmp_path, row)
    files = write_report(tmp_path, ["none"])
    assert "forest_png" not in files and "forest.png" not in files["markdown"].read_text()
    assert ">Differences<" not in files["html"].read_text()


def test_the_files_lie_beside_the_curves(tmp_path):
    for row in make_experiment(seeds=2):
        store.write_run(tmp_path, row | {"samples": None})
    files = write_report(tmp_path, ["none", "kd", "cwd", "sstkd"])
    assert files["forest_png"].read_bytes().startswith(b"\x89PNG") and files["forest_png"].name == "forest.png"
    assert files["forest_svg"].read_text().count("<svg") == 1
    assert "Differences: `forest.png`" in files["markdown"].read_text()
    page = files["html"].read_text()
    assert page.count('aria-label="differences of val mIoU to the references') == 4  # two orders, wide and narrow
