"""The benchmarks are not run by the tests; that they can be is tested."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "tests" / "benchmarks").glob("bench_*.py"))


@pytest.mark.slow
@pytest.mark.torch
def test_each_can_be_imported_from_the_command_that_its_first_lines_give() -> None:
    commands = {path: f"pytest tests/benchmarks/{path.name}" for path in FILES}
    assert [path.name for path, command in commands.items() if command not in path.read_text()] == []
    arguments = ["--collect-only", "-q", *(str(path.relative_to(ROOT)) for path in FILES)]
    done = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert [path.name for path in FILES if path.name not in done.stdout] == []
