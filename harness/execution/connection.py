"""The Ray cluster of a command: started or joined, and how many workers fit on it."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.experiment.resources import Resources

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # How often Ray Train checks its workers; at the default of 2 s a short run mostly waits.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # The launcher ends a group that cannot start, since it knows the nodes; Ray would retry for ever.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
LOOPBACK = "127.0.0.1"


@contextmanager
def connected(resources: Resources) -> Iterator[None]:
    """Ray for the duration of a block: a new local instance, or the cluster at `resources.address`.

    A new instance requires a token, which Ray makes. RAY_AUTH_MODE=token or disabled is respected.

    Raises:
        ValueError: the cluster cannot be reached.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if resources.address == "local":
        # Ray Train frees a dead run's resources through the dashboard's API; warm actors do not need it.
        options |= {"include_dashboard": resources.workers > 1, "dashboard_host": LOOPBACK}
        options["num_cpus"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    on_terminate = signal.getsignal(signal.SIGTERM)
    _knock(resources.address)
    if resources.address.partition(":")[0] in (LOOPBACK, "localhost"):
        # Ray sends an existing token only to a cluster that it finds by itself, not to a given address, where it could
        # be read on the network. On this machine it cannot.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        ray.init(address=resources.address, **options)
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(
            f"resources.address: {resources.address}: no Ray cluster answers ({error}). If it asks for a token, put it "
            "into ~/.ray/auth_token (or RAY_AUTH_TOKEN) and set RAY_AUTH_MODE=token"
        ) from None
    if threading.current_thread() is threading.main_thread():
        # Ray installs a handler that ends the process silently: restore the caller's.
        signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Try to connect to host:port first: Ray would wait for minutes and then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ValueError(
            f"resources.address: {address}: nothing answers there ({error}). "
            "Start Ray there (ray start --head), or set resources.address: local"
        ) from None


def room(resources: Resources) -> dict[str, int]:
    """How many workers fit on each node, by node id; only nodes that are alive and fit at least one."""
    fit: dict[str, int] = {}
    for node in ray.nodes():
        there = node["Resources"]
        workers = int(there.get("CPU", 0) // resources.cpus_per_worker)
        if resources.gpus_per_worker > 0:
            # A fraction of a GPU must be on one GPU: 0.6 fits once on each, not 1.66 times.
            whole = int(there.get("GPU", 0))
            each = int(1 / resources.gpus_per_worker + 1e-9)
            gpus = whole * each if resources.gpus_per_worker <= 1 else int(whole // resources.gpus_per_worker)
            workers = min(workers, gpus)
        if node["Alive"] and workers > 0:
            fit[node["NodeID"]] = workers
    return fit


def require_room(resources: Resources) -> None:
    """Check that at least one run fits.

    Raises:
        ValueError: no run fits; says what was requested and what there is.
    """
    if sum(room(resources).values()) < resources.workers:
        total = ray.cluster_resources()
        raise ValueError(
            f"resources: a run needs {resources.workers} workers x ({resources.cpus_per_worker} CPUs, "
            f"{resources.gpus_per_worker:g} GPUs); Ray has {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs. "
            "Lower resources.workers, cpus_per_worker or gpus_per_worker."
        )


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
