"""The comparisons of a block as one family: every method against each reference, and against its own control."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.arrays import BySeed, stacked
from harness.analysis.crossing import bounded, crossed
from harness.analysis.labels import REFERENCES, Label
from harness.analysis.lines import CONFIDENCE, Comparison
from harness.analysis.simultaneous import errors, family, separate
from harness.analysis.stats import (
    ROUNDING,
    Difference,
    holm,
    paired_difference,
    paired_differences,
    shared_seeds,
)
from harness.analysis.teachers import Crossing, met

Values = Mapping[Label, Mapping[Any, float]]
Pair = tuple[Label, Label]


def compared(
    values: Values,
    failed: Mapping[Label, set[Any]],
    named: Mapping[str, Label],
    own: Mapping[Label, Label],
    crossing: Crossing,
) -> tuple[dict[tuple[Label, str], Comparison], int]:
    """Every method against each reference and its own control, with simultaneous intervals.

    Args:
        values: val mIoU in percent of every line, by `harness.analysis.teachers.Key`.
        failed: the keys of failed runs of every line.
        named: the references, by "none" and "kd".
        own: by line the control that differs from it in the line's own terms, where that is no reference.
        crossing: the pair's teachers.

    Returns:
        By line and "none", "kd" or "own"; kd against none and none against kd are one comparison, seen twice. And how
        many comparisons have intervals.
    """
    pairs: list[Pair] = []
    for reference in (named[name] for name in REFERENCES if name in named):
        for name in values:
            if name != reference and (reference, name) not in pairs:
                pairs.append((name, reference))
    pairs += [pair for pair in own.items() if pair not in pairs and pair[::-1] not in pairs]
    once = _crossed(pairs, values, crossing) if crossing.seeds_of else _by_seed(pairs, values)
    for (name, reference), (c, *_) in once.items():
        lost, won = met(failed[name], values[reference]), met(failed[reference], values[name])
        once[name, reference] = (replace(c, lost=lost, won=won), *once[name, reference][1:])
    decided, count = _together(once, list(values), bool(crossing.seeds_of))
    out: dict[tuple[Label, str], Comparison] = {}
    for name in values:
        for role, reference in (*named.items(), *((("own", own[name]),) if name in own else ())):
            if (name, reference) in decided:
                out[name, role] = decided[name, reference]
            elif (reference, name) in decided:
                out[name, role] = decided[reference, name].reversed
    return out, count


Estimate = tuple[Comparison, float, float]
"""A comparison without interval, its standard error and the degrees of freedom of that."""


def _by_seed(pairs: Sequence[Pair], values: Values) -> dict[Pair, Estimate]:
    """With one teacher: standard errors from the seed-blocked table of all lines."""
    lines = {name: BySeed.of(line) for name, line in values.items()}
    places = {name: i for i, name in enumerate(lines)}
    shared = [(one, other) for one, other in pairs if shared_seeds(lines[one], lines[other])]
    at = [(places[one], places[other]) for one, other in shared]
    found: dict[Pair, Estimate] = {}
    for (one, other), error, freedom in zip(shared, *errors(stacked(list(lines.values())), at), strict=True):
        paired = paired_difference(lines[one], lines[other], CONFIDENCE)
        c = Comparison(
            Difference(paired.mean, None, None, paired.n),
            p_paired=paired.p_value,
            deltas=paired_differences(lines[one], lines[other]),
        )
        found[one, other] = c, float(error), int(freedom)
    return found


def _crossed(pairs: Sequence[Pair], values: Values, crossing: Crossing) -> dict[Pair, Estimate]:
    """With several teachers: standard errors of each comparison from its own table over teachers and seeds."""
    from scipy import special

    seeds = sorted({key[1] if isinstance(key, tuple) else key for line in values.values() for key in line})
    grids = {name: crossing.grid(line, seeds) for name, line in values.items()}
    found: dict[Pair, Estimate] = {}
    for one, other in pairs:
        table = grids[one] - grids[other]
        if np.isnan(table).all():
            continue
        if len(table) == 1:  # no teacher had a part in either line
            mean, error, freedom, teachers, n = _over_seeds(table[0])
        else:
            x = crossed(table)
            mean, error, freedom, teachers, n = x.mean, x.error, bounded(x), x.teachers, x.teachers * x.seeds
        if not n:
            continue
        known = error > ROUNDING * max(1.0, abs(mean))
        p = 2 * float(special.stdtr(freedom, -abs(mean) / error)) if known else None
        c = Comparison(Difference(mean, None, None, n), p_paired=p, teachers=teachers, several=True)
        found[one, other] = c, error, freedom
    return found


def _over_seeds(deltas: NDArray[np.float64]) -> tuple[float, float, float, int, int]:
    """Mean, standard error and degrees of freedom over seeds; no teachers; number of seeds."""
    known = deltas[~np.isnan(deltas)]
    error = float(known.std(ddof=1) / np.sqrt(known.size)) if known.size > 1 else float("nan")
    return float(known.mean()), error, float(known.size - 1), 0, known.size


def _together(
    once: Mapping[Pair, Estimate], lines: Sequence[Label], several: bool
) -> tuple[dict[Pair, Comparison], int]:
    """Give the comparisons their simultaneous intervals and corrected p-values; how many have them.

    With several teachers each comparison has a variance of its own, else they share one.
    """
    out = {key: c for key, (c, _, _) in once.items()}
    tested = {key: c.p_paired for key, c in out.items() if c.p_paired is not None}
    for key, p in zip(tested, holm(list(tested.values())), strict=True):
        out[key] = replace(out[key], p_holm=p)
    places = {name: i for i, name in enumerate(lines)}
    # Without any spread between seeds there is no evidence; rounding is no spread.
    known = [key for key, (c, error, _) in once.items() if error > ROUNDING * max(1.0, abs(c.difference.mean))]
    pairs = [(places[one], places[other]) for one, other in known]
    means = np.array([once[key][0].difference.mean for key in known])
    spread, freedom = (np.array([once[key][place] for key in known]) for place in (1, 2))
    level = 1 - CONFIDENCE
    found = separate(means, spread, freedom, level) if several else family(means, spread, freedom, pairs, level)
    for key, low, high, p in zip(known, found.low, found.high, found.p_values, strict=True):
        difference = replace(out[key].difference, low=float(low), high=float(high), p_value=float(p))
        out[key] = replace(out[key], difference=difference)
    return out, len(known)
