"""The gauges of runs, read where Prometheus would read them. Marker `ray`: starts Ray on this machine."""

import re
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from harness.execution.ray_metrics import Gauges
from harness.experiment.spec import Run
from harness.training.progress import Progress
from tests.support import cluster, tiny

pytestmark = [pytest.mark.ray, *cluster.QUIET]

REPORT = Progress(
    step=3,
    steps=6,
    loss=1.75,
    terms={"task": 1.25, "kd": 0.5},
    dev_miou=0.25,
    step_ms=80.0,
    device={"memory_mb": 512.0, "utilization": None},
)


def process() -> Any:
    """What a warm worker does: the gauges of one run after another."""

    class Process:  # here, so that it is sent whole: the worker does not find this file
        def __init__(self) -> None:
            self.gauges: dict[str, Gauges] = {}

        def tell(self, spec: str, progress: Progress) -> None:
            run = Run.model_validate_json(spec)
            if run.run_id not in self.gauges:
                self.gauges[run.run_id] = Gauges(run)
            self.gauges[run.run_id](progress)

    return ray.remote(num_cpus=1)(Process).remote()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the metrics of a Ray that reports every second."""
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config={"metrics_report_interval_ms": 1000},
    )
    try:
        (node,) = ray.nodes()
        yield f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    finally:
        ray.shutdown()


def scraped(address: str, run: Run) -> dict[str, tuple[float, dict[str, str]]]:
    """Value and labels of a run's gauges, by name and term."""
    with urllib.request.urlopen(address, timeout=cluster.PATIENCE) as answer:
        text = answer.read().decode()
    found = {}
    for name, labels, value in re.findall(r"^ray_(sstkd_bench_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        tags = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels))
        if tags["run_id"] == run.run_id:
            found[f"{name} {tags.get('term', '')}".strip()] = (float(value), tags)
    return found


def wait(address: str, run: Run, wanted: int) -> dict[str, tuple[float, dict[str, str]]]:
    """The run's gauges once there are so many."""
    deadline = time.monotonic() + cluster.PATIENCE
    while len(found := scraped(address, run)) != wanted:
        assert time.monotonic() < deadline, found
        time.sleep(0.3)
    return found


def test_a_run_is_seen_while_it_runs_and_no_longer(address: str, tmp_path: Path) -> None:
    _, none, kd = tiny.plan(tmp_path, methods=["none", {"kd": {"temperature": 2.0}}])
    worker = process()

    def tell(run: Run, progress: Progress) -> None:
        ray.get(worker.tell.remote(run.model_dump_json(), progress))

    tell(none, Progress(note="no step yet"))
    tell(none, replace(REPORT, dev_miou=None, terms={"task": float("inf")}))
    tell(kd, REPORT)
    values = {name: value for name, (value, _) in wait(address, kd, 6).items()}
    assert values == {
        "sstkd_bench_step": 3.0,
        "sstkd_bench_loss task": 1.25,
        "sstkd_bench_loss kd": 0.5,
        "sstkd_bench_dev_miou": 0.25,
        "sstkd_bench_step_seconds": 0.08,
        "sstkd_bench_memory_mb": 512.0,
    }
    _, tags = scraped(address, kd)["sstkd_bench_step"]
    wanted = {"experiment": "tiny", "pair": "tiny", "method": kd.method.label, "seed": "0", "run_id": kd.run_id}
    assert wanted.items() <= tags.items()
    assert wait(address, none, 3).keys() == {f"sstkd_bench_{name}" for name in ("step", "step_seconds", "memory_mb")}
    tell(kd, Progress(ended="ok"))
    wait(address, kd, 0)  # though its process lives on, with the gauges of other runs
    assert len(scraped(address, none)) == 3
    tell(kd, replace(REPORT, step=5))  # resumed
    assert wait(address, kd, 6)["sstkd_bench_step"][0] == 5
