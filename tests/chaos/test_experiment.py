"""Three methods, two pairs, two seeds on a cluster of three nodes, one of which is lost on the way."""

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

pytestmark = [pytest.mark.chaos, *cluster.QUIET]

NOT_MEASURED = {  # when, where and how fast
    *("started_at", "finished_at", "wall_seconds", "train_seconds", "eval_seconds", "step_ms", "step_ms_p90"),
    *("data_ms", "peak_memory_mb", "student_latency_ms", "resumed"),
}
MEASURED = [name for name in store.SCHEMA.names if name not in NOT_MEASURED]


def plan(folder: Path) -> list[Run]:
    first = tiny.TINY["pairs"][0]
    pairs = [{**first, "name": f"pair{i}", "teacher": {**first["teacher"], "seed": i}} for i in range(2)]
    return tiny.plan(folder, "train.steps=10", pairs=pairs, seeds=[0, 1], methods=["none", "kd", "cwd"])


def test_an_experiment_that_loses_a_node_has_the_rows_of_one_process(tmp_path: Path) -> None:
    runs = plan(tmp_path)
    assert len(runs) == 2 + 2 * 3 * 2
    for run in runs:
        tiny.in_process(run, tmp_path / "one")
    with cluster.nodes(3) as made:
        latest: list[Status] = []
        outcome: list[Any] = []
        resources = Resources(address=made.address)
        thread = threading.Thread(
            target=lambda: outcome.append(run_all(runs, resources, tmp_path / "three", latest.append)), daemon=True
        )
        thread.start()
        lost = None
        deadline = time.monotonic() + cluster.PATIENCE
        while thread.is_alive():
            assert time.monotonic() < deadline, latest[-1].notes
            time.sleep(0.05)
            if lost is not None or not latest or latest[-1].counts["ok"] < 5:
                continue
            for run_id, progress in list(latest[-1].progress.items()):
                node = next((n for n in made.worker_nodes if n.node_id == progress.node), None)
                if lost is None and node and run_id in latest[-1].running and 2 <= (progress.step or 0) < 8:
                    lost = node
                    made.remove_node(node, allow_graceful=False)
    assert lost is not None
    assert set(outcome[0].values()) == {"ok"}
    assert tiny.measured(tmp_path / "three", MEASURED) == tiny.measured(tmp_path / "one", MEASURED)
