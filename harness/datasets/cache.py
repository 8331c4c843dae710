"""The prepared cache: a dataset's pairs in memory-mapped Arrow files, decoded (`raw`) or not (`encoded`).

A cache is a folder with `manifest.json`, `index.parquet` (one row per pair: names, digests, class counts) and
`shards/*.arrow`, one record batch per pair. Label maps hold class indices. Reading it needs no other file, gives
exactly the pixels of the dataset's own files, and needs no decoding if it is `raw`.
"""

import functools
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.datasets import decode
from harness.datasets.base import Image, Label
from harness.datasets.index import Entry
from harness.datasets.source import Sample
from harness.files import sha256_of, write_atomic

MANIFEST, INDEX, VERSION = "manifest.json", "index.parquet", 1
Format = Literal["raw", "encoded"]
_PAIR = pa.schema({"image": pa.large_binary(), "label": pa.large_binary(), "height": pa.int32(), "width": pa.int32()})
INDEX_SCHEMA = pa.schema(
    {
        "split": pa.string(),
        "name": pa.string(),
        "image": pa.string(),
        "label": pa.string(),
        "group": pa.string(),
        "table": pa.string(),
        "extra": pa.bool_(),
        "image_sha256": pa.binary(32),
        "label_sha256": pa.binary(32),
        "height": pa.int32(),
        "width": pa.int32(),
        "counts": pa.list_(pa.int64()),
        "orientation": pa.int32(),  # null in caches of before it was looked at
    }
)


class Shard(BaseModel):
    """One Arrow file of a cache."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: Annotated[str, Field(pattern=r"^shards/[A-Za-z0-9][A-Za-z0-9-]*\.arrow$")]
    split: str
    rows: int
    bytes: int
    sha256: str
    plan: str
    """Digest of the shard's input; equal plans give equal files."""


class Manifest(BaseModel):
    """Description of a cache's content."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: int
    name: str
    variant: dict[str, Any]
    short_side: int | None
    format: Format
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    tables_sha256: str
    index_sha256: str
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Place:
    """Location of a pair: its shard's file and digest, and its row there."""

    file: str
    sha256: str
    row: int
    upright: bool = True


def is_cache(root: Path) -> bool:
    """Whether `root` is a prepared cache."""
    return (root / MANIFEST).is_file()


def read_manifest(root: Path) -> Manifest:
    """The manifest of a cache.

    Raises:
        ValueError: it cannot be read or is of another version.
    """
    path = root / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path}: not the manifest of a prepared cache ({first}). Prepare it again; if this folder is not a cache, "
            "rename the file."
        ) from None
    if manifest.version != VERSION:
        raise ValueError(f"{path}: a cache of version {manifest.version}; this is version {VERSION}. Prepare it again.")
    return manifest


def write_manifest(root: Path, index: Any, **facts: Any) -> Manifest:
    """Complete the cache: write its index (a `pyarrow.Table`), then its manifest with `facts`."""
    sink = pa.BufferOutputStream()
    pq.write_table(index, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    manifest = Manifest(version=VERSION, index_sha256=hashlib.sha256(content).hexdigest(), **facts)
    write_atomic(root / INDEX, content)
    write_atomic(root / MANIFEST, manifest.model_dump_json(indent=1))
    return manifest


def index_table(split: str, samples: Sequence[Sample], entries: Sequence[Entry]) -> Any:
    """Lines of the index as a `pyarrow.Table`."""
    rows = [
        {
            "split": split,
            **{key: getattr(sample, key) for key in ("name", "image", "label", "group", "table", "extra")},
            "image_sha256": entry.image_sha256,
            "label_sha256": entry.label_sha256,
            "height": entry.size_hw[0],
            "width": entry.size_hw[1],
            "counts": entry.counts.tolist(),
            "orientation": entry.orientation,
        }
        for sample, entry in zip(samples, entries, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def read_index(root: Path, manifest: Manifest) -> dict[str, list[tuple[Sample, Entry, Place]]]:
    """Every pair of the cache by official split, in order.

    Raises:
        ValueError: the index or a shard is missing, corrupt or does not match the manifest; names the file.
    """
    remedy = "Prepare the cache again; complete shards are kept."
    for shard in manifest.shards:
        path = root / shard.file
        size = path.stat().st_size if path.is_file() else -1
        if size != shard.bytes:
            what = "is missing" if size < 0 else f"has {size} bytes instead of {shard.bytes}"
            raise ValueError(f"{path}: this part of the cache {what}. {remedy}")
    try:
        content = (root / INDEX).read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest.index_sha256:
            raise ValueError("its content has changed since it was written")
        columns = pq.read_table(pa.BufferReader(content), schema=INDEX_SCHEMA).to_pydict()
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise ValueError(f"{root / INDEX}: not readable ({error}). {remedy}") from None
    places = [
        (shard.split, Place(shard.file, shard.sha256, row)) for shard in manifest.shards for row in range(shard.rows)
    ]
    out: dict[str, list[tuple[Sample, Entry, Place]]] = {}
    names = list(INDEX_SCHEMA.names)
    if len(columns["split"]) != len(places):
        raise ValueError(f"{root / INDEX}: {len(columns['split'])} pairs, the shards hold {len(places)}. {remedy}")
    for values, (split, place) in zip(zip(*(columns[n] for n in names), strict=True), places, strict=True):
        line = dict(zip(names, values, strict=True))
        sample = Sample(**{key: line[key] for key in ("name", "image", "label", "group", "table", "extra")})
        size_hw = (line["height"], line["width"])
        counts, turn = np.asarray(line["counts"], np.int64), line["orientation"] or 0
        entry = Entry(line["image_sha256"], line["label_sha256"], size_hw, counts, turn)
        out.setdefault(split, []).append((sample, entry, replace(place, upright=turn > 0)))
    return out


def write_shard(path: Path, pairs: Iterable[tuple[bytes, Image | None, Label]], how: Format) -> tuple[int, str]:
    """Write pairs as one Arrow file, atomically; returns its size in bytes and sha256.

    Args:
        path: the file.
        pairs: encoded image, its pixels if these are stored instead (always for `raw`), class indices.
        how: `raw` stores pixels; `encoded` stores the image's own bytes (or a PNG of the pixels) and packs the label.

    Raises:
        OSError: the disk is full; no temporary file remains.
    """
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with pa.OSFile(str(hidden), "wb") as sink, pa.ipc.new_file(sink, _PAIR) as writer:
            for encoded, pixels, label in pairs:
                image, classes, height, width = _stored(encoded, pixels, label, how)
                sizes = [pa.array([side], pa.int32()) for side in (height, width)]
                row = [_one_value(image), _one_value(classes), *sizes]
                writer.write_batch(pa.record_batch(row, schema=_PAIR))
        with open(hidden, "rb+") as file:
            digest = sha256_of(file)
            os.fsync(file.fileno())
            size = file.tell()
        os.replace(hidden, path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    return size, digest


def _stored(encoded: bytes, pixels: Image | None, label: Label, how: Format) -> tuple[Any, Any, int, int]:
    height, width = label.shape
    flat = np.ascontiguousarray(label)
    if how == "raw":
        assert pixels is not None
        return np.ascontiguousarray(pixels), flat, height, width
    if pixels is not None:
        done, buffer = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert done
        encoded = buffer.tobytes()
    return encoded, pa.compress(pa.py_buffer(flat), codec="zstd"), height, width


def _one_value(content: Any) -> Any:
    """A column of one large value, without a copy."""
    data = pa.py_buffer(content)
    offsets = pa.py_buffer(np.array([0, data.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, data])


def read_pair(root: Path, place: Place, how: Format) -> tuple[Image, Label]:
    """One pair: image (H, W, 3) uint8 RGB and class indices (H, W) uint8; views of the mapped file if it is `raw`.

    Raises:
        ValueError: the shard is not readable; names it.
    """
    path = str(root / place.file)
    try:
        batch = _shard(path, place.sha256).get_batch(place.row)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not readable ({error}). Prepare the cache again.") from None
    height, width = batch.column(2)[0].as_py(), batch.column(3)[0].as_py()
    # The column's own buffer, because reading its only value would copy.
    image, label = (batch.column(i).buffers()[2] for i in (0, 1))
    if how == "raw":
        return _shaped(image, (height, width, 3)), _shaped(label, (height, width))
    packed = pa.decompress(label, decompressed_size=height * width, codec="zstd")
    return decode.image_pixels(memoryview(image), path, place.upright), _shaped(packed, (height, width))


@functools.lru_cache(maxsize=4096)
def _shard(path: str, sha256: str) -> Any:
    """A mapped shard. The digest distinguishes it from an earlier file of the same path."""
    return pa.ipc.open_file(pa.memory_map(path))


def _shaped(buffer: Any, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(buffer, np.uint8).reshape(shape)


def corrupt(root: Path, manifest: Manifest) -> Iterator[str]:
    """One line for each shard with content that changed after it was written."""
    for shard in manifest.shards:
        path = root / shard.file
        try:
            with open(path, "rb") as file:
                digest = sha256_of(file)
        except OSError as error:
            yield f"{path}: {error.strerror}. Prepare the cache again; complete shards are kept."
            continue
        if digest != shard.sha256:
            yield f"{path}: its content changed since it was written. Delete it and prepare the cache again."


def variant_text(variant: dict[str, Any]) -> str:
    """Canonical one-line text of a variant."""
    return json.dumps(variant, sort_keys=True)
