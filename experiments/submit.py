"""For `ray submit FILE experiments/submit.py`: on the head node, makes the experiment of FILE a job and follows it.

Ray's launcher copies this script there, and has left FILE as `~/ray_bootstrap_config.yaml`; another file is named after
`--`, as are options of `sstkd-bench submit`. The exit code is the job's. When the connection breaks the job goes on,
and the same command follows it again.
"""

import os
import sys
from pathlib import Path

PROJECT = Path.home() / "sstkd-bench"  # where file_mounts put it
RESULTS = Path.home() / "sstkd-bench-results"


def arguments(given: list[str]) -> list[str]:
    """The command line of `sstkd-bench` for what stands after `--`."""
    named = given[:1] if given and not given[0].startswith("-") else []
    file = named or [str(Path.home() / "ray_bootstrap_config.yaml")]
    folders = ["--results", str(RESULTS), "--cluster-results", str(RESULTS)]
    return ["submit", *file, *folders, "--python", sys.executable, "--exclude", "tests", *given[len(named) :]]


if __name__ == "__main__":
    os.chdir(PROJECT)
    sys.path.insert(0, str(PROJECT))
    from harness.cli.app import app

    app(arguments(sys.argv[1:]))
