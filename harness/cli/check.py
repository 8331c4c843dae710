"""The commands `sstkd-bench check` and `power`: what an experiment compares, costs and can show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, File, Results, Set, answering, bench

if TYPE_CHECKING:
    from harness.analysis.tables import Block
    from harness.bench import Bench
    from harness.experiment.spec import Experiment, Run

Seconds = dict[tuple[str, str, str], float]
"""Seconds of a training step by (pair, role, method label); empty where nothing was measured."""
USUAL_SEEDS = (5, 10, 20)


def check(
    file: File,
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    measure: Annotated[bool, typer.Option(help="Time a few steps of each method on this machine.")] = True,
) -> None:
    """Check an experiment file before anything trains.

    Lists its runs, estimates their cost, and reports how fair the comparison is.
    """
    with answering():
        from harness.datasets.inspect import left_out

        wanted = bench(file, overrides, results)
        wanted.fetch_weights(fetch=False)
        wanted.require_current()
        for note in left_out(wanted.experiment.data):
            typer.echo(f"note: {note}")
        seconds = (_runs if wanted.experiment.search is None else _search)(wanted, measure)
        _print_fairness(wanted.experiment, seconds)
        for note in [*_hungry(wanted, seconds), *_proportions(wanted)] if measure else []:
            typer.echo(f"note: {note}")


def power(
    file: File,
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    seeds: Annotated[
        list[int] | None, typer.Option("--seeds", min=2, help="Compute it for this number of seeds; repeatable.")
    ] = None,
) -> None:
    """Compute which differences so many seeds can detect.

    These are differences to the baseline; the standard deviations are those of the seeds that have finished.
    """
    with answering():
        from harness.analysis.comparison import COLUMNS, quick_table
        from harness.analysis.lines import FEWEST_SEEDS
        from harness.analysis.power import POWER
        from harness.experiment import rules

        wanted = bench(file, overrides, results, reading=True)
        planned = len(wanted.experiment.seeds)
        numbers = sorted({*(seeds or ())} or {*USUAL_SEEDS, planned} - {1})
        rows = wanted.rows(COLUMNS)
        table = quick_table(rows, rules.labels(wanted.experiment), wanted.experiment.seeds)
        printed = [_print_power(block, numbers, planned) for block in table.blocks]
        if not any(printed):
            raise ValueError(f"{wanted.directory}: two finished seeds of a method and of none are needed")
        typer.echo(
            "\nSmallest difference to the baseline, in percentage points of val mIoU, that is found in "
            f"{100 * POWER:.0f} % of the cases\n"
            f"(simultaneous intervals over the pair's comparisons; fewer than {FEWEST_SEEDS} seeds find none). "
            "The standard\ndeviation is known only within its 95 % interval."
        )


def _measured(experiment: "Experiment") -> Seconds:
    from harness.experiment.plan import outline
    from harness.training.estimate import step_seconds

    return step_seconds(outline(experiment), experiment.resources)


def _hungry(wanted: "Bench", seconds: Seconds) -> list[str]:
    """Which pairs wait for their batches."""
    from harness.experiment.plan import outline
    from harness.training.estimate import hungry

    return hungry(outline(wanted.experiment), wanted.experiment.resources, seconds)


def _proportions(wanted: "Bench") -> list[str]:
    """Which loss terms are out of proportion at the first step, where the teacher is known."""
    from harness.experiment.plan import outline
    from harness.training.proportions import notes

    return notes(outline(wanted.experiment), wanted.experiment.resources, wanted.directory)


def _require_ready(wanted: "Bench", rows: Mapping[str, str]) -> None:
    """Apply the rules that `run` applies before it trains anything.

    Raises:
        ValueError: what would make runs fail.
    """
    from harness.experiment.plan import outline

    wanted.require_ready([run for run in outline(wanted.experiment) if run.run_id not in rows])


def _runs(wanted: "Bench", measure: bool) -> Seconds:
    """List the runs and what they cost; the seconds of a step, where they were measured.

    Raises:
        ValueError: where steps are timed, a network that cannot be built or a method that does not apply.
    """
    from harness.cli.progress import clock, run_name
    from harness.report.console import print_columns
    from harness.results import step_times

    experiment = wanted.experiment
    rows = {run_id: standing.state for run_id, standing in wanted.standings().items()}
    _require_ready(wanted, rows)
    columns = ["run_id", "pair", "run", "steps", "row", *(["s/step", "time"] if measure else [])]
    lines, seconds, measured = [], 0.0, _measured(experiment) if measure else {}
    runs, unsure = step_times.outlined(experiment, wanted.directory, wanted.file, measured)
    ids = [run.run_id for run in runs]
    states = [rows.get(run_id, "not run") for run_id in ids]
    for run, run_id, state in zip(runs, ids, states, strict=True):
        steps = 0 if run.checkpoint is not None else run.train.steps
        cells = [run_id, run.pair, run_name(run), str(steps), state]
        if measure:
            each = measured[run.pair, run.role, run.method.label]
            seconds += 0.0 if state == "ok" else each * steps
            cells += [f"{each:.3f}", clock(each * steps)]
        lines.append(cells)
    print_columns(columns, lines, right=("steps", "s/step", "time"))
    pending = sum(state != "ok" for state in states)
    text = f"{len(runs)} runs, {pending} pending"
    if measure and pending:
        device = "GPU" if experiment.resources.gpus_per_worker > 0 else "CPU"
        text += (
            f": about {clock(seconds)} of worker time, {seconds / 3600:.2g} {device}-hours "
            "(steps only, without evaluation and start-up)"
        )
    typer.echo(text)
    if unsure:
        typer.echo(unsure)
    return measured


def _print_fairness(experiment: "Experiment", step_seconds: Mapping[tuple[str, str, str], float] | None = None) -> None:
    """Print what will be compared with what, and what makes it unfair; times where they were measured."""
    from harness.analysis import fairness
    from harness.experiment import controls, rules

    named = controls.described(experiment.methods)
    if rules.needs_times(experiment):
        named[rules.labels(experiment)[-1]] = "no distillation"
    typer.echo(f"\nControls: {'; '.join(f'{label} ({what})' for label, what in named.items())}")
    for text, findings in fairness.of_experiment(experiment, step_seconds).values():
        typer.echo(f"\n{text}")
        for finding in findings:
            typer.echo(str(finding))


def _print_power(block: "Block", numbers: Sequence[int], planned: int) -> bool:
    from harness.analysis import power
    from harness.analysis.lines import FEWEST_SEEDS
    from harness.report.console import print_columns

    lines = []
    for x in power.by_method(block, numbers):
        deviation = f"{x.deviation.mean:.2f} [{x.deviation.low:.2f}, {x.deviation.high:.2f}]"
        needed = f"more than {power.MOST_SEEDS}" if x.seeds is None else str(x.seeds)
        smallest = [f"{x.smallest[n]:.2f}" if n >= FEWEST_SEEDS else "–" for n in numbers]
        lines.append([x.label, str(x.n), f"{x.difference:+.2f}", deviation, *smallest, needed])
    if not lines:
        return False
    named = [f"{n} seeds" + (" (planned)" if n == planned else "") for n in numbers]
    columns = ["method", "pairs", "difference", "standard deviation", *named, "seeds needed"]
    typer.echo(f"\n{block.pair} on {block.dataset}, {block.comparisons} comparisons")
    print_columns(columns, lines, right=tuple(columns[1:]))
    return True


def _search(wanted: "Bench", measure: bool) -> Seconds:
    """List the teachers, the trials and the final runs of an experiment with a search, and what they cost.

    Raises:
        ValueError: a network cannot be built, a method does not apply, or timing a step has failed.
    """
    from harness.cli.progress import clock
    from harness.report.console import print_columns
    from harness.results import step_times
    from harness.search import outcome as best

    experiment, directory = wanted.experiment, wanted.directory
    rows = {run_id: standing.state for run_id, standing in wanted.standings().items()}
    _require_ready(wanted, rows)
    measured = _measured(experiment) if measure else {}
    runs, unsure = step_times.outlined(experiment, directory, wanted.file, measured)
    lines, total = [], 0.0

    def line(run: "Run", what: str, count: int, steps: int, done: int) -> None:
        nonlocal total
        cells = [
            run.pair,
            run.label if run.role == "student" else "teacher",
            what,
            str(count),
            str(steps),
            str(done),
        ]
        if measure:
            each = measured[run.pair, run.role, run.method.label]
            total += each * steps * max(0, count - done)
            cells += [f"{each:.3f}", clock(each * steps * count)]
        lines.append(cells)

    for run in runs:
        if run.role == "teacher":
            line(run, "run", 1, 0 if run.checkpoint is not None else run.train.steps, int(rows.get(run.run_id) == "ok"))
    outcomes = best.outcomes(experiment, directory)
    for outcome in outcomes:
        template = outcome.study.template
        line(template, "trials", outcome.wanted, template.train.steps, len(outcome.trials))
    finals: Counter[tuple[str, str]] = Counter()  # finished final runs; their points are known after the search only
    complete = all(outcome.complete and outcome.best is not None for outcome in outcomes)
    if complete and step_times.timed(experiment, directory):
        final = wanted.runs()
        there = (a for a, b in zip(runs, final, strict=True) if rows.get(b.run_id) == "ok")
        finals.update((run.pair, run.label) for run in there if run.role == "student")
    counts = Counter((run.pair, run.label) for run in runs if run.role == "student")
    first = {(run.pair, run.label): run for run in reversed(runs) if run.role == "student"}
    for key, run in reversed(first.items()):
        line(run, "final runs", counts[key], run.train.steps, finals[key])
    print_columns(
        ["pair", "method", "what", "count", "steps", "finished", *(["s/step", "time"] if measure else [])],
        lines,
        right=("count", "steps", "finished", "s/step", "time"),
    )
    if measure:
        typer.echo(
            f"about {clock(total)} of worker time pending (steps only, without evaluation and start-up; trials "
            "that are stopped early take less)"
        )
    if unsure:
        typer.echo(unsure)
    return measured
