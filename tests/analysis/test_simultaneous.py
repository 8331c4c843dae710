"""Comparisons as one family: against tables, scipy and least squares, and by simulation of what is not as assumed."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import special, stats

from harness.analysis.simultaneous import critical, errors, family, spread

Draw = Callable[[np.random.Generator, int, int], np.ndarray]


def with_one(count: int) -> tuple[tuple[int, int], ...]:
    """All others against the first."""
    return tuple((i, 0) for i in range(1, count + 1))


def of_a_block(methods: int) -> tuple[tuple[int, int], ...]:
    """Every method against the first two, as in a table."""
    return (*with_one(methods - 1), *((i, 1) for i in range(2, methods)))


@pytest.mark.parametrize(
    ("count", "freedom", "expected"),
    # C. W. Dunnett, New Tables for Multiple Comparisons with a Control, Biometrics 20 (1964), two-sided, 5 %.
    [(1, 10, 2.23), (2, 10, 2.57), (3, 12, 2.68), (4, 20, 2.65), (5, 20, 2.73), (9, 40, 2.81)],
)
def test_the_critical_value_is_dunnetts(count: int, freedom: int, expected: float) -> None:
    level = critical(with_one(count), [freedom] * count)
    assert -special.stdtrit(freedom, level / 2) == pytest.approx(expected, abs=0.012)


def test_p_values_and_intervals_are_those_of_scipys_dunnett() -> None:
    rng = np.random.default_rng(1)
    control, *samples = rng.normal([0, 0.3, 1.0, 1.6], 1.0, (6, 4)).T
    theirs = stats.dunnett(*samples, control=control, random_state=np.random.default_rng(0))
    interval = theirs.confidence_interval(0.95)
    pooled = np.mean([x.var(ddof=1) for x in (control, *samples)])
    means = np.array([x.mean() - control.mean() for x in samples])
    ours = family(means, np.full(3, (2 * pooled / 6) ** 0.5), np.full(3, 20), with_one(3))
    np.testing.assert_allclose(ours.p_values, theirs.pvalue, atol=4e-3)
    np.testing.assert_allclose(ours.low, interval.low, atol=2e-2)
    np.testing.assert_allclose(ours.high, interval.high, atol=2e-2)


def test_one_comparison_is_a_t_test() -> None:
    found = family(np.array([2.0]), np.array([0.5]), np.array([4]), [(1, 0)])
    assert found.p_values[0] == pytest.approx(2 * stats.t.sf(4.0, 4), rel=1e-6)
    assert (found.low[0], found.high[0]) == pytest.approx((2 - 2.7764 * 0.5, 2 + 2.7764 * 0.5), abs=0.01)


def test_mark_and_interval_agree_and_p_lies_between_its_bounds() -> None:
    rng = np.random.default_rng(2)
    pairs = of_a_block(5)
    for _ in range(50):
        values = rng.normal(0, 1, (5, 6)) + rng.normal(0, 1.5, (5, 1))
        error, freedom = errors(values, pairs)
        means = np.array([(values[a] - values[b]).mean() for a, b in pairs])
        found = family(means, error, freedom, pairs)
        single = 2 * stats.t.sf(np.abs(means) / error, freedom)
        assert (found.p_values >= single - 1e-12).all() and (found.p_values <= len(pairs) * single + 1e-12).all()
        near = np.abs(found.p_values - 0.05) < 1e-3
        assert (((found.low > 0) | (found.high < 0)) == (found.p_values < 0.05))[~near].all()


def test_the_pooled_variance_is_that_of_least_squares_also_with_gaps() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, (4, 7)) + rng.normal(0, 3, (1, 7))
    for gaps in ((), ((0, 2),), ((0, 2), (1, 5), (3, 0))):
        given = values.copy()
        for gap in gaps:
            given[gap] = np.nan
        method, seed = np.nonzero(~np.isnan(given))
        design = np.hstack([np.eye(4)[method], np.eye(7)[seed][:, 1:]])
        y = given[method, seed]
        residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        found = spread(given)
        assert found.freedom == len(y) - 10
        assert found.pooled == pytest.approx(residual @ residual / found.freedom, rel=1e-9)


def test_each_methods_variance_is_unbiased() -> None:
    rng, wanted = np.random.default_rng(4), np.array([1.0, 1.0, 4.0, 9.0, 1.0])
    # Without the cut at 0, which only few of so many seeds need.
    found = np.mean([spread(rng.normal(0, wanted[:, None] ** 0.5, (5, 40))).each for _ in range(400)], axis=0)
    np.testing.assert_allclose(found, wanted, rtol=0.06)


def test_what_has_no_spread_or_no_partner_has_no_error() -> None:
    values = np.array([[1.0, 2.0, np.nan], [2.0, np.nan, 3.0], [1.5, 2.5, 3.5]])
    error, _ = errors(values, [(0, 1), (2, 0)])
    assert np.isnan(error[0]) and error[1] >= 0
    assert spread(np.ones((1, 5))).freedom == 0
    assert len(family(np.zeros(0), np.zeros(0), np.zeros(0, int), []).low) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spread(np.ones(3)), r"shape \(3,\)"),
        (lambda: family(np.ones(2), np.ones(1), np.ones(2, int), [(1, 0), (2, 0)]), "2, 1, 2, 2"),
        (lambda: family(np.ones(1), np.zeros(1), np.ones(1, int), [(1, 0)]), "errors > 0"),
        (lambda: family(np.ones(1), np.ones(1), np.ones(1, int), [(1, 0)], level=1.5), "level=1.5"),
    ],
)
def test_bad_input_says_what_is_needed(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def scattered(*deviations: float) -> Draw:
    """Normal values; the first methods scatter like this, all others by 1."""

    def draw(rng: np.random.Generator, methods: int, seeds: int) -> np.ndarray:
        each = np.array([*deviations, *[1.0] * (methods - len(deviations))])
        return rng.normal(0, each[:, None], (methods, seeds)) + rng.normal(0, 2, seeds)

    return draw


def in_pairs(rng: np.random.Generator, methods: int, seeds: int) -> np.ndarray:
    """Two methods each share most of their noise."""
    shared = rng.normal(0, 0.8**0.5, ((methods + 1) // 2, seeds)).repeat(2, axis=0)[:methods]
    return shared + rng.normal(0, 0.2**0.5, (methods, seeds))


def heavy_tails(rng: np.random.Generator, methods: int, seeds: int) -> np.ndarray:
    return rng.standard_t(3, (methods, seeds))


CASES = {
    "equal": scattered(),
    "the baseline scatters three times as much": scattered(3.0),
    "kd scatters three times as much": scattered(1.0, 3.0),
    "a method scatters three times as much": scattered(1.0, 1.0, 3.0),
    "t with 3 degrees of freedom": heavy_tails,
    "methods correlate in pairs": in_pairs,
}


def share_of_wins(draw: Draw, methods: int, seeds: int, trials: int, gain: float = 0.0) -> tuple[float, float]:
    """How often any comparison is a finding, and how often that of the third method with the baseline is."""
    rng, pairs = np.random.default_rng(100 * methods + seeds), of_a_block(methods)
    places = np.array(pairs)
    wins = third = 0
    for _ in range(trials):
        values = draw(rng, methods, seeds)
        values[2] += gain
        error, freedom = errors(values, pairs)
        means = (values[places[:, 0]] - values[places[:, 1]]).mean(axis=1)
        found = family(means, error, freedom, pairs)
        marked = (found.low > 0) | (found.high < 0)
        wins, third = wins + marked.any(), third + marked[1]
    return wins / trials, third / trials


SIZES = [(4, 5), *(pytest.param(*size, marks=pytest.mark.slow) for size in ((3, 5), (6, 5), (12, 5), (6, 10)))]


@pytest.mark.parametrize(("methods", "seeds"), SIZES)
@pytest.mark.parametrize("case", CASES)
def test_false_findings(case: str, methods: int, seeds: int) -> None:
    """The chance of any mark in a block where nothing differs is 6 % at most, whatever the methods' spread is."""
    trials = 1000
    found, _ = share_of_wins(CASES[case], methods, seeds, trials)
    assert found <= 0.06 + 3 * (0.06 * 0.94 / trials) ** 0.5


@pytest.mark.parametrize(("seeds", "low", "high"), [(5, 0.4, 0.6), (10, 0.87, 0.97)])
def test_a_difference_of_two_standard_deviations_is_found(seeds: int, low: float, high: float) -> None:
    """The power that docs/protocol.md gives for four methods."""
    assert low <= share_of_wins(CASES["equal"], 4, seeds, 600, gain=2.0)[1] <= high
