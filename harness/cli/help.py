"""The help of a group of commands: whole sentences, in the order of use; and the answer to an unknown command."""

import re
from typing import Any

import typer
from typer.core import TyperGroup

SECTIONS = {
    "First steps": ("doctor", "quickstart", "init", "distill"),
    "Run a comparison": ("check", "run", "status", "tune", "submit"),
    "Read the results": ("tables", "compare", "power", "reproduce", "results"),
    "Use a trained network": ("predict", "export"),
    "Look up": ("methods", "data", "show", "schema"),
}
"""Commands of `sstkd-bench`, in the order in which they are needed."""


def summary(text: str | None) -> str:
    """The first sentence of a help text, whole."""
    paragraph = " ".join((text or "").partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]


class Whole(TyperGroup):
    """A group whose help cuts no summary off."""

    def format_commands(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the commands: those of `SECTIONS` by section, others by themselves."""
        shown = {name: command for name, command in self.commands.items() if not command.hidden}
        sections = {title: [name for name in names if name in shown] for title, names in SECTIONS.items()}
        if ctx.parent is not None:
            sections = {"Commands": list(shown)}
        width = max(map(len, shown), default=0)
        for title, names in sections.items():
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name.ljust(width), summary(shown[name].help)) for name in names])

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """The command of this name; a usage error that names the one that was meant."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            from harness.experiment.meanings import nearest

            names = [name for name, command in self.commands.items() if not command.hidden]
            ctx.fail(f"No such command '{args[0]}'.{nearest(args[0], names)} Commands: {', '.join(names)}")
        return super().resolve_command(ctx, args)
