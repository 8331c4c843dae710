"""Atomic writes, the cache folder, checksums of files, and the files that come with the package."""

import contextlib
import hashlib
import os
import time
import uuid
from pathlib import Path
from typing import BinaryIO

ABANDONED_SECONDS = 600  # an older temporary file was left by a killed process
_PART = 2**18  # bytes of a file in memory at a time


SHIPPED = {"experiments": "experiments", "published": "results/published", "examples": "results/examples"}
"""What comes with the package, and its folder in a checkout; an installed package has it in `harness/shipped`."""


def shipped(name: str) -> Path:
    """The folder of files that come with the package, by a name of `SHIPPED`.

    Raises:
        ValueError: the package was installed without them.
    """
    package = Path(__file__).parent
    inside, beside = package / "shipped" / name, package.parent / SHIPPED[name]
    if inside.is_dir():
        return inside
    if (package.parent / "pyproject.toml").is_file() and beside.is_dir():
        return beside
    raise ValueError(f"{inside}: is missing; the package was installed incompletely. Install its wheel again")


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write a file atomically; it is on disk when this returns.

    Raises:
        OSError: the disk is full or cannot be written; an existing file is unchanged, no temporary file remains.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    hidden = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(hidden, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder's error, which names the hidden file
            hidden.unlink(missing_ok=True)
        # Named as its reader knows it: the hidden name says nothing, and a full disk names no file at all.
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    # The rename is stored in the directory; without this a power failure could undo it.
    entry = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def sweep(folder: Path, alone: bool = False) -> None:
    """Remove the temporary files that killed processes left in a folder; the folder need not exist.

    Args:
        folder: the folder; sub-folders are not searched.
        alone: no other process writes there now. Otherwise recent files are kept, because another process (also on
            another machine) may still be writing them.
    """
    for path in folder.glob(".*.tmp"):
        try:
            if alone or time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                path.unlink()
        except FileNotFoundError:  # renamed by now, or removed by another process
            continue


def cache_home() -> Path:
    """The folder for caches, which can be rebuilt: $SSTKD_BENCH_CACHE, or below the user's cache folder."""
    if own := os.environ.get("SSTKD_BENCH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sstkd-bench"


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return sha256_of(file)


def sha256_of(file: BinaryIO) -> str:
    """Hex SHA-256 of an open file from where it is to its end."""
    digest = hashlib.sha256()
    while part := file.read(_PART):
        digest.update(part)
    return digest.hexdigest()
