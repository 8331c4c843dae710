"""The command `sstkd-bench tune`, and what `check` and `run` say of an experiment with a search."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from harness.report.console import print_columns

if TYPE_CHECKING:
    from harness.cli.events import Events
    from harness.experiment.rules import Found, Key
    from harness.experiment.spec import Experiment, Run
    from harness.search.outcome import Outcome
    from harness.search.tuner import TrialUpdate


def tune(file: Path, overrides: list[str], results: Path, as_json: bool) -> int:
    """Search, then print the best point of every method and write the pictures.

    Returns:
        How many methods have no finished trial.

    Raises:
        ValueError: as `harness.search.tuner.search`, and for mistakes in the file.
        OSError: as `harness.search.tuner.search`.
        typer.Exit: 130, it was interrupted.
    """
    from harness.cli import run as clirun
    from harness.cli.events import Events
    from harness.experiment.load import load
    from harness.experiment.studies import studies_of
    from harness.search import outcome as best

    experiment = load(file, overrides)
    directory = (results / experiment.name).absolute()
    show = clirun.shower(directory, as_json)
    outcomes = best.outcomes(experiment, directory)
    if not all(outcome.complete for outcome in outcomes):
        studies = studies_of(experiment)
        needed = {study.template.teacher_run for study in studies if study.template.method.needs_teacher}
        clirun.train_teachers(experiment, needed, directory, show, False)
        _search(experiment, directory, _teller(experiment, as_json, show))
        outcomes = best.outcomes(experiment, directory)
    best.write(outcomes, directory)
    _draw(outcomes, directory)
    _print(outcomes, directory, file, show if isinstance(show, Events) else None)
    return sum(outcome.best is None for outcome in outcomes)


def _search(experiment: "Experiment", directory: Path, tell: Any) -> None:
    from harness.cli import run as clirun

    try:
        with clirun.ended_by_sigterm():
            from harness.search.tuner import search  # torch and ray: seconds

            search(experiment, directory, tell)
    except KeyboardInterrupt:
        from harness.results import paths
        from harness.search import outcome as best

        done = sum(len(outcome.trials) for outcome in best.outcomes(experiment, directory))
        typer.echo(
            f"interrupted: {done} trials have rows in {paths.search_folder(directory)}; the same command continues.",
            err=True,
        )
        raise typer.Exit(130) from None


def _teller(experiment: "Experiment", as_json: bool, show: Any) -> Any:
    """What is told of each trial: an event, or a line when it has ended."""
    assert experiment.search is not None
    count = experiment.search.trials

    def tell(update: "TrialUpdate") -> None:
        if as_json:
            show.write("trial", **vars(update))
        elif update.status != "running":
            score = "" if update.dev_miou is None else f"  dev mIoU {100 * update.dev_miou:.2f}"
            name = f"{update.pair}  {update.method}  trial {update.trial + 1} of {count}"
            typer.echo(f"{name}{score}  {update.seconds:.0f} s  {update.message or update.status}")

    return tell


def _draw(outcomes: "Sequence[Outcome]", directory: Path) -> None:
    from harness.files import write_atomic
    from harness.report.plots.search import trials_figure
    from harness.report.plots.style import figure_png, figure_svg
    from harness.results.paths import search_folder

    figure = trials_figure(outcomes)
    write_atomic(search_folder(directory) / "trials.png", figure_png(figure))
    write_atomic(search_folder(directory) / "trials.svg", figure_svg(figure))


def _print(outcomes: "Sequence[Outcome]", directory: Path, file: Path, show: "Events | None") -> None:
    from harness.results.paths import search_folder
    from harness.search.outcome import FILE, HEADER

    if show is not None:
        show.write("search", columns=HEADER, rows=[outcome.cells for outcome in outcomes])
        return
    print_columns(list(HEADER), [list(outcome.cells) for outcome in outcomes], right=("mIoU (dev) %", "time"))
    folder = search_folder(directory)
    for what, name in (("trials", "runs"), ("points", FILE), ("picture", "trials.png")):
        typer.echo(f"{what:9}{folder / name}")
    if all(outcome.best is not None for outcome in outcomes):
        typer.echo(f"final runs: sstkd-bench run {file} --from-search")


def found(experiment: "Experiment", file: Path, results: Path, from_search: bool) -> "dict[Key, Found] | None":
    """The best points of an experiment's search; None without one.

    Raises:
        ValueError: it has a search and `from_search` is not set, or the search is not complete; or the other way round.
    """
    from harness.experiment import rules
    from harness.search import outcome as best

    if from_search and experiment.search is None:
        raise ValueError(f"--from-search: {file} has no search; its ruleset is published. Leave the option out")
    points = best.found(experiment, results / experiment.name, str(file)) if from_search else None
    rules.require_point(experiment, points)
    return points


def runs_of(experiment: "Experiment", file: Path, results: Path, from_search: bool) -> "list[Run]":
    """The final runs of an experiment.

    Raises:
        ValueError: as `found`; or its budget needs step times and not all of them are there.
    """
    from harness.experiment import rules
    from harness.experiment.plan import plan
    from harness.results import step_times

    points = found(experiment, file, results, from_search)
    directory = results / experiment.name
    times = step_times.times(experiment, directory, str(file)) if rules.needs_times(experiment) else None
    return plan(experiment, points, times)


def check(experiment: "Experiment", file: Path, results: Path, measure: bool) -> dict[tuple[str, str, str], float]:
    """List the teachers, the trials and the final runs of an experiment with a search, and what they cost.

    Returns:
        Seconds of a step by (pair, role, method label), where they were measured.

    Raises:
        ValueError: a network cannot be built, a method does not apply, or timing a step has failed.
    """
    from harness.cli.screen import clock
    from harness.experiment.plan import outline
    from harness.results import step_times, store
    from harness.search import outcome as best

    directory = results / experiment.name
    rows = store.finished(directory)
    measured: dict[tuple[str, str, str], float] = {}
    if measure:
        from harness.training.estimate import step_seconds

        measured = step_seconds(outline(experiment), experiment.resources)
    runs, unsure = step_times.outlined(experiment, directory, str(file), measured)
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
        final = runs_of(experiment, file, results, True)
        there = (a for a, b in zip(runs, final, strict=True) if rows.get(b.run_id) == "ok")
        finals.update((run.pair, run.label) for run in there if run.role == "student")
    for run in runs:
        if run.role == "student" and run.seed == experiment.seeds[0]:
            line(run, "final runs", len(experiment.seeds), run.train.steps, finals[run.pair, run.label])
    print_columns(
        ["pair", "method", "what", "count", "steps", "there", *(["s/step", "time"] if measure else [])],
        lines,
        right=("count", "steps", "there", "s/step", "time"),
    )
    if measure:
        typer.echo(
            f"about {clock(total)} of worker time to do (steps only; evaluation and start-up come on top, trials that "
            "are ended early take less)"
        )
    if unsure:
        typer.echo(unsure)
    sys.stdout.flush()
    return measured
