"""The command `sstkd-bench quickstart`: `run` of the quickstart's experiment file, which comes with the package."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import DEFAULT_RESULTS, AsJson, RerunChanged, Results, Set, answering, require_place
from harness.cli.run import run


def quickstart(
    overrides: Set = None,
    results: Results = DEFAULT_RESULTS,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed runs again.")] = False,
    rerun_changed: RerunChanged = False,
    as_json: AsJson = False,
) -> None:
    """Run a first comparison on built-in data, in minutes.

    Trains a teacher, 4 methods and a control x 5 seeds on two cores, and prints the table.
    """
    with answering():
        from harness.files import shipped

        require_place(results)
        file = _shown(shipped("experiments") / "quickstart.yaml")
        if not as_json:
            typer.echo(f"the experiment: {file}")
    run(file, overrides, results, retry_failed, rerun_changed, as_json=as_json)


def _shown(path: Path) -> Path:
    """The path as seen from here, where it is below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
