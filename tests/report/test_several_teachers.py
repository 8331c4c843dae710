"""The files of an experiment whose pair has several teachers."""

import json
import re
from pathlib import Path

import pytest

from harness.report.write import write_report
from harness.results import store
from tests.analysis.test_teachers import drawn
from tests.support.browser import needs_chromium, opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("teachers")
    for row in drawn():
        store.write_run(found, row)
    write_report(found, ["none", "kd", "cwd"])
    return found


def test_every_run_is_on_the_page_with_its_teacher(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    (text,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    data = json.loads(text)
    (block,) = data["blocks"]
    none, kd, _ = block["lines"]
    assert list(none["runs"]) == ["0", "1", "2", "3", "4"]
    assert len(kd["runs"]) == 15 and "teacher 3, seed 4" in kd["runs"]
    assert data["rows"][kd["runs"]["teacher 3, seed 4"]][1:3] == ["kd, teacher 3", 4]
    assert [row[1:3] for row in data["rows"][:3]] == [["teacher", 0], ["teacher", 3], ["teacher", 6]]
    assert "mean of 3, 600 steps each" in page and "Students of seed 0 and teacher 0" in page


def test_the_table_says_what_its_numbers_are_over(folder: Path) -> None:
    text = (folder / "table.md").read_text()
    assert "(n=3x5)" in text and "3 teachers (seeds 0, 3, 6), each crossed" in text
    assert "3 teachers (seeds 0, 3, 6), each crossed" in (folder / "report.html").read_text()
    assert ",3x5," not in (folder / "table.csv").read_text()


@needs_chromium
@pytest.mark.slow
def test_a_difference_opens_runs_that_are_paired_by_teacher_and_seed(folder: Path) -> None:
    with opened(folder / "report.html") as page:
        page.locator("table.main tbody tr", has_text="kd").first.locator("td button").nth(2).click()
        rows = page.locator("dialog table tbody tr")
        assert rows.count() == 15
        cells = rows.first.locator("td, th").all_inner_texts()
        assert cells[0] == "teacher 0, seed 0" and cells[-2:] == ["kd-0-0", "none-0-0"]
