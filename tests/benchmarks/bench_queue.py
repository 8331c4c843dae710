"""What the queue costs: seconds per run beyond its compute, and the launcher's own time and memory over thousands of runs.

pytest tests/benchmarks/bench_queue.py                          # 200 runs on 16 simulated nodes
SSTKD_BENCH_RUNS=5000 pytest tests/benchmarks/bench_queue.py    # hours of two cores: 16 nodes share them
"""

import itertools
import os
import resource
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from harness.execution.launcher import run_all
from harness.execution.status import Status
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.results import store
from tests.support import cluster, tiny

pytestmark = [pytest.mark.ray, *cluster.QUIET]

RUNS = int(os.environ.get("SSTKD_BENCH_RUNS", "200"))
NODES = 16


def one_step_runs(folder: Path, count: int) -> list[Run]:
    """A teacher, and `count` students of one step each."""
    return tiny.plan(
        folder,
        *("train.steps=1", "train.eval_every=1", "train.checkpoint_every=1", "pairs.0.teacher.steps=1"),
        data={"name": "texmosaic", "parameters": {"size": 64, "train": 4, "dev": 1, "val": 1}},
        methods=["none", "kd"],
        seeds=list(range(count // 2)),
    )


def resident_mb() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_overhead_per_run(tmp_path: Path) -> None:
    """On one warm worker: what a run takes from the end of the one before, less its training and evaluation."""
    runs = one_step_runs(tmp_path, 60)
    ended: list[float] = []

    def watch(status: Status) -> None:
        while len(ended) < len(status.ended):
            ended.append(time.perf_counter())

    run_all(runs, Resources(concurrent=1), tmp_path / "r", watch)
    gaps = [b - a for a, b in itertools.pairwise(ended[10:])]
    rows = store.read_rows(tmp_path / "r", ["role", "train_seconds", "eval_seconds", "wall_seconds"]).to_pylist()
    compute = statistics.median(r["train_seconds"] + r["eval_seconds"] for r in rows if r["role"] == "student")
    inside = statistics.median(r["wall_seconds"] for r in rows if r["role"] == "student")
    each = statistics.median(gaps)
    print(
        f"\none worker, {len(runs)} runs of one step: {each:.3f} s per run, of which {compute:.3f} s training and "
        f"evaluation: overhead {each - compute:.3f} s ({inside - compute:.3f} s building, counting and writing in the "
        f"run, {each - inside:.3f} s between runs)"
    )


def test_thousands_of_runs_on_sixteen_nodes(tmp_path: Path) -> None:
    """The launcher's processor time per run and its memory, which stay as they are however many runs there are."""
    runs = one_step_runs(tmp_path, RUNS)
    seen: list[tuple[int, float, float]] = []  # runs that ended, processor seconds, MiB

    def watch(status: Status) -> None:
        done = len(status.ended)
        if not seen or done >= seen[-1][0] + max(1, len(runs) // 10):
            seen.append((done, time.process_time(), resident_mb()))

    with cluster.nodes(NODES) as made:
        outcome: list[Any] = []
        began = time.perf_counter()
        address = Resources(address=made.address)
        thread = threading.Thread(target=lambda: outcome.append(run_all(runs, address, tmp_path / "r", watch)))
        thread.start()
        thread.join()
        took = time.perf_counter() - began
    assert set(outcome[0].values()) == {"ok"} and len(store.finished(tmp_path / "r")) == len(runs)
    print(f"\n{NODES} nodes, {len(runs)} runs in {took:.0f} s: {took / len(runs):.3f} s per run of wall time")
    for (done, cpu, mb), (before, cpu_before, _) in zip(seen[1:], seen, strict=False):
        each = 1e3 * (cpu - cpu_before) / max(1, done - before)
        print(f"  {done:6} runs ended: launcher {each:6.1f} ms of processor per run, {mb:6.0f} MiB")
