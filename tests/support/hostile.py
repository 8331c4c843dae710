"""A command in a process of its own that is forked, not started: many malformed inputs cost little.

The child has its own folder, home and limits. What it printed, how it ended, what it cost and what it wrote outside its
folder come back.
"""

import os
import resource
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CPU_SECONDS = 10
MEMORY_MB = 1024
"""What a malformed input may cost: processor time, and memory on top of what the parent had."""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code; 70 for an exception that nothing caught, 128 + signal for a signal.
        text: all it printed.
        cpu_seconds: processor time.
        memory_mb: the growth of its resident memory.
        strays: files beside its folder that were made, changed or removed.
    """

    code: int
    text: str
    cpu_seconds: float
    memory_mb: float
    strays: tuple[str, ...]


def run(arguments: Sequence[str], folder: Path, before: Callable[[], object] | None = None) -> Ended:
    """Run `sstkd-bench` with these arguments in `folder`, whose parent must hold nothing that others change.

    `before` is called in the child, and what it changes there is the child's alone.
    """
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise ValueError("OMP_NUM_THREADS=1 is needed, as `make` sets it: a fork of a process with threads may hang")
    # Imported before the fork, so that the children do not.
    import harness.bench
    import harness.cli.app  # noqa: F401

    output = folder.parent / f".{folder.name}.output"
    were = _tree(folder)
    pid = os.fork()
    if pid == 0:
        os._exit(_child(arguments, folder, output, before))
    _, status, used = os.wait4(pid, 0)
    text = output.read_text(errors="replace")
    output.unlink()
    after = _tree(folder)
    strays = tuple(sorted(name for name in were.keys() | after.keys() if were.get(name) != after.get(name)))
    code = os.waitstatus_to_exitcode(status)
    # Linux counts what the child shares with its parent, which the fork has copied: at least the parent's size.
    grown = max(0.0, used.ru_maxrss / 1024 - _resident_mb())
    return Ended(128 - code if code < 0 else code, text, used.ru_utime + used.ru_stime, grown, strays)


def _child(arguments: Sequence[str], folder: Path, output: Path, before: Callable[[], object] | None) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (2 * CPU_SECONDS, 2 * CPU_SECONDS + 2))
    sink = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.chdir(folder)
    os.environ["HOME"] = str(folder)
    sys.argv = ["sstkd-bench", *arguments]
    code = 0
    try:
        if before is not None:
            before()
        from harness.cli import main

        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file beside `folder`."""
    found = {}
    for path in folder.parent.rglob("*"):
        if path == folder or folder in path.parents or path.is_dir():
            continue
        found[str(path)] = (path.lstat().st_size, path.lstat().st_mtime_ns)
    return found


def complaints(ended: Ended, words: Sequence[str], codes: Sequence[int] = (1, 2)) -> list[str]:
    """What is wrong with how a command answered a malformed input.

    Args:
        ended: how it ended.
        words: what the message must name: the file, the key.
        codes: which exit codes are right.
    """
    found = [f"{word!r} is not in the message" for word in words if word not in ended.text]
    if ended.code not in codes:
        found.append(f"exit code {ended.code}, not {' or '.join(map(str, codes))}")
    if "Traceback (most recent call last)" in ended.text:
        found.append("a traceback")
    if len(ended.text) > 20_000:
        found.append(f"{len(ended.text)} characters of output")
    if "\x1b" in ended.text:
        found.append("an escape sequence in the output")
    if ended.cpu_seconds > CPU_SECONDS:
        found.append(f"{ended.cpu_seconds:.0f} s of processor time")
    if ended.memory_mb > MEMORY_MB:
        found.append(f"{ended.memory_mb:.0f} MiB of memory")
    return found + [f"wrote {name}" for name in ended.strays]
