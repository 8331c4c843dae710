"""`sstkd-bench check` and `sstkd-bench power`: what an experiment will compare, what it costs, and what it can show."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from harness.report.console import print_columns

if TYPE_CHECKING:
    from harness.analysis.tables import Block
    from harness.experiment.spec import Experiment

USUAL_SEEDS = (3, 5, 10)


def check(experiment: "Experiment", file: Path, results: Path, measure: bool) -> None:
    """Print the runs of an experiment, their cost, and the fairness report.

    Args:
        experiment: as it was read.
        file: the experiment file.
        results: folder of all results.
        measure: whether steps are timed on this machine.

    Raises:
        ValueError: no control, or, where steps are timed, a network that cannot be built or a method that does not
            apply.
    """
    if experiment.search is not None:
        from harness.cli import tune

        print_fairness(experiment, tune.check(experiment, file, results, measure))
        return
    from harness.cli.screen import clock, run_name
    from harness.experiment.plan import outline
    from harness.results import step_times, store

    rows = store.finished(results / experiment.name)
    columns = ["run_id", "pair", "run", "steps", "row", *(["s/step", "time"] if measure else [])]
    lines, seconds, measured = [], 0.0, {}
    if measure:
        from harness.training.estimate import step_seconds

        measured = step_seconds(outline(experiment), experiment.resources)
    runs, unsure = step_times.outlined(experiment, results / experiment.name, str(file), measured)
    for run in runs:
        steps = 0 if run.checkpoint is not None else run.train.steps
        cells = [run.run_id, run.pair, run_name(run), str(steps), rows.get(run.run_id, "not run")]
        if measure:
            each = measured[run.pair, run.role, run.method.label]
            seconds += 0.0 if rows.get(run.run_id) == "ok" else each * steps
            cells += [f"{each:.3f}", clock(each * steps)]
        lines.append(cells)
    print_columns(columns, lines, right=("steps", "s/step", "time"))
    waiting = sum(rows.get(run.run_id) != "ok" for run in runs)
    text = f"{len(runs)} runs, {waiting} to do"
    if measure and waiting:
        device = "GPU" if experiment.resources.gpus_per_worker > 0 else "CPU"
        text += (
            f": about {clock(seconds)} of worker time, {seconds / 3600:.2g} {device}-hours "
            "(steps only; evaluation and start-up come on top)"
        )
    typer.echo(text)
    if unsure:
        typer.echo(unsure)
    print_fairness(experiment, measured)


def print_fairness(experiment: "Experiment", step_seconds: Mapping[tuple[str, str, str], float] | None = None) -> None:
    """Print what will be compared with what, and what makes it unfair; times where they were measured."""
    from harness.analysis import fairness

    for text, findings in fairness.of_experiment(experiment, step_seconds).values():
        typer.echo(f"\n{text}")
        for finding in findings:
            typer.echo(str(finding))


def power(experiment: "Experiment", file: Path, results: Path, seeds: Sequence[int]) -> None:
    """Print the smallest difference that numbers of seeds can show, from the rows so far.

    Args:
        experiment: as it was read.
        file: the experiment file.
        results: folder of all results.
        seeds: numbers of seeds; the planned one and the usual ones when there are none.

    Raises:
        ValueError: there are no rows yet, or no pair with two seeds.
    """
    from harness.analysis.comparison import COLUMNS, quick_table
    from harness.analysis.power import POWER
    from harness.cli import tune
    from harness.experiment import rules
    from harness.results import store

    planned = len(experiment.seeds)
    numbers = sorted({*seeds} or {*USUAL_SEEDS, planned} - {1})
    directory = results / experiment.name
    ids = [run.run_id for run in tune.runs_of(experiment, file, results, experiment.search is not None)]
    rows = store.read_runs(directory, list(COLUMNS), run_ids=ids, encoded=True)
    if not rows.num_rows:
        raise ValueError(f"{directory}: there are no rows yet. Run it first: sstkd-bench run {file}")
    table = quick_table(rows, rules.labels(experiment), experiment.seeds)
    printed = [_print_power(block, numbers, planned) for block in table.blocks]
    if not any(printed):
        raise ValueError(f"{directory}: a standard deviation needs two finished seeds of a method and of none")
    typer.echo(
        "\nSmallest difference to the student without distillation, in percentage points of dev mIoU, that is found in "
        f"{100 * POWER:.0f} % of the cases (paired t,\nfirst step of Holm's correction over the pair's comparisons). "
        "The standard deviation between seeds has a 95 % interval of its own."
    )


def _print_power(block: "Block", numbers: Sequence[int], planned: int) -> bool:
    from harness.analysis import power

    lines = []
    for x in power.shown(block, numbers):
        deviation = f"{x.deviation.mean:.2f} [{x.deviation.low:.2f}, {x.deviation.high:.2f}]"
        needed = f"more than {power.MOST_SEEDS}" if x.seeds is None else str(x.seeds)
        smallest = [f"{x.smallest[n]:.2f}" for n in numbers]
        lines.append([x.label, str(x.n), f"{x.difference:+.2f}", deviation, *smallest, needed])
    if not lines:
        return False
    named = [f"{n} seeds" + (" (planned)" if n == planned else "") for n in numbers]
    columns = ["method", "pairs", "difference", "standard deviation", *named, "seeds it takes"]
    typer.echo(f"\n{block.pair} on {block.dataset}, {block.comparisons} comparisons")
    print_columns(columns, lines, right=tuple(columns[1:]))
    return True
