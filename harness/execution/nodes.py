"""The nodes of Ray's cluster: which there are, how many workers fit, and which are about to be taken away."""

import re
import time
from collections.abc import Collection, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.experiment.resources import Resources

NODE_ID = "ray.io/node-id"
NOTICE_SECONDS = 5.0  # between two questions whether this node is about to be taken away


def selectors(resources: Resources, not_on: Collection[str] = ()) -> tuple[dict[str, str], ...]:
    """Ray's label selectors for a worker's node, the preferred one first; none of `not_on`, which are node ids."""
    other = {NODE_ID: f"!in({','.join(sorted(not_on))})"} if not_on else {}
    return tuple({**labels, **other} for labels in (resources.labels, *resources.fallback))


def bundle(resources: Resources) -> dict[str, float]:
    """What a worker takes, by Ray's names."""
    taken: dict[str, float] = {"CPU": resources.cpus, "GPU": resources.gpus_per_worker}
    return {name: amount for name, amount in taken.items() if amount > 0}


def placed(resources: Resources, not_on: Collection[str] = ()) -> dict[str, Any]:
    """Options of an actor that is a worker: what it takes, and on which nodes it may be."""
    first, *others = selectors(resources, not_on)
    options: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus_per_worker}
    if first:
        options["label_selector"] = first
    if others:
        options["fallback_strategy"] = [{"label_selector": each} for each in others]
    return options


def has_labels(node: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a node's labels meet a selector: `value`, `!value`, `in(a, b)` or `!in(a, b)` for each key."""
    for key, text in wanted.items():
        values = re.split(r",\s*", text.removeprefix("!").removeprefix("in(").removesuffix(")"))
        if (node.get(key) in values) == text.startswith("!"):
            return False
    return True


def _nodes(resources: Resources) -> list[dict[str, Any]]:
    """The nodes that are alive, stay, and have the labels."""
    leaving, wanted = draining(), selectors(resources)
    return [
        node
        for node in ray.nodes()
        if node["Alive"]
        and node["NodeID"] not in leaving
        and any(has_labels(node.get("Labels", {}), labels) for labels in wanted)
    ]


def room(resources: Resources) -> dict[str, int]:
    """How many workers fit on each node, by node id; only nodes that stay, and fit at least one.

    What others use is not looked at: a worker that does not fit yet waits for it.
    """
    fit = {node["NodeID"]: _fits(node["Resources"], resources) for node in _nodes(resources)}
    return {node: workers for node, workers in fit.items() if workers > 0}


def free(resources: Resources) -> int:
    """How many more workers there is room for now, beside what anybody uses; Ray's figures are a moment old."""
    unused = _of_state("available_resources_per_node")
    if unused is None:
        return sum(room(resources).values())
    return sum(_fits(unused.get(node["NodeID"], {}), resources) for node in _nodes(resources))


def _fits(there: Mapping[str, float], resources: Resources) -> int:
    workers = int(there.get("CPU", 0) // resources.cpus)
    return workers if resources.gpus_per_worker == 0 else min(workers, _on_gpus(there, resources))


def _on_gpus(there: Mapping[str, float], resources: Resources) -> int:
    """How many workers the GPUs of a node are enough for."""
    gpus = there.get("GPU", 0)
    if resources.gpus_per_worker >= 1:
        return int(gpus // resources.gpus_per_worker)
    # A fraction of a GPU must be on one GPU: 0.6 fits once on each, not 1.66 times. What is left of GPUs in use is
    # taken as if it were on one.
    on_one = 1 / resources.gpus_per_worker + 1e-9
    return int(gpus) * int(on_one) + int((gpus - int(gpus)) * on_one)


def _of_state(name: str) -> Any:
    """What Ray knows under a name of its private state; None of a cluster at `ray://`, which hides it."""
    try:
        return getattr(ray._private.state.state, name)()
    except ray.exceptions.RaySystemError:
        return None


def draining() -> Collection[str]:
    """Ids of the nodes that are about to be taken away: a spot machine's notice, or an autoscaler's own."""
    return _of_state("get_draining_nodes") or ()


class Notice:
    """Whether the node of this process is about to be taken away; asks Ray every few seconds."""

    def __init__(self) -> None:
        self._node, self._asked, self._leaving = this_node(), float("-inf"), False

    def __call__(self) -> bool:
        """Once it is, it stays so."""
        now = time.monotonic()
        if not self._leaving and now - self._asked >= NOTICE_SECONDS:
            self._leaving, self._asked = self._node in draining(), now
        return self._leaving


def idle_gpus(resources: Resources) -> str:
    """What to say where GPUs stay idle for want of CPUs; empty if none do."""
    if resources.gpus_per_worker == 0:
        return ""
    fit = sum(room(resources).values())
    wanted = sum(_on_gpus(node["Resources"], resources) for node in _nodes(resources))
    if fit >= min(wanted, resources.workers * (resources.concurrent or wanted)):
        return ""
    each = f"cpus_per_worker {resources.cpus_per_worker}, loader_workers {resources.loader_workers}"
    return (
        f"resources: GPUs stay idle: the CPUs are enough for {fit} workers, the GPUs for {wanted}. A worker takes "
        f"{resources.cpus} CPUs ({each}); lower these. A prepared cache needs few loader workers"
    )


def require_room(resources: Resources) -> None:
    """Check that at least one run fits, now or after a cluster has grown.

    Raises:
        ValueError: no run fits; says what was requested and what there is.
    """
    if resources.autoscale:
        if resources.address == "local":
            raise ValueError(
                "resources.autoscale: address: local is this machine alone, which does not grow. Leave autoscale out, "
                "or name a cluster as resources.address"
            )
        return
    if sum(room(resources).values()) < resources.workers:
        total = ray.cluster_resources()
        labels = f" on nodes with {' or '.join(map(_shown, selectors(resources)))}" if resources.labels else ""
        leaving = f", and {len(draining())} of its nodes are taken away" if draining() else ""
        raise ValueError(
            f"resources: a run needs {resources.workers} workers x ({needs(resources)}){labels}; Ray has "
            f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs{leaving}. Lower resources.workers, "
            f"cpus_per_worker, loader_workers or gpus_per_worker{', or change labels' if labels else ''}"
        )


def needs(resources: Resources) -> str:
    """What a worker takes, for a message."""
    return f"{resources.cpus} CPUs, {resources.gpus_per_worker:g} GPUs"


def no_node(resources: Resources) -> ValueError:
    """The error where a cluster that scales itself gives no node."""
    labels = f" and {' or '.join(map(_shown, selectors(resources)))}" if resources.labels else ""
    return ValueError(
        f"resources.autoscale: no node for a worker with {needs(resources)}{labels} has come within "
        f"{resources.node_minutes:g} minutes. `ray status` on the cluster says what its autoscaler waits for. Ask for "
        "less, or wait longer with resources.node_minutes; re-run the same command to go on"
    )


def _shown(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items()) or "any labels"


def answers(node: str, seconds: float = 10.0) -> bool:
    """Whether a node still executes tasks."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    try:
        ray.get(
            ray.remote(num_cpus=0, max_retries=0)(this_node).options(scheduling_strategy=there).remote(),
            timeout=seconds,
        )
    except (ray.exceptions.RayError, TimeoutError):
        return False
    return True


def this_node() -> str:
    """The id of the node that this process is on."""
    node: str = ray.get_runtime_context().get_node_id()
    return node
