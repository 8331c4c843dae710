"""The command line, called in this process."""

from pathlib import Path

from typer.testing import CliRunner

import harness
from harness.cli.app import app

ROOT = Path(harness.__file__).parent.parent


def call(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*arguments, code=2):
    """The error text of a mistake: on stderr alone, without a traceback."""
    result = call(*arguments, code=code)
    assert "Traceback" not in result.output
    assert result.stderr.startswith("error: ")
    # What takes seconds is announced before it: all else is an error, and on stderr.
    assert "; loading " in result.stdout if result.stdout else True
    assert result.stdout.count("\n") <= 1
    return result.stderr
