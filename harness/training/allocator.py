"""How the C library's allocator treats the memory of tensors on a CPU."""

import ctypes
import os
import platform

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # in glibc's malloc.h
OF_THE_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees, for its next tensors; whether it does so. Results are the same.

    A training step allocates and frees the same maps each time. glibc hands freed blocks back to the system, which
    fills each page with zeros when it is next used: 15 to 30 % of a step of a small network, and more than half in a
    process whose earlier allocations led glibc to give back at once. Other C libraries, and a process whose
    environment says how glibc is to do this, are left as they are; another allocator in glibc's place is not affected.
    """
    told = any(name in os.environ for name in OF_THE_USER) or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] != "glibc" or told:
        return False
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    return bool(mallopt(TRIM_THRESHOLD, 2**31 - 1)) and bool(mallopt(MMAP_MAX, 0))
