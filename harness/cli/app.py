"""The command `sstkd-bench`.

Exit codes: 0 done, 1 a run failed or the disk is full, 2 a usage error, 3 an error that nobody expected (one line that
names the file with its traceback), 130 interrupted.

Every command is a function in a file of its name. Heavy imports (torch, ray, pyarrow) are inside the functions, so that
help and usage errors are answered at once.
"""

from typing import Annotated

import typer

from harness.cli.check import check, power
from harness.cli.compare import compare
from harness.cli.data import data_app
from harness.cli.doctor import doctor
from harness.cli.export import export
from harness.cli.help import Whole
from harness.cli.init import distill, init
from harness.cli.methods import methods
from harness.cli.predict import predict
from harness.cli.quickstart import quickstart
from harness.cli.reproduce import reproduce
from harness.cli.results import results_app
from harness.cli.run import run
from harness.cli.schema import schema
from harness.cli.show import show_app
from harness.cli.status import status
from harness.cli.submit import submit
from harness.cli.tables import tables
from harness.cli.tune import tune

app = typer.Typer(
    cls=Whole,
    help="Compare methods of knowledge distillation for semantic segmentation under one recipe, paired by seed.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    *(doctor, quickstart, init, distill, check, run, status, tune, submit),
    *(tables, compare, power, reproduce, predict, export, methods, schema),
)
for command in COMMANDS:
    app.command()(command)
for name, group in (("results", results_app), ("data", data_app), ("show", show_app)):
    app.add_typer(group, name=name, cls=Whole)


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
