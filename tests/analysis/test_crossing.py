"""Means over crossed teachers and seeds: by hand, by scipy, and how often their intervals hold."""

import numpy as np
import pytest
from scipy import special, stats

from harness.analysis.crossing import Crossed, bounded, complete, crossed, planned, squares, variance
from harness.analysis.simultaneous import separate

TEACHERS, SEEDS = 3, 5


def drawn(shape: tuple[int, int], tau: float, shared: float, count: int, seed: int = 0) -> np.ndarray:
    """Tables with mean 0; tau: deviation over teachers; that over seeds is 1, a share of its variance common to all."""
    rng = np.random.default_rng(seed)
    a, b = shape
    return (
        tau * rng.standard_normal((count, a, 1))
        + np.sqrt(shared) * rng.standard_normal((count, 1, b))
        + np.sqrt(1 - shared) * rng.standard_normal((count, a, b))
    )


def coverage(values: np.ndarray) -> float:
    found, freedom = variance(squares(values))
    half = special.stdtrit(freedom, 0.975) * np.sqrt(found)
    return float((np.abs(values.mean(axis=(1, 2))) <= half).mean())


@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (5, 5)])
@pytest.mark.parametrize("tau", [0, 0.5, 1, 2])
def test_the_interval_holds_in_95_percent(shape: tuple[int, int], tau: float) -> None:
    """Half of the variance over seeds is common to all teachers: the same weights, the same data."""
    assert 0.93 <= coverage(drawn(shape, tau, 0.5, 6000)) <= 0.97


@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (5, 5)])
def test_the_interval_holds_whatever_the_shares(shape: tuple[int, int]) -> None:
    """In 93 to 98 %; too wide most where neither teachers nor seeds have an effect of their own."""
    found = [coverage(drawn(shape, tau, share, 6000)) for tau in (0, 0.5, 1, 2) for share in (0, 0.2, 0.8, 0.99)]
    assert min(found) >= 0.928 and max(found) <= 0.982


@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (5, 5)])
@pytest.mark.parametrize("tau", [0, 0.5, 1, 2])
@pytest.mark.parametrize("own", [0.1, 1.0])
def test_false_findings_of_a_table_of_several_teachers(shape: tuple[int, int], tau: float, own: float) -> None:
    """Of `none` and three methods that do not differ, anything is marked in at most 6 % of tables, up to chance.

    A share `own` of what teachers do each method has for itself; the rest is common to all methods.
    """
    rng, count, missed = np.random.default_rng(0), 4000, np.array(False)
    lines = a_block(rng, shape, tau, own, count)
    for one, other in ((1, 0), (2, 0), (3, 0), (2, 1), (3, 1)):
        deltas = lines[one] - lines[other]
        found, freedom = variance(squares(deltas))
        capped = [bounded(Crossed(0.0, 0.0, each, *shape)) for each in freedom]
        half = -special.stdtrit(capped, 0.05 / 5 / 2) * np.sqrt(found)  # as `separate`, below
        missed = missed | (np.abs(deltas.mean(axis=(1, 2))) > half)
    assert missed.mean() <= stats.binom.ppf(0.999, count, 0.06) / count


def test_separate_intervals_are_each_at_a_share_of_the_level() -> None:
    means, errors, freedom = np.array([2.0, -1.0]), np.array([0.5, 1.0]), np.array([3.0, 1.5])
    found = separate(means, errors, freedom)
    half = stats.t.ppf(1 - 0.05 / 4, freedom) * errors
    np.testing.assert_allclose([found.low, found.high], [means - half, means + half])
    np.testing.assert_allclose(found.p_values, np.minimum(1, 4 * stats.t.sf(np.abs(means) / errors, freedom)))
    with pytest.raises(ValueError, match="errors > 0"):
        separate(means, 0 * errors, freedom)


def a_block(rng: np.random.Generator, shape: tuple[int, int], tau: float, own: float, count: int) -> list[np.ndarray]:
    """Values (count, a, b) of `none`, which teachers share, and of three methods, without any difference."""
    a, b = shape
    half = np.sqrt(0.5)
    seed, common = half * rng.standard_normal((count, 1, b)), rng.standard_normal((count, a, 1))
    lines = [seed + half * rng.standard_normal((count, 1, b))]
    for _ in range(3):
        teacher = np.sqrt(1 - own) * common + np.sqrt(own) * rng.standard_normal((count, a, 1))
        lines.append(seed + tau * teacher + half * rng.standard_normal((count, a, b)))
    return lines


def test_seeds_alone_do_not_hold_where_teachers_differ() -> None:
    """What the crossing mends: an interval over the seeds of one teacher misses the mean over teachers."""
    values = drawn((1, SEEDS), 1.0, 0.5, 4000)[:, 0]
    half = stats.t.ppf(0.975, SEEDS - 1) * values.std(axis=1, ddof=1) / np.sqrt(SEEDS)
    assert (np.abs(values.mean(axis=1)) <= half).mean() < 0.75


def test_mean_squares_are_those_of_the_two_way_table() -> None:
    y = np.array([[1.0, 2.0, 4.0], [3.0, 3.0, 8.0]])
    found = squares(y)
    assert found.teacher == pytest.approx(3 * 2 * (7 / 6) ** 2)
    assert found.seed == pytest.approx(2 * (1.5**2 + 1**2 + 2.5**2) / 2)
    left = y - y.mean(1, keepdims=True) - y.mean(0, keepdims=True) + y.mean()
    assert found.error == pytest.approx((left**2).sum() / 2)


def test_both_effects_give_the_sum_of_mean_squares() -> None:
    y = 10 * np.arange(3)[:, None] + 7.0 * np.arange(4)[None] + np.random.default_rng(0).normal(size=(3, 4))
    of = squares(y)
    found, freedom = variance(of)
    total = of.teacher + of.seed - of.error
    assert found == pytest.approx(total / 12)
    assert freedom == pytest.approx(total**2 / (of.teacher**2 / 2 + of.seed**2 / 3 + of.error**2 / 6))


def test_without_effects_everything_is_error() -> None:
    y = np.random.default_rng(3).normal(size=(4, 6))
    y -= y.mean(1, keepdims=True)
    y -= y.mean(0, keepdims=True)
    found, freedom = variance(squares(y))
    assert freedom == pytest.approx(23) and found == pytest.approx((y**2).sum() / 23 / 24)


def test_one_effect_is_the_t_interval_of_its_means() -> None:
    rng = np.random.default_rng(0)
    y = 10 * rng.normal(size=(5, 1)) + 0.1 * rng.normal(size=(5, 3))
    y -= y.mean(0, keepdims=True)
    found, freedom = variance(squares(y))
    means = y.mean(1)
    assert freedom == pytest.approx(4) and np.sqrt(found) == pytest.approx(stats.sem(means))


def test_equal_values_have_no_error() -> None:
    assert crossed(np.full((3, 4), 2.0)) == Crossed(2.0, 0.0, 6.0, 3, 4)


def test_gaps_cost_the_teacher_or_seed_that_lacks_most() -> None:
    y = np.arange(15.0).reshape(3, 5)
    y[0, 4] = np.nan
    assert complete(y).shape == (3, 4)
    y[0] = np.nan
    assert complete(y).shape == (2, 5)
    assert crossed(np.full((3, 2), np.nan)).seeds == 0


def test_a_line_that_teachers_share_is_paired_by_seed() -> None:
    rng = np.random.default_rng(1)
    plain, taught = rng.normal(size=(1, SEEDS)), rng.normal(size=(TEACHERS, SEEDS))
    found = crossed(taught - plain)
    assert found.mean == pytest.approx(taught.mean() - plain.mean())
    assert found.teachers == TEACHERS and found.seeds == SEEDS


def test_one_teacher_has_no_error_over_teachers() -> None:
    assert np.isnan(crossed(np.arange(5.0)[None]).error)
    with pytest.raises(ValueError, match="two teachers and two seeds are needed; given: 1 and 5"):
        squares(np.zeros((1, 5)))


def test_more_seeds_help_as_far_as_teachers_let_them() -> None:
    of = squares(drawn((3, 5), 2.0, 0.5, 1)[0])
    now, _ = planned(of, 5)
    more, freedom = planned(of, 500)
    assert more < now and freedom < 4 and more > 0.9 * np.sqrt((of.teacher - of.error) / 5 / 3)
