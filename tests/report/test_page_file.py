"""The results page as a file: whole, loading nothing, telling every run; what a browser makes of it is in test_page.py."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from harness.analysis.tables import BOLD
from harness.report import write
from harness.report.page import samples, tables
from harness.report.write import write_report
from harness.results import store
from harness.results.exports import write_export
from tests.support.rows import CLASSES, make_experiment, make_export, make_row, png

METHODS = ["none", "kd", "cwd", "sstkd"]


@pytest.fixture(scope="module")
def rows():
    found = [r for r in make_experiment() if (r["method"], r["seed"]) != ("cwd", 2)]
    return [*found, make_row("cwd", 2, "failed")]


class Page(HTMLParser):
    """Collects what a browser would load or run, and checks that elements nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.ids, self.stack, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "data", "action")]
        self.ids += [v for k, v in attrs if k == "id"]
        assert not [k for k, _ in attrs if k.startswith("on")]
        if tag not in ("meta", "img", "link", "br", "input"):
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def written(tmp_path, rows, **options):
    for row in rows:
        store.write_run(tmp_path, row)
    return write_report(tmp_path, METHODS, **options)


@pytest.fixture(scope="module")
def report(tmp_path_factory, rows):
    """The files of a report of all rows."""
    return written(tmp_path_factory.mktemp("report"), rows)


def page_data(text):
    """What the script of the page reads."""
    return json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])


def value_of(column, run):
    """The run's value of a fact: the repetitions are written out."""
    at = []
    for code in column["at"]:
        at += at[-1:] * -code if code < 0 else [code]
    return column["values"][at[run] - 1] if at[run] else None


def test_only_the_pages_own_script_may_run(report):
    text = report["html"].read_text()
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|fetch|http", script)


def test_the_page_knows_every_run_and_each_value_once(report, rows):
    data = page_data(report["html"].read_text())
    assert len(data["rows"]) == len(rows) and {r[11] for r in data["rows"]} == {r["run_id"] for r in rows}
    for i, shown in enumerate(data["rows"]):
        row = next(r for r in rows if r["run_id"] == shown[11])
        spec = {k[5:]: json.loads(value_of(v, i)) for k, v in data["facts"].items() if k.startswith("spec.")}
        assert spec == json.loads(row["spec"])
        assert value_of(data["facts"]["message"], i) == (row.get("message") or None)
        assert shown[5] == (round(100 * row["dev_miou"], 2) if row["status"] == "ok" else None)
    for column in data["facts"].values():
        assert len(set(column["values"])) == len(column["values"])
    cwd = data["blocks"][0]["lines"][2]
    assert cwd["label"] == "cwd" and {s: data["rows"][i][2] for s, i in cwd["runs"].items()} == {"0": 0, "1": 1}


def test_masks_say_where_a_prediction_is_wrong_and_where_the_baseline_is():
    truth, plain, guess = (png(np.array(a)) for a in ([[0, 1], [2, 255]], [[0, 0], [2, 0]], [[1, 1], [2, 0]]))
    wrong = np.asarray(Image.open(io.BytesIO(samples._errors(guess, truth, 255))).convert("RGB"))
    assert wrong.tolist() == [[list(samples.WRONG), list(samples.RIGHT)],
                              [list(samples.RIGHT), list(samples.OUT)]]  # fmt: skip
    against = np.asarray(Image.open(io.BytesIO(samples._against(guess, plain, truth, 255))).convert("RGB"))
    assert against.tolist() == [[list(samples.WORSE), list(samples.BETTER)],
                                [list(samples.RIGHT), list(samples.RIGHT)]]  # fmt: skip


def test_a_page_of_many_rows_holds_the_first_seeds_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "ON_PAGE", 8)
    rows = make_experiment(seeds=5)
    text = written(tmp_path, rows)["html"].read_text()
    data = page_data(text)
    assert "Computed from 21 rows. The list, the curves and the classes are of 9 of them." in text
    assert [sorted(line["runs"]) for line in data["blocks"][0]["lines"]] == [["0", "1"]] * 4
    assert data["missing"] == 12
    assert "(n=5)" in data["blocks"][0]["lines"][0]["cells"][0]


def test_the_report_is_written_whole_and_loads_nothing(report):
    paths, folder = report, report["html"].parent
    names = {"table.md", "table.csv", "fairness.json", "curves.png", "curves.svg", "report.html"}
    names |= {f"{name}.{form}" for name in ("forest", "classes", "cost") for form in ("png", "svg")}
    assert {p.name for p in paths.values()} == names
    assert {p.name for p in folder.iterdir()} == {p.name for p in paths.values()} | {"runs"}
    text = paths["html"].read_text()
    page = Page(text)
    assert all(v.startswith(("data:image/png;base64,", "#")) for v in page.loads)
    assert not {"link", "iframe", "object"} & set(page.tags) and page.tags.count("script") == 2
    assert len(page.ids) == len(set(page.ids))
    assert "url(http" not in text and "@import" not in text
    # 3 samples x (image, label, 5 predictions, 5 masks of errors, 3 against the baseline)
    assert page.tags.count("img") == 45
    words = " ".join(page.words)
    for expected in ("failed (1 of 3)", "loss term 'cwd' is nan", *CLASSES):
        assert expected in words
    facts = page_data(text)["facts"]
    assert facts["data_hash"]["values"] == ["cd" * 32]
    assert facts["repeat"]["values"] == ["sstkd-bench run experiments/quickstart.yaml"]
    with Image.open(paths["curves_png"]) as image:
        assert image.size[0] > 1000


def test_texts_of_rows_cannot_become_markup(tmp_path):
    evil = "<script>alert(1)</script>\"'&"
    names = {"class_names": [evil, *CLASSES[1:]], "dataset": evil, "device": evil, "overrides": [evil]}
    rows = [r | names | {"pair": evil, "experiment": evil} for r in make_experiment(seeds=1)]
    bad = make_row("cwd", 3, "failed", message=evil) | names | {"pair": evil, "experiment": evil}
    text = written(tmp_path, [*rows, bad])["html"].read_text()
    assert text.count("<script") == text.count("</script") == 2  # the data and what shows it
    page = Page(text)
    assert evil in "".join(page.words) and evil in page_data(text)["facts"]["device"]["values"]


def test_a_report_of_failures_only_still_says_so(tmp_path):
    rows = [make_row(m, s, "failed") for m in METHODS for s in (0, 1)]
    paths = written(tmp_path, rows, experiment_file="my file.yaml")
    words = " ".join(Page(paths["html"].read_text()).words)
    assert "failed (2 of 2)" in words and "No run has kept samples" in words
    assert page_data(paths["html"].read_text())["facts"]["repeat"]["values"] == ["sstkd-bench run 'my file.yaml'"]
    assert paths["markdown"].read_text().count("failed (2 of 2)") == 4


def test_a_row_without_optional_columns_is_shown(tmp_path):
    bare = {"class_names", "palette", "samples", "curve", "losses", "floor_dev_miou", "floor_val_miou", "step_ms"}
    bare |= {"peak_memory_mb"}
    rows = [{k: v for k, v in r.items() if k not in bare} for r in make_experiment(seeds=1)]
    words = " ".join(Page(written(tmp_path, rows)["html"].read_text()).words)
    assert "class 5" in words and "not measured" in words


def test_only_the_rows_asked_for_are_reported(tmp_path, rows):
    old = make_row("kd", 9, recipe=json.dumps({"steps": 1}))
    paths = written(tmp_path, [*rows, old], run_ids=[r["run_id"] for r in rows])
    assert old["run_id"] not in paths["html"].read_text()
    with pytest.raises(ValueError, match="recipe"):
        write_report(tmp_path, METHODS)


def test_exports_have_a_section_where_there_are_some(tmp_path, report):
    assert "Exports" not in report["html"].read_text()
    evil = "<script>alert(1)</script>\"'&"
    for i, row in enumerate(make_experiment(("none", "kd"), 2)):
        row |= {"weights_sha256": f"{i:064x}"} if row["role"] == "student" else {}
        store.write_run(tmp_path, row)
        if row["role"] == "student":
            write_export(tmp_path, make_export(row))
            write_export(tmp_path, make_export(row, calibration=None, target=evil, device=evil))
    page = Page(text := write_report(tmp_path, ["none", "kd"])["html"].read_text())
    assert text.count("<script") == 2 and page.tags.count("table") == 1 + 2 + 1  # compared, exported, by class
    words = "".join(page.words)
    for expected in ("Exports", "mIoU int8", f"mIoU {evil}", f"latency on {evil}, 1 thread, 96x96 (ms)", "(n=2)"):
        assert expected in words


def test_the_page_says_for_which_teacher_it_is(report):
    assert "Differences and marks are for this teacher" in " ".join(Page(report["html"].read_text()).words)


def test_a_block_begins_with_its_answer_and_its_differences(report):
    text = report["html"].read_text()
    (answer,) = re.findall(r'<p class="answer">(.*?)</p>', text)
    assert (
        answer
        == "On lite2-to-tiny and texmosaic, for this teacher, nothing can be said: a claim needs 5 seeds, and there are 3."
    )
    order = [
        text.index(part)
        for part in ("<h2", '<p class="answer"', ">Differences<a ", ">Comparison<a ", '<dl class="facts"')
    ]
    assert order == sorted(order)


def test_every_heading_is_an_anchor(report, tmp_path):
    for text in (report["html"].read_text(), written(tmp_path, of_two_pairs())["html"].read_text()):
        body = text.split('<script type="application/json"')[0]
        heads = re.findall(r"<h[23][^>]*>.*?</h[23]>", body, re.DOTALL)
        ids = [re.search(r'id="([^"]+)"', head)[1] for head in heads]
        assert len(ids) == len(heads) == len(set(ids)) > 5
        assert all(f'href="#{name}"' in head for name, head in zip(ids, heads, strict=True))
    assert ids[0] == "lite2-to-tiny-on-texmosaic" and f"{ids[0]}--Comparison" in ids and "Runs" in ids


def of_two_pairs():
    second = [r | {"run_id": "b" + r["run_id"], "pair": "lite2-to-tiny!"} for r in make_experiment(seeds=1)[1:]]
    return [*make_experiment(seeds=1), *second]


def test_bold_is_the_best_value_where_it_is_significant(report, tmp_path):
    assert 'class="best"' not in report["html"].read_text()  # three seeds
    text = written(tmp_path, make_experiment(seeds=5))["html"].read_text()
    (cell,) = re.findall(r'<td data-label="mIoU \(val\)" class="best"><span>([0-9.]+)', text)
    assert float(cell) == max(float(x) for x in re.findall(r'<td data-label="mIoU \(val\)"[^>]*><span>([0-9.]+)', text))
    assert BOLD in text


def test_val_and_dev_have_standard_deviations_and_the_student_its_cost(report):
    text = report["html"].read_text()
    cells = re.findall(r'<td data-label="(mIoU \(val\)|dev)" class=""><span>([^<]+)', text)
    assert len(cells) == 8 and all("±" in value for _, value in cells)
    words = " ".join(Page(text).words)
    assert "45.2 k" in words and "parameters, 31 M MACs per image, 7.5 ms per image, with every method" in words


def test_cells_by_class_can_be_read():
    """Contrast of black on every shade, by the formula of the guidelines for accessible web content."""
    for percent in np.linspace(0, 100, 101):
        (shade,) = re.findall(r"#([0-9a-f]{6})", tables._heat(percent))
        value = np.array([int(shade[i : i + 2], 16) for i in (0, 2, 4)]) / 255
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        assert (linear @ (0.2126, 0.7152, 0.0722) + 0.05) / 0.05 >= 4.5
