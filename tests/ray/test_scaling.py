"""A cluster that grows and shrinks with what waits, and machines that are taken away. Marker `ray`."""

import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from harness.execution import pool
from harness.execution.launcher import run_all
from harness.execution.nodes import draining, this_node
from harness.execution.status import Status
from harness.experiment.resources import Resources
from harness.results import paths, store
from tests.support import cluster, tiny
from tests.support.patience import PATIENCE

pytestmark = [pytest.mark.ray, *cluster.QUIET]

SAME = ("status", "val_confusion", "curve", "losses", "weights_sha256")


class Busy:
    def node(self) -> str:
        return this_node()


def alive() -> int:
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


@pytest.fixture
def growing() -> Iterator[cluster.Head]:
    """A head without room for runs, whose cluster can grow by three nodes of one CPU."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a short path: sockets are in it
        head = cluster.Head(Path(folder), cpus=0, grows=({"CPU": 1}, 3))
        head.start()
        try:
            yield head
        finally:
            ray.shutdown()
            head.kill()


def test_a_cluster_grows_by_a_node_for_a_run(growing: cluster.Head, tmp_path: Path) -> None:
    (run,) = [run for run in tiny.plan(tmp_path, methods=["none"]) if run.role == "student"]
    resources = Resources(autoscale=True, concurrent=1, address=growing.address)
    nodes: set[int] = set()
    states = run_all([run], resources, tmp_path / "results", lambda status: nodes.add(ray.is_initialized() and alive()))
    assert states == {run.run_id: "ok"} and nodes == {0, 1}


@pytest.mark.soak
def test_a_cluster_grows_from_nothing_and_shrinks_to_nothing(
    growing: cluster.Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "IDLE_SECONDS", 2.0)
    long = ("train.steps=1200", "train.eval_every=1200", "train.checkpoint_every=1200")
    runs = [run for run in tiny.plan(tmp_path, *long, methods=["none"]) if run.role == "student"]
    runs += [run for run in tiny.plan(tmp_path, methods=["none"], seeds=[0, 1, 2]) if run.role == "student"]
    resources = Resources(autoscale=True, concurrent=3, address=growing.address)
    nodes: list[int] = []

    def look(status: Status) -> None:
        if ray.is_initialized():
            nodes.append(alive())

    states = run_all(runs, resources, tmp_path / "results", look)
    assert set(states.values()) == {"ok"} and len(store.finished(tmp_path / "results")) == 4
    assert nodes[0] == 0 and max(nodes) == 3
    assert nodes[-1] == 1, "while the long run goes on, the other nodes are taken back"
    ray.init(address=growing.address, logging_level="ERROR", log_to_driver=False)
    deadline = time.monotonic() + 2 * PATIENCE
    while alive() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert alive() == 0


@pytest.mark.soak
def test_a_worker_group_gets_the_nodes_it_waits_for(growing: cluster.Head, tmp_path: Path) -> None:
    """Also where more groups are allowed than can come: what waits must not hold the nodes of what could run."""
    runs = [run for run in tiny.plan(tmp_path, methods=["none"], seeds=[0, 1]) if run.role == "student"]
    resources = Resources(autoscale=True, concurrent=2, workers=2, address=growing.address)
    states = run_all(runs, resources, tmp_path / "results", lambda status: None)
    assert states == {run.run_id: "ok" for run in runs}
    assert store.read_run(tmp_path / "results", runs[0].run_id)["workers"] == 2


def test_a_node_that_never_comes_is_said_in_the_stated_time(growing: cluster.Head, tmp_path: Path) -> None:
    runs = tiny.plan(tmp_path)[:1]
    resources = Resources(autoscale=True, concurrent=1, cpus_per_worker=4, node_minutes=0.1, address=growing.address)
    with pytest.raises(ValueError, match=r"no node for a worker with 4 CPUs, 0 GPUs has come within 0\.1 min"):
        run_all(runs, resources, tmp_path / "results", lambda status: None)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.soak)])
def test_a_machine_that_is_taken_away_costs_no_step_and_no_try(tmp_path: Path, workers: int) -> None:
    steps = {1: 400, 2: 200}[workers]  # long enough for the notice, and for the ranks to agree
    settings = (f"train.steps={steps}", f"train.eval_every={steps}", f"train.checkpoint_every={steps}")
    runs = [run for run in tiny.plan(tmp_path, *settings, methods=["none"]) if run.role == "student"]
    told: list[int] = []
    began: set[int] = set()
    notes: list[str] = []

    with cluster.nodes(2, cpus=workers, include_dashboard=workers > 1, dashboard_port=0) as made:
        resources = Resources(address=made.address, workers=workers, max_failures=0)

        def take_away(status: Status) -> None:
            notes[:] = status.notes
            began.update(progress.began for progress in status.progress.values() if progress.began)
            for progress in status.progress.values():
                if not told and (progress.step or 0) >= 10 and progress.node:
                    told.append(progress.step or 0)
                    # In a thread: the launcher goes on meanwhile.
                    threading.Thread(target=cluster.drain, args=(made.address, progress.node, 600)).start()

        states = run_all(runs, resources, tmp_path / "results", take_away)
    row: dict[str, Any] = store.read_row(paths.run_path(tmp_path / "results", runs[0].run_id))
    assert told and states == {runs[0].run_id: "ok"} and row["resumed"] == 1, row["message"]
    (note,) = notes
    assert "has left its machine, which is taken away, with a checkpoint; resumed" in note
    assert began and min(began) >= told[0], "no step was lost"


def test_ray_says_which_nodes_are_taken_away_under_the_name_that_is_used(tmp_path: Path) -> None:
    """`draining` asks a private part of Ray, for which there is no public one; if this fails, look for its successor."""
    with cluster.nodes(1) as made:
        ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
        assert not draining()
        busy: Any = ray.remote(num_cpus=1)(Busy).remote()  # an idle node would be gone at once
        node = ray.get(busy.node.remote())
        cluster.drain(made.address, node)
        deadline = time.monotonic() + 10
        while not draining() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert list(draining()) == [node]
