"""What all commands share: their options, and errors as one line each with an exit code."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer

WRONG_PATH = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError)


@contextmanager
def answering() -> Iterator[None]:
    """Turn what went wrong into a message and an exit code; SSTKD_BENCH_TRACEBACK=1 shows where instead."""
    try:
        yield
    except BrokenPipeError:  # `... | head`: nobody reads any more
        raise
    except (ValueError, OSError) as error:
        if os.environ.get("SSTKD_BENCH_TRACEBACK"):
            raise
        for line in str(error).splitlines() or [type(error).__name__]:
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(2 if isinstance(error, (ValueError, *WRONG_PATH)) else 1) from None
