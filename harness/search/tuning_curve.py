"""Whether more trials would help: the best score after the first 1, 2, 4, ... points, and remarks on a search.

The order of the points is fixed before the first trial, so that the curve does not depend on which trial ended first.
The score is the one that selects, and therefore optimistic: a curve may rise by luck alone.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.borders import csv_cell
from harness.experiment.rules import SOBOL
from harness.search.outcome import Outcome, PointResult, best_of
from harness.search.repeated import repeated

COLUMNS = ("pair", "method", "points", "trials", "seconds", "dev_miou", "best_point", "settings")


@dataclass(frozen=True)
class SoFar:
    """The first points of a search.

    Attributes:
        points: how many.
        trials: of them, with all search seeds.
        seconds: that these trials took.
        best: the best of these points; None if none has a score.
    """

    points: int
    trials: int
    seconds: float
    best: PointResult | None


def counts(points: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to `points`, which is the last.

    Raises:
        ValueError: no points.
    """
    if points < 1:
        raise ValueError(f"1 or more points; given {points}")
    return (*(2**i for i in range((points - 1).bit_length())), points)


def best_so_far(outcome: Outcome) -> list[SoFar]:
    """The best of the first 1, 2, 4, ... points, as far as all trials of these have finished."""
    done: list[PointResult] = []
    for number, point in enumerate(outcome.points):
        if point.number != number or len(point.trials) < len(outcome.study.seeds):
            break
        done.append(point)
    found = []
    for count in counts(len(done)) if done else ():
        trials = [trial for point in done[:count] for trial in point.trials]
        found.append(SoFar(count, len(trials), sum(t.seconds for t in trials), best_of(done[:count])))
    return found


def to_csv(outcomes: Sequence[Outcome]) -> str:
    """The curves of all methods on all pairs: columns `COLUMNS`, dev_miou in percent, empty where there is no score."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for outcome in outcomes:
        for each in best_so_far(outcome):
            best: tuple[object, ...] = ("", "", "")
            if each.best is not None:
                best = (100 * (each.best.dev_miou or 0.0), each.best.number, outcome.said(each.best))
            cells = (*outcome.study.key, each.points, each.trials, each.seconds, *best)
            writer.writerow([csv_cell(cell) for cell in cells])
    return out.getvalue()


def remarks(outcomes: Sequence[Outcome], steps: int | None = None) -> list[str]:
    """What each method's search chose and what repeating it would change, and whether its trials were shorter.

    Args:
        outcomes: of a pair.
        steps: of a final run; None if unknown.
    """
    found = [text for outcome in outcomes if (text := _remark(outcome))]
    trained = {outcome.study.template.train.steps for outcome in outcomes} - {steps}
    if steps is not None and trained:
        found.append(f"points were selected after {max(trained)} of the {steps} steps of a final run")
    return found


def _remark(outcome: Outcome) -> str:
    best = outcome.best
    if best is None:
        return ""
    count = outcome.wanted // len(outcome.study.seeds)
    text = f"point {best.number + 1} of {count} is the best"
    first = outcome.points[0]
    if outcome.algorithm == SOBOL and best.number == 0:
        text = f"the published point is the best of {count}"
    elif outcome.algorithm == SOBOL and first.number == 0 and first.dev_miou is not None:
        text += f", {100 * ((best.dev_miou or 0.0) - first.dev_miou):.2f} above the published point"
    return f"search of {outcome.study.label}: {text}{_repeated(outcome)}"


def _repeated(outcome: Outcome) -> str:
    """What a repeated search would change; nothing where too few points have a score with each of several seeds."""
    seeds = len(outcome.study.seeds)
    scores = [
        [np.nan] * seeds if point.dev_miou is None else [t.dev_miou or 0.0 for t in point.trials]
        for point in outcome.points
    ]
    if seeds < 2 or sum(point.dev_miou is not None for point in outcome.points) < 2:
        return ""
    found = repeated(100 * np.array(scores))
    return (
        "; if the search were repeated, the expected mIoU of the chosen point would vary by "
        f"{found.deviation:.2f} percentage points (standard deviation, estimated by resampling; with the same points "
        f"by {found.deviation_of_seeds:.2f}, and the same point would be chosen in {100 * found.same:.0f} %)"
    )
