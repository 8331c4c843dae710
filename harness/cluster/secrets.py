"""Environment variables of a cluster job, and the check that no secret is written where others can read it.

Ray shows a job's command, metadata and runtime environment to everyone who may list jobs, and logs the latter. Values
of variables are therefore passed in a file of the job's package that only its owner can read.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.borders import one_line
from harness.cluster import secret_patterns

FILE = "job/variables/env"
"""In the job's package, which is the current folder of its processes; an experiment file may be `job/env`."""
HOOK = "harness.cluster.secrets.load"
"""As Ray's `worker_process_setup_hook`: called in every worker of the job before anything else."""


def written(names: Sequence[str], environment: Mapping[str, str]) -> str:
    """The content of `FILE`: the variables, in a format for the shell and for `load`.

    Raises:
        ValueError: a name is invalid, includes a value, or is not set.
    """
    lines = []
    for name in names:
        if "=" in name:
            raise ValueError(
                f"--env {one_line(name.partition('=')[0])}=...: give the name alone, and set the value in the "
                "environment of this command: what is on a command line is seen by others and kept in its history"
            )
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"--env {one_line(name)}: is not the name of an environment variable")
        if name not in environment:
            raise ValueError(f"--env {name}: is not set here. Set it: export {name}=...")
        lines.append(f"export {name}={shlex.quote(environment[name])}\n")
    return "".join(lines)


def load() -> None:
    """Set the variables of `FILE` from the current folder, the job's package."""
    path = Path(FILE)
    if not path.is_file():
        return  # not in the job's package, or a job without variables
    for assignment in shlex.split(path.read_text()):
        name, mark, value = assignment.partition("=")
        if mark:  # the other words are `export`
            os.environ[name] = value


def refuse_secrets(text: str, place: str) -> None:
    """Refuse a text that contains something like a secret.

    Args:
        text: text to show or send.
        place: its name, for the message.

    Raises:
        ValueError: gives the line's number, not its content.
    """
    for number, what in secret_patterns.in_text_for_a_job(text):
        raise ValueError(
            f"{place}:{number}: looks like {what}, which others would read on the cluster. Put it into an "
            "environment variable and pass that by name: --env NAME"
        )


def refuse_secrets_for_a_job(file: Path, overrides: Sequence[str]) -> None:
    """Refuse secrets in an experiment file and its overrides, before a message about them could repeat one.

    Raises:
        ValueError: as `refuse_secrets`.
        OSError: the file cannot be read.
    """
    refuse_secrets(file.read_bytes().decode(errors="replace"), str(file))
    for override in overrides:
        refuse_secrets(override, "--set")
