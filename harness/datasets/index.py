"""The index of a dataset in files: size, digest and class counts of every pair, computed once and cached.

Every file is read once, to decode it, check its labels and hash its content. The results are cached by path, size,
times and inode, so that later runs check only these; `full` hashes every file again.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.datasets import decode
from harness.datasets.base import Image, Label
from harness.datasets.header import UPRIGHT
from harness.datasets.source import IGNORE, Sample, Source, tables_sha256
from harness.datasets.tree import Tree
from harness.files import cache_home, write_atomic

LOUD = 1000
"""Number of files up to which reading shows no message."""
_SCHEMA = pa.schema(
    {
        "files": pa.list_(pa.string()),  # image and label below the root
        "stamp": pa.list_(pa.int64()),  # see _stamp
        "image_sha256": pa.binary(32),
        "label_sha256": pa.binary(32),
        "height": pa.int32(),
        "width": pa.int32(),
        "counts": pa.list_(pa.int64()),  # pixels of each class, then ignored ones
        "orientation": pa.int32(),
    }
)


Stamp = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """Digests, size and class counts of one pair.

    Attributes:
        image_sha256: digest of the image's file.
        label_sha256: digest of the label map's file.
        size_hw: height and width in pixels.
        counts: (K + 1,) labelled pixels of each class, then ignored ones.
        orientation: EXIF's tag of the image, which is turned accordingly; 0 for images that were read without a look
            at it, as in caches prepared earlier.
    """

    image_sha256: bytes
    label_sha256: bytes
    size_hw: tuple[int, int]
    counts: NDArray[np.int64]
    orientation: int = UPRIGHT


Memory = dict[tuple[str, str], tuple[Stamp, Entry]]
"""By image and label file: what they looked like from outside, and what was in them."""


def read_label(source: Source, sample: Sample, data: bytes, file: object) -> Label:
    """Class indices (H, W) uint8 of a label map's bytes."""
    if source.colours:
        return decode.colour_classes(data, file, source.colours)
    return decode.to_classes(decode.label_values(data, file), source.tables[sample.table], file)


@dataclass(frozen=True)
class Examined:
    """One pair after reading: its entry, the image's encoded bytes, and the decoded image and label."""

    entry: Entry
    encoded: bytes
    image: Image
    label: Label


def examine(source: Source, tree: Tree, sample: Sample) -> Examined:
    """Read a pair, or an image without labels, and check it.

    Raises:
        ValueError: a file cannot be decoded, a label is out of range, or the sizes differ; names the file.
        OSError: a file cannot be read.
    """
    file = tree.file(sample.image)
    encoded = file.read_bytes()
    if sample.label is None:
        image, none = decode.image_pixels(encoded, file), np.zeros(len(source.class_names) + 1, np.int64)
        size = (image.shape[0], image.shape[1])
        entry = Entry(hashlib.sha256(encoded).digest(), bytes(32), size, none, decode.orientation(encoded))
        return Examined(entry, encoded, image, np.full(size, IGNORE, np.uint8))
    label_file = tree.file(sample.label)
    stored = label_file.read_bytes()
    image, label = decode.image_pixels(encoded, file), read_label(source, sample, stored, label_file)
    size = (image.shape[0], image.shape[1])
    turn = decode.orientation(encoded)
    if label.shape != size:
        why = f" once it is turned as its orientation tag {turn} says" if turn != UPRIGHT else ""
        remedy = ". Save the image upright, without the tag" if turn != UPRIGHT else ""
        raise ValueError(
            f"{file}: {size[1]}x{size[0]} pixels{why}, its label map {label.shape[1]}x{label.shape[0]}{remedy}"
        )
    counts = decode.value_counts(label)
    known = np.append(counts[: len(source.class_names)], counts[IGNORE])
    entry = Entry(hashlib.sha256(encoded).digest(), hashlib.sha256(stored).digest(), size, known, turn)
    return Examined(entry, encoded, image, label)


def survey(
    source: Source,
    tree: Tree,
    samples: Sequence[Sample],
    tell: Callable[[str], None] | None = None,
    full: bool = False,
) -> tuple[list[Entry | None], list[str]]:
    """The entry of every sample, from the cache if the files have not changed, or None; and one line per problem.

    Args:
        source: the dataset.
        tree: its folder.
        samples: labelled pairs below it.
        tell: called with a message before many files are read; default: print to standard error.
        full: hash all files, those too that seem unchanged.
    """
    tell = tell or (lambda line: print(line, file=sys.stderr, flush=True))
    file = _memory(source, tree)
    memory = _remembered(file)
    stamps = [_stamp(tree, sample) for sample in samples]
    known = [_known(memory, sample, stamp) for sample, stamp in zip(samples, stamps, strict=True)]
    missing = [i for i, entry in enumerate(known) if full or entry is None]
    if not missing:
        return known, []
    if len(missing) > LOUD:
        tell(f"{source.name}: reading {len(missing)} pairs below {tree.root} once, to check and to hash them ...")
    found, problems = list(known), []

    def look(i: int) -> Entry | str:
        try:
            entry = known[i]
            same = entry is not None and _digests(tree, samples[i]) == (entry.image_sha256, entry.label_sha256)
            return entry if entry is not None and same else examine(source, tree, samples[i]).entry
        except (ValueError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor(cores()) as pool:
        for i, answer in zip(missing, pool.map(look, missing), strict=True):
            found[i] = None if isinstance(answer, str) else answer
            if isinstance(answer, str):
                problems.append(answer)
    if any(new is not old for new, old in zip(found, known, strict=True)):
        _remember(file, {**memory, **dict(_keyed(samples, stamps, found))})
    return found, problems


def known(source: Source, tree: Tree, samples: Sequence[Sample]) -> bool:
    """Whether all these pairs were read before and have not changed since."""
    memory = _remembered(_memory(source, tree))
    return all(_known(memory, sample, _stamp(tree, sample)) is not None for sample in samples)


def _digests(tree: Tree, sample: Sample) -> tuple[bytes, bytes]:
    """Of a pair's image file and label file as they are now."""
    image, label = (
        bytes(32) if name is None else hashlib.sha256(tree.file(name).read_bytes()).digest()
        for name in (sample.image, sample.label)
    )
    return image, label


def cores() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _stamp(tree: Tree, sample: Sample) -> Stamp:
    """Size, times and inode of both files; zeros for a missing file, which is reported when it is read."""
    stamp: list[int] = []
    for name in (sample.image, sample.label or "/"):
        if name == "/":
            stamp += [0, 0, 0, 0]
            continue
        try:
            status = tree.file(name).stat()
            # ctime too, because many programs reset mtime.
            stamp += [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        except FileNotFoundError:
            stamp += [0, 0, 0, 0]
    return tuple(stamp)


def _known(memory: Memory, sample: Sample, stamp: Stamp) -> Entry | None:
    before, entry = memory.get((sample.image, sample.label or ""), ((), None))
    return entry if before == stamp else None


def _keyed(
    samples: Sequence[Sample], stamps: Sequence[Stamp], found: Sequence[Entry | None]
) -> Iterator[tuple[tuple[str, str], tuple[Stamp, Entry]]]:
    for sample, stamp, entry in zip(samples, stamps, found, strict=True):
        if entry is not None:
            yield (sample.image, sample.label or ""), (stamp, entry)


def _memory(source: Source, tree: Tree) -> Path:
    """The index's cache file for this folder and this source's tables."""
    digest = hashlib.sha256(f"{os.path.realpath(tree.root)}\0{tables_sha256(source)}".encode())
    return cache_home() / "index" / f"{source.name}-{digest.hexdigest()[:16]}.parquet"


def _remembered(file: Path) -> Memory:
    if not file.is_file():
        return {}
    try:
        if not pq.read_schema(file).equals(_SCHEMA):
            return {}  # of another version
        rows = pq.read_table(file).to_pydict()
    except (pa.ArrowException, OSError):
        return {}  # corrupt
    return {
        (files[0], files[1]): (tuple(stamp), Entry(image, label, (height, width), np.asarray(counts, np.int64), turn))
        for files, stamp, image, label, height, width, counts, turn in zip(*rows.values(), strict=True)
    }


def _remember(file: Path, entries: Memory) -> None:
    rows = [
        {
            "files": list(files),
            "stamp": list(stamp),
            "image_sha256": entry.image_sha256,
            "label_sha256": entry.label_sha256,
            "height": entry.size_hw[0],
            "width": entry.size_hw[1],
            "counts": entry.counts.tolist(),
            "orientation": entry.orientation,
        }
        for files, (stamp, entry) in entries.items()
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), sink, compression="zstd")
    keep(file, sink.getvalue().to_pybytes())


def keep(file: Path, content: bytes) -> None:
    """Write a file of the cache folder; a note if that is not possible, because everything in it can be made anew."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, content)
    except OSError as error:
        print(f"note: {file} cannot be written ({error.strerror}); the next run reads all files again", file=sys.stderr)
