"""What a number of seeds can show: the smallest difference to the plain student that it finds most of the time."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.stats import Interval, detectable_difference, paired_differences, shared_seeds, spread_interval
from harness.analysis.tables import CONFIDENCE, Block

POWER = 0.8
MOST_SEEDS = 200


@dataclass(frozen=True)
class Shown:
    """What seeds show of one method's difference to the plain student, in percent points.

    Attributes:
        label: the method's line.
        n: pairs of runs so far.
        difference: their mean difference.
        spread: standard deviation of the differences over seeds, with its interval.
        smallest: by number of seeds, the smallest difference that is found with a chance of `POWER`.
        seeds: how many it takes to find the difference measured so far; None beyond `MOST_SEEDS`, or where it is 0.
    """

    label: str
    n: int
    difference: float
    spread: Interval
    smallest: dict[int, float]
    seeds: int | None


def shown(block: Block, numbers: Sequence[int]) -> list[Shown]:
    """What numbers of seeds show, for each method with two pairs of runs or more; most is known with many pairs.

    The level is that of the first step of Holm's correction over the block's comparisons: a difference of this size is
    found even if it is the only one.

    Args:
        block: of a comparison.
        numbers: of seeds, each >= 2.

    Raises:
        ValueError: a number below 2.
    """
    plain = block.plain
    if plain is None:
        return []
    level = (1 - CONFIDENCE) / max(1, block.comparisons)
    found = []
    for line in block.methods:
        if line is plain or shared_seeds(line.values, plain.values) < 2:
            continue
        deltas = paired_differences(line.values, plain.values)
        spread = spread_interval(deltas)
        if spread.mean <= 0:
            continue  # equal runs: the seeds changed nothing
        smallest = {n: detectable_difference(spread.mean, n, level, POWER) for n in numbers}
        mean = float(deltas.mean())
        found.append(Shown(line.label, len(deltas), mean, spread, smallest, _needed(abs(mean), spread.mean, level)))
    return found


def _needed(difference: float, spread: float, level: float) -> int | None:
    """The fewest seeds that find a difference; found by halving, since more seeds always find smaller ones."""
    low, high = 2, MOST_SEEDS
    if difference <= 0 or detectable_difference(spread, high, level, POWER) > difference:
        return None
    while low < high:
        middle = (low + high) // 2
        if detectable_difference(spread, middle, level, POWER) <= difference:
            high = middle
        else:
            low = middle + 1
    return low


def phrase(block: Block) -> str | None:
    """One sentence for a table's footer; None where no two pairs of runs are there."""
    n = max((len(x.values) for x in block.methods), default=0)
    if n < 2:
        return None
    found = [x.smallest[n] for x in shown(block, [n])]
    if not found:
        return None
    return (
        f"{n} seeds find a difference to {block.references['none']} of {statistics.median(found):.1f} points or more "
        f"in {100 * POWER:.0f} % of the cases (median over methods, from their spread so far)"
    )
