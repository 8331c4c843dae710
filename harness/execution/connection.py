"""The Ray cluster of a command, started or joined; what nodes it has is in `execution.nodes`."""

import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.authentication.authentication_token_generator import generate_new_authentication_token
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

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
# Where torch's worker groups listen when all of them are on this machine.
LOOPBACK_ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
LONGEST_FOLDER = 26  # characters; the names of Ray's sockets below it may have 107 in all
STARTS = 2
STARTING = "starting workers, which load torch, networks and data"


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def doing(resources: Resources) -> str:
    """What `connected` does, for a user who waits."""
    local = resources.address == "local"
    return "starting Ray on this machine" if local else f"connecting to Ray at {resources.address}"


@contextmanager
def connected(resources: Resources, say: Callable[[str], None] = _to_stderr) -> Iterator[None]:
    """Ray for the duration of a block: a new local instance, or the cluster at `resources.address`.

    A new instance requires a token, listens on this machine only, and keeps its files in a folder that only this user
    can enter; it is removed at the end, unless RAY_TMPDIR says where it is. RAY_AUTH_MODE=token or disabled is
    respected.

    Args:
        resources: name the cluster.
        say: called with a line when Ray has to be started again.

    Raises:
        ValueError: the cluster cannot be reached, or Ray does not start.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    on_terminate = signal.getsignal(signal.SIGTERM)
    keep_token_private(create=resources.address == "local")
    with ExitStack() as stack:
        if resources.address == "local":
            _start(resources, stack, say)
        else:
            _join(resources)
        stack.callback(ray.shutdown)
        if threading.current_thread() is threading.main_thread():
            # Ray installs a handler that ends the process silently: restore the caller's.
            signal.signal(signal.SIGTERM, on_terminate)
        yield


QUIET: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}


def _start(resources: Resources, stack: ExitStack, say: Callable[[str], None]) -> None:
    """Start Ray on this machine; once more if it does not come up in time, which Ray sets to 30 s."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    stack.enter_context(_environment(LOOPBACK_ENVIRONMENT))
    for left in reversed(range(STARTS)):
        try:
            with _on_loopback():
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    # Ray Train frees a dead run's resources through the dashboard's API; warm actors do not need it.
                    include_dashboard=resources.workers > 1,
                    dashboard_host=LOOPBACK,
                    _node_ip_address=LOOPBACK,
                    _temp_dir=stack.enter_context(session_folder()),
                    **QUIET,
                )
            return
        except Exception as error:
            # Ray raises nothing more precise when it is late; what is of another kind is not Ray's.
            if type(error) not in (Exception, RuntimeError, ConnectionError, TimeoutError):
                raise
            ray.shutdown()
            cause, load = " ".join(str(error).split())[:200], _load(cpus or 1)
            if left:
                say(f"Ray did not start ({cause}; {load}); trying once more")
                continue
            raise ValueError(
                f"resources.address: local: Ray did not start in {STARTS} tries ({cause}; {load}). Re-run the command "
                "when the machine is less busy, or set resources.address to a Ray that runs already"
            ) from None


def _load(cpus: int) -> str:
    return f"load {os.getloadavg()[0]:.1f} on {cpus} CPUs" if hasattr(os, "getloadavg") else f"{cpus} CPUs"


def _join(resources: Resources) -> None:
    """Connect to the cluster at the address."""
    _knock(resources.address)
    if resources.address.partition(":")[0] in (LOOPBACK, "localhost"):
        # Ray sends an existing token only to a cluster that it finds by itself, not to a given address, where it could
        # be read on the network. On this machine it cannot.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        ray.init(address=resources.address, **QUIET)
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(
            f"resources.address: {resources.address}: no Ray cluster answers ({error}). If it asks for a token, put it "
            "into ~/.ray/auth_token (or RAY_AUTH_TOKEN) and set RAY_AUTH_MODE=token"
        ) from None


def keep_token_private(create: bool) -> None:
    """The token's file is readable by its owner only: whoever has the token runs code as this user.

    Args:
        create: also make one where there is none; Ray itself would by the umask.

    Raises:
        ValueError: the file is another user's and can be read by others.
        OSError: it cannot be written.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if create and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with open(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(generate_new_authentication_token())
        with suppress(FileExistsError):  # another process was first; its token is as good
            os.link(made, path)
        made.unlink()
        AuthenticationTokenLoader.instance().reset_cache()
    if path.exists() and path.stat().st_mode & 0o077:
        try:
            path.chmod(0o600)
        except PermissionError:
            raise ValueError(f"{path}: others can read this token; its owner must run: chmod 600 {path}") from None


@contextmanager
def session_folder() -> Iterator[str]:
    """A folder of this user alone for Ray's sessions, whose own folders everybody may write to."""
    chosen = os.environ.get("RAY_TMPDIR")
    base = chosen or tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="sb-", dir=base if chosen or len(base) <= LONGEST_FOLDER else "/tmp")
    try:
        yield os.path.join(folder, "r")  # Ray opens the folder itself to everybody, not the one around it
    finally:
        for _ in range(0 if chosen else 5):  # processes that are ending may still write
            shutil.rmtree(folder, ignore_errors=True)
            if not os.path.exists(folder):
                break
            time.sleep(0.1)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray takes 127.0.0.1 as a node's address only where it believes that there are no clusters."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables for the processes that are started in the block, where they are not set."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


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
