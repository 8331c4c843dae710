"""What Linux alone has is asked for before it is used: nobody here has a Mac, so its lacks are made on Linux."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINUX_ONLY = {
    *("sched_getaffinity", "sched_setaffinity", "sched_setscheduler", "sched_getscheduler", "posix_fadvise"),
    *("posix_fallocate", "memfd_create", "eventfd", "splice", "copy_file_range", "getrandom", "pidfd_open", "unshare"),
    *("getxattr", "setxattr", "listxattr", "removexattr", "setns", "timerfd_create", "getresuid", "setresuid"),
    *("O_DIRECT", "O_TMPFILE", "O_PATH", "O_NOATIME", "O_LARGEFILE", "fdatasync", "preadv2", "pwritev2"),
}
"""Names of `os` (Python's documentation: Availability: Linux, or not macOS)."""
WITHOUT = f"""
import builtins, io, os, pathlib
for name in {sorted(LINUX_ONLY)!r}:
    if hasattr(os, name):
        delattr(os, name)
whole = io.open
def opened(file, *arguments, **keywords):
    if str(file).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return whole(file, *arguments, **keywords)
builtins.open = io.open = opened
if hasattr(pathlib, "_NormalAccessor"):  # Python 3.10
    pathlib._NormalAccessor.open = staticmethod(opened)
import sys
from pathlib import Path

import pytest
from harness.execution import status_file
from harness.results import store
from tests.support import tiny
folder = Path(sys.argv[1])
runs = tiny.plan(folder, "seeds=[0]", "train.steps=2", "pairs.0.teacher.steps=2")
assert [tiny.in_process(run, folder) for run in runs[:2]] == ["ok", "ok"]
row = store.read_run(folder, runs[1].run_id)
assert row["status"] == "ok" and row["peak_memory_mb"] > 0, row
assert status_file.process_began(os.getpid()) is None
"""


def test_what_only_linux_has_is_asked_for() -> None:
    unasked = []
    for path in sorted([*(ROOT / "harness").rglob("*.py"), *(ROOT / "sstkd").rglob("*.py")]):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"):
                continue
            if node.attr in LINUX_ONLY and f'hasattr(os, "{node.attr}")' not in text:
                unasked.append(f"{path.name}:{node.lineno}: os.{node.attr}")
    assert unasked == []


@pytest.mark.slow
def test_a_run_without_it(tmp_path: Path) -> None:
    words = [sys.executable, "-c", WITHOUT, str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
