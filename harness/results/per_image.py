"""The confusion matrix of every single val image, in a file of its own: `<experiment>/per_image/<run_id>.parquet`.

One row per image: `index` int64; `cells` list<int32>, the row-major indices of the matrix's entries that are not 0, in
ascending order; `counts` list<int64>, their pixels. The schema's metadata hold run_id, num_classes and data_hash. The
matrices of a file sum to the row's `val_confusion`; images stand in the order of the split.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.files import write_atomic
from harness.results.validity import MAX_CLASSES


def write_per_image(
    path: str | Path, entries: NDArray[np.int64], images: int, run_id: str, num_classes: int, data_hash: str
) -> str:
    """Write the matrices of one run, whole or not at all; a file of that name is replaced.

    Args:
        path: where, usually `per_image_path(...)`; the folder is made.
        entries: (M, 3) int64 of (image, row-major cell, pixels), in any order, cells with pixels only.
        images: N; an image without a counted pixel has no entries.
        run_id: of the run.
        num_classes: K.
        data_hash: of the data they were counted on.

    Returns:
        SHA-256 of the file, in hexadecimal.

    Raises:
        ValueError: an image, a cell or a count out of range, or a cell given twice.
        OSError: the disk is full or cannot be written; what was there before is unchanged.
    """
    if entries.ndim != 2 or entries.shape[1] != 3:
        raise ValueError(f"entries are (M, 3): image, cell, pixels; given {entries.shape}")
    entries = entries[np.lexsort((entries[:, 1], entries[:, 0]))]
    image, cell, pixels = entries.T
    _check(image, cell, pixels, images, num_classes)
    offsets = pa.array(np.searchsorted(image, np.arange(images + 1)), pa.int32())
    columns = [
        pa.array(np.arange(images), pa.int64()),
        pa.ListArray.from_arrays(offsets, pa.array(cell, pa.int32()), type=pa.list_(_element(pa.int32()))),
        pa.ListArray.from_arrays(offsets, pa.array(pixels, pa.int64()), type=pa.list_(_element(pa.int64()))),
    ]
    names = ("index", "cells", "counts")
    fields = [pa.field(name, column.type, False) for name, column in zip(names, columns, strict=True)]
    metadata = {"run_id": run_id, "num_classes": str(num_classes), "data_hash": data_hash}
    sink = pa.BufferOutputStream()
    table = pa.table(columns, schema=pa.schema(fields, metadata=metadata))
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content = sink.getvalue().to_pybytes()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def read_per_image(path: str | Path, sha256: str | None = None) -> NDArray[np.int64]:
    """Read the matrices of one run.

    Args:
        path: the file.
        sha256: the checksum in its row (`per_image_sha256`); not compared when not given.

    Returns:
        (N, K, K) int64, rows = label, columns = prediction.

    Raises:
        ValueError: the file is corrupt, or is not the one its row names; names the file and the remedy.
        FileNotFoundError: there is no such file.
    """
    content = Path(path).read_bytes()
    with _named(path):
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"its row names a file with SHA-256 {sha256}")
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            classes = int(file.schema_arrow.metadata[b"num_classes"])
            if not 1 <= classes <= MAX_CLASSES:
                raise ValueError(f"num_classes is {classes}; allowed are 1 to {MAX_CLASSES}")
            table = file.read(["cells", "counts"])
        cells, counts = (table[name].combine_chunks() for name in ("cells", "counts"))
        image = np.repeat(np.arange(len(cells)), cells.value_lengths().to_numpy(zero_copy_only=False))
        out = np.zeros((len(cells), classes * classes), np.int64)
        out[image, cells.flatten().to_numpy()] = counts.flatten().to_numpy()
    return out.reshape(len(cells), classes, classes)


def _element(kind: Any) -> Any:
    return pa.field("element", kind, False)


def _check(
    image: NDArray[np.int64], cell: NDArray[np.int64], pixels: NDArray[np.int64], images: int, classes: int
) -> None:
    for name, values, end in (("image", image, images), ("cell", cell, classes**2)):
        outside = values[(values < 0) | (values >= end)]
        if outside.size:
            raise ValueError(f"{name} {outside[0]}: allowed are 0..{end - 1}")
    if (pixels < 1).any():
        raise ValueError(f"{pixels.min()} pixels: a listed cell has at least 1")
    key = image * classes**2 + cell
    order = np.argsort(key, kind="stable")
    twice = np.flatnonzero(np.diff(key[order]) == 0)
    if twice.size:
        at = order[twice[0]]
        raise ValueError(f"cell {cell[at]} of image {image[at]} is given twice")


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Turn pyarrow's errors on a corrupt file into one that names the file and the remedy."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{path}: not readable as confusion matrices of images ({error}). Delete it and the run's row, and start "
            "the run again."
        ) from error
