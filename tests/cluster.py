"""Several Ray nodes on this machine, which can be lost and come back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
)
from ray.cluster_utils import Cluster

from harness.cluster import ENVIRONMENT


@contextmanager
def nodes(count: int, cpus: int = 1, **head: Any) -> Iterator[Cluster]:
    """A head without room for runs and `count` nodes of `cpus` CPUs; on the main thread only."""
    import os

    os.environ.update(ENVIRONMENT)
    # As `ray.init` does for an instance of its own; this class leaves a cluster open to everybody.
    enable_token_auth_by_default()
    ensure_token_if_auth_enabled(None, create_token_if_missing=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **head})
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=cpus)
        yield cluster
    finally:
        cluster.shutdown()
