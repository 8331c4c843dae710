"""Real jobs on a real head node of this machine: by the job server, by `ray submit` over ssh, in a Slurm script.

Marker `ray`. Everything has ports and folders of its own, and only processes started here are ended, by their ids.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import yaml
from ray._common.utils import get_default_ray_temp_dir

import harness
from harness.experiment.load import load
from harness.experiment.plan import plan
from harness.results import paths, store
from tests.support import tiny
from tests.support.patience import PATIENCE

pytestmark = pytest.mark.ray
ROOT = Path(harness.__file__).parent.parent
BIN = Path(sys.executable).parent
ONE = {"methods": ["none"], "resources": {"address": "auto"}}  # a teacher and a student
PORTS = ("--min-worker-port=0", "--max-worker-port=0")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Of a user whose home folder is below `folder`, with a token there."""
    home = folder / "home"
    token = home / ".ray" / "auth_token"
    if not token.exists():
        token.parent.mkdir(parents=True)
        token.touch(mode=0o600)
        token.write_text(os.urandom(32).hex())
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{BIN}:{kept['PATH']}"
    given = {"HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return kept | given | {"RAY_AUTH_MODE": "token"} | more


def call(*words: object, env: dict[str, str], code: int = 0) -> str:
    """What a command says; its exit code is as expected."""
    command = [str(word) for word in words]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def wait_for_port(port: int, process: subprocess.Popen[Any]) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        else:
            return


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose path leaves room for Ray's sockets."""
    folder = Path("/tmp") / f"sb{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head(short: Path) -> Iterator[tuple[str, int, dict[str, str]]]:
    """A head node with token authentication: its dashboard's address, its port, the environment of its user."""
    port, dashboard, client, agent = (free_port() for _ in range(4))
    env = environment(short)
    command = [
        *(BIN / "ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=2", *PORTS),
        "--node-ip-address=127.0.0.1",
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--temp-dir={short / 'ray'}"),
    ]
    with (short / "head.log").open("w") as log:
        process = subprocess.Popen([str(word) for word in command], env=env, stdout=log, stderr=log)
    try:
        wait_for_port(dashboard, process)
        yield f"http://127.0.0.1:{dashboard}", port, env
    finally:
        process.terminate()  # ends what it started, too
        process.wait(PATIENCE)


def sstkd_bench(*words: object) -> list[object]:
    return [sys.executable, "-m", "harness.cli", *words]


def after_the_list(output: IO[str]) -> str:
    """The first line after the list of what is sent."""
    while not (line := output.readline()).startswith("all names: --list-files"):
        assert line
    return output.readline()


def test_an_experiment_is_a_job(head: tuple[str, int, dict[str, str]], short: Path, tmp_path: Path) -> None:
    """Started, found again, followed, its rows fetched; its variables are where they are needed and nowhere else."""
    address, _, env = head
    env = env | {"SECRET_OF_TEST": os.urandom(8).hex()}
    file, home, there = tiny.write(tmp_path, **ONE), tmp_path / "home", tmp_path / "there"
    common = ("--address", address, "--results", home, "--cluster-results", there)
    words = [str(w) for w in sstkd_bench("submit", file, *common, "--env", "SECRET_OF_TEST")]
    with subprocess.Popen(
        words, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as first:
        assert first.stdout is not None
        said = started = after_the_list(first.stdout)
        assert started.endswith(": started\n"), said + first.stdout.read()
        name = started.partition(":")[0]
        again = subprocess.Popen(words, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert again.stdout is not None
        second = after_the_list(again.stdout)
        again.send_signal(signal.SIGINT)
        rest = again.communicate(timeout=PATIENCE)[0]
        assert second == f"{name}: is running already; this is its log from the beginning\n" and again.returncode == 130
        assert f"sstkd-bench submit --stop {name}" in rest
        said += first.stdout.read()
    assert first.returncode == 0, said
    for expected in (f"{name}: succeeded", "2 rows fetched, 0 already present", "tiny on texmosaic"):
        assert expected in said
    ids = {run.run_id for run in plan(load(file))}
    assert set(store.finished(home / "tiny")) == ids and set(store.finished(home / "tiny").values()) == {"ok"}
    for run_id in ids:
        row, sent = (paths.run_path(folder / "tiny", run_id).read_bytes() for folder in (home, there))
        assert row == sent
    shown = call(BIN / "ray", "job", "list", "--address", address, env=env)
    assert name in shown and env["SECRET_OF_TEST"] not in shown + said
    holding = [
        p for p in (short / "ray").rglob("*") if p.is_file() and env["SECRET_OF_TEST"].encode() in p.read_bytes()
    ]
    assert [p.name for p in holding] == ["env"] and holding[0].stat().st_mode & 0o077 == 0


def test_a_mistake_that_only_the_cluster_sees(head: tuple[str, int, dict[str, str]], tmp_path: Path) -> None:
    """Its paths are not looked for here; its exit code comes back."""
    address, _, env = head
    file = tiny.write(tmp_path, data={"name": "cityscapes", "root": "${NOT_SET_ANYWHERE}"}, **ONE)
    common = ("--address", address, "--results", tmp_path / "home", "--cluster-results", tmp_path / "there")
    said = call(*sstkd_bench("submit", file, *common), env=env, code=2)
    assert "data.root: the environment variable NOT_SET_ANYWHERE is not set" in said
    assert ": failed" in said and not (tmp_path / "home").exists()
    other = env | {"RAY_AUTH_TOKEN": "0" * 64}
    assert "the cluster's token is needed" in call(*sstkd_bench("submit", file, *common), env=other, code=2)


SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/usr/local/sbin")
MISSING = [name for name in ("ssh", "ssh-keygen", "rsync", "nc") if shutil.which(name) is None]


@pytest.fixture
def ssh(short: Path) -> Iterator[tuple[int, Path]]:
    """A server for the current user on a port of its own, with a key for this test and another home folder."""
    folder = short / "ssh"
    (folder / "home").mkdir(parents=True)
    for name in ("key", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    port = free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/key.pub\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n"
        f"SetEnv HOME={folder}/home\n"
    )
    separation = Path("/run/sshd")  # an empty folder that a server of the superuser insists on
    made = os.geteuid() == 0 and not separation.exists()
    if made:
        separation.mkdir()
    assert SSHD is not None
    process = subprocess.Popen([SSHD, "-D", "-f", str(folder / "config"), "-E", str(folder / "log")])
    try:
        wait_for_port(port, process)
        yield port, folder
    finally:
        process.terminate()
        process.wait(PATIENCE)
        if made:
            separation.rmdir()
        for path in Path(get_default_ray_temp_dir()).glob(f"cluster-tiny-{port}.*"):  # what Ray's launcher noted down
            path.unlink()


@pytest.mark.skipif(SSHD is None or bool(MISSING), reason=f"needs openssh-server, {' '.join(MISSING)}")
def test_ray_submit_trains_by_the_shipped_files(
    head: tuple[str, int, dict[str, str]], ssh: tuple[int, Path], tmp_path: Path
) -> None:
    """experiments/cityscapes.yaml with another host and another experiment, and experiments/submit.py: it trains."""
    address, gcs, env = head
    port, folder = ssh
    text = (ROOT / "experiments" / "cityscapes.yaml").read_text().replace("127.0.0.1:6379", f"127.0.0.1:{gcs}")
    config = yaml.safe_load(text.replace("/dev/tcp/127.0.0.1/6379", f"/dev/tcp/127.0.0.1/{gcs}"))
    config["provider"] = {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    proxy = f"nc 127.0.0.1 {port}"
    config["auth"] = {"ssh_user": user, "ssh_private_key": str(folder / "key"), "ssh_proxy_command": proxy}
    config["cluster_name"] = f"tiny-{port}"
    # The environment is there already; the commands that would make it download gigabytes.
    config["setup_commands"][:2] = [f"ln -sfn {BIN.parent} ~/sstkd-bench-venv"]
    config["metadata"]["experiment"] = tiny.TINY | ONE
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    home = folder / "home"
    call(BIN / "ray", "up", "--yes", "--no-config-cache", file, env=env)  # the head is there: nothing is started
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
    assert (home / "sstkd-bench" / "harness" / "cli" / "app.py").is_file() and not (
        home / "sstkd-bench" / ".git"
    ).exists()
    submit = (BIN / "ray", "submit", "--no-config-cache", file, ROOT / "experiments" / "submit.py", "--")
    options = ("--address", address)
    said = call(*submit, *options, env=env)
    for expected in ("the job gets ", "job/ray_bootstrap_config.yaml", "step 6/6", "tiny on texmosaic", ": succeeded"):
        assert expected in said, said
    there = home / "sstkd-bench-results" / "tiny"
    assert store.finished(there) == {run.run_id: "ok" for run in plan(load(file))}
    assert all(store.read_row(path)["train_seconds"] > 0 for path in (there / "runs").glob("*.parquet"))
    assert (there / "report.html").is_file()
    wrong = call(*submit, *options, "--set", "train.steps=many", env=env, code=1)
    assert "--set train.steps=many: train.steps: Input should be a valid integer" in wrong.replace("\r\n", "\n")


SRUN = """\
#!/usr/bin/env bash
# A step on one of two nodes that are both this machine.
while [[ $1 == --* ]]; do
  shift
done
exec "$@"
"""


def test_a_slurm_script_on_two_nodes(short: Path, tmp_path: Path) -> None:
    """Two nodes by a stand-in for srun: a run on each at the same time; then a signal, as at the end of the time."""
    commands, shared = short / "bin", tmp_path / "shared"
    commands.mkdir()
    shared.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", '#!/usr/bin/env bash\ntr , "\\n" <<<"$3"\n')):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    job = os.getpid() * 7 % 900 + 50_000
    env = environment(short, SLURM_JOB_ID=str(job), SLURM_SUBMIT_DIR=str(shared), SLURM_JOB_NUM_NODES="2")
    env |= {"SLURM_JOB_NODELIST": "one,two", "PATH": f"{commands}:{env['PATH']}"}
    del env["RAY_AUTH_MODE"]
    script, file = tmp_path / "job.sh", tiny.write(tmp_path, methods=["none"], resources={"concurrent": 2})
    overrides = ("--set", "train.steps=3000", "--set", "train.checkpoint_every=5")
    call(*sstkd_bench("submit", file, "--manifest", "slurm", "--nodes", 2, "-o", script, *overrides), env=env)
    process = subprocess.Popen(
        ["bash", str(script)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        folder = shared / f".sstkd-bench-{job}"
        end = time.monotonic() + PATIENCE
        checkpoints = shared / "results" / "tiny" / "checkpoints"
        while not (store.finished(shared / "results" / "tiny") and list(checkpoints.glob("*/*"))):
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.3)
        assert (folder / "token").stat().st_mode & 0o077 == 0 and folder.stat().st_mode & 0o077 == 0
        assert {path.name for path in folder.glob("ray-*.log")} == {"ray-one.log", "ray-two.log"}
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=PATIENCE)[0]
    finally:
        process.kill()
    assert process.returncode == 130 and "re-run the same command to resume" in said, said
    assert not (folder / "token").exists()
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"sstkd-bench-{job}" not in left
    (scratch,) = Path("/tmp").glob(f"sstkd-bench-{job}-*")
    assert scratch.stat().st_mode & 0o077 == 0
    shutil.rmtree(scratch)
