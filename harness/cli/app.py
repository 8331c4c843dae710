"""The command `sstkd-bench`. Exit codes: 0 done, 1 a run failed, 2 a mistake of the user's, 130 interrupted.

Heavy imports (torch, ray, pyarrow) are inside the commands, so that help and mistakes are answered at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.common import answering
from harness.cli.data import data_app
from harness.cli.results import results_app
from harness.cli.submit import submit
from harness.cli.tables import Format, Paper
from harness.report.console import print_columns

app = typer.Typer(
    help="Train every distiller under one recipe, seed by seed; each run is an Arrow row, each table is made of rows.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(results_app, name="results")
app.add_typer(data_app, name="data")
app.command()(submit)
show_app = typer.Typer(help="Pictures of what the methods see.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(show_app, name="show")

File = Annotated[Path, typer.Argument(help="Experiment file (YAML).")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. train.steps=20; may be repeated; recorded."),
]
Results = Annotated[Path, typer.Option("--results", help="Folder of all results.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print what happens, and the table, as JSON: one object per line.")
]
DEFAULT_RESULTS = Path("results")


def _version(wanted: bool) -> None:
    if wanted:
        from harness.results.provenance import code_version

        typer.echo(code_version())
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and commit.")
    ] = False,
) -> None:
    pass


def _load(file: Path, overrides: list[str] | None) -> Any:
    from harness.experiment.load import load

    return load(file, overrides or [])


@app.command()
def check(
    file: File,
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    measure: Annotated[bool, typer.Option(help="Time a few steps of each method on this machine.")] = True,
) -> None:
    """Validate an experiment file, list its runs, estimate what they cost, and say what is compared and how fairly."""
    with answering():
        from harness.cli import check as clicheck

        clicheck.check(_load(file, overrides), file, results, measure)


@app.command()
def power(
    file: File,
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    seeds: Annotated[
        list[int] | None, typer.Option("--seeds", min=2, help="A number of seeds to look at; may be repeated.")
    ] = None,
) -> None:
    """From the seeds so far: the smallest difference to the plain student that the planned number of seeds can show."""
    with answering():
        from harness.cli import check as clicheck

        clicheck.power(_load(file, overrides), file, results, seeds or [])


@app.command()
def tune(file: File, overrides: Set = None, results: Results = DEFAULT_RESULTS, as_json: AsJson = False) -> None:
    """Search each method's hyper-parameters and learning rate, as `search` says; then: run FILE --from-search.

    Interrupt it at any time; the same command continues.
    """
    with answering():
        from harness.cli import tune as clitune

        without = clitune.tune(file, overrides or [], results, as_json)
    if without:
        typer.echo(f"{without} methods have no finished trial; see the messages of their rows", err=True)
        raise typer.Exit(1)


@app.command()
def run(
    file: File,
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed runs again.")] = False,
    from_search: Annotated[
        bool, typer.Option("--from-search", help="With the best point of each method; after `tune`.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run what has no row yet, then print the table. Interrupt it at any time; the same command continues."""
    with answering():
        from harness.cli import run as clirun
        from harness.cli import tune as clitune
        from harness.cli.events import Events

        experiment = _load(file, overrides)
        directory = results / experiment.name
        show = clirun.shower(directory, as_json)
        clitune.found(experiment, file, results, from_search)  # before anything is trained
        clirun.time_steps(experiment, directory, show, retry_failed)
        runs = clitune.runs_of(experiment, file, results, from_search)
        waiting = clirun.waiting(runs, directory, retry_failed)
        if waiting:
            clirun.require_ready(experiment, waiting)
            clirun.launch(runs, experiment, directory, show, retry_failed)
        show_table = show.table if isinstance(show, Events) else None
        failed = _report(file, experiment, runs, directory, bool(waiting), show_table)
        if isinstance(show, Events):
            show.done(clirun.states(runs, directory))
    if failed:
        typer.echo(f"{failed} of {len(runs)} runs failed; see `sstkd-bench results list {directory}`", err=True)
        raise typer.Exit(1)


def _report(file: Path, experiment: Any, runs: list[Any], directory: Path, rewrite: bool, show_table: Any) -> int:
    """Print the experiment's table (and write its files); the number of failed runs."""
    from harness.experiment import rules
    from harness.report import write as report

    ids = [run.run_id for run in runs]
    labels = rules.labels(experiment)
    return report.show(directory, labels, experiment.seeds, ids, str(file), rewrite, show_table)


@app.command()
def tables(
    files: Annotated[list[Path], typer.Argument(help="Experiment files (YAML), or results folders.")],
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    paper: Annotated[
        Paper | None, typer.Option(help="The tables of a paper: what was measured beside what was published.")
    ] = None,
    form: Annotated[Format | None, typer.Option("--format", help="Print in this format, and write no files.")] = None,
    published: Annotated[
        Path | None, typer.Option("--published", help="Folder of the published figures; RESULTS/published without it.")
    ] = None,
) -> None:
    """Rebuild the table, the plots and the HTML page from the rows there are; or print a paper's tables."""
    with answering():
        from harness.cli import tables as clitables
        from harness.experiment.load import load

        if published is not None and paper is None:
            raise ValueError("--published belongs to --paper: name the paper whose figures these are")
        if overrides and (folder := next((file for file in files if file.is_dir()), None)):
            raise ValueError(f"--set changes an experiment file, and {folder} is a results folder: name the file")
        if paper is not None:
            # The paths of data and weights may be a cluster's: rows need neither.
            folders = [
                file if file.is_dir() else results / load(file, overrides or [], here=False).name for file in files
            ]
            clitables.print_paper(paper, folders, results, published, form)
            return
        for file in files:
            if file.is_dir():
                clitables.print_folder(file, form)
            else:
                _tables(file, _load(file, overrides), results, form)


def _tables(file: Path, experiment: Any, results: Path, form: Format | None) -> None:
    from harness.cli import tables as clitables
    from harness.cli import tune as clitune

    directory = results / experiment.name
    if not directory.is_dir():
        raise ValueError(f"{directory}: there are no rows yet. Run it first: sstkd-bench run {file}")
    runs = clitune.runs_of(experiment, file, results, experiment.search is not None)
    if form is None:
        _report(file, experiment, runs, directory, True, None)
    else:
        clitables.print_formatted(experiment, [run.run_id for run in runs], directory, form)


@app.command()
def compare(
    files: Annotated[list[Path], typer.Argument(help="Experiment files (YAML).")],
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder for tables and pictures; RESULTS/compare without it.")
    ] = None,
) -> None:
    """Compare methods over all pairs and datasets of several experiments: gains, ranks, profiles, costs."""
    with answering():
        from harness.cli import compare as clicompare

        clicompare.compare([(file, _load(file, overrides)) for file in files], results, to or results / "compare")


@app.command()
def reproduce(
    table: Annotated[str | None, typer.Argument(help="E.g. sstkd-table-1; a wrong name lists all.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan, its cost and its state.")] = False,
    results: Results = DEFAULT_RESULTS,
    write: Annotated[Path | None, typer.Option("--write", help="Only write the experiment files, into here.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time a step of each method here, on random images; minutes on a CPU.")
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--page", help="Only write the state of all tables, as Markdown, into this file.")
    ] = None,
) -> None:
    """Plan a paper's table: its experiments, their cost, and the state of each cell; then run them."""
    with answering():
        from harness.cli import reproduce as clireproduce
        from harness.files import write_atomic

        if (table is None) == (page is None):
            raise ValueError("name a table, or give --page FILE for the state of all of them")
        if page is not None:
            write_atomic(page, clireproduce.page(results))
            return
        paths = clireproduce.show(str(table), dry_run, results, write, measure)
    failed = False
    for path in paths if write is None else ():
        try:
            run(path, results=results)
        except typer.Exit as left:
            if left.exit_code != 1:
                raise
            failed = True  # which does not keep the next experiment from running
    if failed:
        raise typer.Exit(1)


@app.command()
def predict(
    directory: Annotated[Path, typer.Argument(help="An experiment's results folder, e.g. results/quickstart.")],
    run_id: Annotated[str, typer.Argument(help="The run, or the beginning of its run_id.")],
    to: Annotated[Path, typer.Option("--to", help="Folder for the PNGs.")],
    split: Annotated[str, typer.Option(help="val, dev, train, or test (images without labels).")] = "val",
    root: Annotated[Path | None, typer.Option("--root", help="The dataset's folder, if it is elsewhere now.")] = None,
) -> None:
    """Write a run's predictions as PNGs: as Cityscapes', VOC's and ADE20K's servers take them, else class indices."""
    with answering():
        if split not in ("val", "dev", "train", "test"):
            raise ValueError(f"--split {split}: allowed are val, dev, train, test")
        from harness.training.predict import write_predictions

        count = write_predictions(directory, run_id, split, to, root)
        typer.echo(f"{to}: {count} predictions")


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method: print its equation, paper and parameters.")] = None,
    pair: Annotated[
        str, typer.Option(help="TEACHER:STUDENT, each ARCHITECTURE/ENCODER, or an experiment file: its first pair.")
    ] = "unet/tu-resnet18d:unet/tu-resnet10t",
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 19,
    side: Annotated[int, typer.Option(help="Side of the square images that terms and times are taken from.")] = 128,
    measure: Annotated[bool, typer.Option(help="Time a few steps of each method on this machine.")] = True,
) -> None:
    """List the methods: terms, hyper-parameters, extra parameters, cost; which apply to a pair, and why not."""
    with answering():
        from harness.training import catalogue

        if name is not None:
            typer.echo(catalogue.explain(name))
            return
        columns = [
            "method",
            "terms",
            "extra parameters",
            "buffers MB",
            "step / none",
            "hyper-parameters [tuned range]",
            "paper",
        ]
        lines = []
        for facts in catalogue.describe(*catalogue.networks(pair), classes, side, measure):
            ratio = "-" if facts.relative_step is None else f"{facts.relative_step:.2f}"
            cells = [", ".join(facts.terms) or "-", f"{facts.extra_parameters:,}", f"{facts.buffers_mb:.1f}", ratio]
            if facts.reason is not None:
                cells = [f"does not apply: {facts.reason}", "-", "-", "-"]
            note = f"; {facts.caveat}" if facts.caveat else ""
            lines.append([facts.name, *cells, ", ".join(facts.hyperparameters) or "-", (facts.paper or "-") + note])
        print_columns(columns, lines, right=("extra parameters", "buffers MB", "step / none"))


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of printing.")] = None,
) -> None:
    """Print the JSON Schema of experiment files, for editors (yaml-language-server)."""
    with answering():
        import json

        from harness.experiment.schema import json_schema

        text = json.dumps(json_schema(), indent=2) + "\n"
        if output is None:
            sys.stdout.write(text)
        else:
            output.write_text(text)


@app.command()
def doctor(
    file: Annotated[Path | None, typer.Argument(help="Also check what this experiment needs.")] = None,
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Check this machine: versions, devices, disk, Ray, datasets. Exit code 1 if something is missing."""
    with answering():
        from harness.cli.doctor import diagnose

        problems = diagnose(file, results)
    if problems:
        raise typer.Exit(1)


@show_app.command("texture")
def show_texture(
    image: Annotated[Path, typer.Argument(help="A photograph; reduced to at most 512 pixels a side.")],
    to: Annotated[Path, typer.Option("--to", help="Folder for the pictures.")] = Path("texture"),
    levels: Annotated[str, typer.Option(help="Depths k of 2^k directions per level, coarse to fine; 1 to 8.")] = "3,4",
    pyramid: Annotated[str, typer.Option(help="Low-pass pair: 9-7, 5-3, Burt, pkva.")] = "9-7",
    directional: Annotated[
        str,
        typer.Option(help="Directional filters: pkva, pkva6, pkva8, 9-7, 5-3, pkva-fir, pkva6-fir, pkva8-fir."),
    ] = "pkva",
    boundary: Annotated[str, typer.Option(help="periodic or toolbox.")] = "periodic",
    quantization_levels: Annotated[int, typer.Option(help="Levels of the intensity.")] = 32,
    results: Annotated[
        Path | None, typer.Option("--results", help="An experiment's results folder, e.g. results/quickstart.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="A student's run in it: its textures beside its teacher's.")] = None,
) -> None:
    """Draw an image's contourlet subbands, the frequency wedges, the levels and histograms of its intensities.

    With --results and --run also what a student and its teacher make of the image, by the options of the run where
    it is one of sstkd.
    """
    with answering():
        depths = tuple(int(k) if k.strip().isdecimal() else 0 for k in levels.split(","))
        if not all(1 <= k <= 8 for k in depths):
            raise ValueError(f"--levels {levels}: write depths from 1 to 8, coarse to fine, such as 3,4")
        if (results is None) != (run is None):
            raise ValueError("--results and --run belong together: the folder, and the run in it")
        from harness.cli import showtexture
        from harness.report.plots import texture as textureplots
        from harness.training import texture
        from sstkd import CDM, DTIEM

        cdm = CDM(depths, pyramid, directional, boundary)  # type: ignore[arg-type]
        dtiem = DTIEM(quantization_levels)
        texture.check_folder(to)
        pixels = texture.read_image(image, cdm.multiple)
        pictures = showtexture.image_pictures(pixels, depths, cdm, dtiem)
        if results is not None and run is not None:
            pictures["pair"] = showtexture.network_picture(pixels, texture.networks(results, run), cdm, dtiem)
        drawn = {name: textureplots.rendered(figure) for name, figure in pictures.items()}
        for path in texture.save(drawn, to):
            typer.echo(path)
        if run is None:
            typer.echo("Without --results and --run there are no networks to compare.", err=True)


def main() -> None:
    """Entry point of `sstkd-bench`."""
    app()
