"""Methods over many pairs and datasets: ranks, probability of improvement, performance profiles.

A cell is one method on one task (a teacher/student pair on a dataset). Higher values are better, in any unit. If the
training diverged or failed, the cell is -inf: it is worse than every number and never left out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.analysis.stats import Interval

LOST = float("-inf")
"""The value of a cell that diverged or failed."""


def mean_ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Mean rank of every method over the tasks; 1 is the best, equal values share the mean of their ranks.

    Args:
        values: (N, k) of N tasks and k methods; `LOST` if there is no result.

    Returns:
        (k,) in [1, k].

    Raises:
        ValueError: not (N, k) with N >= 1 and k >= 2, nan, or +inf.
    """
    return np.asarray(_ranks(values).mean(axis=0))


def friedman(values: ArrayLike) -> float:
    """p-value of "all methods are equally good" (M. Friedman, 1937), tested before pairwise comparisons.

    Args:
        values: (N, k) as in `mean_ranks`, k >= 3.

    Raises:
        ValueError: as `mean_ranks`, or fewer than three methods.
    """
    from scipy import stats

    ranks = _ranks(values)
    if ranks.shape[1] < 3:
        raise ValueError(f"three methods or more are needed; given: {ranks.shape[1]}")
    if (ranks == ranks[:, :1]).all():
        return 1.0  # every task is one tie: the statistic would be 0 / 0
    return float(stats.friedmanchisquare(*ranks.T).pvalue)


def critical_difference(methods: int, tasks: int, level: float = 0.05) -> float:
    """Nemenyi's critical difference of mean ranks; corrected for all pairwise comparisons.

    q sqrt(k (k + 1) / (6 N)), q the studentized range's quantile over sqrt(2) (J. Demsar, Statistical Comparisons of
    Classifiers over Multiple Data Sets, JMLR 2006).

    Raises:
        ValueError: fewer than two methods, no task, or a level outside (0, 1).
    """
    from scipy import stats

    if methods < 2 or tasks < 1 or not 0 < level < 1:
        raise ValueError(
            f"two methods, one task and a level in (0, 1) are needed; given: methods={methods}, tasks={tasks}, "
            f"level={level}"
        )
    quantile = float(stats.studentized_range.ppf(1 - level, methods, np.inf)) / float(np.sqrt(2))
    return quantile * float(np.sqrt(methods * (methods + 1) / (6 * tasks)))


def groups(ranks: Mapping[str, float], difference: float) -> list[tuple[str, ...]]:
    """The largest sets of methods within the critical difference of each other, best first.

    Args:
        ranks: mean rank by method.
        difference: `critical_difference`.

    Returns:
        Sets of two or more, each from its best to its worst method; no set contains another.
    """
    ordered = sorted(ranks, key=lambda name: (ranks[name], name))
    found: list[tuple[str, ...]] = []
    reached = 0
    for start, best in enumerate(ordered):
        end = start
        while end < len(ordered) and ranks[ordered[end]] - ranks[best] <= difference:
            end += 1
        if end > reached and end - start > 1:
            found.append(tuple(ordered[start:end]))
        reached = max(reached, end)
    return found


def probability_of_improvement(
    a: Sequence[ArrayLike],
    b: Sequence[ArrayLike],
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2_000,
) -> Interval:
    """The probability that a run of `a` beats one of `b` on a task drawn at random; a tie counts half.

    Mean over tasks of the Mann-Whitney statistic, with a percentile bootstrap interval that draws runs within each task
    (R. Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, NeurIPS 2021).

    Args:
        a: values of the runs, by task: (runs of a,) each; `LOST` for one that diverged.
        b: the same tasks' values of the other method.
        rng: random stream of the resamples.
        confidence: in (0, 1).
        resamples: number of resamples, >= 1.

    Returns:
        A probability, its interval (none if every task has one run of each), and the number of tasks.

    Raises:
        ValueError: no task, different numbers of tasks, a task without runs, nan or +inf.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"both sides need the same tasks, at least one; given: {len(a)} and {len(b)}")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"confidence={confidence} lies in (0, 1) and resamples={resamples} is at least 1")
    tasks = [(_runs(x), _runs(y)) for x, y in zip(a, b, strict=True)]
    mean = float(np.mean([_beats(x[None], y[None])[0] for x, y in tasks]))
    if all(x.size == 1 and y.size == 1 for x, y in tasks):
        return Interval(mean, None, None, len(tasks))
    drawn = np.mean(
        [
            _beats(x[rng.integers(x.size, size=(resamples, x.size))], y[rng.integers(y.size, size=(resamples, y.size))])
            for x, y in tasks
        ],
        axis=0,
    )
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high), len(tasks))


def gaps(values: ArrayLike) -> NDArray[np.float64]:
    """Distance of every cell to the best method of its task; inf for a lost one.

    For values -log(cost), the logarithms of E. Dolan and J. More's performance ratios (2002); for mIoU, points.

    Args:
        values: (N, k) as in `mean_ranks`.

    Returns:
        (N, k), >= 0.
    """
    x = _table(values)
    best = x.max(axis=1, keepdims=True)
    out = np.full(x.shape, np.inf)
    np.subtract(best, x, out=out, where=np.isfinite(x))
    return out


def profile(gaps: ArrayLike, at: ArrayLike) -> NDArray[np.float64]:
    """Performance profile of one method: the share of tasks on which it is within `at` of the best.

    Args:
        gaps: (N,) of the method, from `gaps`.
        at: (m,) distances.

    Returns:
        (m,) in [0, 1]; a lost task is never within any distance.
    """
    behind, distance = _gaps(gaps), np.asarray(at, dtype=np.float64)
    return np.asarray((behind[:, None] <= distance[None]).mean(axis=0))


def profile_area(gaps: ArrayLike, upper: float) -> float:
    """Mean height of the performance profile over distances in [0, upper], exactly.

    A profile is a staircase that rises by 1/N at each gap, so its integral is the mean of max(0, upper - gap).

    Args:
        gaps: (N,) of the method, from `gaps`.
        upper: > 0; a gap beyond it counts like a lost task.

    Returns:
        In [0, 1]; 1 for the method that is the best on every task.

    Raises:
        ValueError: no gap, a negative one or nan, or an upper end that is not positive and finite.
    """
    if not (np.isfinite(upper) and upper > 0):
        raise ValueError(f"upper={upper}: a positive number is needed")
    return float(np.maximum(0.0, upper - _gaps(gaps)).mean()) / upper


def _ranks(values: ArrayLike) -> NDArray[np.float64]:
    from scipy import stats

    return np.asarray(stats.rankdata(-_table(values), axis=1))


def _table(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or x.shape[0] < 1 or x.shape[1] < 2:
        raise ValueError(f"values are (tasks, methods), at least (1, 2); given: shape {x.shape}")
    return _known(x)


def _runs(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"a list of at least one number is needed; given: shape {x.shape}")
    return _known(x)


def _known(x: NDArray[np.float64]) -> NDArray[np.float64]:
    if np.isnan(x).any() or (x == np.inf).any():
        raise ValueError(f"nan and inf are no results (a lost cell is -inf); given: {x.tolist()}")
    return x


def _gaps(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or not (x >= 0).all():
        raise ValueError(f"gaps are a list of numbers >= 0, at least one; given: {x.tolist()}")
    return x


def _beats(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the pairs of a value of x, (R, n), and one of y, (R, m), in which x is higher; ties count half: (R,)."""
    left, right = x[:, :, None], y[:, None, :]
    return np.asarray(((left > right) + 0.5 * (left == right)).mean(axis=(1, 2)))
