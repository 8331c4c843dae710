"""The tables of the page on SSTKD's sensitivity, from rows that are made up."""

import re
from pathlib import Path

import numpy as np
import pytest

from harness.experiment.load import load
from harness.results import store
from tests.support.rows import make_longer, make_row, make_settings
from tests.support.sensitivity_page import GROUPS, LONGER, page_lines, setting_of

FILE = Path(__file__).parents[2] / "experiments" / "sensitivity.yaml"
NUMBER = r"[+-]?\d+\.\d\d"


@pytest.fixture(scope="module")
def experiment():
    return load(FILE)


def miou(method):
    return 0.5 if method.name != "sstkd" else 0.5 + 0.02 * sum(setting_of(method)[1:3]) / 200


@pytest.fixture(scope="module")
def rows(experiment):
    made = make_settings(experiment, miou)
    return [*made, *make_longer(made)]


def written(folder, rows, experiment):
    for row in rows:
        store.write_run(folder, row)
    return page_lines(folder, experiment)


@pytest.fixture(scope="module")
def lines(tmp_path_factory, rows, experiment):
    return written(tmp_path_factory.mktemp("sensitivity"), rows, experiment)


def cells(lines):
    """By heading the cells of the rows below it."""
    found = {}
    for line in lines:
        if line.startswith("### "):
            found[heading := line[4:]] = []
        elif line.startswith("| ") and "mIoU" not in line:
            found[heading].append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_every_line_of_the_study_is_in_a_table(lines, experiment):
    found = cells(lines)
    factors = ["0.1", "0.3", "1", "3", "10", "100"]
    assert {heading: [row[:4] for row in rows] for heading, rows in found.items() if heading != "References"} == {
        "The structural term alone": [["–", f, "–", "–"] for f in factors],
        "The statistical term alone": [["–", "–", f, "–"] for f in factors],
        "The structural term on top of the response": [["1", f, "–", "–"] for f in factors],
        "The statistical term on top of the response": [["1", "–", f, "–"] for f in factors],
        "Both by a common factor": [["–", f, f, "–"] for f in factors],
        "Both at the paper's weights, with response and critic": [
            ["–", "1", "1", "–"], ["–", "1", "1", "yes"], ["1", "1", "1", "–"],
            ["1", "1", "1", "yes"], ["5", "1", "1", "–"], ["5", "1", "1", "yes"],
        ],
    }  # fmt: skip
    references = [row[:2] for row in found["References"]]
    assert references == [["none", "300"], ["kd", "300"], ["kd(weight=5.0)", "300"], [str(LONGER), "600"]]
    settings = [setting_of(method) for method in experiment.methods if method.name == "sstkd"]
    assert len(settings) == len(set(settings)) == 35
    assert all(any(belongs(setting) for belongs in GROUPS.values()) for setting in settings)


def test_numbers_are_those_of_the_rows(lines, rows, experiment):
    def values(choose):
        return np.array([100 * row["val_miou"] for row in sorted(filter(choose, rows), key=lambda r: r["seed"])])

    place = next(i for i, m in enumerate(experiment.methods) if m.name == "sstkd" and setting_of(m) == (0, 100, 100, 0))
    mine = values(lambda row: row["run_id"].startswith(f"{place}-"))
    (row,) = (row for row in cells(lines)["Both by a common factor"] if row[1] == "100")
    assert row[4] == f"{mine.mean():.2f} ± {mine.std(ddof=1):.2f} (n=5)"
    none, longer = (
        values(lambda r, c=c: r["method"] == "none" and r.get("control") == c) for c in (None, "equal seconds")
    )
    kd = values(lambda r: r["method"] == "kd" and '"weight": 1.0' in r["method_parameters"])
    for cell, reference in zip(row[5:], (none, longer, kd), strict=True):
        mean, low, high = map(float, re.findall(NUMBER, cell))
        assert mean == pytest.approx((mine - reference).mean(), abs=0.006) and low < mean < high


def test_all_comparisons_are_one_family(lines):
    # 39 lines against three of them, each pair once.
    assert lines[-1].startswith("111 comparisons are corrected together") and lines[-1].endswith(
        "in `sstkd-bench tables`, 77."
    )
    (first, *_) = cells(lines)["References"]
    assert first[0] == "none" and first[3] == "–" and re.match(NUMBER, first[4]) and re.match(NUMBER, first[5])


def test_a_failed_run_is_a_loss(tmp_path, rows, experiment):
    last = next(row for row in rows if row["run_id"] == "6-0")
    failed = make_row("sstkd", 0, "failed", **{k: last[k] for k in ("run_id", "experiment", "method_parameters")})
    lines = written(tmp_path, [failed if row is last else row for row in rows], experiment)
    (row,) = (row for row in cells(lines)["The structural term alone"] if row[1] == "10")
    assert "(n=4)" in row[4] and "failed (1 of 5)" in row[4]
    assert all(cell.endswith("1 lost") for cell in row[5:])


def test_without_the_longer_control_there_is_no_page(tmp_path, rows, experiment):
    with pytest.raises(ValueError, match="no result of none at equal seconds"):
        written(tmp_path, [row for row in rows if row.get("control") is None], experiment)
