"""Seconds and memory from 100,000 packed rows to a printed table, each as a command of its own.

    pytest tests/benchmarks/bench_rows.py

10 pairs x 20 methods x 500 seeds in one pack; then a few of these rows; then a paper's tables. The peak is that of the
whole process, the interpreter and its imports included. The goal is 2 s for the table.
"""

import os
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.results import packs, store
from harness.results.schema import checked
from tests.support.rows import make_row

PAIRS, METHODS, SEEDS = 10, 20, 500


def written(folder):
    """A pack of rows that differ as real ones do: run_id, seed, scores, times, initial weights."""
    rng, groups = np.random.default_rng(0), []
    for pair in range(PAIRS):
        for method in ["none", "kd", *(f"m{i}" for i in range(METHODS - 2))]:
            row = make_row(method, 0, pair=f"pair{pair}", method_parameters="{}", samples=None)
            one = pa.Table.from_pylist([checked(row)], schema=store.SCHEMA)
            many = one.take(np.zeros(SEEDS, np.int64))
            ids = pa.array([f"{v:016x}" for v in rng.integers(2**63, size=SEEDS)])
            scores = rng.normal(0.5 + 0.01 * len(method), 0.02, SEEDS)
            starts = pa.array([f"{seed:064x}" for seed in range(SEEDS)])
            for name, values in (
                ("run_id", ids),
                ("seed", pa.array(np.arange(SEEDS))),
                ("student_init_sha256", starts),
                *((name, pa.array(scores)) for name in ("dev_miou", "best_dev_miou", "val_miou")),
                *((name, pa.array(rng.uniform(50, 60, SEEDS))) for name in ("step_ms", "peak_memory_mb")),
            ):
                many = many.set_column(many.schema.get_field_index(name), store.SCHEMA.field(name), values)
            groups.append(many)
    rows = pa.concat_tables(groups).sort_by("run_id")
    (folder / "packs").mkdir()
    pq.write_table(rows, folder / "packs" / "rows.parquet", row_group_size=packs.GROUP_ROWS, **packs.WRITING)
    return rows["run_id"][:: rows.num_rows // 60].to_pylist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows")
    (path / "some").write_text("\n".join(written(path)))
    return path


FREE = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # Arrow heeds it, too
FROM = "from harness.results import store; from harness.analysis.comparison import COLUMNS, quick_table; "
SOME = (
    f"{FROM}from pathlib import Path; ids = Path('{{0}}/some').read_text().split(); "
    "assert store.read_rows('{0}', list(COLUMNS), run_ids=ids).num_rows == len(ids)"
)
CLI = "import sys; from harness.cli import main; sys.argv = ['sstkd-bench', 'tables', '{0}'%s]; main()"


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("nothing but the imports", f"{FROM}import scipy.special, rich.table, pyarrow.dataset"),
        ("the table of all, on the terminal", CLI % ""),
        ("the table of all, as CSV", CLI % ", '--format', 'csv'"),
        ("sixty of the rows", SOME),
        ("SKD's table of all rows", CLI % ", '--paper', 'skd', '--format', 'csv'"),
    ],
)
def test_many_rows(folder, what, code):
    wrapped = f"try:\n    {code.format(folder)}\nexcept SystemExit as e:\n    assert not e.code\n"
    script = wrapped + "print('peak', open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    best, peak = np.inf, 0
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=FREE)
        best = min(best, time.perf_counter() - began)
        peak = max(peak, int(done.stdout.rsplit("peak", 1)[1]))
    lines = len(done.stdout.splitlines()) - 1
    print(f"{what}: {best:.2f} s, {peak / 1024:.0f} MiB, {lines} lines")
