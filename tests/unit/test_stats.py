import numpy as np
import pytest
from scipy import stats as reference

from harness.stats import bootstrap_interval, holm, mean_interval, paired_difference, paired_differences


def by_seed(values):
    return dict(enumerate(map(float, values)))


@pytest.mark.parametrize("n", [2, 3, 5, 40])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_paired_difference_is_scipys_paired_t(n, confidence):
    rng = np.random.default_rng(n)
    a, b = rng.normal(1, 1, n), rng.normal(0, 2, n)
    expected = reference.ttest_rel(a, b)
    low, high = expected.confidence_interval(confidence)
    got = paired_difference(by_seed(a), by_seed(b), confidence)
    assert (got.mean, got.low, got.high, got.p_value) == pytest.approx(((a - b).mean(), low, high, expected.pvalue))
    assert got.n == n


def test_closed_form_for_three_pairs():
    # Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t(0.975, 2) = 4.302653.
    got = paired_difference({1: 2.0, 2: 4.0, 3: 6.0}, {1: 1.0, 2: 2.0, 3: 3.0})
    assert got.mean == pytest.approx(2.0)
    assert got.half == pytest.approx(4.302652729911275 / 3**0.5)


def test_only_shared_seeds_are_paired():
    a, b = {1: 1.0, 2: 5.0, 7: 100.0}, {2: 3.0, 1: 0.5, 9: -100.0}
    np.testing.assert_array_equal(paired_differences(a, b), [0.5, 2.0])
    assert paired_difference(a, b).n == 2
    with pytest.raises(ValueError, match=r"seeds \[1\] and \[2\]"):
        paired_difference({1: 0.0}, {2: 0.0})


def test_one_pair_has_no_interval():
    got = paired_difference({1: 2.0}, {1: 0.5})
    assert (got.mean, got.low, got.high, got.p_value, got.n) == (1.5, None, None, None, 1)


def test_equal_runs_are_no_difference_and_equal_differences_no_evidence():
    same = paired_difference({1: 0.4, 2: 0.5}, {1: 0.4, 2: 0.5})
    assert (same.mean, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    # 0.7 - 0.6 and 0.6 - 0.5 differ by rounding only; a t test would call that overwhelming.
    shifted = paired_difference({1: 0.7, 2: 0.6}, {1: 0.6, 2: 0.5})
    assert (shifted.low, shifted.high, shifted.p_value) == (None, None, None)


def test_reversed_is_the_comparison_from_the_other_side():
    a, b = {1: 0.1, 2: 0.5, 3: 0.2}, {1: 0.2, 2: 0.9, 3: 0.1}
    assert paired_difference(a, b).reversed == paired_difference(b, a)
    assert paired_difference({1: 1.0}, {1: 0.0}).reversed.low is None


def test_mean_interval_against_scipy():
    x = np.array([0.61, 0.58, 0.66, 0.6])
    low, high = reference.ttest_1samp(x, 0).confidence_interval(0.95)
    got = mean_interval(x.tolist())
    assert (got.mean, got.low, got.high, got.n) == pytest.approx((x.mean(), low, high, 4))
    assert mean_interval([0.5]).half is None


def test_bootstrap_repeats_with_its_stream_and_nears_the_normal_interval():
    x = np.random.default_rng(3).normal(2, 1, 400)
    one, two = (bootstrap_interval(x, np.random.default_rng(7)) for _ in range(2))
    assert one == two
    half = 1.96 * x.std() / 20
    assert (one.low, one.high) == pytest.approx((x.mean() - half, x.mean() + half), abs=0.02)
    assert bootstrap_interval([1.0], np.random.default_rng(0)).low is None


def test_holm_against_the_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([]), "at least one"),
        (lambda: mean_interval([1.0, float("nan")]), "finite"),
        (lambda: mean_interval([1.0], 95), "0.95"),
        (lambda: holm([1.2]), r"\[0, 1\]"),
        (lambda: holm([float("nan")]), r"\[0, 1\]"),
        (lambda: bootstrap_interval([1.0, 2.0], np.random.default_rng(0), resamples=0), "resamples=0"),
        (lambda: paired_difference({1: float("inf")}, {1: 0.0}), "finite"),
    ],
)
def test_bad_input_says_what_is_needed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_false_wins_with_three_seeds_stay_below_five_percent_and_intervals_cover():
    # Batched through scipy's identity with our function (tested above) this is a check of the design, not of a formula:
    # a family of six comparisons, three seeds, seeds shared by all methods as in a real table.
    rng, trials = np.random.default_rng(11), 400
    wins = covered = 0
    for _ in range(trials):
        seed_effect = rng.normal(0, 0.02, 3)
        values = 0.6 + seed_effect + rng.normal(0, 0.01, (4, 3))
        compared = [paired_difference(by_seed(values[i]), by_seed(values[j])) for i, j in [(1, 0), (2, 0), (3, 0)]]
        wins += min(holm([c.p_value for c in compared])) < 0.05
        shifted = paired_difference(by_seed(values[1] + 0.03), by_seed(values[0]))
        covered += shifted.low <= 0.03 <= shifted.high
    error = 3 * (0.05 * 0.95 / trials) ** 0.5
    assert wins / trials <= 0.05 + error
    assert abs(covered / trials - 0.95) <= error
