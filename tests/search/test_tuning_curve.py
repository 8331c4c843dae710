"""Whether more trials would help: the best score after 1, 2, 4, ... points; and what a repeated search would change."""

import csv
import io

import numpy as np
import pytest

from harness.experiment.studies import studies_of
from harness.report.plots.search import best_so_far_figure
from harness.search import outcome as best
from harness.search import points
from harness.search.repeated import repeated
from harness.search.tuning_curve import best_so_far, counts, remarks, to_csv
from tests.support.searches import experiment, searched, write_point

SCORES = [(0.50, 0.52), (0.40, 0.44), (0.60, None), (0.58, 0.54), (0.30, 0.30), (0.61, 0.63)]


def outcomes(folder, *overrides, scores=SCORES, **changes):
    of = experiment(folder, f"search.trials={len(scores)}", *overrides, **{"methods": ["none"]} | changes)
    studies = studies_of(of)
    for study, drawn in zip(studies, points.drawn(of, studies), strict=True):
        for number, each in enumerate(scores):
            write_point(folder, study, number, drawn[number], *each)
    return best.outcomes(of, folder)


def test_the_numbers_of_points_are_doubled_and_end_with_all():
    assert [counts(n) for n in (1, 2, 5, 8)] == [(1,), (1, 2), (1, 2, 4, 5), (1, 2, 4, 8)]
    with pytest.raises(ValueError, match="1 or more points; given 0"):
        counts(0)


def test_best_so_far_is_over_the_first_points_in_their_fixed_order(tmp_path):
    (outcome,) = outcomes(tmp_path)
    found = best_so_far(outcome)
    assert [(x.points, x.trials, x.best.number) for x in found] == [(1, 2, 0), (2, 4, 0), (4, 8, 3), (6, 12, 5)]
    assert [x.best.dev_miou for x in found] == pytest.approx([0.51, 0.51, 0.56, 0.62])
    assert [x.seconds for x in found] == pytest.approx([4.0, 8.0, 16.0, 24.0])


def test_points_whose_turn_has_not_come_are_no_part_of_it(tmp_path):
    """Trials end in any order; without point 1 there is no best of the first two, whatever point 2 has."""
    of = experiment(tmp_path, methods=["none"])
    (study,) = studies_of(of)
    (drawn,) = points.drawn(of, [study])
    for number in (0, 2, 3):
        write_point(tmp_path, study, number, drawn[number], 0.5, 0.5)
    (outcome,) = best.outcomes(of, tmp_path)
    assert [x.points for x in best_so_far(outcome)] == [1]


def test_the_csv_has_every_method_and_empty_cells_before_the_first_score(tmp_path):
    found = outcomes(tmp_path, scores=[(None, 0.5), (0.4, 0.5)], methods=["none", "kd"])
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert [(r["method"], r["points"], r["trials"]) for r in rows] == [
        *(("none", "1", "2"), ("none", "2", "4"), ("kd", "1", "2"), ("kd", "2", "4"))
    ]
    assert rows[0]["dev_miou"] == rows[0]["best_point"] == "" and float(rows[1]["dev_miou"]) == pytest.approx(45)
    assert rows[3]["best_point"] == "1" and rows[3]["settings"].startswith("lr=0.00")
    assert to_csv([]).splitlines() == ["pair,method,points,trials,seconds,dev_miou,best_point,settings"]


def test_the_picture_has_a_line_for_every_method_with_a_score(tmp_path):
    figure = best_so_far_figure(outcomes(tmp_path, methods=["none", "kd"]))
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["none", "kd"]
    assert list(axes.lines[0].get_xdata()) == [1, 2, 4, 6]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([51, 51, 56, 62])
    with pytest.raises(ValueError, match="at least one"):
        best_so_far_figure([])


# A repeated search


def normal(rng, count):
    return 0.5 + 0.02 * rng.standard_normal(count)


def quadratic(rng, count):
    """Two hyper-parameters with an optimum inside their ranges."""
    return 0.6 - 0.4 * ((rng.random((count, 2)) - 0.4) ** 2).sum(1)


@pytest.mark.parametrize("landscape", [normal, quadratic])
@pytest.mark.parametrize("noise", [0.002, 0.01, 0.03])
def test_the_estimate_is_right_within_a_factor_of_about_2(landscape, noise):
    """Truth: searches with points and noise of their own, of which the published point is always the same."""
    rng, chosen, said = np.random.default_rng(7), [], []
    for i in range(400):
        expected = landscape(rng, 8)
        expected[0] = 0.5
        scores = expected[:, None] + rng.normal(0, 0.02, 2) + rng.normal(0, noise, (8, 2))
        chosen.append(expected[scores.mean(1).argmax()])
        if i % 10 == 0:
            said.append(repeated(scores, draws=150).deviation)
    assert 0.5 < np.sqrt(np.mean(np.square(said))) / np.std(chosen) < 2


def test_without_noise_a_repeated_search_with_the_same_points_changes_nothing():
    scores = np.array([[0.5], [0.4], [0.6]]) + np.array([[0.0, 0.03]])
    found = repeated(scores)
    assert found.deviation_of_seeds == pytest.approx(0, abs=1e-9) and found.same == 1
    assert found.deviation > 0.01, "the best point is not drawn every time"


def test_with_equal_points_the_choice_is_luck_and_changes_nothing():
    rng = np.random.default_rng(0)
    found = repeated(0.5 + rng.normal(0, 0.01, (16, 4)))
    assert found.same < 0.5 and found.deviation < 0.006


def test_the_estimate_repeats_itself_and_ignores_the_effect_of_a_seed():
    rng = np.random.default_rng(1)
    scores = normal(rng, 8)[:, None] + rng.normal(0, 0.01, (8, 2))
    assert repeated(scores) == repeated(scores)
    shifted = repeated(scores + np.array([0.0, 0.1]))
    assert shifted.deviation == pytest.approx(repeated(scores).deviation)


def test_a_point_that_failed_fails_in_a_repeated_search_too():
    scores = np.array([[0.5, 0.51], [np.nan, np.nan], [0.45, 0.44], [0.4, 0.42]])
    assert 0.4 < repeated(scores).mean < 0.52


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((4, 1)), "2 or more search seeds and 2 or more points with a score; given 4 points, 1 seeds"),
        (np.zeros((1, 2)), "given 1 points, 2 seeds"),
        (np.full((4, 2), np.nan), "given 0 points, 2 seeds"),
        (np.zeros(4), r"\(points, seeds\); given \(4,\)"),
    ],
)
def test_too_little_for_an_estimate(scores, message):
    with pytest.raises(ValueError, match=message):
        repeated(scores)


def test_remarks_say_what_was_chosen_and_what_a_repeated_search_would_change(tmp_path):
    (none,) = remarks(outcomes(tmp_path))
    assert none.startswith("search of none: point 6 of 6 is the best, 11.00 above the published point; ")
    assert "the expected mIoU of the chosen point would vary by" in none and "percentage points" in none
    (tmp_path / "b").mkdir()
    (kept,) = remarks(outcomes(tmp_path / "b", scores=[(0.9, 0.8), (0.5, 0.6)]))
    assert "none: the published point is the best of 2; " in kept


def test_a_search_at_a_part_of_the_budget_says_so(tmp_path):
    *_, last = remarks(outcomes(tmp_path, "search.fraction=0.5"), steps=6)
    assert last == "points were selected after 3 of the 6 steps of a final run"
    assert len(remarks(outcomes(tmp_path, "search.fraction=0.5"), steps=3)) == 1


def test_a_search_with_one_seed_has_no_estimate(tmp_path):
    of = searched(tmp_path, "random", methods=["none"])
    (study,) = studies_of(of)
    (drawn,) = points.drawn(of, [study])
    for number in range(4):
        write_point(tmp_path, study, number, drawn[number], 0.5 + 0.01 * number)
    found = best.outcomes(of, tmp_path)
    assert remarks(found) == ["search of none: point 4 of 4 is the best"]
    assert [x.trials for x in best_so_far(found[0])] == [1, 2, 4]
