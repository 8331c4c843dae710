"""All pictures: legible at the width of a paper's column and of its two, in grey, from committed rows; and the docs'."""

import ast
import io
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from PIL import Image

from harness.analysis.stats import Score
from harness.report.plots import style as look
from harness.report.plots.classes import Gains, class_figure
from harness.report.plots.cost import Point, cost_figure, points
from harness.report.plots.style import COLUMN, FULL, figure_png, figure_svg, legible, marker_path, style
from tests.support import gallery, letters
from tests.support.gallery import ACROSS, ASSETS, DRAWN, MADE_BY

PLOTS = Path(look.__file__).parent
PAGE = gallery.ROOT / "docs" / "gallery.md"
LEAST = 7  # points
CASES = [
    (gallery.curves, "quickstart"),
    (gallery.curves, "compare-distillers"),
    pytest.param(gallery.curves, "sensitivity", marks=pytest.mark.slow),
    (gallery.differences, "quickstart"),
    (gallery.differences, "compare-distillers"),
    pytest.param(gallery.differences, "sensitivity", marks=pytest.mark.slow),
    (gallery.differences, "positive-controls"),
    (gallery.classes, "quickstart"),
    (gallery.classes, "pretrained"),
    pytest.param(gallery.classes, "sensitivity", marks=pytest.mark.slow),
    (gallery.cost, "quickstart"),
    (gallery.cost, "sensitivity"),
    (gallery.gradients, ""),
    (gallery.best_so_far, "quickstart-tuned"),
    (gallery.trials, "quickstart-tuned"),
    (gallery.sensitivity, "sensitivity"),
    (gallery.sensitivity, "sensitivity-texmosaic"),
]


@pytest.mark.parametrize("width", [COLUMN, FULL])
@pytest.mark.parametrize(("draw", "folder"), CASES)
def test_a_figure_is_legible_at_the_width_at_which_it_is_printed(draw, folder, width):
    figure = draw(folder, width)
    assert figure.get_size_inches()[0] == width
    found = letters.texts(figure)
    # An exponent or index is smaller than its text.
    assert [
        text.get_text()
        for text, _ in found
        if text.get_fontsize() < LEAST or re.search(r"\$.*[\^_].*\$", text.get_text())
    ] == []
    assert letters.overlapping(found) == []
    assert letters.outside(figure, found) == []
    assert letters.covering(figure) == []
    for legend in figure.findobj(Legend):
        seen = [letters.looks(handle) for handle in legend.legend_handles if isinstance(handle, Line2D)]
        # Markers alone, without lines, are 21.
        seen = seen[:21] if seen[0][1] == "None" else seen
        assert len(set(seen)) == len(seen)


def test_in_grey_a_hundred_lines_are_told_apart_by_dashes_and_markers():
    looks = [(repr(dash), marker_path(i)) for i, (_, dash, _) in ((i, style(i)) for i in range(101))]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize("draw", [gallery.curves, gallery.differences, gallery.classes, gallery.cost])
def test_a_figure_does_not_depend_on_the_settings_of_a_machine(draw):
    figures = draw("quickstart"), draw("quickstart")
    expected = figure_png(figures[0]), figure_svg(figures[0])
    assert (figure_png(figures[1]), figure_svg(figures[1])) == expected
    own = {"font.family": "serif", "font.size": 20, "lines.linewidth": 9, "savefig.bbox": "tight", "axes.grid": True}
    with mpl.rc_context(own):
        again = draw("quickstart")
        assert (figure_png(again), figure_svg(again)) == expected
        assert mpl.rcParams["font.size"] == 20
    assert b"tIME" not in expected[0] and b"Software" not in expected[0]
    assert "<dc:date>" not in expected[1] and "<text" not in expected[1]  # letters are outlines, without a font


def test_sizes_and_colours_are_in_one_file():
    """A number or a colour beside a keyword that the style has a name for is a second style."""
    named = ("fontsize", "labelsize", "linewidth", "elinewidth", "markersize", "color", "facecolor", "figsize", "dpi")
    plain = {"none", 0}
    found = [
        f"{path.name}:{node.value.lineno}: {node.arg}={node.value.value!r}"
        for path in sorted(PLOTS.glob("*.py"))
        if path.name not in ("style.py", "across.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword) and node.arg in named and isinstance(node.value, ast.Constant)
        and node.value.value not in plain
    ]  # fmt: skip
    assert found == []
    for path in PLOTS.glob("*.py"):
        if path.name not in ("style.py", "across.py"):
            assert not re.search(r"#[0-9a-f]{6}", path.read_text()), path.name


# --- classes and cost


def made_up(methods=3, classes=19):
    rng = np.random.default_rng(0)
    values = rng.normal(0, 4, (methods, classes))
    values[0, 0], values[1, 1] = np.nan, -0.04
    names = tuple(f"class of many letters {i}" if i % 5 == 0 else f"class {i}" for i in range(classes))
    return Gains("pair on data", "none", tuple(f"method {i}" for i in range(methods)), names, values)


@pytest.mark.parametrize(("width", "classes"), [(FULL, 19), (FULL, 60), (COLUMN, 19), (COLUMN, 2)])
def test_classes_that_do_not_fit_beside_each_other_go_below(width, classes):
    one = made_up(classes=classes)
    figure = class_figure([one], width)
    found = letters.texts(figure)
    assert letters.overlapping(found) == [] and letters.outside(figure, found) == []
    words = [text.get_text().replace("\n", " ") for text, _ in found]
    assert [words.count(name) for name in one.classes] == [1] * classes
    parts = [axes for axes in figure.axes if axes.get_ylabel() == "" and axes.collections and len(axes.texts)]
    assert sum(len(axes.texts) for axes in parts) == 3 * classes
    assert all(words.count(name) == len(parts) for name in one.methods)


def test_the_numbers_of_the_classes_are_those_of_the_rows():
    table, rows = gallery.compared("quickstart")
    figure = gallery.classes("quickstart")
    (block,) = table.blocks
    texts = [text.get_text() for text in figure.axes[0].texts]
    names = [x.label for x in block.methods if x is not block.baseline]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    expected = []
    for name in names:
        pairs = [(block.line(name).run_ids[seed], other) for seed, other in block.baseline.run_ids.items()]
        mean = np.mean([iou(rows[a]["val_confusion"]) - iou(rows[b]["val_confusion"]) for a, b in pairs], axis=0)
        expected += [f"{round(x, 1) or 0.0:+.1f}".replace("-", "\N{MINUS SIGN}") for x in 100 * mean]
    assert texts == expected


def iou(counts):
    counts = np.reshape(counts, (round(len(counts) ** 0.5), -1))
    return np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))


def test_a_class_that_is_nowhere_has_a_dash_and_nothing_is_minus_zero():
    texts = [text.get_text() for text in class_figure([made_up(2, 4)]).axes[0].texts]
    assert texts[0] == "–" and texts[5] == "+0.0"
    with pytest.raises(ValueError, match="no gains by class"):
        class_figure([])


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_numbers_stand_off_from_their_cells():
    for place in np.linspace(0, 1, 101):
        for shade in (mpl.colormaps[look.DIVERGING](place), (place, place, place)):
            dark, light = sorted((luminance(shade[:3]), luminance(legible(shade))))
            assert (light + 0.05) / (dark + 0.05) >= 4.5
    figure = gallery.classes("quickstart")
    (mesh,) = figure.axes[0].collections
    bound = mesh.norm.vmax
    assert mesh.norm.vmin == -bound and mesh.cmap(mesh.norm(0.0))[:3] == pytest.approx((0.97, 0.97, 0.97), abs=0.02)
    for text, shade in zip(figure.axes[0].texts, mesh.cmap(mesh.norm(mesh.get_array())).reshape(-1, 4), strict=True):
        assert text.get_color() == legible(shade)


def point(label, place, miou, step_ms, train_s):
    return Point(label, place, Score(miou, 1.0, 5), step_ms, train_s)


def test_the_front_is_what_nothing_is_cheaper_and_better_than():
    mine = [
        point("none", 0, 60.0, 20.0, 20.0), point("kd", 1, 62.0, 30.0, 30.0), point("cwd", 2, 61.0, 40.0, 40.0),
        point("none at equal seconds", 3, 65.0, None, 41.0),
    ]  # fmt: skip
    steps, whole = cost_figure([("pair on data", mine)]).axes
    assert [line.get_xydata().tolist() for line in (steps.lines[-1], whole.lines[-1])] == [
        [[20.0, 60.0], [30.0, 62.0]], [[20.0, 60.0], [30.0, 62.0], [41.0, 65.0]],
    ]  # fmt: skip
    # A line that trains longer has the step time of another: it is compared by the whole training only.
    assert len([line for line in steps.lines if line.get_linestyle() == "None"]) == 3
    with pytest.raises(ValueError, match="no costs"):
        cost_figure([("pair on data", mine[:1])])


def test_costs_are_those_of_the_table():
    table, rows = gallery.compared("quickstart")
    (block,) = table.blocks
    found = {one.label: one for one in points(block, rows)}
    assert list(found) == [x.label for x in block.methods]
    for x in block.methods:
        one = found[x.label]
        assert one.miou == x.miou
        assert one.train_s == np.median([rows[run]["train_seconds"] for run in x.run_ids.values()])
        assert one.step_ms == (None if "equal" in x.label else pytest.approx(1000 * x.step_s))


# --- the docs


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("L"), np.int16)


@pytest.mark.parametrize("name", [*DRAWN, *ACROSS])
def test_a_picture_of_the_docs_is_what_the_rows_give(name):
    renew = f"renew it: python -m tests.support.gallery {name}; and read again the page that shows it"
    drawn, there = pixels(gallery.png(name)), pixels((ASSETS / f"{name}.png").read_bytes())
    if mpl.__version__.startswith(f"{MADE_BY}."):
        assert drawn.shape == there.shape, renew
        # A digit that is another one changes more pixels than that, rounding on another processor fewer.
        assert (abs(drawn - there) > 48).sum() <= 20, renew
    else:
        np.testing.assert_allclose(drawn.shape, there.shape, rtol=0.1, err_msg=renew)


def test_the_gallery_shows_every_kind_of_picture():
    page = PAGE.read_text()
    shown = re.findall(r"!\[[^\]]+\]\(assets/([^)]+)\.png\)", page)
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    assert len(shown) == len(set(shown)) == len(sections) and set(shown) <= {*DRAWN, *ACROSS}
    assert {name for name in (*DRAWN, *ACROSS) if name.startswith("gallery-")} <= set(shown)
    assert {draw for draw, _ in DRAWN.values()} == {DRAWN[name][0] for name in shown if name in DRAWN}
    for section in sections:
        assert re.search(r"`sstkd-bench (tables|tune|compare) ", section), section
    for name in shown:
        if name in DRAWN and DRAWN[name][1]:
            (section,) = (text for text in sections if f"({'assets/' + name}.png)" in text)
            assert f"experiments/{gallery.file_of(DRAWN[name][1])}.yaml" in section


def test_no_picture_of_the_docs_is_left_over():
    pages = "".join(path.read_text() for path in (*gallery.ROOT.glob("docs/**/*.md"), gallery.ROOT / "README.md"))
    assert [path.name for path in sorted(ASSETS.iterdir()) if f"assets/{path.name}" not in pages] == []
