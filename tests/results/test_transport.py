"""Results on their way: what a job's package must not hold, where rows must not go, and rows that are not lost."""

import asyncio
import hashlib
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from harness.cluster import job as submit
from harness.cluster import manifests, package, rows_by_log, secrets
from harness.experiment.resources import Resources
from harness.results import paths
from harness.results.pull import pull
from harness.results.storage import Storage
from tests.cluster.test_job import Cluster, make_job, rows_in
from tests.cluster.test_manifests import kuberay, slurm
from tests.cluster.test_package import project_in
from tests.results.test_storage import put
from tests.support.commands import call, refused
from tests.support.rows import make_row
from tests.support.tiny import write


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(project_in(tmp_path))
    monkeypatch.setattr(submit, "RETRY_SECONDS", 0.0)


# --- The package -------------------------------------------------------------------------------------------------------


def test_a_package_has_no_tokens_and_no_environments(tmp_path):
    """The folder of a Slurm job that runs, files of credentials, and a virtual environment of any name."""
    secret = (
        ".sstkd-bench-12/token",
        ".envrc",
        ".git-credentials",
        ".pypirc",
        "id_ecdsa",
        ".aws/config",
        ".ssh/config",
    )
    for name in (*secret, "env/pyvenv.cfg", "env/lib/x.py", "sub/py/pyvenv.cfg", "sub/py/x.py", "sub/a.py", "e.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert package.contents(tmp_path).names == (
        "e.yaml",
        "sub/a.py",
    )
    (tmp_path / "pyvenv.cfg").touch()  # the project's folder itself is one
    assert package.contents(tmp_path).names == (
        "e.yaml",
        "pyvenv.cfg",
        "sub/a.py",
    )
    (tmp_path / "pyvenv.cfg").unlink()
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    assert package.contents(tmp_path).names == (
        "e.yaml",
        "sub/a.py",
    )


def test_a_file_in_conflict_is_packed_once(tmp_path):
    def git(*arguments, check=True):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=check, capture_output=True)

    def commit(text):
        (tmp_path / "f").write_text(text)
        git("add", "f")
        git("commit", "-qm", text)

    git("init", "-q", "-b", "one")
    commit("start")
    git("checkout", "-q", "-b", "two")
    commit("there, and longer")
    git("checkout", "-q", "one")
    commit("here")
    git("merge", "two", check=False)
    assert package.contents(tmp_path).names == ("f",)


@pytest.mark.parametrize("versioned", [False, True])
def test_a_name_that_is_no_text_is_named(tmp_path, versioned):
    if versioned:
        subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    with open(os.fsencode(tmp_path) + b"/a\xff.txt", "wb"):
        pass
    with pytest.raises(ValueError, match=r"a\\xff\.txt'?: the name is not UTF-8.*--exclude"):
        package.contents(tmp_path)
    assert package.contents(tmp_path, ["*.txt"]).names == ()


@pytest.mark.parametrize(
    "line",
    [
        "secret_key: abc7",
        "  provider: {type: aws, api_key: abc7}",
        '  {"api_key": "abc7"}',
        "  - grep -qs AWS ~/.bashrc || echo 'export AWS_SECRET_ACCESS_KEY=abc7' >> ~/.bashrc",
        "resources.storage=s3://bucket/x?secret_key=abc7",
        "storage: abfs://account.dfs.core.windows.net/c?tenant_id=1&client_secret=abc7",
    ],
)
def test_secrets_within_a_line_are_refused(line):
    with pytest.raises(ValueError, match="looks like a secret") as error:
        secrets.refuse_secrets(line, "--set")
    assert "abc7" not in str(error.value)


def test_what_only_names_a_secret_is_none():
    secrets.refuse_secrets(
        "- export HF_TOKEN=$(cat ~/.hf) AWS_SECRET_ACCESS_KEY=${KEY}\nmethods: {kd: {tau: 1}}\n"
        "# read token = what the site gives\n- export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/.ray/auth_token",
        "e.yaml",
    )


# --- Where rows must not go --------------------------------------------------------------------------------------------


def test_a_home_folder_is_the_clusters(tmp_path, at_home):
    job = make_job(tmp_path, python="~/a venv/bin/python")
    assert job.command("e.yaml").startswith("exec ~/'a venv/bin/python' -m ")
    cluster = Cluster()
    cluster.logs = ["rows 0 0\n"]
    with pytest.raises(ValueError, match="no results"):
        submit.fetch_rows(cluster, job, tmp_path / "home")
    assert cluster.sent[0]["entrypoint"] == "exec ~/'a venv/bin/python' -m harness.cluster.rows_by_log ~/r/tiny"
    assert "results=~/'a b'" in slurm(write(tmp_path), results="~/a b").splitlines()


@pytest.mark.parametrize("folder", ["out", "./out", "s3://bucket/results", "~", "~me/results"])
def test_rows_do_not_go_where_the_cluster_throws_them_away(tmp_path, monkeypatch, folder):
    """A job's own folder goes with the job, and a URI would be made a folder there."""
    monkeypatch.setattr(submit, "connect", lambda address: Cluster())
    monkeypatch.setattr(submit, "follow", lambda *_: SimpleNamespace(status=JobStatus.FAILED, driver_exit_code=2))
    said = refused("submit", write(tmp_path), "--cluster-results", folder)
    assert f"--cluster-results {folder}: " in said and "absolute" in said and "resources.storage" in said


@pytest.mark.parametrize("folder", ["out", "~/out", "s3://bucket/results"])
def test_rows_do_not_end_with_a_pod(tmp_path, folder):
    with pytest.raises(ValueError, match=r"--cluster-results .*absolute.*/mnt/sstkd-bench"):
        kuberay(write(tmp_path), results=folder)


def test_a_slurm_script_takes_no_uri(tmp_path):
    with pytest.raises(ValueError, match=r"--cluster-results s3://b/r: .*resources\.storage"):
        slurm(write(tmp_path), results="s3://b/r")
    assert "results=out" in slurm(write(tmp_path), results="out").splitlines()


@pytest.mark.parametrize("name", ["2026.cityscapes", "7", "0" * 40])
def test_kubernetes_names_begin_with_a_letter(tmp_path, name):
    made = kuberay(write(tmp_path, name=name))[2]["metadata"]["name"]
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", made) and len(made) <= 40
    assert made != kuberay(write(tmp_path, name=f"run-{name}"[:100]))[2]["metadata"]["name"]


@pytest.mark.parametrize(("gpus", "together", "expected"), [(0.4, 5, 3), (0.6, 3, 3), (0.5, 4, 2), (2.0, 2, 4)])
def test_workers_that_share_gpus_all_fit(gpus, together, expected):
    """A worker's part of a GPU is on one GPU."""
    assert manifests.share(Resources(gpus_per_worker=gpus, concurrent=together), 1).gpus == expected


def test_a_manifest_takes_no_options_of_a_job(tmp_path):
    for option in (("--python", "/cluster/python"), ("--exclude", "x"), ("--stop", "x")):
        assert "manifest" in refused("submit", write(tmp_path), "--manifest", "slurm", *option)


@pytest.mark.parametrize("place", ["s3://", "file://", "gs:///"])
def test_an_address_without_a_place_is_no_folder(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{place}: no storage that pyarrow knows"):
        Storage(place)


def test_a_root_is_a_folder():
    for place in ("file:///", "/"):
        assert Storage(place).folder == Path("/") and Storage(place).below("x").folder == Path("/x")


def test_a_container_of_azure_is_no_credential():
    place = "abfs://results@account.dfs.core.windows.net/x"
    assert Storage(place).below("tiny").uri == f"{place}/tiny"
    for secret in (
        "abfs://c:" + "word7@account.dfs.core.windows.net/x",
        "abfs://a.dfs.core.windows.net/c?client_secret=word7",
    ):
        with pytest.raises(ValueError, match="must not carry credentials") as error:
            Storage(secret)
        assert "word7" not in str(error.value)


# --- Rows that are not lost --------------------------------------------------------------------------------------------


def test_a_connection_that_breaks_late_is_made_again(monkeypatch):
    """However long the log was followed before."""
    monkeypatch.setattr(submit, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(submit, "PATIENCE_SECONDS", 0.05)
    cluster, written, connections = Cluster(("j", JobStatus.RUNNING)), [], []

    async def tail(name):
        connections.append(name)
        yield "one\n"
        if len(connections) == 1:
            await asyncio.sleep(0.2)
            raise RuntimeError("WebSocket connection closed unexpectedly")
        yield "two\n"
        cluster.jobs[name] = JobStatus.SUCCEEDED

    cluster.tail_job_logs = tail
    submit.follow(cluster, "j", written.append)
    assert "".join(written) == "one\ntwo\n"


def test_rows_of_an_address_that_is_a_folder_of_the_cluster(tmp_path, at_home, capsys):
    """It may be named as `file://`, and a folder of that name may be here by chance."""
    (tmp_path / "by-chance").mkdir()
    places = (f"file://{tmp_path}/not-here", f"{tmp_path}/by-chance", f"file://{tmp_path}/by-chance")
    for number, storage in enumerate(places):
        job = make_job(tmp_path, f"resources.storage={storage}")
        rows_in(tmp_path / "there", job)
        rows_by_log.send(tmp_path / "there")
        cluster = Cluster()
        cluster.logs = [capsys.readouterr().out]
        assert submit.fetch_rows(cluster, job, tmp_path / f"home-{number}").new == 3


def test_a_folder_of_the_same_name_here_is_not_the_clusters(tmp_path, at_home, capsys):
    job = make_job(tmp_path, results=str(tmp_path / "r"))
    rows_in(tmp_path / "there", job)
    rows_by_log.send(tmp_path / "there")
    cluster = Cluster()
    cluster.logs = [capsys.readouterr().out]
    directory = tmp_path / "r" / "tiny"
    directory.mkdir(parents=True)
    assert submit.fetch_rows(cluster, job, directory).new == 3
    assert submit.fetch_rows(None, job, directory) is None  # all of them are here


def test_a_cluster_that_takes_no_second_job(tmp_path, at_home):
    cluster = Cluster()
    cluster.submit_job = lambda **_: (_ for _ in ()).throw(RuntimeError("trace\nno room"))
    with pytest.raises(OSError, match="rows cannot be fetched: the cluster does not accept the job: no room"):
        submit.fetch_rows(cluster, make_job(tmp_path), tmp_path / "home")


def test_a_failed_job_without_rows_keeps_its_exit_code(tmp_path, at_home, monkeypatch):
    path, cluster = write(tmp_path), Cluster()
    cluster.logs, cluster.exit_code = ["rows 0 0\n"], 1
    answers = iter([1, 0])
    cluster.get_job_info = lambda name: SimpleNamespace(
        status=JobStatus.FAILED if (code := next(answers)) else JobStatus.SUCCEEDED, driver_exit_code=code, message=""
    )
    monkeypatch.setattr(submit, "connect", lambda address: cluster)
    result = call("submit", path, "--results", tmp_path / "home", code=1)
    assert "error: ~/sstkd-bench-results/tiny: no results on the cluster yet" in result.stderr


def test_what_is_no_number_is_no_conflict(tmp_path):
    """The loss of a run that diverged is nan in both rows."""
    row = make_row("kd", 0)
    row["losses"] = [{**point, "terms": {"task": float("nan")}} for point in row["losses"]]
    there, here = tmp_path / "there", tmp_path / "here"
    put(there, row, tmp_path)
    put(here, {**row, "step_ms": 1.0}, tmp_path)
    assert pull(Storage(there), here).kept == 1


def test_weights_are_those_of_the_row(tmp_path):
    """Neither the weights of a row that was refused, nor those of a row that was deleted as the message says."""
    there, here = tmp_path / "there", tmp_path / "here"
    row = make_row("kd", 0)
    digest = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("theirs", "ours")}
    weights = f"weights/{row['run_id']}.safetensors"
    put(there, {**row, "weights_sha256": digest["theirs"]}, tmp_path)
    put(here, {**row, "weights_sha256": digest["ours"]}, tmp_path)
    Storage(there).write(weights, b"theirs")
    with pytest.raises(ValueError, match="differ in weights_sha256"):
        pull(Storage(there), here, weights=True)
    assert not (here / weights).exists()
    Storage(here).write(weights, b"ours")
    paths.run_path(here, row["run_id"]).unlink()
    assert pull(Storage(there), here, weights=True).weights == 1
    assert (here / weights).read_bytes() == b"theirs"
    assert pull(Storage(there), here, weights=True).weights == 0
