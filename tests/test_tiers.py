"""The commands of the Makefile: each test is run by `make test` or by `make rest`, once; `--quick` imports nothing heavy."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = ("quick", "test", "slow", "ray", "soak")
MARKS = ("ray", "chaos", "slow", "smoke")


def selections(*targets: str) -> list[Expression]:
    """What the calls of pytest in these targets select by marker."""
    recipes = [re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE) for target in targets]
    found = [text for recipe in recipes if recipe for text in re.findall(r"-m '?(.*?)'? ?(?:\$|\n)", recipe[1])]
    return [Expression.compile(text) for text in found]


COMBINED = [c for n in range(5) for c in itertools.combinations(MARKS, n) if "ray" in c or "smoke" not in c]
"""A smoke starts Ray."""


@pytest.mark.parametrize("others", [c for c in COMBINED if "smoke" not in c], ids="+".join)
def test_what_only_a_soak_runs_is_left_out_elsewhere(others: tuple[str, ...]) -> None:
    marks = (*others, "soak")
    chosen = {target: [c.evaluate(lambda name, **_: name in marks) for c in selections(target)] for target in TARGETS}
    assert {target for target, commands in chosen.items() if any(commands)} == {"soak"}


@pytest.mark.parametrize("marks", COMBINED, ids="+".join)
def test_every_test_is_run_once(marks: tuple[str, ...]) -> None:
    before, *commands = (
        command.evaluate(lambda name, **_: name in marks) for command in selections("test", "slow", "ray")
    )
    assert len(commands) == 4
    assert before == commands[0]  # which leaves out what has passed before
    assert sum(commands) == 1


def quick(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`pytest --quick` on a file of this text."""
    (folder / "test_it.py").write_text(text)
    return run(folder, "--quick", *options)


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([*words, str(folder)], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_quick_refuses_a_test_that_imports_torch(tmp_path: Path) -> None:
    done = quick(tmp_path, "def test_it():\n    import torch\n")
    assert done.returncode == 1 and "mark the test `torch`" in done.stdout


@pytest.mark.slow
def test_quick_lets_a_test_look_for_the_files_of_torch(tmp_path: Path) -> None:
    done = quick(
        tmp_path, "import importlib.util\ndef test_it():\n    assert importlib.util.find_spec('torch').origin\n"
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_what_quick_has_run_is_not_run_again(tmp_path: Path) -> None:
    text = "import pytest\ndef test_it(): pass\ndef test_other(): import torch\n"
    file = tmp_path / "passed"
    assert "1 failed, 1 passed" in quick(tmp_path, text, "--passed", str(file)).stdout
    done = run(tmp_path, "--passed", str(file), "-v")
    assert "test_other PASSED" in done.stdout and "1 passed, 1 deselected" in done.stdout, done.stdout


@pytest.mark.slow
def test_quick_leaves_out_what_says_that_it_imports_torch(tmp_path: Path) -> None:
    done = quick(
        tmp_path, "import pytest\n@pytest.mark.torch\ndef test_it():\n    import torch\ndef test_other(): pass\n"
    )
    assert done.returncode == 0 and "1 passed, 1 deselected" in done.stdout
    done = quick(tmp_path, "import torch\ndef test_it(): pass\n")
    assert "1 skipped" in done.stdout and "imports torch" in done.stdout


SKIPS = """
import pytest
@pytest.mark.skip(reason="no browser")
def test_a_browser(): pass
def test_a_package(): pytest.importorskip("not_installed")
@pytest.mark.gpu
@pytest.mark.skip(reason="needs a CUDA device")
def test_a_gpu(): pass
@pytest.mark.xfail
def test_known(): raise ValueError
"""


def test_ci_fails_where_a_test_is_skipped_unless_for_a_gpu(tmp_path: Path) -> None:
    assert "3 skipped, 1 xfailed" in quick(tmp_path, SKIPS).stdout
    done = quick(tmp_path, SKIPS, "--no-skips")
    assert done.returncode == 1 and "1 failed, 1 skipped, 1 xfailed, 1 error" in done.stdout
    assert "skipped, which --no-skips does not allow: Skipped: no browser" in done.stdout
    assert quick(tmp_path, "import torch\ndef test_it(): pass\n", "--no-skips").returncode
    assert "make test SKIPS=" in (ROOT / ".ci" / "run").read_text()
