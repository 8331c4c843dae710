"""Jobs on a cluster: what is sent, what is refused, how a job is found again, and how its rows are fetched."""

import base64
import runpy
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from harness.cluster import job as submit
from harness.cluster import rows_by_log
from harness.cluster.job import Job
from harness.experiment.load import load
from harness.experiment.plan import plan, timing_runs
from harness.results import step_times, store
from harness.results.packs import pack
from tests.cluster.test_package import project_in
from tests.support.commands import ROOT, call, refused
from tests.support.rows import make_row
from tests.support.tiny import TINY, write


@pytest.fixture
def project(tmp_path):
    return project_in(tmp_path)


# --- The job -----------------------------------------------------------------------------------------------------------


def make_job(tmp_path, *overrides, **options):
    path = write(tmp_path)
    experiment = load(path, overrides, here=False)
    return Job(path, experiment, overrides, options.pop("results", "~/r"), **options)


def test_the_command_of_a_job(tmp_path, monkeypatch, project):
    monkeypatch.chdir(project)
    job = make_job(tmp_path, "train.steps=7")
    path, name = job.package(tmp_path)
    assert name == "job/tiny.yaml"
    words = f"exec python -m harness.cli run {name} --set train.steps=7 --set resources.address=auto --results"
    assert job.command(name) == f"{words} ~/r"
    monkeypatch.setenv("TOKEN_FOR_TEST", "value7")
    options = {"results": "/a b", "python": "/v/python", "names": ("TOKEN_FOR_TEST",), "retry_failed": True}
    job = make_job(project, "resources.address=auto", **options)
    path, name = job.package(tmp_path)
    assert name == "tiny.yaml"
    assert job.command(name) == (
        ". ./job/variables/env && exec /v/python -m harness.cli run tiny.yaml --set resources.address=auto --retry-failed "
        "--results '/a b'"
    )
    with zipfile.ZipFile(path) as package:
        assert package.read("job/variables/env") == b"export TOKEN_FOR_TEST=value7\n"
        assert package.read("tiny.yaml") == (project / "tiny.yaml").read_bytes()
    with pytest.raises(ValueError, match="--set:1: looks like a secret"):
        replace(job, overrides=("a.token=7",)).package(tmp_path)


def test_an_id_is_that_of_the_runs(tmp_path):
    base = make_job(tmp_path).base_id
    assert base.startswith("tiny-") and len(base) == len("tiny-") + 8
    assert make_job(tmp_path, "resources.cpus_per_worker=2").base_id == base
    assert make_job(tmp_path, "train.steps=5").base_id != base


class Cluster:
    """Ray's job server, as far as `submit` asks it."""

    def __init__(self, *jobs):
        self.jobs = dict(jobs)
        self.sent = []
        self.logs = ["one\n", "two\n"]
        self.breaks = 0
        self.exit_code = 0

    def list_jobs(self):
        driver = SimpleNamespace(submission_id=None, status=JobStatus.RUNNING)  # somebody's own script
        return [driver, *(SimpleNamespace(submission_id=k, status=v) for k, v in self.jobs.items())]

    def submit_job(self, **job):
        name = job.setdefault("submission_id", f"raysubmit_{len(self.sent)}")
        if name in self.jobs:
            raise RuntimeError(f"...\nValueError: Job with submission_id {name} already exists.")
        self.jobs[name] = JobStatus.RUNNING
        self.sent.append(job)
        return name

    async def tail_job_logs(self, name):
        for number, text in enumerate(self.logs):
            if self.breaks and number == 1:
                self.breaks -= 1
                raise RuntimeError("WebSocket connection closed unexpectedly")
            yield text
        self.jobs[name] = JobStatus.FAILED if self.exit_code else JobStatus.SUCCEEDED

    def get_job_info(self, name):
        return SimpleNamespace(status=self.jobs[name], driver_exit_code=self.exit_code, message="why")

    def stop_job(self, name):
        if name not in self.jobs:
            raise RuntimeError("404")
        return not self.jobs[name].is_terminal()


@pytest.fixture
def at_home(project, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setattr(submit, "RETRY_SECONDS", 0.0)


def test_a_job_that_runs_is_found_again(tmp_path, at_home):
    job = make_job(tmp_path)
    base = job.base_id
    cluster = Cluster()
    assert submit.start(cluster, job) == (base, True)
    sent = cluster.sent[0]
    assert sent["metadata"] == {"experiment": "tiny", "runs": "3"} and set(sent["runtime_env"]) == {"working_dir"}
    assert submit.start(cluster, job) == (base, False)
    for status, expected in ((JobStatus.SUCCEEDED, (f"{base}-2", True)), (JobStatus.PENDING, (base, False))):
        cluster.jobs = {base: status, f"{base}0": JobStatus.RUNNING, f"{base}-x": JobStatus.RUNNING}
        assert submit.start(cluster, job) == expected
    cluster = Cluster((base, JobStatus.FAILED), (f"{base}-7", JobStatus.STOPPED))
    assert submit.start(cluster, job) == (f"{base}-8", True)
    assert submit.start(cluster, job) == (f"{base}-8", False)


def test_of_two_that_start_at_once_one_finds_the_other(tmp_path, at_home):
    cluster = Cluster()
    job = make_job(tmp_path)
    submitted = cluster.submit_job

    def slower(**sent):
        if not cluster.jobs:
            submitted(**sent)  # the other one
        return submitted(**sent)

    cluster.submit_job = slower
    assert submit.start(cluster, job) == (job.base_id, False)


def test_a_cluster_that_refuses(tmp_path, at_home):
    cluster = Cluster()
    cluster.submit_job = lambda **_: (_ for _ in ()).throw(RuntimeError("trace\nno room"))
    with pytest.raises(OSError, match="does not accept the job: no room"):
        submit.start(cluster, make_job(tmp_path))


def test_variables_reach_workers_without_being_metadata(tmp_path, at_home, monkeypatch):
    monkeypatch.setenv("MY_KEY", "value7")
    cluster = Cluster()
    submit.start(cluster, make_job(tmp_path, names=("MY_KEY",)))
    assert cluster.sent[0]["runtime_env"]["worker_process_setup_hook"] == "harness.cluster.secrets.load"
    assert "value7" not in str(cluster.sent)


def test_a_log_is_written_once_though_the_connection_breaks(tmp_path, at_home):
    cluster = Cluster(("j", JobStatus.RUNNING))
    cluster.breaks = 2
    written = []
    info = submit.follow(cluster, "j", written.append)
    assert "".join(written) == "one\ntwo\n" and submit.exit_code(info) == 0


def test_a_cluster_that_is_gone_is_an_error_after_a_while(tmp_path, at_home, monkeypatch):
    cluster = Cluster(("j", JobStatus.RUNNING))
    cluster.breaks = 10**6

    def gone(name):
        raise RuntimeError("502")

    cluster.get_job_info = gone
    monkeypatch.setattr(submit, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(OSError, match=r"j: the cluster does not answer any more .*; the job may still be running"):
        submit.follow(cluster, "j", lambda text: None)


@pytest.mark.parametrize(("of_the_run", "ours"), [(0, 0), (1, 1), (2, 2), (130, 1), (-9, 1), (None, 1)])
def test_exit_codes(of_the_run, ours):
    status = JobStatus.SUCCEEDED if of_the_run == 0 else JobStatus.FAILED
    assert submit.exit_code(SimpleNamespace(status=status, driver_exit_code=of_the_run)) == ours


@pytest.mark.parametrize(
    ("address", "clear"),
    [
        ("http://127.0.0.1:8265", False),
        ("http://localhost:8265", False),
        ("http://[::1]:8265", False),
        ("https://cluster.example:8265", False),
        ("http://192.0.2.7:8265", True),
        ("http://127.0.0.1.example:8265", True),
    ],
)
def test_a_token_in_clear_is_warned_of(address, clear):
    assert (submit.exposed(address) is not None) == clear


def test_an_address_is_a_dashboards(monkeypatch):
    for address in ("127.0.0.1:8265", "ray://host:10001", "auto"):
        with pytest.raises(ValueError, match="such as http"):
            submit.connect(address)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ValueError, match="no Ray dashboard answers"):
        submit.connect("http://127.0.0.1:1")


# --- Rows --------------------------------------------------------------------------------------------------------------


def rows_in(folder, job, **changes):
    """Made-up rows of the job's runs."""
    for run in plan(job.experiment):
        network = {"role": run.role, "pair": run.pair, "teacher_run_id": run.teacher_run, "spec": run.model_dump_json()}
        network |= {"data_hash": None}
        store.write_run(folder, make_row(run.method.name, run.seed, run_id=run.run_id, **network, **changes))


def test_rows_travel_through_a_log(tmp_path, capsys):
    rows_in(tmp_path, make_job(tmp_path))
    (tmp_path / "runs" / ".hidden.parquet").write_bytes(b"")
    rows_by_log.send(tmp_path)
    log = (
        "INFO something\n" + capsys.readouterr().out + "rows none\nrow ../x.parquet AAAA\nrow ../runs/x.parquet AAAA\n"
    )
    rows = rows_by_log.received(log, "there")
    assert rows == {f"runs/{path.name}": path.read_bytes() for path in (tmp_path / "runs").glob("[!.]*.parquet")}
    lines = log.splitlines()
    with pytest.raises(ValueError, match="there: 2 of 3 rows came"):
        rows_by_log.received("\n".join(lines[:1] + lines[2:]), "there")
    with pytest.raises(ValueError, match="is corrupt"):
        rows_by_log.received(log.replace(lines[1], lines[1] + "!"), "there")
    with pytest.raises(ValueError, match="0 of 0 rows came"):
        rows_by_log.received("", "there")
    rows_by_log.send(tmp_path / "empty")
    with pytest.raises(ValueError, match="no results on the cluster yet"):
        rows_by_log.received(capsys.readouterr().out, "there")


def test_too_many_rows_are_not_sent(tmp_path, capsys, monkeypatch):
    rows_in(tmp_path, make_job(tmp_path))
    rows_by_log.send(tmp_path, limit=100)
    log = capsys.readouterr().out
    assert len(log.splitlines()) == 1
    monkeypatch.setattr(rows_by_log, "LIMIT_BYTES", 100)
    with pytest.raises(ValueError, match=r"there: 3 rows of .* too much for a job's log.*rsync.*resources\.storage"):
        rows_by_log.received(log, "there")


def test_packed_rows_are_not_sent(tmp_path):
    rows_in(tmp_path, make_job(tmp_path))
    assert pack(tmp_path).rows
    with pytest.raises(SystemExit, match=f"{tmp_path}: some of its rows are packed.*; then submit again"):
        rows_by_log.send(tmp_path)
    (tmp_path / "packs").rename(tmp_path / "step_times")
    (tmp_path / "step_times" / "packs").mkdir()
    for each in (tmp_path / "step_times").glob("*.parquet"):
        each.rename(each.parent / "packs" / each.name)
    with pytest.raises(SystemExit, match=f"{tmp_path}/step_times: some of its rows are packed"):
        rows_by_log.send(tmp_path)


def test_the_table_of_a_budget_of_seconds_has_its_step_times(tmp_path, at_home, monkeypatch, capsys):
    there = tmp_path / "there" / "tiny"
    experiment = load(write(tmp_path, budget={"unit": "seconds"}), [])
    for run in timing_runs(experiment):
        row = make_row(run.method.name, run.seed, run_id=run.run_id, trial=run.seed, trial_method=run.method.label)
        store.write_run(there / "step_times", row | {"step_ms": 10.0, "data_hash": None})
    runs = plan(experiment, times=step_times.times(experiment, there, ""))
    for run in runs:
        changes = {"role": run.role, "pair": run.pair, "control": run.control, "spec": run.model_dump_json()}
        changes |= {"data_hash": None}
        store.write_run(there, make_row(run.method.name, run.seed, run_id=run.run_id, **changes))
    store.write_run(there, make_row("cwd", 7, pair="another"))  # of another time
    rows_by_log.send(there)
    cluster = Cluster()
    cluster.logs = ["", capsys.readouterr().out]
    monkeypatch.setattr(submit, "connect", lambda address: cluster)
    text = call("submit", tmp_path / "tiny.yaml", "--results", tmp_path / "home").stdout
    assert "none at equal steps" in text and " cwd" not in text
    home = tmp_path / "home" / "tiny"
    assert step_times.times(experiment, home, "") == step_times.times(experiment, there, "")
    assert "none at equal steps" in call("tables", tmp_path / "tiny.yaml", "--results", tmp_path / "home").stdout


def test_rows_come_home_by_the_job_server(tmp_path, at_home, capsys):
    job = make_job(tmp_path, results=str(tmp_path / "there"))
    rows_in(tmp_path / "there" / "tiny", job)
    rows_by_log.send(tmp_path / "there" / "tiny")
    cluster = Cluster()
    cluster.logs = [capsys.readouterr().out]
    home = tmp_path / "home" / "tiny"
    pulled = submit.fetch_rows(cluster, job, home)
    assert (pulled.new, pulled.kept) == (3, 0) and set(store.finished(home).values()) == {"ok"}
    assert cluster.sent[0]["entrypoint"] == f"exec python -m harness.cluster.rows_by_log {tmp_path}/there/tiny"
    cluster.exit_code = 1
    with pytest.raises(OSError, match="the rows cannot be fetched: why"):
        submit.fetch_rows(cluster, job, home)


def test_what_is_no_row_does_not_come_home(tmp_path, at_home):
    cluster = Cluster()
    cluster.logs = [f"row runs/x.parquet {base64.b64encode(b'PAR1').decode()}\nrows 1 4\n"]
    with pytest.raises(ValueError, match="not a readable row"):
        submit.fetch_rows(cluster, make_job(tmp_path), tmp_path / "home")
    assert not list((tmp_path / "home").rglob("*.parquet"))


def test_rows_come_home_from_storage(tmp_path, at_home):
    job = make_job(tmp_path, f"resources.storage={tmp_path / 'shared'}")
    (tmp_path / "shared").mkdir()
    rows_in(tmp_path / "shared" / "tiny", job)
    assert submit.fetch_rows(None, job, tmp_path / "home").new == 3


def test_a_cluster_that_writes_here_sends_nothing(tmp_path, at_home):
    job = make_job(tmp_path, results=str(tmp_path / "r"))
    rows_in(tmp_path / "r" / "tiny", job)
    assert submit.fetch_rows(None, job, tmp_path / "r" / "tiny") is None


def test_digests_that_only_the_cluster_knew(tmp_path):
    """The runs are those of the rows once the rows have said which weights there were."""
    given = {"encoder_weights": {"path": "${W}/r.pth"}}
    pairs = [{**TINY["pairs"][0]}]
    for role in ("teacher", "student"):
        pairs[0][role] = pairs[0][role] | given
    pairs[0]["teacher"] |= {"checkpoint": {"path": "${W}/t.pt"}}
    path = write(tmp_path, pairs=pairs)
    experiment = load(path, here=False)
    digests = {"teacher": "a" * 64, "student": "b" * 64, "checkpoint": "c" * 64}
    known = {}
    for role in ("teacher", "student"):
        network = getattr(experiment.pairs[0], role)
        update = {"encoder_weights": network.encoder_weights.model_copy(update={"sha256": digests[role]})}
        if role == "teacher":
            update["checkpoint"] = network.checkpoint.model_copy(update={"sha256": digests["checkpoint"]})
        known[role] = network.model_copy(update=update)
    there = experiment.model_copy(update={"pairs": (experiment.pairs[0].model_copy(update=known),)})
    rows_in(tmp_path / "r", Job(path, there, (), ""))
    assert submit.with_digests(experiment, tmp_path / "r") == there
    assert submit.with_digests(experiment, tmp_path / "empty") == experiment


# --- The command -------------------------------------------------------------------------------------------------------


def test_submit_follows_fetches_and_prints(tmp_path, at_home, monkeypatch, capsys):
    job = make_job(tmp_path)
    rows_in(tmp_path / "there", job)
    rows_by_log.send(tmp_path / "there")
    cluster = Cluster()
    cluster.logs = ["step 1\n", capsys.readouterr().out]
    monkeypatch.setattr(submit, "connect", lambda address: cluster)
    text = call("submit", tmp_path / "tiny.yaml", "--results", tmp_path / "home").stdout
    for words in (
        f"{job.base_id}: started",
        "step 1",
        "succeeded",
        "3 rows fetched, 0 already present",
        "tiny on texmosaic",
    ):
        assert words in text
    assert (tmp_path / "home" / "tiny" / "report.html").is_file()
    cluster.exit_code = 1
    result = call("submit", tmp_path / "tiny.yaml", "--results", tmp_path / "home", code=1)
    assert "the rows cannot be fetched" in result.stderr and f"{job.base_id}-2: failed" in result.stderr
    cluster.exit_code = 2
    result = call("submit", tmp_path / "tiny.yaml", "--results", tmp_path / "home", code=2)
    assert result.stderr == f"{job.base_id}-3: failed\n"


def test_ctrl_c_leaves_the_job_alone(tmp_path, at_home, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(submit, "connect", lambda address: Cluster())
    monkeypatch.setattr(submit, "follow", interrupted)
    result = call("submit", write(tmp_path), "--address", "http://192.0.2.1:8265", code=130)
    assert "continues without this command" in result.stdout and "submit --stop tiny-" in result.stdout
    assert "is sent unencrypted" in result.stderr


def test_a_job_is_ended_by_its_id(monkeypatch):
    monkeypatch.setattr(submit, "connect", lambda address: Cluster(("a", JobStatus.RUNNING), ("b", JobStatus.FAILED)))
    assert "a: stopping; its checkpoints are kept" in call("submit", "--stop", "a").stdout
    assert "b: has ended already" in call("submit", "--stop", "b").stdout
    assert "there is no such job" in refused("submit", "--stop", "c")


def test_wrong_calls(tmp_path):
    assert "name the experiment file" in refused("submit")
    assert "add --manifest" in refused("submit", write(tmp_path), "--image", "x")
    assert "seeds.0" in refused("submit", write(tmp_path, seeds=["x"]))


# --- experiments/submit.py ---------------------------------------------------------------------------------------------


def test_the_script_finds_the_file_that_ray_left():
    on_the_head = SimpleNamespace(**runpy.run_path(str(ROOT / "experiments" / "submit.py")))
    home = Path.home()
    rest = ["--results", f"{home}/sstkd-bench-results", "--cluster-results", f"{home}/sstkd-bench-results"]
    rest += ["--python", sys.executable, "--exclude", "tests"]
    left = f"{home}/ray_bootstrap_config.yaml"
    assert on_the_head.arguments([]) == ["submit", left, *rest]
    assert on_the_head.arguments(["--set", "a=1"]) == ["submit", left, *rest, "--set", "a=1"]
    assert on_the_head.arguments(["e.yaml", "--env", "A"]) == ["submit", "e.yaml", *rest, "--env", "A"]
