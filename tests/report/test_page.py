"""The results page in a real browser: sorting, filtering, where numbers come from, keys, widths, colours, paper."""

import csv
import io
import re
import shutil

import pytest

from harness.report import write
from harness.report.write import write_report
from harness.results import store
from harness.results.exports import write_export
from tests.support.browser import needs_chromium, opened
from tests.support.commands import ROOT
from tests.support.rows import make_experiment, make_export, make_row

pytestmark = [needs_chromium, pytest.mark.slow]
METHODS = ["none", "kd", "cwd", "sstkd"]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    rows = [r for r in make_experiment(seeds=4) if (r["method"], r["seed"]) != ("cwd", 2)]
    evil = make_row("cwd", 2, "failed", message="<img src=x onerror=alert(1)>", code_version="</script><b>")
    for row in (*rows, evil):
        store.write_run(folder, row)
    return write_report(folder, METHODS)["html"]


def column(page, table, i):
    return page.locator(f"{table} tbody tr").evaluate_all(f"rows => rows.map(r => r.cells[{i}].innerText.trim())")


def test_a_click_sorts_best_first_then_worst_first_then_as_it_was(page_file):
    with opened(page_file) as page:
        head = page.locator("table.main thead th")
        assert column(page, "table.main", 0) == METHODS

        def click(i):
            head.nth(i).locator("button").click()
            return head.nth(i).get_attribute("aria-sort"), column(page, "table.main", i)

        found = [click(1) for _ in range(3)]
        assert [sort for sort, _ in found] == ["descending", "ascending", None]
        scores = [[float(text.split()[0]) for text in texts] for _, texts in found]
        assert scores[0] == sorted(scores[0], reverse=True) and scores[1] == sorted(scores[0])
        assert column(page, "table.main", 0) == METHODS
        # The best of a cost is the smallest.
        place = head.all_inner_texts().index("s/step")
        sort, costs = click(place)
        assert sort == "ascending" and costs == sorted(costs, key=float)
        # No difference to itself: last, whichever way it is sorted.
        for _ in range(2):
            click(3)
            assert column(page, "table.main", 0)[-1] == "none"
        assert head.nth(1).get_attribute("aria-sort") is None


def test_runs_are_sorted_and_filtered_by_whole_words(page_file):
    with opened(page_file) as page:
        assert len(column(page, "table.runs", 0)) == 17
        original = column(page, "table.runs", 0)
        box = page.get_by_label("Filter runs")
        box.fill("CWD ok")
        assert column(page, "table.runs", 0) == ["cwd"] * 3
        assert page.get_by_role("status").inner_text() == "3 of 3 matching runs are shown; 17 in all."
        for text, methods, seeds in (
            ("sstkd 1", ["sstkd"], ["1"]),
            ("seed:1", METHODS, ["1"] * 4),
            ("seed:1 method:kd", ["kd"], ["1"]),
            ("Status:failed", ["cwd"], ["2"]),
            ("kd-2-01", ["kd"], ["2"]),
            ("k", [], []),
            ("nothing like it", [], []),
            ("<img src=x", [], []),
        ):
            box.fill(text)
            assert column(page, "table.runs", 0) == methods, text
            assert column(page, "table.runs", 1) == seeds, text
        box.fill("")
        by_dev = page.locator("table.runs thead button", has_text="dev mIoU").first
        by_dev.click()
        scores = column(page, "table.runs", 4)
        assert scores[-1] == "–" and scores[:-1] == sorted(scores[:-1], key=float, reverse=True)
        box.fill("sstkd")  # the order stays
        scores = column(page, "table.runs", 4)
        assert len(scores) == 4 and scores == sorted(scores, key=float, reverse=True)
        by_dev.click()
        assert column(page, "table.runs", 4) == scores[::-1]
        by_dev.click()
        assert column(page, "table.runs", 1) == ["0", "1", "2", "3"]
        box.fill("")
        assert column(page, "table.runs", 0) == original


def test_a_click_anywhere_in_a_runs_line_opens_it(page_file):
    with opened(page_file) as page:
        page.locator("table.runs tbody tr").nth(5).locator("td").nth(4).click()
        assert page.locator("dialog[open] h2").inner_text().startswith("kd, seed 0")
        page.keyboard.press("Escape")
        page.locator("table.runs .link").nth(5).click()
        assert page.locator("dialog[open]").count() == 1


def test_differences_are_sorted_by_gain_where_that_is_chosen(page_file):
    def order(page):
        seen = page.locator("figure.curves div.v:visible .wide svg").first
        return [text for text in seen.locator("text").all_text_contents() if text in METHODS]

    with opened(page_file) as page:
        assert order(page) == ["kd", "cwd", "sstkd"]
        page.get_by_role("radio", name="by gain").check()
        assert order(page) == ["sstkd", "cwd", "kd"]
        page.emulate_media(media="print")
        assert order(page) == ["sstkd", "cwd", "kd"]


def test_tables_are_copied_as_markdown_latex_and_csv(page_file):
    with opened(page_file) as page:
        page.evaluate(
            "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async t => { window.copied = t; }}})"
        )

        def copy(table, form):
            bar = page.locator(f".scroll:has(> {table}) + .copies").first
            bar.get_by_role("button", name=form).click()
            bar.get_by_text("copied").wait_for()
            bar.get_by_role("button", name=form).wait_for()
            return page.evaluate("window.copied")

        lines = copy("table.main", "Markdown").splitlines()
        assert lines[0] == "| method | mIoU (val) | dev | vs none | vs kd | s/step | peak MB |"
        assert lines[1] == "|---|---:|---:|---:|---:|---:|---:|" and len(lines) == 6
        assert re.fullmatch(r"\| cwd \| [0-9.]+ ± [0-9.]+ \(n=3\); failed \(1 of 4\) \|.*\|", lines[4])
        page.locator("table.main thead button").nth(1).click()
        found = copy("table.main", "CSV")
        rows = list(csv.reader(io.StringIO(found)))
        assert [row[0] for row in rows] == ["method", "sstkd", "cwd", "kd", "none"]  # as it is sorted
        assert rows[1][3].startswith("'+") and {len(row) for row in rows} == {7}
        text = copy("table.main", "LaTeX")
        assert r"\begin{tabular}{lrrrrrr}" in text and r"$\pm$" in text and text.count("\\\\") == 5
        assert "{[}$-$" in text or "{[}+" in text
        assert len(list(csv.reader(io.StringIO(copy("table.heat", "CSV"))))) == 7
        page.get_by_label("Filter runs").fill("seed:1")
        assert [row[0] for row in csv.reader(io.StringIO(copy("table.runs", "CSV")))] == ["method", *METHODS]


def test_without_a_clipboard_the_text_is_selected(page_file):
    with opened(page_file) as page:
        page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        page.locator(".copies").first.get_by_role("button", name="CSV").click()
        box = page.locator("dialog[open] textarea")
        assert box.input_value().startswith("method,mIoU (val),dev,")
        assert page.evaluate("String(getSelection())") == box.input_value() or box.evaluate(
            "b => b.selectionEnd - b.selectionStart === b.value.length"
        )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("0.2.0+87ea91cae124", "git checkout 87ea91cae124\nrm runs/"),
        ("0.2.0+87ea91cae124.dirty", "git checkout 87ea91cae124  # with changes that were not committed\nrm runs/"),
        ("0.2.0", "# code 0.2.0: no commit is known\nrm runs/"),
        ("0.2.0+1234567; rm -r x", "# code of an unknown version: no commit is known\nrm runs/"),
    ],
)
def test_what_repeats_a_run_begins_with_its_commit(tmp_path, code, said):
    store.write_run(tmp_path, make_row("none", 0, code_version=code, samples=None))
    with opened(write_report(tmp_path, ["none"])["html"]) as page:
        page.locator("table.runs tbody tr").first.click()
        assert page.locator("dialog[open] pre").first.inner_text().startswith(said)
        page.keyboard.press("Escape")
        page.locator("table.main button.cell").first.click()
        assert page.locator("dialog[open] pre").inner_text().startswith(said.removesuffix("rm runs/"))


def test_headings_have_links_to_themselves(page_file):
    with opened(page_file) as page:
        link = page.locator("h3 .anchor").nth(1)
        link.focus()
        page.keyboard.press("Enter")
        name = page.evaluate("decodeURIComponent(location.hash)")
        assert name == "#lite2-to-tiny-on-texmosaic--Comparison"
        assert page.evaluate("document.querySelector(':target').tagName") == "H3"


def test_on_a_phone_runs_are_cards_with_numbers(page_file):
    with opened(page_file, width=390) as page:
        card = page.locator("table.runs tbody tr").nth(1)
        labels = card.locator("td").evaluate_all("cells => cells.map(c => getComputedStyle(c, '::before').content)")
        assert '"val mIoU"' in labels and '"s/step"' in labels
        box = card.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        for cell in card.locator("td").all():
            inside = cell.bounding_box()
            assert inside["x"] >= box["x"] and inside["x"] + inside["width"] <= box["x"] + box["width"] + 1
        card.click()
        assert page.locator("dialog[open]").count() == 1


def test_a_number_tells_its_runs_and_how_to_repeat_them(page_file):
    with opened(page_file) as page:
        cell = page.locator("table.main tbody tr").nth(2).locator("button.cell").nth(2)
        text = cell.locator("span").first.evaluate("node => node.firstChild.textContent")
        cell.click()
        dialog = page.locator("dialog[open]")
        assert dialog.locator(".said").inner_text() == text
        # Seed 2 failed: three pairs stand behind the difference, and their mean is what the cell says.
        assert column(page, "dialog", 0) == ["0", "1", "3"]
        deltas = [float(v) for v in column(page, "dialog", 3)]
        assert sum(deltas) / 3 == pytest.approx(float(text.split()[0]), abs=0.011)
        # They are of val, and so is the cell above.
        assert float(column(page, "dialog", 1)[0]) == round(
            100 * store.read_run(page_file.parent, "cwd-0-0123456789ab")["val_miou"], 2
        )
        assert "cwd-3-0123456789ab" in column(page, "dialog", 4) and "none-3-0123456789ab" in column(page, "dialog", 5)
        for words in ("commit", "0.1.0", "sstkd-bench run experiments/quickstart.yaml"):
            assert words in dialog.inner_text()
        dialog.locator("button.link").first.click()
        row = store.read_run(page_file.parent, "cwd-0-0123456789ab")
        for words in (row["data_hash"], row["teacher_sha256"], '"method"', "rm runs/cwd-0-0123456789ab.parquet"):
            assert words in dialog.inner_text()


def test_numbers_without_a_comparison_say_so(tmp_path):
    rows = [r for r in make_experiment(seeds=2) if r["method"] != "kd"]
    for row in (*rows, *(make_row("fitnet", seed, "failed") for seed in (0, 1))):
        store.write_run(tmp_path, row)
    with opened(write_report(tmp_path, ["none", "cwd", "fitnet", "sstkd"])["html"]) as page:
        lines = {name: i for i, name in enumerate(column(page, "table.main", 0))}

        def said(name, place):
            page.locator("table.main tbody tr").nth(lines[name]).locator("button.cell").nth(place).click()
            text = page.locator("dialog[open]").inner_text()
            page.keyboard.press("Escape")
            return text

        assert "It is what the others are compared with." in said("none", 2)
        assert "There is no run of the same seed to compare with." in said("cwd", 3)
        assert "No run has a result." in said("kd", 0) and "No run has a result." in said("fitnet", 0)
        # "failed (2 of 2)" is no number: last, whichever way it is sorted.
        for _ in range(2):
            page.locator("table.main thead button").nth(1).click()
            assert set(column(page, "table.main", 0)[-2:]) == {"kd", "fitnet"}


@pytest.mark.parametrize("width", [1440, 360])
def test_tables_of_exports_sort_and_fit(tmp_path, width):
    for i, row in enumerate(make_experiment(seeds=2)):
        row |= {"weights_sha256": f"{i:064x}"} if row["role"] == "student" else {}
        store.write_run(tmp_path, row)
        if row["role"] == "student":
            loss = 0.2 if row["method"] == "sstkd" else 0.0
            write_export(tmp_path, make_export(row, miou=row["val_miou"] - loss))
    with opened(write_report(tmp_path, METHODS)["html"], width=width) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert column(page, "table.exports", 0) == METHODS
        if width > 720:
            for _ in range(2):  # worst first
                page.locator("table.exports thead button").nth(2).click()
            assert column(page, "table.exports", 0) == ["sstkd", "none", "kd", "cwd"]


def test_of_a_part_of_the_runs_the_dialog_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "ON_PAGE", 8)
    for row in make_experiment(seeds=5):
        store.write_run(tmp_path, row)
    with opened(write_report(tmp_path, METHODS)["html"]) as page:
        page.locator("table.main button.cell").first.click()
        assert "Of 12 more rows nothing but the table is on this page." in page.locator("dialog[open]").inner_text()
        assert column(page, "dialog", 0) == ["0", "1"]


def test_a_cell_by_class_tells_the_value_of_every_seed(page_file):
    with opened(page_file) as page:
        cell = page.locator("table.heat tbody tr").nth(1).locator("button.cell").nth(4)
        mean = float(cell.inner_text())
        cell.click()
        assert "sstkd: IoU of grass" in page.locator("dialog[open] h2").inner_text()
        values = [float(v) for v in column(page, "dialog", 1)]
        assert len(values) == 4 and sum(values) / 4 == pytest.approx(mean, abs=0.11)


def test_everything_can_be_done_with_keys(page_file):
    with opened(page_file) as page:
        button = page.locator("table.main tbody tr").nth(3).locator("button.cell").nth(2)
        button.focus()
        page.keyboard.press("Enter")
        assert page.locator("dialog[open]").count() == 1
        assert page.evaluate("document.activeElement.textContent") == "Close"
        page.keyboard.press("Escape")
        assert page.locator("dialog[open]").count() == 0
        assert button.evaluate("node => node === document.activeElement")
        page.locator(".views input.v0").last.focus()
        page.keyboard.press("ArrowRight")
        assert page.locator(".views input.v1").last.is_checked()


def test_masks_take_the_place_of_predictions(page_file):
    def seen(page):
        page.wait_for_function("[...document.images].every(i => i.complete)")
        count = "all => all.filter(i => i.offsetWidth && i.naturalWidth).length"
        return [page.locator(".strip").first.locator(f"img.v{i}").evaluate_all(count) for i in range(3)]

    with opened(page_file) as page:
        assert seen(page) == [5, 0, 0]
        page.locator("input.v1").last.check()
        assert seen(page) == [0, 5, 0]
        page.locator("input.v2").last.check()
        assert seen(page) == [0, 0, 3]
        assert page.locator(".key:visible").count() == 1


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_and_letters_stand_off(page_file, width, scheme):
    with opened(page_file, width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("table.runs .link").first.click()
        box = page.locator("dialog[open]").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        colours = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
        ink, paper = (sum(int(v) for v in c[4:-1].split(",")) / 765 for c in colours)
        assert abs(ink - paper) > 0.7 and (ink > paper) == (scheme == "dark")


OVER = """cells => cells.map(cell => {
  const text = document.createRange();
  text.selectNodeContents(cell);
  return text.getBoundingClientRect().right - cell.getBoundingClientRect().right;
})"""


def test_names_of_methods_stay_in_their_columns(tmp_path):
    """A control's is wider than a column of figures."""
    shutil.copytree(ROOT / "results" / "examples" / "quickstart" / "runs", tmp_path / "runs")
    with opened(write_report(tmp_path, METHODS)["html"]) as page:
        over = page.locator("table.heat thead th").evaluate_all(OVER)
        assert len(over) == 8 and max(over) <= 0


def test_significantly_worse_has_another_colour_than_better(tmp_path):
    """Where every number moves with its seed: kd is better than none, none worse than kd."""
    for row in make_experiment(seeds=5):
        store.write_run(tmp_path, row)
    with opened(write_report(tmp_path, METHODS)["html"]) as page:
        colour = "spans => [...new Set(spans.map(span => getComputedStyle(span).color))]"
        better, worse = (page.locator(f"td span:has-text('{mark}')").evaluate_all(colour) for mark in "▲▼")
        assert len(better) == len(worse) == 1 and better != worse


def test_paper_is_white_and_without_controls(page_file):
    with opened(page_file, scheme="dark") as page:
        box = page.get_by_label("Filter runs")
        assert box.is_visible()
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not box.is_visible() and page.locator("table.main").is_visible()
        assert page.pdf()[:5] == b"%PDF-"


def test_texts_of_rows_do_nothing(page_file):
    with opened(page_file) as page:
        page.get_by_label("Filter runs").fill("failed")
        page.locator("table.runs .link").click()
        text = page.locator("dialog[open]").inner_text()
        assert "<img src=x onerror=alert(1)>" in text and "</script><b>" in text
        assert page.locator("dialog b, dialog img").count() == 0


def test_of_many_runs_only_a_part_is_in_the_document(tmp_path):
    for row in make_experiment(METHODS[:2], seeds=80):
        store.write_run(tmp_path, row | {"samples": None, "losses": None})
    with opened(write_report(tmp_path, METHODS[:2])["html"]) as page:
        assert len(column(page, "table.runs", 0)) == 100
        more = page.get_by_role("button", name="Show more")
        more.click()
        assert len(column(page, "table.runs", 0)) == 161
        assert not more.is_visible()
