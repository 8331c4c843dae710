"""The command `sstkd-bench tune`: search each method's hyper-parameters, then print what was found."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from harness.cli.common import DEFAULT_RESULTS, AsJson, File, Results, Set, answering, bench

if TYPE_CHECKING:
    from harness.bench import Bench
    from harness.cli.events import Events
    from harness.search.outcome import Outcome
    from harness.search.status import TrialUpdate


def tune(file: File, overrides: Set = None, results: Results = DEFAULT_RESULTS, as_json: AsJson = False) -> None:
    """Search each method's hyper-parameters and learning rate.

    `run FILE --from-search` uses what was found.

    Under `tuned` the published point comes first, and every point is trained with each search seed.

    Interrupt it at any time; re-run the same command to resume.
    """
    with answering():
        from harness.cli.events import Events
        from harness.cli.run import progress, stopped_by_sigterm

        wanted = bench(file, overrides, results)
        show = progress(wanted.directory, as_json)
        wanted.fetch_weights(show.say)
        _say_what_is_done(wanted, show)
        try:
            with stopped_by_sigterm(), show:
                outcomes = wanted.tune(show, _trials(wanted, show))
        except KeyboardInterrupt:
            _interrupted(wanted, show)
            raise typer.Exit(130) from None
        _draw(outcomes, wanted)
        _print(outcomes, wanted, show if isinstance(show, Events) else None)
    if without := sum(outcome.best is None for outcome in outcomes):
        typer.echo(f"{without} methods have no finished trial; see the messages of their rows", err=True)
        raise typer.Exit(1)


def _say_what_is_done(wanted: "Bench", show: Any) -> None:
    from harness.cli.run import say_what_is_left_out
    from harness.search import outcome

    found = outcome.outcomes(wanted.experiment, wanted.directory)
    if pending := sum(each.wanted - len(each.trials) for each in found if not each.complete):
        show.say(f"{pending} trials to do; loading torch, building the networks, reading the data")
        say_what_is_left_out(show, wanted.experiment)


def _interrupted(wanted: "Bench", show: Any) -> None:
    from harness.cli.events import Events
    from harness.results.paths import search_folder
    from harness.search import outcome

    outcomes = outcome.outcomes(wanted.experiment, wanted.directory)
    done = sum(len(each.trials) for each in outcomes)
    if isinstance(show, Events):
        states = [trial.status for each in outcomes for trial in each.trials]
        show.done([*states, *["waiting"] * (sum(each.wanted for each in outcomes) - done)], interrupted=True)
    folder = search_folder(wanted.directory)
    typer.echo(
        f"interrupted: {done} trials have finished, rows in {folder}; re-run the same command to resume", err=True
    )


def _trials(wanted: "Bench", show: Any) -> Any:
    """What is printed of each trial: an event; of an algorithm's trials, which are no plain runs, a line at the end."""
    from harness.cli.events import Events

    search = wanted.experiment.search
    count = search.trials if search is not None else 0

    def told(trial: "TrialUpdate") -> None:
        if isinstance(show, Events):
            show.write("trial", **vars(trial))
            return
        if search is None or search.algorithm is None:
            return  # shown as runs are
        show.stop()  # the teachers are trained; their screen would stand still below the trials
        if trial.status != "running":
            score = "" if trial.dev_miou is None else f"  dev mIoU {100 * trial.dev_miou:.2f}"
            name = f"{trial.pair}  {trial.method}  trial {trial.trial + 1} of {count}"
            typer.echo(f"{name}{score}  {trial.seconds:.0f} s  {trial.message or trial.status}")

    return told


def _draw(outcomes: "Sequence[Outcome]", wanted: "Bench") -> None:
    from harness.files import write_atomic
    from harness.report.plots.search import trials_figure
    from harness.report.plots.style import figure_png, figure_svg
    from harness.report.write import search_files
    from harness.results.paths import search_folder

    figure = trials_figure(outcomes)
    folder = search_folder(wanted.directory)
    write_atomic(folder / "trials.png", figure_png(figure))
    write_atomic(folder / "trials.svg", figure_svg(figure))
    for name, content in search_files(outcomes).values():
        write_atomic(folder / name, content)


def _print(outcomes: "Sequence[Outcome]", wanted: "Bench", show: "Events | None") -> None:
    from harness.report.console import print_columns
    from harness.results.paths import search_folder
    from harness.search.outcome import FILE, HEADER

    if show is not None:
        rows = [outcome.cells for outcome in outcomes]
        show.write("search", columns=HEADER, rows=rows, remarks=_remarks(outcomes, wanted))
        return
    print_columns(list(HEADER), [list(outcome.cells) for outcome in outcomes], right=("mIoU (dev) %", "time"))
    for text in _remarks(outcomes, wanted):
        typer.echo(f"note: {text}")
    folder = search_folder(wanted.directory)
    for what, name in (("trials", "runs"), ("points", FILE), ("pictures", "trials.png"), ("", "best_so_far.png")):
        typer.echo(f"{what:9}{folder / name}")
    if all(outcome.best is not None for outcome in outcomes):
        from harness.borders import shell

        typer.echo(f"final runs:\n    {shell('sstkd-bench', 'run', str(wanted.file), '--from-search')}")


def _remarks(outcomes: "Sequence[Outcome]", wanted: "Bench") -> list[str]:
    """Remarks on the search, pair by pair."""
    from harness.search.tuning_curve import remarks

    pairs = list(dict.fromkeys(outcome.study.template.pair for outcome in outcomes))
    found = []
    for pair in pairs:
        before = f"{pair}: " if len(pairs) > 1 else ""
        mine = [outcome for outcome in outcomes if outcome.study.template.pair == pair]
        found += [before + text for text in remarks(mine, wanted.experiment.train.steps)]
    return found
