"""How commands speak: tables as wide as the terminal, and mistakes as one line each with an exit code."""

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


def print_table(columns: list[str], rows: list[list[str]], right: tuple[str, ...] = ()) -> None:
    """A table as wide as the terminal; into a file or a pipe one line per row."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # cells may hold [...], which is markup in plain strings
    if not console.is_terminal:
        console = Console(width=max(80, Console(width=10_000).measure(table).maximum))
    console.print(table)
