"""Thousands of packed rows that differ as real ones do, made in seconds."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.results import packs, store
from harness.results.schema import checked
from tests.support.rows import START, make_row

TEMPLATES = 20  # of each method: rows of as many seeds, of which the others are changed copies


def write_many(folder: Path, methods: Sequence[str], seeds: int) -> Any:
    """Write the rows of `methods` x `seeds` as one pack of the folder, and return them."""
    rng, parts = np.random.default_rng(0), []
    for method in methods:
        rows = [checked(make_row(method, seed, samples=None)) for seed in range(TEMPLATES)]
        parts.append(varied(pa.Table.from_pylist(rows, schema=store.SCHEMA), seeds, rng))
    return write_pack(folder, pa.concat_tables(parts))


def write_pack(folder: Path, rows: Any) -> Any:
    """Write rows as one pack of the folder, and return them as it holds them."""
    table = rows.sort_by("run_id").combine_chunks()
    (folder / "packs").mkdir(parents=True)
    pq.write_table(table, folder / "packs" / "a.parquet", row_group_size=packs.GROUP_ROWS, **packs.WRITING)
    return table


def varied(rows: Any, seeds: int, rng: np.random.Generator) -> Any:
    """Rows of one method and so many seeds, each with an id, scores, times, weights, counts and a specification of its
    own."""
    rows = rows.take(np.arange(seeds) % len(rows)).combine_chunks()
    counts = rows["dev_confusion"].chunk(0)
    noisy = pa.array(counts.values.to_numpy() + rng.integers(0, 500, len(counts.values)))
    method = rows["method"][0].as_py()
    texts = enumerate(rows["spec"].to_pylist())
    specs = [json.dumps(json.loads(text) | {"seed": seed, "method": method}) for seed, text in texts]
    moments = [START + timedelta(minutes=int(minute)) for minute in rng.integers(0, 100_000, seeds)]
    changed = {
        "run_id": [f"{value:016x}" for value in rng.integers(2**63, size=seeds)],
        "seed": np.arange(seeds),
        "student_init_sha256": [f"{seed:064x}" for seed in range(seeds)],
        "weights_sha256": [f"{value:064x}" for value in rng.integers(2**63, size=seeds)],
        "spec": specs,
        "started_at": moments,
        "finished_at": [moment + timedelta(seconds=55) for moment in moments],
        "dev_confusion": pa.ListArray.from_arrays(counts.offsets, noisy),
        **{name: pc.add(rows[name], rng.normal(0, 1e-3, seeds)) for name in ("dev_miou", "best_dev_miou", "val_miou")},
        **{name: rng.uniform(50, 60, seeds) for name in ("step_ms", "peak_memory_mb", "wall_seconds")},
    }
    for name, values in changed.items():
        field = store.SCHEMA.field(name)
        column = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values, field.type)
        rows = rows.set_column(rows.schema.get_field_index(name), field, column)
    return rows
