"""The commands `sstkd-bench data ...`: what a dataset is, whether a copy is complete, and its prepared cache."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.common import answering

data_app = typer.Typer(help="Describe datasets, check a copy, build the prepared cache.", no_args_is_help=True)

SHOWN = 100
"""Problems that a check prints."""
Name = Annotated[str, typer.Argument(help="A dataset, see `sstkd-bench data info`.")]
Root = Annotated[Path | None, typer.Option("--root", help="The dataset's folder, or its prepared cache.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the dataset, e.g. short_side=512; repeatable."),
]


class Format(str, Enum):
    """How a cache stores images."""

    RAW = "raw"
    ENCODED = "encoded"


def _parameters(name: str, settings: list[str] | None) -> dict[str, Any]:
    """The dataset's parameters, defaults filled in.

    Raises:
        ValueError: an unknown dataset or parameter, or a value that is not allowed.
    """
    from harness.experiment import yaml_reader
    from harness.experiment.load import listed, validate
    from harness.experiment.method import dataset_entry

    given: dict[str, Any] = {}
    problems: list[str] = []
    for setting in settings or []:
        yaml_reader.override(given, setting)
    model = dataset_entry(name).parameters
    found = validate(
        model, given, (), lambda at, message: problems.append(f"--set {yaml_reader.dotted(at)}: {message}")
    )
    if found is None:
        raise ValueError(listed(problems))
    return found.model_dump(mode="json")


@data_app.command("info")
def data_info(
    name: Annotated[str | None, typer.Argument(help="A dataset; without it, all are listed, one per line.")] = None,
    classes: Annotated[bool, typer.Option(help="List the classes with their colours.")] = True,
) -> None:
    """Describe a dataset, and how to get it.

    Prints classes and colours, splits, folder layout, licence and parameters.
    """
    with answering():
        from harness.datasets import inspect
        from harness.report.console import print_columns

        if name is None:
            print_columns(
                ["dataset", "classes", "train", "val", "what"], inspect.overview(), ("classes", "train", "val")
            )
            return
        _parameters(name, None)
        typer.echo(inspect.describe(name, classes))


@data_app.command("check")
def data_check(name: Name, root: Root = None, settings: Set = None) -> None:
    """Read every file: pairs, sizes, label ids, pixels per class, corrupt files. Exit code 1 if anything is wrong."""
    with answering():
        from harness.datasets import inspect
        from harness.report.console import print_columns

        found = inspect.check(name, root, _parameters(name, settings))
        if found.problems:
            whole = any(int(line[1]) for line in found.splits)
            _say_problems(name, root, settings or [], found.problems, whole)
            if not whole:
                raise typer.Exit(1)
            typer.echo("\nThe rest of it:")
        if found.splits:
            print_columns(["split", "pairs", "published", "height", "width"], found.splits, ("pairs", "published"))
        if found.classes:
            columns = ["class", *(f"{part} {what}" for part in found.parts for what in ("pixels", "%", "images"))]
            print_columns(columns, found.classes, tuple(columns[1:]))
        for note in found.notes:
            typer.echo(f"note: {note}")
        if found.problems:
            raise typer.Exit(1)
        typer.echo("no problems found")


def _say_problems(name: str, root: Path | None, settings: list[str], problems: list[str], whole: bool) -> None:
    """What is wrong with a copy, and what to do; `whole` is False where nothing of the dataset is there."""
    from harness.borders import shell
    from harness.datasets import SOURCES

    count = f"{len(problems)} problem{'s' * (len(problems) != 1)}"
    typer.echo(f"{name}{'' if root is None else f' in {root}'}: {count}")
    for problem in problems[:SHOWN]:
        typer.echo(f"wrong: {problem}", err=True)
    if len(problems) > SHOWN:
        typer.echo(f"wrong: and {len(problems) - SHOWN} more", err=True)
    if name not in SOURCES or root is None:
        return
    if not whole:
        layout = SOURCES[name](None).layout
        typer.echo(f"{root} has no images of {name} with label maps. Its folder has:\n{layout}")
    again = ["sstkd-bench", "data", "check", name, "--root", str(root)]
    again += [word for setting in settings for word in ("--set", setting)]
    typer.echo(f"Where its files come from:\n    {shell('sstkd-bench', 'data', 'info', name)}")
    typer.echo(f"When they are there, check again:\n    {shell(*again)}")


@data_app.command("prepare")
def data_prepare(
    name: Name,
    root: Annotated[Path, typer.Option("--root", help="The dataset's folder.")],
    to: Annotated[Path, typer.Option("--to", help="The cache's folder; use it as data.root afterwards.")],
    form: Annotated[
        Format, typer.Option("--format", help="raw: decoded, fastest; encoded: as small as the files.")
    ] = Format.RAW,
    settings: Set = None,
) -> None:
    """Build the prepared cache, in parallel. Interrupt it at any time; re-run the same command to resume."""
    with answering():
        import yaml
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from harness.datasets import inspect
        from harness.execution.prepare_data import prepare
        from harness.report.console import output

        source, variant, short_side = inspect.source_of(name, root, _parameters(name, settings))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = output(stderr=True)
        try:
            with Progress(*columns, console=console, transient=True) as bar:
                task = bar.add_task(name, total=None)
                said = [0]

                def show(done: int, total: int) -> None:
                    bar.update(task, completed=done, total=total)
                    if not console.is_terminal and (done == total or done - said[0] >= total / 10):
                        said[0] = done
                        typer.echo(f"{name}: {done} of {total} pairs", err=True)

                manifest = prepare(source, root, to, variant, short_side, form.value, show)
        except KeyboardInterrupt:
            typer.echo(
                f"interrupted: complete shards are in {to / 'shards'}; re-run the same command to resume", err=True
            )
            raise typer.Exit(130) from None
        size = sum(shard.bytes for shard in manifest.shards)
        pairs = sum(shard.rows for shard in manifest.shards)
        typer.echo(f"{to}: {pairs} pairs, {size / 2**20:,.0f} MiB, {form.value}. Use it as data.root:")
        typer.echo("    " + yaml.safe_dump({"root": str(to.absolute())}, width=10_000).rstrip())
