"""The tables and remarks of docs/search.md on the shipped search, from its rows."""

from pathlib import Path

from harness.analysis.comparison import COLUMNS, quick_table
from harness.experiment.spec import Experiment
from harness.report.formats import to_markdown
from harness.results import store
from harness.search.outcome import outcomes
from harness.search.tuning_curve import best_so_far, remarks


def page_lines(experiment: Experiment, directory: Path) -> tuple[list[str], list[str], list[str]]:
    """The table of the final runs; the best score of the first points; what is remarked on the search."""
    rows = store.read_rows(directory, list(COLUMNS))
    final = to_markdown(quick_table(rows, [method.label for method in experiment.methods], experiment.seeds))
    table = [line for line in final.splitlines() if line.startswith(("|", "Single-pixel baseline"))]
    found = outcomes(experiment, directory)
    counts = [str(each.points) for each in best_so_far(found[0])]
    points = [f"| method | {' | '.join(counts)} | the best of all |", f"|---|{'---:|' * len(counts)}---|"]
    for outcome in found:
        curve = best_so_far(outcome)
        scores = ["–" if x.best is None else f"{100 * (x.best.dev_miou or 0.0):.2f}" for x in curve]
        best = curve[-1].best
        points.append(f"| {outcome.study.label} | {' | '.join(scores)} | {best and outcome.said(best)} |")
    return table, points, remarks(found, experiment.train.steps)
