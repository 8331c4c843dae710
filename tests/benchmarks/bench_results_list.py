"""Seconds of `sstkd-bench results list` over 20,000 rows, packed and as single files, each as a command of its own.

    pytest tests/benchmarks/bench_results_list.py

The rows are copies of a committed one with other run_ids and seeds. CPU seconds are those of the process and its
threads, the interpreter and its imports included; the first time a folder of single files is read is left out. The
goal for packed rows is 2 s.
"""

import os
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.results import packs, paths, store

ROWS = int(os.environ.get("SSTKD_BENCH_ROWS", "20000"))
EXAMPLE = "results/examples/quickstart"
COMMAND = "import sys; from harness.cli import main; sys.argv = ['sstkd-bench', {}]; main()"


def copies():
    """The rows, in the order of their run_ids, without pictures."""
    row = store.read_rows(EXAMPLE, store.SCHEMA.names, "ok").slice(0, 1)
    many = row.take(np.zeros(ROWS, np.int64))
    ids = sorted(f"{value:016x}" for value in np.random.default_rng(0).integers(2**63, size=ROWS))
    for name, values in (("run_id", ids), ("seed", range(ROWS)), ("samples", [None] * ROWS)):
        field = store.SCHEMA.field(name)
        many = many.set_column(many.schema.get_field_index(name), field, pa.array(values, field.type))
    return many.combine_chunks()


@pytest.fixture(scope="module", params=["packed", "single files"])
def folder(request, tmp_path_factory):
    path, rows = tmp_path_factory.mktemp("rows"), copies()
    if request.param == "packed":
        (path / "packs").mkdir()
        pq.write_table(rows, path / "packs" / "rows.parquet", row_group_size=packs.GROUP_ROWS, **packs.WRITING)
    else:
        (path / "runs").mkdir()
        for at, run_id in enumerate(rows["run_id"].to_pylist()):
            pq.write_table(
                rows.slice(at, 1), paths.run_path(path, run_id), use_dictionary=False, write_statistics=False
            )
    return request.param, path


def test_results_list(folder):
    kind, path = folder
    # rich takes any stream for a terminal with FORCE_COLOR, and as wide as COLUMNS says.
    narrow = os.environ | {"FORCE_COLOR": "1", "COLUMNS": "80"}
    for what, environment in (("into a pipe", dict(os.environ)), ("on 80 columns", narrow)):
        code = COMMAND.format(", ".join(map(repr, ["results", "list", str(path)])))
        walls, cpus = [], []
        for _ in range(3):
            before, began = os.times(), time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
            )
            walls.append(time.perf_counter() - began)
            after = os.times()
            cpus.append(sum(after[2:4]) - sum(before[2:4]))
        lines = len(done.stdout.splitlines())
        assert lines > ROWS
        print(f"{ROWS} rows, {kind}, {what}: {min(walls[1:]):.2f} s, {min(cpus[1:]):.2f} s of CPU, {lines} lines")
