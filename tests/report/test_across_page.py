"""The page of a comparison: as a file, and in a browser: points and numbers open their runs, nothing sticks out."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness import borders
from harness.report.page import tables
from harness.report.plots.across import rank_plot
from tests.report.test_page_file import Page, page_data, value_of
from tests.support.across_page import METHODS, page_of, read, write_rows
from tests.support.browser import needs_chromium, opened

EVIL = "<script>alert(1)</script>\"'&"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("across")
    write_rows(folder, exported=True)
    return page_of(folder, {"x": "../x/report.html"})


@pytest.fixture(scope="module")
def text(page_file):
    return page_file.read_text("utf-8")


def test_it_answers_first_then_shows_gains_ranks_and_costs(text, page_file):
    found, _, _ = read(page_file.parent)
    heads = [
        ">Over 2 pairs of 2 datasets<", f'<p class="answer">{found.pick}</p>', ">Gains<", ">Ranks<",
        ">Performance profiles<", ">Accuracy against cost<", ">Exports: p0 on x<", ">Exports: p0 on y<",
        ">Gains by class<", ">Pairs<", ">Fairness<", ">Runs<",
    ]  # fmt: skip
    places = [text.index(head) for head in heads]
    assert places == sorted(places)
    words = " ".join("".join(Page(text).words).split())
    assert "mean rank over 2 datasets, 1 is best" in words and "seconds of training" in words


def test_it_loads_nothing_and_every_link_has_an_end(text):
    page = Page(text)
    assert not {"link", "iframe", "object", "img"} & set(page.tags) and page.tags.count("script") == 2
    assert len(page.ids) == len(set(page.ids))
    inner = {target[1:] for target in page.loads if target.startswith("#")}
    assert inner <= {*page.ids, "Runs"}
    assert [target for target in page.loads if not target.startswith("#")] == ["../x/report.html#p0-on-x"]
    # Four costs and two of exports, each wide and narrow, of each method of both datasets.
    points = re.findall(r'<a href="#gain-(\d)-(\d)" aria-label="([^"]+): its runs">', text)
    assert len(points) == 2 * 6 * 8 and set(points) == {
        (str(t), str(m), f"{name} on p0 on {dataset}")
        for t, dataset in enumerate("xy")
        for m, name in enumerate(METHODS)
    }


def test_it_knows_every_run_and_how_to_repeat_it(text, page_file):
    _, rows, _ = read(page_file.parent)
    data = page_data(text)
    assert {row[11] for row in data["rows"]} == set(rows) and len(rows) == 2 * 21 - 3
    assert [row[0] for row in data["rows"]] == ["p0 on x"] * 21 + ["p0 on y"] * 18
    assert data["several"] and [block["where"] for block in data["blocks"]] == ["p0 on x", "p0 on y"]
    for i, row in enumerate(data["rows"]):
        dataset = row[0][-1]
        assert value_of(data["facts"]["repeat"], i) == f"sstkd-bench run experiments/{dataset}.yaml"
        assert value_of(data["facts"]["experiment"], i) == dataset


def test_texts_of_rows_cannot_become_markup(tmp_path):
    write_rows(tmp_path, pair=EVIL, device=EVIL, overrides=[EVIL])
    found = page_of(tmp_path).read_text("utf-8")
    assert found.count("<script") == found.count("</script") == 2
    assert EVIL in "".join(Page(found).words)


def test_rows_of_an_experiment_that_was_renamed(tmp_path):
    write_rows(tmp_path, experiment="earlier")
    assert "experiments/earlier.yaml" in page_of(tmp_path).read_text("utf-8")


def test_ranks_say_whether_the_baseline_is_among_them(text, tmp_path):
    assert "without the student without distillation; those of the table include it" in text
    write_rows(tmp_path)
    found = replace(read(tmp_path)[0], tested={}, friedman=None, critical=None, groups=())
    assert rank_plot(found).axes[0].get_xlabel() == "mean rank over 2 datasets, 1 is best"


def test_a_copy_as_latex_has_the_letters_of_the_library():
    """The page's script and `harness.borders` write the same letters."""
    script = (Path(tables.__file__).parent / "page.js").read_text("utf-8")
    (body,) = re.findall(r"const LATEX = \{(.*?)\};", script, re.S)
    found = {json.loads(a): json.loads(b) for a, b in re.findall(r'("(?:\\.|[^"])*"): ("(?:\\.|[^"])*")', body)}
    (plain,) = re.findall(r'for \(const c of "(.*?)"\) LATEX', script)
    assert found | {c: f"\\{c}" for c in plain} == borders._LATEX


def test_the_longer_of_methods_and_pairs_goes_down(tmp_path, text):
    assert re.findall(r'<table class="main matrix"><thead><tr><th scope="col">(\w+)<', text) == ["method"]
    write_rows(tmp_path, pairs=3)
    many = page_of(tmp_path).read_text("utf-8")
    assert re.findall(r'<table class="main matrix"><thead><tr><th scope="col">(\w+)<', many) == ["pair"]
    assert len(set(re.findall(r'id="gain-(\d-\d)"', many))) == 6 * 4


def test_colours_of_gains_can_be_read():
    """Contrast of black on every shade, as of the cells by class; the sign decides the side."""
    for gain in np.linspace(-7, 7, 57):
        shade = tables.gain_colour(gain, 7)
        red, _, blue = value = np.array([int(shade[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        assert (linear @ (0.2126, 0.7152, 0.0722) + 0.05) / 0.05 >= 4.5
        assert abs(gain) < 0.5 or (red > blue) == (gain > 0)
    assert tables.gain_colour(0.0, 0.0) == tables.gain_colour(0.0, 7)


def column(page, table, i):
    return page.locator(f"{table} tbody tr").evaluate_all(f"rows => rows.map(r => r.cells[{i}].textContent.trim())")


@needs_chromium
@pytest.mark.slow
def test_points_and_numbers_open_their_runs(page_file):
    with opened(page_file) as page:
        for open_it in (
            lambda: page.locator(".wide a[href='#gain-0-2']").last.click(),
            lambda: page.locator("#gain-0-2 button").click(),
            lambda: (page.locator(".wide a[href='#gain-0-2']").first.focus(), page.keyboard.press("Enter")),
        ):
            open_it()
            dialog = page.locator("dialog[open]")
            assert dialog.locator("h2").inner_text() == "cwd: vs none (p0 on x)"
            assert column(page, "dialog", 0) == ["0", "1", "2", "3", "4"]
            assert "x0-cwd-3-0123456789ab" in column(page, "dialog", 4)
            page.keyboard.press("Escape")
        page.locator("#gain-1-0 button").click()
        assert column(page, "dialog", 0) == ["0", "1", "2", "3", "4"]
        page.locator("dialog button.link").first.click()
        said = page.locator("dialog[open] pre").first.inner_text()
        assert "rm y/runs/y0-none-0-0123456789ab.parquet" in said and "run experiments/y.yaml" in said


@needs_chromium
@pytest.mark.slow
def test_gains_are_sorted_below_the_baseline_and_copied(page_file):
    with opened(page_file) as page:
        page.evaluate(
            "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async t => { window.copied = t; }}})"
        )
        assert column(page, "table.matrix", 0) == list(METHODS)
        page.locator("table.matrix thead button").nth(1).click()
        assert column(page, "table.matrix", 0) == ["none", "cwd", "kd", "sstkd"]
        page.locator(".scroll:has(> table.matrix) + .copies").get_by_role("button", name="CSV").click()
        rows = list(csv.reader(io.StringIO(page.evaluate("window.copied"))))
        assert [row[0] for row in rows] == ["method", "none", "cwd", "kd", "sstkd"]
        assert re.fullmatch(r"'\+[23]\.\d\d ▲ \[\+[0-9.]+, \+[0-9.]+\] \(n=5\)", rows[2][1])
        assert rows[2][2].endswith("(n=2); not run (3 of 5)")
        ranks = page.locator("table.main:not(.matrix):not(.pairs):not(.exports)").first
        ranks.locator("thead button").nth(1).click()  # the best rank is the smallest
        values = ranks.locator("tbody tr td:nth-child(2)").all_inner_texts()
        assert values == sorted(values, key=float)


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_and_figures_have_the_pages_colour(page_file, width, scheme):
    with opened(page_file, width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ink = page.evaluate("getComputedStyle(document.body).color")
        words = page.locator("figure.curves svg text:visible")
        muted = page.locator(".note").first.evaluate("node => getComputedStyle(node).color")
        assert set(words.evaluate_all("all => all.map(node => getComputedStyle(node).fill)")) == {ink, muted}


@needs_chromium
@pytest.mark.slow
def test_paper_has_no_controls(page_file):
    with opened(page_file, scheme="dark") as page:
        page.emulate_media(media="print")
        assert not page.locator(".copies").first.is_visible() and page.locator("table.matrix").is_visible()
