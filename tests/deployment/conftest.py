"""Exports hold gigabytes of graphs in a process, which other tests of the machine need."""

import ctypes
import gc
import platform
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def gives_memory_back() -> Iterator[None]:
    """After each test what its exports have kept."""
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
