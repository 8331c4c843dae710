"""The comparisons of a block as one family: standard errors from the seed-blocked table, simultaneous intervals.

Every method has a value for every seed. The model is value = method + seed + error (randomised blocks). The error's
variance is pooled over methods, which gives a many-to-one comparison over five seeds some power (C. W. Dunnett, A
Multiple Comparison Procedure for Comparing Several Treatments with a Control, 1955). Where methods differ in variance,
the pooled one is too small for some comparisons, so a comparison takes the largest of three estimates; simulations of
both cases are in `tests/analysis/test_simultaneous.py`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pairs = Sequence[tuple[int, int]]

_DRAWS, _FEWER, _MANY = 2**15, 2**12, 64  # of all methods at once; fewer where there are many methods
_SWEEPS = 50


@dataclass(frozen=True)
class Spread:
    """How far the values of a block scatter beyond method and seed.

    Attributes:
        pooled: variance of the error over all methods; nan without degrees of freedom.
        freedom: degrees of freedom of `pooled`.
        each: (M,) variance of the error of every method, at least 0; nan where it cannot be told apart.
    """

    pooled: float
    freedom: int
    each: Floats


@dataclass(frozen=True)
class Simultaneous:
    """What a family of comparisons finds.

    Attributes:
        low, high: (K,) ends of the simultaneous intervals: the level is the probability that any of them misses.
        p_values: (K,) adjusted for the whole family.
    """

    low: Floats
    high: Floats
    p_values: Floats


def spread(values: Floats) -> Spread:
    """Variance of the error of `values` = method + seed + error.

    Args:
        values: (M, n), nan where a method has no value for a seed.

    Returns:
        The pooled residual variance of the additive model. For each method the estimate that is unbiased under
        unequal variances for a complete table of three or more methods (F. E. Grubbs, On Estimating Precision of
        Measuring Instruments and Product Variability, 1948, in terms of residuals).

    Raises:
        ValueError: not two dimensions.
    """
    if values.ndim != 2:
        raise ValueError(f"values are (methods, seeds); given: shape {values.shape}")
    there = ~np.isnan(values)
    rows = there.sum(axis=1) > 1
    used = there & rows[:, None]
    columns = used.sum(axis=0) > 1
    used &= columns
    methods, seeds = int(used.any(axis=1).sum()), int(used.any(axis=0).sum())
    freedom = int(used.sum()) - methods - seeds + 1
    each = np.full(len(values), np.nan)
    if methods < 2 or seeds < 2 or freedom < 1:
        return Spread(float("nan"), 0, each)
    squares = _residuals(values, used) ** 2
    pooled = float(squares.sum()) / freedom
    if methods > 2:
        own = squares.sum(axis=1)[rows] / (used.sum(axis=1)[rows] - 1).clip(1)
        each[rows] = ((own - own.sum() / (methods - 1) / methods) / (1 - 2 / methods)).clip(0)
    return Spread(pooled, freedom, each)


def _residuals(values: Floats, used: NDArray[np.bool_]) -> Floats:
    """The used values less method and seed, 0 elsewhere: by sweeps, of which one is enough where all are used."""
    left = np.where(used, values, 0.0)
    for _ in range(1 if used.all() else _SWEEPS):
        for axis in (1, 0):
            count = used.sum(axis=axis, keepdims=True).clip(1)
            left -= np.where(used, left.sum(axis=axis, keepdims=True) / count, 0.0)
    return left


def errors(values: Floats, pairs: Pairs) -> tuple[Floats, NDArray[np.int64]]:
    """Standard error and degrees of freedom of each mean paired difference.

    Args:
        values: (M, n), nan where a method has no value for a seed.
        pairs: K pairs of places (method, reference).

    Returns:
        (K,) standard errors: the largest of three, from the pooled variance, the variance of the comparison's own
        differences, and the sum of the two methods' own variances. The standard deviations of the latter two, over few
        seeds, are corrected for their bias (by 1/c4 to first order). nan for fewer than two shared seeds. (K,) degrees
        of freedom.
    """
    found = spread(values)
    out, freedom = np.full(len(pairs), np.nan), np.zeros(len(pairs), dtype=np.int64)
    for k, (one, other) in enumerate(pairs):
        deltas = values[one] - values[other]
        deltas = deltas[~np.isnan(deltas)]
        if deltas.size < 2:
            continue
        own, several = float(deltas.var(ddof=1)), np.array([2 * found.pooled, found.each[one] + found.each[other]])
        largest = own
        if not np.isnan(several[1]):  # three methods or more
            unbiased = 1 + 0.5 / (deltas.size - 1)
            largest = max(several[0], unbiased * own, unbiased * several[1])
        out[k] = np.sqrt(largest / deltas.size)
        freedom[k] = max(found.freedom, deltas.size - 1)
    return out, freedom


def family(means: Floats, errors: Floats, freedom: NDArray[Any], pairs: Pairs, level: float = 0.05) -> Simultaneous:
    """Simultaneous intervals of comparisons that share methods, by the distribution of their smallest p-value.

    With equal degrees of freedom this is the multivariate t distribution, for comparisons with one reference
    Dunnett's. It is drawn from a fixed quasi-random sequence, so that the same rows give the same numbers.

    Args:
        means, errors: (K,) differences and their standard errors, > 0.
        freedom: (K,) degrees of freedom of the errors, >= 1, whole or not.
        pairs: K pairs of places of the methods that are compared.
        level: probability that any of the intervals misses, in (0, 1).

    Raises:
        ValueError: arguments of different lengths, or out of these ranges.
    """
    from scipy import special

    count = len(pairs)
    if not len(means) == len(errors) == len(freedom) == count:
        raise ValueError(f"one mean, error and freedom per pair: {len(means)}, {len(errors)}, {len(freedom)}, {count}")
    _require(errors, freedom, level)
    if not count:
        return Simultaneous(*(np.zeros(0),) * 3)
    single = 2 * special.stdtr(freedom, -np.abs(means) / errors)
    smallest = _smallest_p(tuple(pairs), tuple(freedom.tolist()))
    # A quasi-random sample is too coarse for small probabilities; between these bounds the value lies in any case.
    adjusted = np.searchsorted(smallest, single, side="right") / len(smallest)
    p_values = np.clip(adjusted, single, np.minimum(1.0, count * single))
    half = -special.stdtrit(freedom, critical(pairs, freedom, level) / 2) * errors
    return Simultaneous(means - half, means + half, p_values)


def separate(means: Floats, errors: Floats, freedom: NDArray[Any], level: float = 0.05) -> Simultaneous:
    """Simultaneous intervals of comparisons with a variance of their own each, by Bonferroni's inequality.

    Args:
        means, errors: (K,) differences and their standard errors, > 0.
        freedom: (K,) degrees of freedom of the errors, >= 1.
        level: probability that any of the intervals misses, in (0, 1).

    Raises:
        ValueError: arguments out of these ranges.
    """
    from scipy import special

    _require(errors, freedom, level)
    count = max(1, len(means))
    single = 2 * special.stdtr(freedom, -np.abs(means) / errors)
    half = -special.stdtrit(freedom, level / count / 2) * errors
    return Simultaneous(means - half, means + half, np.minimum(1.0, count * single))


def _require(errors: Floats, freedom: NDArray[Any], level: float) -> None:
    if not ((errors > 0).all() and (freedom >= 1).all() and 0 < level < 1):
        raise ValueError(
            f"errors > 0, freedom >= 1 and 0 < level < 1 are needed; given: {errors}, {freedom}, level={level}"
        )


def critical(pairs: Pairs, freedom: Sequence[float] | NDArray[Any], level: float = 0.05) -> float:
    """The p-value of a single comparison below which it is a finding of the family: at most `level`.

    Args:
        pairs: K >= 1 pairs of places of the methods that are compared.
        freedom: (K,) degrees of freedom, >= 1.
        level: of the whole family, in (0, 1).
    """
    smallest = _smallest_p(tuple(pairs), tuple(float(each) for each in freedom))
    return float(np.clip(np.quantile(smallest, level), level / len(pairs), level))


@functools.lru_cache(maxsize=256)
def _smallest_p(pairs: tuple[tuple[int, int], ...], freedom: tuple[float, ...]) -> Floats:
    """Draws of the smallest p-value of a family without any difference, in ascending order."""
    from scipy import special

    used, places = np.unique(np.array(pairs), return_inverse=True)
    places = places.reshape(-1, 2)
    normal = _normal(len(used))
    smallest = np.ones(len(normal))
    for each in set(freedom):
        largest = np.zeros(len(normal))
        for one, other in places[np.array(freedom) == each]:
            np.maximum(largest, np.abs(normal[:, one] - normal[:, other]), out=largest)
        # The errors share one estimated variance: one chi-square draw for all.
        np.minimum(smallest, 2 * special.stdtr(each, -largest / _estimate(len(used), each)), out=smallest)
    return np.sort(smallest)


@functools.lru_cache(maxsize=4)
def _uniform(methods: int) -> Floats:
    """A fixed quasi-random sample: a column for each method, and one for the estimated variance."""
    from scipy.stats import qmc

    draws = _DRAWS if methods <= _MANY else _FEWER
    found: Floats = qmc.Sobol(methods + 1, scramble=True, rng=0).random(draws).clip(1e-12, 1 - 1e-12)
    return found


@functools.lru_cache(maxsize=4)
def _normal(methods: int) -> Floats:
    """(draws, methods) means of methods in units of their standard error."""
    from scipy import special

    found: Floats = special.ndtri(_uniform(methods)[:, :-1])
    return found


@functools.lru_cache(maxsize=128)  # of 256 KB
def _estimate(methods: int, freedom: float) -> Floats:
    """(draws,) estimates of the standard error of a difference."""
    from scipy import special

    found: Floats = np.sqrt(2 * special.chdtri(freedom, _uniform(methods)[:, -1]) / freedom)
    return found
