"""docs/reference-commands.md: every command of `sstkd-bench`, from its functions."""

import inspect
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any

import typer

from harness.cli import app as application
from harness.cli.help import SECTIONS
from tests.support import markdown

HEAD = """# Commands

Every command with its arguments and options; `sstkd-bench COMMAND --help` prints the same at a terminal. `sstkd-bench --install-completion` completes commands
and options in a shell."""
KINDS = {Path: "PATH", int: "NUMBER", float: "NUMBER", str: "TEXT"}
"""What stands for a value that has no name of its own."""


def page() -> str:
    """The page."""
    root = typer.main.get_command(application.app)
    code = next(part for part in inspect.getdoc(application).split("\n\n") if part.startswith("Exit codes:"))
    parts = [HEAD, " ".join(code.split()), *_options(root)]
    for title, names in SECTIONS.items():
        parts.append(f"## {title}")
        for name in names:
            parts += list(_command(root.commands[name], name))
    return "\n\n".join(parts) + "\n"


def _command(command: Any, words: str) -> Iterator[str]:
    """The section of a command, or of all commands of a group."""
    yield f"### {words}"
    yield markdown.filled(command.help)
    for name, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield f"#### {words} {name}"
            yield markdown.filled(below.help)
            yield from _usage(below, f"{words} {name}")
    if not hasattr(command, "commands"):
        yield from _usage(command, words)


def _usage(command: Any, words: str) -> Iterator[str]:
    parameters = shown(command)
    arguments = [_argument(each) for each in parameters if each.param_type_name == "argument"]
    options = ["[OPTIONS]"] if len(arguments) < len(parameters) else []
    yield f"```\nsstkd-bench {' '.join([words, *options, *arguments])}\n```"
    yield from _options(command)


def _options(command: Any) -> Iterator[str]:
    hints = _hints(command)
    rows = [_row(each, hints[each.name]) for each in shown(command)]
    if rows:
        yield markdown.table(("argument or option", "meaning"), rows)


def shown(command: Any) -> list[Any]:
    """The parameters of a command's function that its help has."""
    hints = _hints(command)
    return [each for each in command.params if each.name in hints and not getattr(each, "hidden", False)]


def _hints(command: Any) -> dict[str, Any]:
    function = inspect.unwrap(command.callback) if command.callback else (lambda: None)
    return typing.get_type_hints(function, include_extras=True)


def _argument(parameter: Any) -> str:
    name = (parameter.metavar or parameter.name.upper()) + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _row(parameter: Any, hint: Any) -> tuple[str, str]:
    kind, default = _kind(hint), parameter.default
    flag, choices = kind is bool, [each.value for each in kind] if issubclass(kind, Enum) else []
    meaning = [markdown.filled(parameter.help or "")]
    if parameter.param_type_name == "argument":
        names = (parameter.metavar or parameter.name.upper()).split("|")
    else:
        value = "" if flag else f" {parameter.metavar or ('CHOICE' if choices else KINDS[kind])}"
        names = [f"{name}{value}" for name in (*parameter.opts, *parameter.secondary_opts)]
        meaning += ["Required."] if parameter.required else []
    if choices:
        meaning.append(f"One of {markdown.listed(markdown.coded(choices))}.")
    if flag and parameter.secondary_opts:
        default = names[0 if default else 1]
    if default not in (None, False, []):
        meaning.append(f"Default: `{default.value if isinstance(default, Enum) else default}`.")
    return markdown.listed(markdown.coded(names), "or"), " ".join(meaning)


def _kind(hint: Any) -> Any:
    """The class of a value, without what is said of it and what it may be instead."""
    while typing.get_origin(hint) is not None:
        hint = next(each for each in typing.get_args(hint) if each is not NoneType)
    return hint
