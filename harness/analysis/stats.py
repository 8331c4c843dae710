"""Means, intervals over seeds, paired differences, and the correction for multiple comparisons.

Values are plain numbers in any unit; results keep that unit. `harness.analysis.simultaneous` decides what is marked in
a table. The percentile bootstrap interval is too narrow for few seeds, so it decides nothing.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.analysis.arrays import BySeed
from harness.metrics import Absent

ROUNDING = 1e-12
"""Differences with a smaller relative deviation are equal up to rounding, and a t statistic would be meaningless."""
_Same = TypeVar("_Same", bound="Interval")
_AT_ONCE = 500  # resamples of images with weights in memory at once
_DRAWN_AT_ONCE = 2**16  # values that `bootstrap_interval` has in memory together


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided confidence interval; `low` and `high` are None if there is no interval.

    Attributes:
        mean: mean of the values, in their unit.
        low: lower end, or None for fewer than two values.
        high: upper end, or None for fewer than two values.
        n: the number of values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half(self) -> float | None:
        """Half the interval's width (the t interval is symmetric), or None."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def reversed(self: _Same) -> _Same:
        """The interval of the negated values, b - a instead of a - b."""
        low = None if self.high is None else -self.high
        high = None if self.low is None else -self.low
        return replace(self, mean=-self.mean, low=low, high=high)


@dataclass(frozen=True)
class Score:
    """What the runs of a method scored.

    Attributes:
        mean: mean of the values, in their unit.
        deviation: their standard deviation, or None for one value.
        n: the number of values.
        of: what they are of where that is not n seeds, e.g. "3x5" for 3 teachers and 5 seeds.
    """

    mean: float
    deviation: float | None
    n: int
    of: str = ""

    def interval(self, confidence: float = 0.95) -> Interval:
        """The mean with its t interval; none for one value.

        Raises:
            ValueError: a confidence outside (0, 1).
        """
        _check_confidence(confidence)
        if self.deviation is None:
            return Interval(self.mean, None, None, self.n)
        half = _t_quantile(confidence, self.n) * self.deviation / float(np.sqrt(self.n))
        return Interval(self.mean, self.mean - half, self.mean + half, self.n)

    @property
    def text(self) -> str:
        """E.g. "54.00 ± 2.10 (n=3)": mean, standard deviation, values."""
        return f"{self.mean:.2f}{'' if self.deviation is None else f' ± {self.deviation:.2f}'} (n={self.of or self.n})"


def score(values: ArrayLike) -> Score:
    """Mean and standard deviation of (n,) finite numbers, n >= 1.

    Raises:
        ValueError: no values, or a non-finite one.
    """
    x = _checked(values)
    return Score(float(x.mean()), float(x.std(ddof=1)) if x.size > 1 else None, x.size)


@dataclass(frozen=True)
class Difference(Interval):
    """Mean of the paired differences a - b, with the p-value of "there is none".

    Attributes:
        p_value: two-sided, paired t; None if there is no interval.
    """

    p_value: float | None = None


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of independent values with its t interval.

    Args:
        values: (n,) finite numbers, n >= 1; n < 2 has no interval.
        confidence: in (0, 1).

    Raises:
        ValueError: no values, a non-finite value, or a confidence outside (0, 1).
    """
    return score(values).interval(confidence)


def paired_differences(a: Mapping[int, float], b: Mapping[int, float]) -> NDArray[np.float64]:
    """`a - b` of every seed that both have, in the order of the seeds: (n,).

    Raises:
        ValueError: no seed in common.
    """
    x, y = _paired(a, b)
    return np.asarray(x - y)


def shared_seeds(a: Mapping[int, Any], b: Mapping[int, Any]) -> int:
    """How many seeds both have."""
    if isinstance(a, BySeed) and isinstance(b, BySeed) and np.array_equal(a.seeds, b.seeds):
        return len(a)
    return len(a.keys() & b.keys())


def _paired(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values of the seeds that both have, in the order of the seeds."""
    one, two = (side if isinstance(side, BySeed) else BySeed.of(side) for side in (a, b))
    if np.array_equal(one.seeds, two.seeds):
        x, y = one.array, two.array
    else:
        _, left, right = np.intersect1d(one.seeds, two.seeds, assume_unique=True, return_indices=True)
        x, y = one.array[left], two.array[right]
    if not x.size:
        raise ValueError(f"nothing to pair: seeds {sorted(a)} and {sorted(b)} have none in common")
    return x, y


def paired_difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Difference:
    """Mean of `a - b` over the seeds that both have, with the paired t interval and p-value.

    Args:
        a: value by seed.
        b: value by seed; seeds that only one side has are left out, `n` is the number of pairs.
        confidence: in (0, 1).

    Returns:
        `low`, `high` and `p_value` are None for one pair, and also if all differences are equal and not zero: without
        variance between seeds there is no evidence.

    Raises:
        ValueError: no seed in common, a non-finite value, or a confidence outside (0, 1).
    """
    return _difference(*_paired(a, b), confidence)


def _difference(x: NDArray[np.float64], y: NDArray[np.float64], confidence: float) -> Difference:
    from scipy import special

    d = _checked(x - y, confidence)
    mean, n = float(d.mean()), int(d.size)
    deviation = float(d.std(ddof=1)) if n > 1 else 0.0
    scale = float(max(np.abs(x).max(), np.abs(y).max()))
    if n > 1 and not d.any():
        return Difference(0.0, 0.0, 0.0, n, 1.0)
    if n < 2 or deviation <= ROUNDING * scale:
        return Difference(mean, None, None, n, None)
    error = deviation / float(np.sqrt(n))
    half = _t_quantile(confidence, n) * error
    p_value = 2.0 * float(special.stdtr(n - 1, -abs(mean) / error))
    return Difference(mean, mean - half, mean + half, n, p_value)


def bootstrap_interval(
    values: ArrayLike, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """Mean of the values with its percentile bootstrap interval.

    For a paired bootstrap pass the differences (`paired_differences`).

    Args:
        values: (n,) finite numbers, n >= 1; n < 2 has no interval.
        rng: random stream of the resamples; the same stream gives the same interval.
        confidence: in (0, 1).
        resamples: number of resamples, >= 1.

    Raises:
        ValueError: no values, a non-finite value, a confidence outside (0, 1), fewer than one resample.
    """
    x = _checked(values, confidence)
    _check_confidence(confidence, resamples)
    mean = float(x.mean())
    if x.size < 2:
        return Interval(mean, None, None, 1)
    rows = max(1, _DRAWN_AT_ONCE // x.size)
    means = [
        x[rng.integers(x.size, size=(min(rows, resamples - start), x.size))].mean(axis=1)
        for start in range(0, resamples, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high), x.size)


def image_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 10_000,
    absent: Absent = "skip",
) -> Interval:
    """mIoU of `a` minus that of `b`, with its percentile bootstrap interval over the images of the split.

    Every resample draws images, the same for both sides and all runs, and computes the mIoU of their summed counts.
    This interval shows how much the difference depends on the images; that of `paired_difference` shows how much it
    depends on the seeds.

    Args:
        a: (S, N, 2, K) of S runs on N images: `harness.metrics.hits_and_unions` of each.
        b: the same for the S paired runs, on the same images.
        rng: random stream of the resamples; the same stream gives the same interval.
        confidence: in (0, 1).
        resamples: number of resamples, >= 1.
        absent: treatment of a class that is in none of the drawn images.

    Returns:
        The mean over the runs' differences on the whole split, in [-1, 1], its interval, and N. No interval for one
        image.

    Raises:
        ValueError: shapes that are not (S, N, 2, K) or differ, nothing counted, a confidence outside (0, 1), or fewer
            than one resample.
    """
    sides = [np.asarray(x, dtype=np.float64) for x in (a, b)]
    shapes = [x.shape for x in sides]
    if shapes[0] != shapes[1] or len(shapes[0]) != 4 or shapes[0][2] != 2 or not sides[0].size:
        raise ValueError(f"both sides are (S, N, 2, K) and of one shape; given: {shapes[0]} and {shapes[1]}")
    if not all(x[:, :, 1].any(axis=(1, 2)).all() for x in sides):
        raise ValueError("a run counted nothing on any image")
    _check_confidence(confidence, resamples)
    images = shapes[0][1]

    def difference(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Differences (R,) for R weightings (R, N) of the images."""
        one, other = (_weighted_miou(x, weights, absent) for x in sides)
        return np.asarray((one - other).mean(axis=1))

    mean = float(difference(np.ones((1, images)))[0])
    if images < 2:
        return Interval(mean, None, None, images)
    found = []
    for start in range(0, resamples, _AT_ONCE):
        count = min(_AT_ONCE, resamples - start)
        found.append(difference(rng.multinomial(images, np.full(images, 1 / images), size=count).astype(np.float64)))
    low, high = np.quantile(np.concatenate(found), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high), images)


def _weighted_miou(counts: NDArray[np.float64], weights: NDArray[np.float64], absent: Absent) -> NDArray[np.float64]:
    """mIoU of S runs, counts (S, N, 2, K), under R weightings of the images, (R, N): (R, S)."""
    runs, images, _, classes = counts.shape
    flat = counts.transpose(1, 0, 2, 3).reshape(images, -1)
    hits, unions = (weights @ flat).reshape(len(weights), runs, 2, classes).transpose(2, 0, 1, 3)
    seen = unions > 0
    iou = np.divide(hits, unions, out=np.zeros_like(hits), where=seen)
    return np.asarray(iou.sum(axis=2) / (classes if absent == "zero" else np.maximum(seen.sum(axis=2), 1)))


def detectable_difference(
    deviation: float, n: int, level: float = 0.05, power: float = 0.8, freedom: int | None = None
) -> float:
    """The smallest true difference that a paired t-test over `n` seeds finds with probability `power`.

    Args:
        deviation: standard deviation of the paired differences between seeds, > 0; the result has its unit.
        n: planned number of seeds, >= 2.
        level: level of the two-sided test, already corrected for other comparisons.
        power: in (level, 1).
        freedom: degrees of freedom of the deviation; n - 1 when not given.

    Raises:
        ValueError: a number outside of these ranges.
    """
    if not (np.isfinite(deviation) and deviation > 0) or n < 2 or not 0 < level < power < 1:
        raise ValueError(
            f"deviation > 0, n >= 2 and 0 < level < power < 1 are needed; given: deviation={deviation}, n={n}, "
            f"level={level}, power={power}"
        )
    return _shift(n - 1 if freedom is None else freedom, level, power) * deviation / float(np.sqrt(n))


@functools.lru_cache(maxsize=4096)
def _shift(freedom: int, level: float, power: float) -> float:
    """The true difference, in standard errors of the mean, that the test finds with this power."""
    from scipy import special

    critical = _t_quantile(1 - level, freedom + 1)
    shift = float(special.nctdtrinc(freedom, 1 - power, critical))
    if special.nctdtr(freedom, shift, -critical) < 1e-12:
        return shift
    from scipy import optimize  # half a second to load

    def missing(shift: float) -> float:
        """Power at a difference of `shift` standard errors (both tails) minus the required power."""
        near, far = (special.nctdtr(freedom, shift, end) for end in (critical, -critical))
        return float(1 - near + np.nan_to_num(far)) - power

    # A shift of three critical values is found almost always, whatever the degrees of freedom.
    return float(optimize.brentq(missing, 1e-9, 3 * critical + 10))


def deviation_interval(deviation: float, freedom: int, confidence: float = 0.95) -> Interval:
    """A standard deviation with its chi-square interval.

    Args:
        deviation: estimated from roughly normal values, > 0.
        freedom: degrees of freedom of the estimate, >= 1.
        confidence: in (0, 1).

    Returns:
        The interval; `n` is `freedom`.

    Raises:
        ValueError: a number outside of these ranges.
    """
    from scipy import special

    _check_confidence(confidence)
    if not (np.isfinite(deviation) and deviation > 0) or freedom < 1:
        raise ValueError(f"deviation > 0 and freedom >= 1 are needed; given: deviation={deviation}, freedom={freedom}")
    low, high = (
        deviation * float(np.sqrt(freedom / (2 * special.gammaincinv(freedom / 2, q))))
        for q in ((1 + confidence) / 2, (1 - confidence) / 2)
    )
    return Interval(deviation, low, high, freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values for multiple comparisons.

    Comparing the adjusted p-values with a level keeps the family-wise error rate below it (S. Holm, A Simple
    Sequentially Rejective Multiple Test Procedure, 1979).

    Args:
        p_values: (m,) in [0, 1], in any order; may be empty.

    Returns:
        (m,) adjusted p-values in the order given.

    Raises:
        ValueError: a value outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size and not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values lie in [0, 1]; given: {list(p_values)}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)) if p.size else p
    out = np.empty_like(p)
    out[order] = np.minimum(stepped, 1.0)
    return [float(v) for v in out]


@functools.lru_cache(maxsize=4096)
def _t_quantile(confidence: float, n: int) -> float:
    from scipy import special

    return float(special.stdtrit(n - 1, (1 + confidence) / 2))


def _checked(values: ArrayLike, confidence: float = 0.95) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"a list of at least one number is needed; given: shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"all values must be finite; given: {x.tolist()}")
    _check_confidence(confidence)
    return x


def _check_confidence(confidence: float, resamples: int = 1) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: it lies between 0 and 1, e.g. 0.95")
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: at least 1 is needed")
