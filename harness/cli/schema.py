"""The command `sstkd-bench schema`: the JSON Schema of experiment files."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import answering


def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of printing.")] = None,
) -> None:
    """Print the JSON Schema of experiment files, for editors.

    yaml-language-server reads it, for instance.
    """
    with answering():
        import json

        from harness.experiment.schema import json_schema

        text = json.dumps(json_schema(), indent=2) + "\n"
        if output is None:
            sys.stdout.write(text)
        else:
            output.write_text(text)
