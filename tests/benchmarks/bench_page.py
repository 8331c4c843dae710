"""Milliseconds from a click to a drawn page with 10,000 runs, in Chromium.

pytest tests/benchmarks/bench_page.py
"""

import os
import time

import pyarrow as pa
import pyarrow.parquet as pq

from harness.report.write import write_report
from harness.results import packs, store
from harness.results.schema import checked
from tests.support.browser import needs_chromium, opened
from tests.support.rows import make_row

# Two frames after the event: what it changed is laid out and painted by then.
DRAWN = """
async ([kind, place]) => {
  const frame = () => new Promise(requestAnimationFrame), began = performance.now();
  if (kind === "sort") document.querySelectorAll("table.runs th button")[place].click();
  else {
    const boxes = document.querySelectorAll("input[type=search]"), box = boxes[boxes.length - 1];
    box.value = box.value ? "" : "cwd 12";
    box.dispatchEvent(new Event("input"));
  }
  const worked = performance.now() - began;
  await frame();
  await frame();
  return [worked, performance.now() - began];
}
"""


@needs_chromium
def test_ten_thousand_runs(tmp_path):
    rows = [
        checked(make_row(method, seed, samples=None, run_id=os.urandom(8).hex()))
        for method in ("none", "kd", "cwd", "sstkd")
        for seed in range(2_500)
    ]
    rows.sort(key=lambda row: row["run_id"])
    (tmp_path / "packs").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=store.SCHEMA), tmp_path / "packs" / "a.parquet", **packs.WRITING)
    began = time.perf_counter()
    path = write_report(tmp_path, ["none", "kd", "cwd", "sstkd"])["html"]
    print(f"written in {time.perf_counter() - began:.1f} s, {path.stat().st_size / 2**20:.1f} MiB")
    with opened(path) as page:
        loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        print(f"loaded in {loaded:.0f} ms")
        for what, act in (("sort by mIoU", ["sort", 4]), ("sort by run", ["sort", 10]), ("filter", ["filter", 0])):
            times = sorted(page.evaluate(DRAWN, act) for _ in range(6))
            worked, drawn = times[3]
            print(f"{what}: {worked:.0f} ms, drawn after {drawn:.0f} ms (slowest of six: {times[-1][1]:.0f} ms)")
