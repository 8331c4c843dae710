"""Files that appear whole or not at all, and their digests."""

import hashlib
import os
import time
import uuid
from pathlib import Path

ABANDONED_SECONDS = 600  # a hidden file that is older was left by a process that was killed while it wrote


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Put a file in place whole or not at all, and on the disk before it returns.

    Raises:
        OSError: the disk is full or cannot be written; what was there before is unchanged, nothing is left behind.
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
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    # The rename itself lives in the directory; without this a power cut may undo it.
    entry = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def sweep(folder: Path, alone: bool = False) -> None:
    """Remove what processes that were killed while they wrote have left in a folder, if there is such a folder.

    Args:
        folder: only its own files.
        alone: nobody else writes there now. Otherwise young files stay, which another process, here or on another
            machine, may still be writing.
    """
    for path in folder.glob(".*.tmp"):
        try:
            if alone or time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                path.unlink()
        except FileNotFoundError:  # in place by now, or swept by another process
            continue


def cache_home() -> Path:
    """Where what can be made again is kept: $SSTKD_BENCH_CACHE, or the user's cache folder."""
    if own := os.environ.get("SSTKD_BENCH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sstkd-bench"


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
