"""Ray nodes on this machine, which can be lost and come back."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import ray
from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
)
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.cluster_utils import Cluster

from harness.execution.connection import ENVIRONMENT
from tests.support.patience import PATIENCE

T = TypeVar("T")
QUIET = (
    # Ray, and moto, leave sockets and processes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
)
"""Marks of tests in whose process Ray runs."""
GIVE_UP = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}
"""Processes end so many seconds after their head is lost, by default 60; busy cores keep a head from answering for 2."""
LOST_SOON = {"RAY_health_check_period_ms": "500", "RAY_health_check_initial_delay_ms": "1000"}
"""A head asks that often whether a node is there, by default every 3 s; five times in vain and it is lost."""


def _with_token() -> None:
    """As `ray.init` does for an instance of its own; a test cluster would be open to everybody."""
    os.environ.update(ENVIRONMENT | LOST_SOON)
    enable_token_auth_by_default()
    ensure_token_if_auth_enabled(None, create_token_if_missing=True)


@contextmanager
def started(make: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """What `make` gives, entered. Ray fails where a node needs more than 30 seconds to start: it is tried again."""
    with ExitStack() as stack:
        yield _tried(lambda: stack.enter_context(make()))


def _tried(start: Callable[[], T], tries: int = 3) -> T:
    for left in reversed(range(tries)):
        try:
            return start()
        except Exception as error:  # Ray raises nothing more precise
            if not left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    raise AssertionError("tries is at least 1")


@contextmanager
def nodes(count: int, cpus: int = 1, **head: Any) -> Iterator[Cluster]:
    """A head without room for runs and `count` nodes of `cpus` CPUs; on the main thread only."""
    _with_token()
    arguments = {"num_cpus": 0, "include_dashboard": False, **head}
    cluster = _tried(lambda: Cluster(initialize_head=True, head_node_args=arguments))
    try:
        for _ in range(count):
            add_node(cluster, cpus)
        yield cluster
    finally:
        ray.shutdown()  # where a test failed in the middle of a run
        cluster.shutdown()


def add_node(cluster: Cluster, cpus: int = 1) -> Any:
    """One more node."""
    return _tried(lambda: cluster.add_node(num_cpus=cpus))


FAKE_HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
"""The id that Ray's fake node provider expects of its head."""


def drain(address: str, node: str, seconds: int = 30) -> None:
    """Tell a cluster that a node will be taken away in so many seconds, as a spot machine's notice does."""
    line = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--address={address}", f"--node-id={node}"]
    line += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=a test"]
    subprocess.run([*line, f"--deadline-remaining-seconds={seconds}"], check=True, capture_output=True)


class Head:
    """`ray start --head` as processes of a session of their own, which can be killed and started again.

    Args:
        folder: for its files.
        cpus: of the head.
        grows: resources of a node that its autoscaler starts on this machine while something waits, and the most of
            them; none by default.
    """

    def __init__(self, folder: Path, cpus: int = 2, grows: tuple[dict[str, float], int] | None = None) -> None:
        _with_token()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._folder, self._cpus, self._grows = folder, cpus, grows
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Come up; returns when it takes connections."""
        line = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={self.port}"]
        line += ["--node-ip-address=127.0.0.1"]  # or Ray listens on all of this machine's addresses
        line += [f"--num-cpus={self._cpus}", "--include-dashboard=false", f"--temp-dir={self._folder}"]
        line += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
        environment = {**os.environ, **GIVE_UP}
        if self._grows is not None:
            line.append(f"--autoscaling-config={self._autoscaling(*self._grows)}")
            environment |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
            environment |= {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD}
            environment |= {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD}
        with open(self._folder / "head.log", "ab") as log:
            self._process = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True, env=environment)
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None and time.monotonic() < deadline, (self._folder / "head.log").read_text()
            time.sleep(0.1)

    def _autoscaling(self, resources: dict[str, float], most: int) -> Path:
        """The configuration of Ray's fake node provider, which starts nodes as processes of this session."""
        # By its type Ray looks for a file of defaults that its package lacks.
        provider = {
            "type": "external",
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
        }
        provider |= {"gcs_address": self.address, "head_node_id": FAKE_HEAD}
        flags = ("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check", "launch_multiple")
        types = {
            "ray.head.default": {"resources": {"CPU": self._cpus}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": most},
        }
        config = {
            "cluster_name": "fake",
            "max_workers": most,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 0.1,
            "provider": provider | dict.fromkeys(flags, True),
            "available_node_types": types,
            "auth": {},
            "head_node_type": "ray.head.default",
            "docker": {},
            "file_mounts": {},
            **{f"{name}_commands": [] for name in ("initialization", "setup", "head_setup", "worker_setup")},
            **{f"{name}_start_ray_commands": [] for name in ("head", "worker")},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
        }
        path = self._folder / "autoscaling.json"
        path.write_text(json.dumps(config))
        return path

    def kill(self) -> None:
        """Lose every process of it at once, workers included."""
        assert self._process is not None
        for pid in _session(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


def _session(leader: int) -> list[int]:
    """Pids of the session that `leader` leads, itself first."""
    said = subprocess.run(["ps", "-eo", "pid=,sid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in said.splitlines()]
    return sorted((pid for pid, session in pairs if session == leader), key=lambda pid: pid != leader)
