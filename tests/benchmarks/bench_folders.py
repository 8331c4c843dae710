"""Seconds and memory to list 20,000 packed rows, to make their page, and to name one corrupt file among 1,923.

    pytest tests/benchmarks/bench_folders.py

Each is a command or a script of its own. The goals are 2 s for the list, 10 s and 500 MB for the page, and 3 s for the
corrupt file. The last test prints which part of reading rows is spent on checking them: at most a tenth.
"""

import os
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.analysis.comparison import COLUMNS
from harness.results import packs, store
from harness.results.schema import checked
from harness.results.validity import faults
from tests.support.rows import make_row

METHODS = ("none", "kd", "cwd", "sstkd")
MEASURED = (
    "import resource; from harness.cli import main; import sys; {0}\n"
    "used = resource.getrusage(resource.RUSAGE_SELF)\n"
    "print(f'{{used.ru_utime + used.ru_stime:.1f}} s, {{used.ru_maxrss / 1024:.0f}} MB', file=sys.stderr)"
)
LIST = "sys.argv = ['x', 'results', 'list', '{0}']\ntry: main()\nexcept SystemExit: pass"
PAGE = "from harness.report.write import write_report; write_report('{0}')"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("folders")
    rows = [checked(make_row(m, s, samples=None, run_id=os.urandom(8).hex())) for m in METHODS for s in range(5_000)]
    rows.sort(key=lambda row: row["run_id"])
    (base / "packed" / "packs").mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=store.SCHEMA)
    pq.write_table(table, base / "packed" / "packs" / "a.parquet", row_group_size=packs.GROUP_ROWS, **packs.WRITING)
    for row in rows[:1_923]:
        (base / "single" / "runs").mkdir(parents=True, exist_ok=True)
        store.write_file(
            base / "single" / "runs" / f"{row['run_id']}.parquet", pa.Table.from_pylist([row], schema=store.SCHEMA)
        )
    torn = sorted((base / "single" / "runs").iterdir())[1_500]
    torn.write_bytes(torn.read_bytes()[:-3_000])
    return base


@pytest.mark.parametrize(("what", "code"), [("packed", LIST), ("packed", PAGE), ("single", LIST)])
def test_commands(folders, what, code):
    script = MEASURED.format(code.format(folders / what))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    print(f"{what}, {'page' if code is PAGE else 'list'}: {done.stderr.splitlines()[-1]}")


@pytest.mark.parametrize("columns", [COLUMNS, store.SCHEMA.names], ids=["table", "all"])
def test_checking(folders, columns):
    reading, checking = [], []
    for _ in range(7):
        began = time.process_time()
        table = store.read_rows(folders / "packed", list(columns))
        read = time.process_time()
        assert not list(faults(table, store.SCHEMA))
        checking.append(time.process_time() - read)
        reading.append(read - began)
    print(f"checking is {100 * np.median(checking) / np.median(reading):.0f} % of {np.median(reading):.2f} s")
