"""CPU seconds and memory to list 20,000 packed rows, to make their page, to check an experiment of as many runs, and to
name one corrupt file among 1,923.

    pytest tests/benchmarks/bench_folders.py

Each is a command or a script of its own, imports included. The goals are 2 s for the list, 10 s and 500 MB for the page,
5 s for `check --no-measure` without the gate (torch's import and one real step), and 3 s for the corrupt file. The last
test prints which part of reading rows is spent on checking them: the goal is a tenth.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from harness.analysis.comparison import COLUMNS
from harness.results import store
from harness.results.validity import faults
from tests.benchmarks.many_rows import write_many

ROOT = Path(__file__).parents[2]

METHODS = ("none", "kd", "cwd", "sstkd")
MEASURED = (
    "import resource; from harness.cli import main; import sys; {0}\n"
    "used = resource.getrusage(resource.RUSAGE_SELF)\n"
    "print(f'{{used.ru_utime + used.ru_stime:.1f}} s, {{used.ru_maxrss / 1024:.0f}} MB', file=sys.stderr)"
)
LIST = "sys.argv = ['x', 'results', 'list', '{0}']\ntry: main()\nexcept SystemExit: pass"
CHECK = (
    "import types; gate = sys.modules['harness.training.gate'] = types.ModuleType('gate')\n"
    "gate.require = lambda *given: None; sys.argv = ['x', 'check', '--no-measure', '{0}', '--results', '{0}.results']\n"
    "try: main()\nexcept SystemExit as e: assert not e.code"
)
PAGE = "from harness.report.write import write_report; write_report('{0}')"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("folders")
    table = write_many(base / "packed", METHODS, 5_000)
    (base / "single" / "runs").mkdir(parents=True)
    for at in range(1_923):
        row = table.slice(at, 1)
        store.write_file(base / "single" / "runs" / f"{row['run_id'][0]}.parquet", row)
    torn = sorted((base / "single" / "runs").iterdir())[1_500]
    torn.write_bytes(torn.read_bytes()[:-3_000])
    text = (ROOT / "experiments" / "quickstart.yaml").read_text()
    (base / "many.yaml").write_text(text.replace("seeds: [0, 1, 2, 3, 4]", f"seeds: {list(range(5_000))}"))
    return base


@pytest.mark.parametrize(("what", "code"), [("packed", LIST), ("packed", PAGE), ("single", LIST), ("many.yaml", CHECK)])
def test_commands(folders, what, code):
    script = MEASURED.format(code.format(folders / what))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    name = {LIST: "list", PAGE: "page", CHECK: "check without the gate"}[code]
    print(f"{what}, {name}: {done.stderr.splitlines()[-1]}")


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
