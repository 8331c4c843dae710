"""Statistical power: the smallest difference to the baseline that a number of seeds finds with 80 % probability."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from harness.analysis.arrays import BySeed, stacked
from harness.analysis.crossing import Squares, complete, crossed, planned, squares
from harness.analysis.lines import CONFIDENCE, FEWEST_SEEDS, MethodRow
from harness.analysis.simultaneous import critical, errors
from harness.analysis.stats import ROUNDING, Interval, detectable_difference, deviation_interval
from harness.analysis.tables import Block
from harness.analysis.teachers import Crossing, seed_of

POWER = 0.8
MOST_SEEDS = 200


@dataclass(frozen=True)
class Power:
    """Statistical power for one method's difference to the baseline, in percentage points.

    Attributes:
        label: the method's line.
        n: pairs of runs so far.
        difference: their mean difference.
        deviation: standard deviation of the differences over seeds that the table's intervals use, with its 95 %
            interval; with several teachers the standard error times the root of the number of seeds.
        smallest: by number of seeds, the smallest difference that is found with probability `POWER`.
        seeds: number of seeds to find the difference measured so far; None above `MOST_SEEDS`, or if it is 0.
    """

    label: str
    n: int
    difference: float
    deviation: Interval
    smallest: dict[int, float]
    seeds: int | None


def by_method(block: Block, numbers: Sequence[int]) -> list[Power]:
    """Power for several numbers of seeds, for each method with two pairs of runs or more.

    The level is that of the block's whole family of comparisons, so a difference of this size is found even if it is
    the only one. Fewer than `FEWEST_SEEDS` seeds find nothing; the number for them says what their intervals allow.

    Args:
        block: a block of the comparison.
        numbers: numbers of seeds, each >= 2.

    Raises:
        ValueError: a number below 2.
    """
    lines = [line for line in block.methods if line.values]
    place = next((i for i, line in enumerate(lines) if line is block.baseline), None)
    if place is None:
        return []
    references = [i for i, line in enumerate(lines) if line.reference]
    pairs = tuple((i, r) for r in references for i in range(len(lines)) if i != r and not (i in references and i < r))
    own = {line.label: i for i, line in enumerate(lines)}
    apart = ((i, own[line.control]) for i, line in enumerate(lines) if line.vs_control and line.control in own)
    pairs += tuple(pair for pair in apart if pair not in pairs and pair[::-1] not in pairs)
    if block.others:
        return _crossed(block, lines, place, pairs, numbers)
    values = stacked([BySeed.of(line.values) for line in lines])
    found = []
    for i, line in enumerate(lines):
        n = int((~np.isnan(values[i] - values[place])).sum())
        if i == place or n < 2:
            continue
        (error,), (freedom,) = errors(values, [(i, place)])
        deviation, mean = float(error) * n**0.5, float(np.nanmean(values[i] - values[place]))
        if deviation <= ROUNDING * max(1.0, abs(mean)):
            continue  # equal runs: the seeds changed nothing
        detect = partial(_detectable, deviation, pairs=pairs, methods=len(lines))
        known = deviation_interval(deviation, int(freedom))
        found.append(Power(line.label, n, mean, known, {n: detect(n) for n in numbers}, _needed(abs(mean), detect)))
    return found


def _crossed(
    block: Block, lines: Sequence[MethodRow], place: int, pairs: tuple[tuple[int, int], ...], numbers: Sequence[int]
) -> list[Power]:
    """The same where there are several teachers: for other numbers of seeds with the same teachers."""
    crossing = Crossing({str(x.run_id): x.seed for x in block.teachers if x.seed is not None})
    seeds = sorted({seed_of(key) for line in lines for key in line.values})
    grids = [crossing.grid(line.values, seeds) for line in lines]
    found = []
    for i, line in enumerate(lines):
        table = complete(grids[i] - grids[place])
        if i == place or min(table.shape) < 2:
            continue
        of, x = squares(table), crossed(table)
        if x.error <= ROUNDING * max(1.0, abs(x.mean)):
            continue  # equal runs: the seeds changed nothing
        detect = partial(_detectable_crossed, of, pairs=pairs)
        known = deviation_interval(x.error * x.seeds**0.5, max(1, round(x.freedom)))
        smallest = {n: detect(n) for n in numbers}
        found.append(Power(line.label, x.teachers * x.seeds, x.mean, known, smallest, _needed(abs(x.mean), detect)))
    return found


def _detectable_crossed(of: Squares, n: int, pairs: tuple[tuple[int, int], ...]) -> float:
    """The smallest difference that is found over `n` seeds with the same teachers."""
    if n < 2:
        raise ValueError(f"{n} seeds: at least 2 are needed")
    error, freedom = planned(of, n)
    whole = max(1, round(min(freedom, of.teachers)))
    return detectable_difference(error * n**0.5, n, (1 - CONFIDENCE) / len(pairs), POWER, whole)


def _detectable(deviation: float, n: int, pairs: tuple[tuple[int, int], ...], methods: int) -> float:
    """The smallest difference that is found over `n` seeds, if every method has them."""
    if n < 2:
        raise ValueError(f"{n} seeds: at least 2 are needed")
    freedom = (n - 1) * (methods - 1)
    level = critical(pairs, (freedom,) * len(pairs), 1 - CONFIDENCE)
    return detectable_difference(deviation, n, level, POWER, freedom)


def _needed(difference: float, detect: Callable[[int], float]) -> int | None:
    """The fewest seeds, `FEWEST_SEEDS` at least, that find a difference, by bisection."""
    low, high = FEWEST_SEEDS, MOST_SEEDS
    if difference <= 0 or detect(high) > difference:
        return None
    while low < high:
        middle = (low + high) // 2
        if detect(middle) <= difference:
            high = middle
        else:
            low = middle + 1
    return low


def phrase(block: Block) -> str | None:
    """One sentence for a table's footer; None with fewer than two pairs of runs."""
    n = max((len(x.values) for x in block.methods), default=0) // len(block.teachers)
    if n < 2:
        return None
    seeds = max(n, FEWEST_SEEDS)  # fewer find nothing
    found = [x.smallest[seeds] for x in by_method(block, [seeds])]
    if not found:
        return None
    taught = f"{len(block.teachers)} teachers and " if block.others else ""
    return (
        f"{taught}{seeds} seeds detect a difference of {statistics.median(found):.1f} percentage points to "
        f"{block.references['none']} with {100 * POWER:.0f} % power (median over methods, from the standard deviations "
        "so far)"
    )
