"""What must stay on this machine does. Marker `ray`: starts Ray on this machine."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.execution.connection import connected
from harness.experiment.resources import Resources
from harness.results import store
from tests.support import cluster, tiny

pytestmark = [pytest.mark.ray, *cluster.QUIET]

SECRETS = {
    name: f"made-up-{name}-{'0123456789abcdef'}"
    for name in ("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN")
}


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its sessions. Its sockets' names must be short."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a folder; rows also as they read."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes()
            if path.parent.name == "runs" and path.suffix == ".parquet":
                yield f"{path}, read", repr(store.read_row(path)).encode()


def test_secrets_are_in_no_row_file_or_log(tmp_path: Path, ray_folder: Path) -> None:
    file, results = tiny.write(tmp_path), tmp_path / "results"
    environment = {**os.environ, **SECRETS, "HOME": str(tmp_path / "home"), "RAY_TMPDIR": str(ray_folder)}
    Path(environment["HOME"]).mkdir()
    arguments = ("run", str(file), "--results", str(results), "--json")
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments],
        env=environment,
        capture_output=True,
        check=False,
        timeout=cluster.PATIENCE,
    )
    assert done.returncode == 0, done.stderr.decode()
    # Nothing but events on standard output, from the first to the last.
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events].count("end") == 3
    assert [event["event"] for event in events[-2:]] == ["table", "done"]
    assert events[-1]["counts"]["ok"] == 3

    seen = [("standard output", done.stdout), ("standard error", done.stderr), *texts(results), *texts(ray_folder)]
    names = [name for name, _ in seen]
    assert sum(name.endswith(", read") for name in names) == 3
    assert sum("/logs/worker-" in name for name in names) >= 2, "Ray's logs are among them"
    leaks = [(name, key) for name, text in seen for key, value in SECRETS.items() if value.encode() in text]
    assert leaks == []


def test_ray_tells_nobody_and_listens_to_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No usage statistics; every port of every process on the loopback interface; files of this user alone."""
    import psutil
    import ray
    from ray._common.usage.usage_lib import usage_stats_enabled

    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if token.exists():
        token.chmod(0o644)
    on_terminate = signal.getsignal(signal.SIGTERM)
    with connected(Resources(workers=2)):
        assert signal.getsignal(signal.SIGTERM) is on_terminate, "Ray's own ends the process silently"
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0" and not usage_stats_enabled()
        node = ray._private.worker.global_worker.node
        session = Path(node.get_session_dir_path())
        assert not (session / "usage_stats.json").exists()
        assert ray.get(ray.remote(num_cpus=0)(lambda: 1).remote()) == 1  # a worker is there
        own = psutil.Process()
        ports = [
            (" ".join(process.cmdline())[:60], connection.laddr.ip)
            for process in (own, *own.children(recursive=True))
            for connection in process.net_connections(kind="inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(ports) > 8, "dashboard, GCS, raylet, agents, driver and workers"
        assert [port for port in ports if port[1] not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")] == []
        assert token.stat().st_mode & 0o077 == 0
        assert (
            session.parents[1].stat().st_mode & 0o077 == 0 and session.parents[1].owner() == Path("/proc/self").owner()
        )
        # The one that answers without a token: it is for this machine only.
        metrics = f"http://127.0.0.1:{node.metrics_export_port}/metrics"
        with urllib.request.urlopen(metrics, timeout=cluster.PATIENCE) as answer:
            assert answer.status == 200
    assert not session.parents[1].exists()
