"""Statistics over many pairs, against numbers of scikit-posthocs 0.17.1, rliable's metrics and published tables."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as reference

from harness.analysis.ranking import (
    LOST,
    critical_difference,
    friedman,
    gaps,
    groups,
    mean_ranks,
    probability_of_improvement,
    profile,
    profile_area,
)

VALUES = np.array(
    [
        [0.56, 0.544, 0.608, 0.671, 0.737],
        [0.605, 0.582, 0.581, 0.687, 0.762],
        [0.614, 0.548, 0.572, 0.73, 0.69],
        [0.513, 0.606, 0.562, 0.619, 0.656],
        [0.564, 0.638, 0.617, 0.621, 0.7],
        [0.641, 0.528, 0.607, 0.601, 0.671],
        [0.536, 0.611, 0.618, 0.635, 0.628],
        [0.58, 0.555, 0.552, 0.661, 0.625],
    ]
)
# scikit_posthocs.posthoc_nemenyi_friedman(VALUES), above the diagonal
NEMENYI = {
    (0, 1): 0.9978373188,
    (0, 3): 0.1745420472,
    (0, 4): 0.0223717258,
    (1, 3): 0.0841007689,
    (1, 4): 0.0080019725,
    (2, 3): 0.1230757373,
    (2, 4): 0.013570317,
    (3, 4): 0.9334452222,
}
# Two methods on four tasks, five runs each, and what rliable.metrics says of them.
X = [[2.17, 1.72, -1.0, 1.27], [-0.1, 1.03, 1.04, -0.99], [0.77, 0.74, 1.96, -0.18], [1.74, -0.1, 0.67, 0.16]]
X += [[2.45, 1.57, 3.43, 1.64]]
Y = [[2.17, 1.34, -0.11, 0.43], [1.85, 0.1, 0.69, 0.48], [1.11, 0.14, 0.35, 0.74], [0.6, -0.36, 1.4, -0.8]]
Y += [[-0.7, -0.78, 1.47, 0.14]]


def by_task(runs: list[list[float]]) -> list[NDArray[np.float64]]:
    return list(np.array(runs).T)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_ranks_count_the_better_ones() -> None:
    better = (VALUES[:, None, :] > VALUES[:, :, None]).sum(axis=2)  # no ties in these
    np.testing.assert_allclose(mean_ranks(VALUES), (better + 1).mean(axis=0))
    np.testing.assert_array_equal(mean_ranks([[0.5, 0.7, 0.5]]), [2.5, 1, 2.5])


def test_a_lost_cell_has_the_last_rank() -> None:
    np.testing.assert_array_equal(mean_ranks([[0.1, LOST, 0.7, LOST]]), [2, 3.5, 1, 3.5])


def test_friedman_is_scipys() -> None:
    assert friedman(VALUES) == pytest.approx(reference.friedmanchisquare(*VALUES.T).pvalue)
    assert friedman(VALUES) == pytest.approx(0.0007511733253558165)
    assert friedman(np.zeros((4, 3))) == 1.0


@pytest.mark.parametrize(
    ("methods", "quantile"),
    # q(0.05) of table 5(a) in Demsar 2006
    [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (9, 3.102), (10, 3.164)],
)
def test_critical_difference_is_the_published_tables(methods: int, quantile: float) -> None:
    expected = quantile * (methods * (methods + 1) / (6 * 14)) ** 0.5
    assert critical_difference(methods, 14) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("pair", NEMENYI)
def test_critical_difference_at_a_p_value_is_the_difference_that_has_it(pair: tuple[int, int]) -> None:
    ranks = mean_ranks(VALUES)
    between = abs(ranks[pair[0]] - ranks[pair[1]])
    assert critical_difference(5, 8, NEMENYI[pair]) == pytest.approx(between, rel=1e-5)


def test_groups_are_the_largest_sets_within_the_difference() -> None:
    ranks = {"d": 3.4, "a": 1.0, "b": 1.5, "c": 2.4, "e": 5.0}
    assert groups(ranks, 1.0) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert groups(ranks, 2.0) == [("a", "b", "c"), ("b", "c", "d"), ("d", "e")]
    assert groups(ranks, 0.1) == []
    assert groups(ranks, 9.0) == [("a", "b", "c", "d", "e")]


def test_probability_of_improvement_is_rliables() -> None:
    got = probability_of_improvement(by_task(X), by_task(Y), rng())
    assert got.mean == pytest.approx(0.635) and got.n == 4
    expected = [reference.mannwhitneyu(x, y).statistic / 25 for x, y in zip(by_task(X), by_task(Y), strict=True)]
    assert got.mean == pytest.approx(np.mean(expected))
    assert got.low is not None and got.high is not None and got.low < 0.635 < got.high
    other = probability_of_improvement(by_task(Y), by_task(X), rng())
    assert other.mean == pytest.approx(1 - got.mean)


def test_a_lost_run_loses_and_two_are_even() -> None:
    assert probability_of_improvement([[LOST, LOST]], [[0.1, LOST]], rng()).mean == 0.25
    one = probability_of_improvement([[0.5]], [[LOST]], rng())
    assert (one.mean, one.low, one.high) == (1.0, None, None)


def test_gaps_and_profile_by_hand() -> None:
    found = gaps([[0.5, 0.7], [0.6, 0.6], [LOST, 0.1], [LOST, LOST]])
    np.testing.assert_allclose(found, [[0.2, 0], [0, 0], [np.inf, 0], [np.inf, np.inf]], atol=1e-12)
    np.testing.assert_array_equal(profile(found[:, 0], [0.0, 0.19, 0.21, 1e9]), [0.25, 0.25, 0.5, 0.5])


@pytest.mark.parametrize("upper", [0.02, 0.1, 0.5])
def test_profile_area_is_the_integral(upper: float) -> None:
    for method in gaps(np.vstack([VALUES, [LOST, 0.2, LOST, 0.1, 0.3]])).T:
        # The staircase's own steps, which is exact, and a fine sum, which is not.
        ends = np.unique([0.0, upper, *method[method < upper]])
        stairs = (profile(method, ends[:-1]) * np.diff(ends)).sum() / upper
        middle = (np.arange(100_000) + 0.5) * upper / 100_000
        assert profile_area(method, upper) == pytest.approx(stairs, abs=1e-12)
        assert profile_area(method, upper) == pytest.approx(profile(method, middle).mean(), abs=1e-4)


def test_ratios_of_costs_are_gaps_of_their_logarithms() -> None:
    costs = np.array([[2.0, 1.0, 4.0], [3.0, 3.0, 9.0]])
    np.testing.assert_allclose(np.exp(gaps(-np.log(costs))), costs / costs.min(axis=1, keepdims=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_ranks([[0.5]]), r"shape \(1, 1\)"),
        (lambda: mean_ranks([[0.5, float("nan")]]), "nan"),
        (lambda: mean_ranks([[0.5, float("inf")]]), "inf"),
        (lambda: friedman([[0.5, 0.6]]), "three methods"),
        (lambda: critical_difference(1, 5), "methods=1"),
        (lambda: critical_difference(3, 5, 1.0), "level=1.0"),
        (lambda: probability_of_improvement([], [], rng()), "the same tasks"),
        (lambda: probability_of_improvement([[1.0]], [[]], rng()), "at least one number"),
        (lambda: probability_of_improvement([[1.0]], [[1.0]], rng(), 95), "confidence=95"),
        (lambda: profile([-0.1], [1.0]), ">= 0"),
        (lambda: profile_area([float("nan")], 1.0), ">= 0"),
        (lambda: profile_area([0.1], 0.0), "upper=0.0"),
    ],
)
def test_bad_input_says_what_is_needed(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
