"""A process that trains keeps the memory that it frees."""

import os
import platform
import subprocess
import sys

import pytest

AGAIN = """
import resource, sys
import torch
from harness.training.allocator import keep_freed_memory
from harness.training.runtime import Runtime

if sys.argv[1] == "enter":
    Runtime.local(device=torch.device("cpu")).enter()
def maps():
    # More than glibc keeps by itself, and blocks that it would map one by one.
    return [torch.zeros(mib * 2**18) for mib in (4, 16, 40, 64)]
maps()
maps()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    maps()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / 5 / 2**20)
print(keep_freed_memory())
"""


def filled(how: str, **environment: str) -> tuple[float, str]:
    """MiB that the system had to fill for 124 MiB of maps, and whether the process keeps what it frees."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", AGAIN, how]
    done = subprocess.run(command, env=known | environment, capture_output=True, text=True, check=True, timeout=120)
    amount, kept = done.stdout.split()
    return float(amount), kept


@pytest.mark.torch
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    plain, _ = filled("not")
    kept, says = filled("enter")
    assert plain > 100, "the test would not notice memory that is handed back"
    assert kept < 25
    assert says == "True"


@pytest.mark.torch
@pytest.mark.parametrize(
    "told", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}], ids=str
)
def test_what_the_environment_says_of_the_allocator_holds(told: dict[str, str]) -> None:
    amount, says = filled("enter", **told)
    assert says == "False"
    if platform.libc_ver()[0] == "glibc":
        assert amount > 100
