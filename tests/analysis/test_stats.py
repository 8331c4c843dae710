import numpy as np
import pytest
from scipy import stats as reference

from harness.analysis.stats import (
    Interval,
    bootstrap_interval,
    detectable_difference,
    deviation_interval,
    holm,
    image_bootstrap,
    mean_interval,
    paired_difference,
    paired_differences,
)
from harness.metrics import hits_and_unions, miou


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


@pytest.mark.parametrize("n", [2, 3, 10, 400])
def test_bootstrap_is_the_quantiles_of_the_resampled_means(n):
    """However many resamples are in memory together."""
    x = np.random.default_rng(n).exponential(1, n)
    got = bootstrap_interval(x, np.random.default_rng(1), resamples=5_000)
    means = x[np.random.default_rng(1).integers(n, size=(5_000, n))].mean(axis=1)
    # Not to the last bit: numpy adds up rows of a smaller array in another order.
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), rel=1e-14)
    assert got.mean == x.mean() and got.n == n


def test_many_equal_values_have_no_width():
    assert bootstrap_interval([3.0] * 200, np.random.default_rng(0)) == Interval(3.0, 3.0, 3.0, 200)


def test_differences_pair_by_seed_whatever_the_order():
    a, b = {3: 3.0, 1: 1.0, 2: 2.5}, {2: 1.0, 1: 0.5, 9: 7.0}
    assert paired_differences(a, b).tolist() == [0.5, 1.5]
    assert paired_difference(a, b).mean == 1.0


def test_holm_against_the_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def matrices(seed, shape=(3, 7, 4, 4)):
    """Of three runs on seven images, four classes, the last of them on the first two images only."""
    counts = np.random.default_rng(seed).integers(0, 50, shape)
    counts[:, 2:, 3], counts[:, 2:, :, 3] = 0, 0
    return counts


@pytest.mark.parametrize("absent", ["skip", "zero"])
def test_image_bootstrap_is_the_loop_over_resamples(absent):
    a, b = matrices(1), matrices(2)
    got = image_bootstrap(
        hits_and_unions(a), hits_and_unions(b), np.random.default_rng(3), resamples=600, absent=absent
    )
    weights = []  # as many images as are drawn together, then the rest
    rng = np.random.default_rng(3)
    for count in (500, 100):
        weights.extend(rng.multinomial(7, np.full(7, 1 / 7), size=count))

    def difference(weight):
        sums = [(x * weight[None, :, None, None]).sum(axis=1) for x in (a, b)]
        return np.mean([miou(one, absent) - miou(other, absent) for one, other in zip(*sums, strict=True)])

    low, high = np.quantile([difference(w) for w in weights], [0.025, 0.975])
    assert (got.mean, got.low, got.high, got.n) == pytest.approx((difference(np.ones(7)), low, high, 7))


def test_image_bootstrap_of_equal_runs_is_nothing():
    counts = hits_and_unions(matrices(1))
    got = image_bootstrap(counts, counts, np.random.default_rng(0), resamples=50)
    assert (got.mean, got.low, got.high) == (0.0, 0.0, 0.0)
    assert image_bootstrap(counts[:, :1], counts[:, :1], np.random.default_rng(0)).low is None


@pytest.mark.parametrize(
    ("n", "level", "power", "expected"),
    # statsmodels 0.15.0, TTestPower().solve_power: differences in standard deviations
    [
        (3, 0.05, 0.8, 3.264043552819638),
        (3, 0.05, 0.9, 3.9234494425177866),
        (5, 0.05, 0.8, 1.6819970833232674),
        (5, 0.05 / 6, 0.8, 2.7592626303094554),
        (10, 0.05, 0.8, 0.9960019107624178),
        (10, 0.05, 0.9, 1.154565052026948),
    ],
)
def test_detectable_difference_is_statsmodels(n, level, power, expected):
    assert detectable_difference(1.0, n, level, power) == pytest.approx(expected, rel=1e-6)
    assert detectable_difference(0.25, n, level, power) == pytest.approx(expected / 4, rel=1e-6)
    assert detectable_difference(1.0, n, level, power, freedom=4 * n) < expected


def test_deviation_interval_is_the_chi_square_one():
    x = [0.1, 0.4, 0.2, 0.9, 0.5]
    got = deviation_interval(np.std(x, ddof=1), 4)
    # (n - 1) s^2 / chi2: 0.484419 and 11.143287 are its 2.5 % and 97.5 % quantiles with four degrees of freedom.
    squares = 4 * np.var(x, ddof=1)
    assert (got.low, got.high) == pytest.approx(((squares / 11.143287) ** 0.5, (squares / 0.484419) ** 0.5), rel=1e-6)
    assert (got.mean, got.n) == (pytest.approx(np.std(x, ddof=1)), 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detectable_difference(0.0, 3), "deviation=0.0"),
        (lambda: detectable_difference(1.0, 1), "n=1"),
        (lambda: detectable_difference(1.0, 3, power=0.01), "power=0.01"),
        (lambda: deviation_interval(0.0, 3), "deviation=0.0"),
        (lambda: deviation_interval(1.0, 0), "freedom=0"),
        (
            lambda: image_bootstrap(np.ones((1, 2, 2, 3)), np.ones((1, 3, 2, 3)), np.random.default_rng(0)),
            r"\(1, 2, 2, 3\) and \(1, 3, 2, 3\)",
        ),
        (
            lambda: image_bootstrap(np.zeros((1, 2, 2, 3)), np.ones((1, 2, 2, 3)), np.random.default_rng(0)),
            "counted nothing",
        ),
        (lambda: hits_and_unions(np.zeros((3, 2))), r"shape \(3, 2\)"),
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
