"""Statistical power: the smallest difference to the baseline that a number of seeds finds with 80 % probability."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.lines import CONFIDENCE
from harness.analysis.stats import Interval, detectable_difference, deviation_interval, paired_differences, shared_seeds
from harness.analysis.tables import Block

POWER = 0.8
MOST_SEEDS = 200


@dataclass(frozen=True)
class Power:
    """Statistical power for one method's difference to the baseline, in percentage points.

    Attributes:
        label: the method's line.
        n: pairs of runs so far.
        difference: their mean difference.
        deviation: standard deviation of the differences over seeds, with its 95 % interval.
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

    The level is that of the first step of Holm's correction over the block's comparisons, so a difference of this size
    is found even if it is the only one.

    Args:
        block: a block of the comparison.
        numbers: numbers of seeds, each >= 2.

    Raises:
        ValueError: a number below 2.
    """
    baseline = block.baseline
    if baseline is None:
        return []
    level = (1 - CONFIDENCE) / max(1, block.comparisons)
    found = []
    for line in block.methods:
        if line is baseline or shared_seeds(line.values, baseline.values) < 2:
            continue
        deltas = paired_differences(line.values, baseline.values)
        deviation = deviation_interval(deltas)
        if deviation.mean <= 0:
            continue  # equal runs: the seeds changed nothing
        smallest = {n: detectable_difference(deviation.mean, n, level, POWER) for n in numbers}
        mean = float(deltas.mean())
        found.append(
            Power(line.label, len(deltas), mean, deviation, smallest, _needed(abs(mean), deviation.mean, level))
        )
    return found


def _needed(difference: float, deviation: float, level: float) -> int | None:
    """The fewest seeds that find a difference, by bisection."""
    low, high = 2, MOST_SEEDS
    if difference <= 0 or detectable_difference(deviation, high, level, POWER) > difference:
        return None
    while low < high:
        middle = (low + high) // 2
        if detectable_difference(deviation, middle, level, POWER) <= difference:
            high = middle
        else:
            low = middle + 1
    return low


def phrase(block: Block) -> str | None:
    """One sentence for a table's footer; None with fewer than two pairs of runs."""
    n = max((len(x.values) for x in block.methods), default=0)
    if n < 2:
        return None
    found = [x.smallest[n] for x in by_method(block, [n])]
    if not found:
        return None
    return (
        f"{n} seeds detect a difference of {statistics.median(found):.1f} percentage points to "
        f"{block.references['none']} with {100 * POWER:.0f} % power (median over methods, from the standard deviations "
        "so far)"
    )
