"""Means over teachers and seeds: every teacher of a pair is crossed with every student seed.

The model is value = mean + teacher + seed + error, all three random: the teachers and the seeds at hand stand for
others of their kind. The variance of the grand mean over a teachers and b seeds is (MS_T + MS_S - MS_E) / (a b), with
the degrees of freedom of F. E. Satterthwaite (An Approximate Distribution of Estimates of Variance Components, 1946). A
difference between two methods is a table of differences of the same form: of two distilled methods teacher by teacher
and seed by seed, of a method and the student without distillation, which no teacher has, seed by seed.

With three teachers the variance of teachers is hardly known, and the sum of mean squares is negative at times. A mean
square that is no more than `POOLED` times the error's is taken for error and pooled with it: without that, tables
without a teacher's effect have intervals that are too wide. `tests/analysis/test_crossing.py` measures the coverage.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
POOLED = 1.25
"""With it 95 % intervals of 3 x 3 to 5 x 5 tables hold in 93 to 98 %, whatever the shares of variance."""
FEWEST_TEACHERS = 3
"""With fewer of several teachers nothing is marked; one teacher gives a result for this teacher."""


@dataclass(frozen=True)
class Squares:
    """Mean squares of crossed tables; arrays where there are many tables.

    Attributes:
        teacher, seed, error: mean squares between teachers, between seeds, and of what is left.
        teachers, seeds: the size of a table.
    """

    teacher: Any
    seed: Any
    error: Any
    teachers: int
    seeds: int


@dataclass(frozen=True)
class Crossed:
    """A mean over teachers and seeds.

    Attributes:
        mean: over the complete part of the table; nan where there is none.
        error: its standard error; nan for fewer than two teachers or seeds.
        freedom: degrees of freedom of `error`.
        teachers, seeds: size of the complete part.
    """

    mean: float
    error: float
    freedom: float
    teachers: int
    seeds: int


def squares(values: Floats) -> Squares:
    """Mean squares of tables (..., a, b) without gaps, a teachers and b seeds, two or more of each."""
    teachers, seeds = values.shape[-2:]
    if teachers < 2 or seeds < 2:
        raise ValueError(f"two teachers and two seeds are needed; given: {teachers} and {seeds}")
    rows, columns = values.mean(axis=-1), values.mean(axis=-2)
    grand = rows.mean(axis=-1)
    left = values - rows[..., :, None] - columns[..., None, :] + grand[..., None, None]
    return Squares(
        teacher=seeds * ((rows - grand[..., None]) ** 2).sum(axis=-1) / (teachers - 1),
        seed=teachers * ((columns - grand[..., None]) ** 2).sum(axis=-1) / (seeds - 1),
        error=(left**2).sum(axis=(-2, -1)) / ((teachers - 1) * (seeds - 1)),
        teachers=teachers,
        seeds=seeds,
    )


def variance(of: Squares) -> tuple[Any, Any]:
    """Variance of the grand mean and its degrees of freedom, at least 1."""
    free = of.teachers - 1, of.seeds - 1
    both = free[0] * free[1]
    kept = [np.asarray(each) > POOLED * np.asarray(of.error) for each in (of.teacher, of.seed)]
    freedom = both + sum(np.where(keep, 0, f) for keep, f in zip(kept, free, strict=True))
    parts = list(zip(kept, (of.teacher, of.seed), free, strict=True))
    error = (both * of.error + sum(np.where(keep, 0.0, f * each) for keep, each, f in parts)) / freedom
    summed = sum(np.where(keep, each, 0.0) for keep, each, _ in parts)
    scatter = sum(np.where(keep, np.square(each) / f, 0.0) for keep, each, f in parts)
    count = kept[0].astype(int) + kept[1]
    # Two effects: MS_T + MS_S - MS_E. One: its own mean square. None: the pooled error.
    total = np.maximum(summed + (1 - count) * error, error)
    scatter = scatter + np.where(count == 1, 0.0, error**2 / freedom)
    found = np.divide(total**2, scatter, out=np.full(np.shape(total), float(both)), where=scatter > 0)
    return total / (of.teachers * of.seeds), np.maximum(found, 1.0)


def complete(values: Floats) -> Floats:
    """The largest part without gaps that is found by leaving out the teacher or seed that most is missing of.

    Args:
        values: (a, b), nan where there is no value.
    """
    while values.size and np.isnan(values).any():
        gaps = np.isnan(values)
        rows, columns = gaps.mean(axis=1), gaps.mean(axis=0)
        # Of equals a seed goes: a teacher is dearer.
        if rows.max() > columns.max():
            values = np.delete(values, int(rows.argmax()), axis=0)
        else:
            values = np.delete(values, int(columns.argmax()), axis=1)
    return values


def crossed(values: Floats) -> Crossed:
    """The mean of a table over teachers and seeds, with its standard error.

    Args:
        values: (a, b) of a teachers and b seeds, nan where there is no value; such gaps cost whole teachers or seeds.
    """
    whole = complete(values)
    teachers, seeds = whole.shape
    mean = float(whole.mean()) if whole.size else float("nan")
    if teachers < 2 or seeds < 2:
        return Crossed(mean, float("nan"), 0.0, teachers, seeds)
    found, freedom = variance(squares(whole))
    return Crossed(mean, float(np.sqrt(found)), float(freedom), teachers, seeds)


def bounded(of: Crossed) -> float:
    """Degrees of freedom of a comparison among several: no more than there are teachers.

    A mean square of few teachers is often small by chance, and then pooled. That does no harm to 95 % intervals, but
    the limits of a whole family lie farther out, where it would make several times as many false findings.
    """
    return min(of.freedom, float(max(1, of.teachers)))


def planned(of: Squares, seeds: int) -> tuple[float, float]:
    """Standard error and degrees of freedom that another number of seeds is to give, with the same teachers."""
    error = float(of.error)
    teacher, seed = (max(0.0, float(each) - error) for each in (of.teacher, of.seed))
    scaled = Squares(error + teacher * seeds / of.seeds, error + seed, error, of.teachers, seeds)
    found, freedom = variance(scaled)
    return float(np.sqrt(found)), float(freedom)
