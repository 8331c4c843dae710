"""How commands speak: tables as wide as the terminal, and mistakes as one line each with an exit code."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

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


def output() -> "Console":
    """Standard output: as wide as the terminal; into a file or a pipe wide enough that nothing is folded."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=10_000)


def print_table(columns: list[str], rows: list[list[str]], right: tuple[str, ...] = ()) -> None:
    """A table as wide as the terminal; into a file or a pipe one line per row."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # cells may hold [...], which is markup in plain strings
    output().print(table)
