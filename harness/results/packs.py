"""Many finished rows in few files: thousands of files of one row each are slow to list, open and copy.

`<experiment>/packs/*.parquet` hold rows of students that are ok, in the order of their run_ids; they are final. Rows
of teachers, which runs look for by name, and of failed or skipped runs, which may be replaced, stay single files. A
file is removed only after its row was read back from the pack. Rows of exports are packed by `harness.results.exports`.
"""

import contextlib
import fcntl
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.files import sweep
from harness.results import exports, paths, store

GROUP_ROWS = 2_000
"""Rows of a row group, the unit that is held in memory and read at once."""
WRITING: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
"""How a pack is written."""


@dataclass(frozen=True)
class Packed:
    """The rows that `pack` moved into a pack, and their bytes before and after; and how many rows of exports."""

    rows: int
    before: int
    after: int
    exports: int = 0


def pack(directory: str | Path) -> Packed:
    """Move the finished rows of students from single files into a new pack.

    Runs may be executing meanwhile. If it is interrupted, nothing is lost; the next call resumes.

    Args:
        directory: the experiment's, `<results>/<experiment>`.

    Raises:
        FileNotFoundError: no results yet.
        ValueError: a corrupt file, or a single row and a packed one of the same run that differ; names the files.
        OSError: the disk is full or cannot be written, or the pack could not be read back; no row is removed.
    """
    base = Path(directory)
    if not base.is_dir():
        raise FileNotFoundError(f"{base}: there is no such results folder")
    with _alone(base):
        return _pack(base)


def _pack(base: Path) -> Packed:
    light = store.read_rows(base, ["run_id", "status", "role"])
    if not light.num_rows:
        raise FileNotFoundError(f"{base}: no results yet (expected {base / 'runs'}/*.parquet)")
    wanted = pc.and_(pc.equal(light["status"], "ok"), pc.equal(light["role"], "student"))
    ids = [run_id for run_id in light["run_id"].filter(wanted).to_pylist() if paths.run_path(base, run_id).is_file()]
    known = set(_known(base, ids))
    new = [run_id for run_id in ids if run_id not in known]
    for single in _groups(base, [run_id for run_id in ids if run_id in known]):
        _same(base, single, store.read_rows(base, store.SCHEMA.names, run_ids=single["run_id"].to_pylist()))
    before = sum(paths.run_path(base, run_id).stat().st_size for run_id in new)
    after = _write(base, new) if new else 0
    for run_id in ids:
        _remove(paths.run_path(base, run_id))
    return Packed(len(new), before, after, exports.pack(base))


def unpack(directory: str | Path) -> int:
    """Make every packed row a single file again and remove the packs; returns the number of rows, without exports.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: a corrupt file, or a single row and a packed one of the same run that differ; names the files.
        OSError: the disk is full or cannot be written. Packs are removed only when all their rows are single files.
    """
    base = Path(directory)
    if not base.is_dir():
        raise FileNotFoundError(f"{base}: there is no such results folder")
    with _alone(base):
        return _unpack(base)


def _unpack(base: Path) -> int:
    rows = 0
    for path in store.pack_paths(base):
        for group in store.read_pack(path):
            for at, run_id in enumerate(group["run_id"].to_pylist()):
                row, single = group.slice(at, 1), paths.run_path(base, run_id)
                if single.is_file():
                    _same(base, store.read_files([str(single)]), row)
                else:
                    store.write_file(single, row)
                rows += 1
        _remove(path)
    if (base / "packs").is_dir() and not any((base / "packs").iterdir()):
        (base / "packs").rmdir()
    exports.unpack(base)
    return rows


@contextlib.contextmanager
def _alone(base: Path) -> Iterator[None]:
    """Wait until no other process packs or unpacks this folder: both would pack the same rows."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(base / ".packing.lock", "w"))
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(base)) from None  # the hidden name says nothing
        fcntl.flock(file, fcntl.LOCK_EX)
        sweep(base / "packs", alone=True)
        yield


def _known(base: Path, ids: Sequence[str]) -> list[str]:
    """The run_ids that are already packed."""
    have: set[str] = set()
    for path in store.pack_paths(base):
        have |= set(pq.read_table(path, columns=["run_id"])["run_id"].to_pylist())
    return [run_id for run_id in ids if run_id in have]


def _same(base: Path, single: Any, packed: Any) -> None:
    """Refuse single rows that differ from the packed rows of the same runs."""
    if single.equals(packed):
        return
    for mine, other in zip(single.to_pylist(), packed.to_pylist(), strict=True):
        if differing := [name for name in mine if repr(mine[name]) != repr(other[name])]:
            raise ValueError(
                f"{paths.run_path(base, mine['run_id'])} and the row in {base / 'packs'} are of one run but differ in "
                f"{', '.join(differing)}. Move one away: the file, or the packs"
            )


def _write(base: Path, ids: Sequence[str]) -> int:
    """Write a pack of these rows, read it back, and put it in place; its bytes."""
    folder = base / "packs"
    folder.mkdir(exist_ok=True)
    name = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
    hidden = folder / f".{name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(hidden, "xb") as sink:
            with pq.ParquetWriter(sink, store.SCHEMA, **WRITING) as writer:
                for group in _groups(base, ids):
                    writer.write_table(group, row_group_size=GROUP_ROWS)
            sink.flush()
            os.fsync(sink.fileno())
        _read_back(hidden, base, ids)
        os.replace(hidden, folder / f"{name}.parquet")
    except OSError as error:
        hidden.unlink(missing_ok=True)
        if error.errno is None:
            raise
        raise type(error)(error.errno, f"{error.strerror}; no row was removed", str(folder)) from error
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    return (folder / f"{name}.parquet").stat().st_size


def _read_back(path: Path, base: Path, ids: Sequence[str]) -> None:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        groups = (file.read_row_group(i) for i in range(file.num_row_groups))
        for group, expected in zip(groups, _groups(base, ids), strict=True):
            # Compared as text, where nan (a diverged loss) equals itself.
            if not group.equals(expected) and str(group.to_pylist()) != str(expected.to_pylist()):
                raise OSError(f"{path}: the pack did not read back as written; no row was removed")


def _groups(base: Path, ids: Sequence[str]) -> Iterator[Any]:
    """The rows of single files as tables of `GROUP_ROWS`."""
    for start in range(0, len(ids), GROUP_ROWS):
        files = [str(paths.run_path(base, run_id)) for run_id in ids[start : start + GROUP_ROWS]]
        yield store.read_files(files).combine_chunks()


_remove: Callable[[Path], None] = os.unlink
