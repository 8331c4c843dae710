"""Permissions mean nothing to the superuser, who runs the tests in CI: there another user does what is tested."""

import ctypes
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534
_CAPABILITIES_3 = 0x20080522
_OVERRIDE = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextmanager
def folder_of_all() -> Iterator[Path]:
    """A folder that every user may enter and change; pytest's own are their user's alone."""
    folder = Path(tempfile.mkdtemp(prefix="sstkd-bench-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def as_another_user(work: Callable[[], object]) -> None:
    """Do it in a forked process that is not the superuser's; an exception there fails here, with its traceback."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = b""
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            work()
        except BaseException:
            said = traceback.format_exc().encode()
        os.write(writing, said[-60_000:])
        os._exit(bool(said))
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said_there = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0, said_there


def obey_permissions() -> None:
    """From now on permissions hold for this process, though it may be the superuser's."""
    library = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
    assert library.capget(header, sets) == 0
    for kind in (0, 1):  # in effect and permitted; the lower half of two
        sets[kind] &= ~_OVERRIDE
    assert library.capset(header, sets) == 0, os.strerror(ctypes.get_errno())
