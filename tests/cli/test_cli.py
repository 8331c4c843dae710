"""The command: what it prints where, and its exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import doctor
from harness.execution import launcher, loggers
from harness.execution.status import Status
from harness.experiment.schema import json_schema
from harness.results import paths, store
from tests.support.commands import ROOT, call, refused
from tests.support.rows import make_experiment, make_row
from tests.support.tiny import plan, write


@pytest.fixture
def rows(tmp_path):
    """A results folder of the tiny experiment with made-up rows."""
    directory = tmp_path / "results" / "tiny"
    for row in make_experiment():
        store.write_run(directory, row)
    store.write_run(directory, make_row("kd", 7, status="failed", message="ValueError: of [train.py:12] and [/b]"))
    return directory


# --- Help --------------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from harness.cli.app import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as error: code = error.code\n"
        "heavy = {'torch', 'ray', 'pyarrow', 'numpy', 'scipy', 'matplotlib', 'timm'}\n"
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    for arguments in (["--help"], ["run", "--help"], ["results", "list", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert "Usage" in done.stdout
        assert done.stderr.strip() == "0 []"


def test_help_names_every_command():
    text = call("--help").output
    for command in ("check", "run", "tables", "schema", "doctor", "results"):
        assert f"  {command} " in text


def test_the_installed_command_answers():
    command = Path(sys.executable).with_name("sstkd-bench")
    done = subprocess.run([command, "check", "no.yaml"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "error: no.yaml: cannot be read (No such file or directory). Give the path of an experiment file.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Usage"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["check"], "Missing argument"),
        (["check", "e.yaml", "--bogus"], "No such option"),
        (["check", "e.yaml", "--set"], "requires an argument"),
        (["results"], "Usage"),
        (["results", "show", "x"], "Missing argument"),
    ],
    ids=str,
)
def test_a_wrong_call_is_exit_code_2(arguments, words):
    assert words in call(*arguments, code=2).output


# --- Mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["check", "run", "tables"])
def test_mistakes_in_the_file_are_told_line_by_line(tmp_path, command):
    path = write(tmp_path, seeds=["x"], typo=1)
    text = refused(command, path)
    assert [line.split(": ")[2] for line in text.splitlines()] == ["seeds.0", "typo"]
    assert all(line.startswith(f"error: {path}:") for line in text.splitlines())
    assert "--set train.steps=x: train.steps: " in refused(command, write(tmp_path), "--set", "train.steps=x")
    assert "cannot be read" in refused(command, tmp_path / "no.yaml")
    assert "the control 'none' is missing" in refused(command, write(tmp_path, methods=["kd"]))


def test_the_place_of_an_error_can_be_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SSTKD_BENCH_TRACEBACK", "1")
    with pytest.raises(ValueError, match="cannot be read"):
        call("check", tmp_path / "no.yaml")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("first\nsecond"), 2, "error: first\nerror: second\n"),
        (ValueError(), 2, "error: ValueError\n"),
        (PermissionError(13, "Permission denied", "x"), 2, "error: [Errno 13] Permission denied: 'x'\n"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device\n"),
    ],
    ids=str,
)
def test_errors_have_their_exit_codes(tmp_path, monkeypatch, error, code, text):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("harness.experiment.load.load", fail)
    assert refused("check", tmp_path / "e.yaml", code=code) == text


def test_our_own_mistakes_are_not_dressed_up(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("harness.experiment.load.load", fail)
    with pytest.raises(ZeroDivisionError):
        call("check", tmp_path / "e.yaml")


@pytest.mark.parametrize("below", [False, True])
def test_a_results_path_that_is_a_file_is_told_before_training(tmp_path, monkeypatch, below):
    monkeypatch.setattr(launcher, "run_all", lambda *_: pytest.fail("training began"))
    file = tmp_path / "file"
    file.write_text("mine")
    results = file / "below" if below else file
    assert str(file) in refused("run", write(tmp_path), "--results", results)
    assert file.read_text() == "mine"


def test_a_results_folder_that_cannot_be_written_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "run_all", lambda *_: pytest.fail("training began"))
    # As for anybody but the superuser, who may write everywhere.
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and allowed(path, mode))
    assert "cannot be written" in refused("run", write(tmp_path), "--results", tmp_path / "r")


def test_a_reader_that_leaves_early_is_no_error(rows):
    command = [sys.executable, "-m", "harness.cli", "results", "show", str(rows), "t-0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    process.stdout.close()
    text = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert b"Traceback" not in text and b"error:" not in text


# --- check and run -----------------------------------------------------------------------------------------------------


def test_check_lists_runs_and_which_have_rows(tmp_path):
    runs = plan(tmp_path, methods=["none", {"sstkd": {"stages": ["stage1"]}}])
    store.write_run(tmp_path / "r" / "tiny", make_row(run_id=runs[1].run_id, data_hash=None))
    path = tmp_path / "tiny.yaml"
    text = call("check", path, "--no-measure", "--results", tmp_path / "r").stdout.splitlines()
    assert [line.split() for line in text[:5]] == [
        ["run_id", "pair", "run", "steps", "row"],
        [runs[0].run_id, "tiny", "teacher", "3", "not", "run"],
        [runs[1].run_id, "tiny", "none", "seed", "0", "6", "ok"],
        [runs[2].run_id, "tiny", "sstkd(stages=[stage1])", "seed", "0", "6", "not", "run"],
        ["3", "runs,", "2", "pending"],
    ]


def test_check_measures_every_method(tmp_path):
    path = write(tmp_path, methods=["none", "kd"])
    lines = call("check", path, "--results", tmp_path / "r").stdout.splitlines()
    assert lines[0].split()[-2:] == ["s/step", "time"]
    assert all(float(line.split()[-2]) > 0 for line in lines[1:4])
    assert "3 runs, 3 pending: about 0:0" in lines[4]
    assert not (tmp_path / "r").exists()  # nothing was written


def test_check_finds_a_network_that_cannot_be_built(tmp_path):
    at = "pairs.0.student.architecture"
    text = refused("check", write(tmp_path), "--set", f"{at}=fpnn", "--no-measure")
    assert text.startswith(f"error: --set {at}=fpnn: {at}: unknown architecture 'fpnn'. Did you mean 'fpn'?")


def test_run_reports_and_fails_when_a_run_failed(tmp_path, monkeypatch):
    runs = plan(tmp_path)
    path, directory = tmp_path / "tiny.yaml", tmp_path / "r" / "tiny"
    launched = []

    def run_all(given, resources, where, on_update, retry_failed, judge):
        launched.append(retry_failed)
        for run in given:
            status = "failed" if run.method.name == "kd" and not retry_failed else "ok"
            network = {"role": run.role, "pair": run.pair, "teacher_run_id": run.teacher_run, "data_hash": None}
            store.write_run(where, make_row(run.method.name, run.seed, status, run_id=run.run_id, **network))

    monkeypatch.setattr(launcher, "run_all", run_all)
    result = call("run", path, "--results", tmp_path / "r", code=1)
    assert "1 of 3 runs failed; they are listed by:\n    sstkd-bench results list" in result.stderr
    assert str(runs[0].pair) in result.stdout and (directory / "report.html").is_file()
    call("run", path, "--results", tmp_path / "r", code=1)
    assert launched == [False]  # a failed run is not tried again unless asked
    result = call("run", path, "--results", tmp_path / "r", "--retry-failed")
    assert launched == [False, True] and result.stderr == ""
    call("run", path, "--results", tmp_path / "r", "--retry-failed")
    assert launched == [False, True]  # nothing left to do


def test_an_interruption_is_exit_code_130(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "run_all", interrupted)
    result = call("run", write(tmp_path), "--results", tmp_path / "r", code=130)
    assert "interrupted: 0 of 3 runs have finished, rows in" in result.stdout.replace("\n", " ")


def events(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_run_as_json_says_why_a_run_failed(tmp_path, monkeypatch):
    runs = plan(tmp_path)
    path, results = tmp_path / "tiny.yaml", tmp_path / "r"

    def run_all(given, resources, where, on_update, retry_failed, judge):
        status = Status(given, {run.run_id: "waiting" for run in given})
        on_update(status)
        for run in given:
            state = "failed" if run.method.name == "kd" else "ok"
            network = {"role": run.role, "pair": run.pair, "teacher_run_id": run.teacher_run, "data_hash": None}
            store.write_run(where, make_row(run.method.name, run.seed, state, run_id=run.run_id, **network))
            status.change(run, "running")
            on_update(status)
            status.change(run, state)
        on_update(status)

    monkeypatch.setattr(launcher, "run_all", run_all)
    result = call("run", path, "--results", results, "--json", code=1)
    said = events(result)
    assert [event["event"] for event in said] == ["note", "start"] + ["start", "end"] * 2 + ["end", "table", "done"]
    assert said[0]["text"].startswith("3 of 3 runs to do; loading torch")
    why = store.read_row(paths.run_path(results / "tiny", runs[2].run_id))["message"]
    assert [event["message"] for event in said if event["event"] == "end"] == [None, None, why] and why
    assert said[-1]["counts"] == {"ok": 2, "failed": 1, "skipped": 0, "waiting": 0} and not said[-1]["interrupted"]
    assert "1 of 3 runs failed" in result.stderr
    again = call("run", path, "--results", results, "--json", code=1)
    assert [event["event"] for event in events(again)] == ["table", "done"]


def test_an_interruption_as_json(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(launcher, "run_all", interrupted)
    _, done = events(call("run", write(tmp_path), "--results", tmp_path / "r", "--json", code=130))
    assert done["event"] == "done" and done["interrupted"] and done["counts"]["waiting"] == 3


def test_a_mistake_as_json_is_told_on_standard_error(tmp_path):
    assert "--set" in refused("run", write(tmp_path), "--json", "--set", "train.steps")


def test_a_missing_logger_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "run_all", lambda *_: pytest.fail("training began"))
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    path = write(tmp_path, resources={"loggers": ["mlflow"]})
    assert "pip install mlflow-skinny" in refused("run", path, "--results", tmp_path / "r")


def test_tables_without_rows_says_what_to_do(tmp_path):
    path = write(tmp_path)
    assert "Run it first:\n    sstkd-bench run" in refused("tables", path, "--results", tmp_path / "r")


# --- schema and results ------------------------------------------------------------------------------------------------


def test_schema_is_printed_or_written(tmp_path):
    assert json.loads(call("schema").stdout) == json_schema()
    assert call("schema", "-o", tmp_path / "s.json").output == ""
    assert json.loads((tmp_path / "s.json").read_text()) == json_schema()
    assert "No such file" in refused("schema", "-o", tmp_path / "no" / "s.json")
    assert "Is a directory" in refused("schema", "-o", tmp_path)


def test_results_list_has_a_line_per_row(rows):
    lines = call("results", "list", rows).stdout.splitlines()
    assert len(lines) == 1 + 13 + 1
    assert lines[0].split()[:3] == ["run_id", "status", "role"]
    failed = next(line for line in lines if line.startswith("kd-7"))
    assert failed.rstrip().endswith("ValueError: of [train.py:12] and [/b]")
    assert any(line.split()[:2] == ["cwd-2-0123456789ab", "ok"] for line in lines)


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_results_list_without_rows_says_where_it_looked(tmp_path, what):
    path = tmp_path / what
    if what == "empty":
        path.mkdir()
    elif what == "file":
        path.write_text("x")
    assert refused("results", "list", path) == f"error: {path}: no results yet (expected {path}/runs/*.parquet)\n"


def test_a_corrupt_row_is_named(rows):
    bad = rows / "runs" / "bad.parquet"
    bad.write_bytes(b"PAR1")
    assert f"{bad}: not a readable row" in refused("results", "list", rows)


def test_results_show_prints_one_row_as_json(rows):
    row = json.loads(call("results", "show", rows, "sstkd-1").stdout)
    assert (row["run_id"], row["method"], row["seed"]) == ("sstkd-1-0123456789ab", "sstkd", 1)
    assert row["samples"][0]["prediction"].endswith(" bytes")
    assert row["started_at"].startswith("2026-11-23")


@pytest.mark.parametrize(
    ("run_id", "words"), [("nope", "names 0 rows (none)"), ("kd-", "names 4 rows (kd-0-0123456789ab, ")]
)
def test_results_show_wants_one_row(rows, run_id, words):
    assert words in refused("results", "show", rows, run_id)


# --- doctor ------------------------------------------------------------------------------------------------------------


def test_doctor_finds_this_machine_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_ray", lambda: ("ray", True, "as if"))
    monkeypatch.setattr(doctor, "FREE_GB", 0.0)
    assert doctor.diagnose(write(tmp_path), tmp_path / "not" / "yet") == 0
    text = capsys.readouterr().out
    assert "FAIL" not in text
    for line in ("ok   python: 3.", "ok   torch: ", "ok   cpus: ", "ok   disk: ", "ok   texmosaic: ", "3 runs"):
        assert line in text
    assert not (tmp_path / "not").exists()


def test_doctor_counts_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_ray", lambda: ("ray", False, "as if"))
    monkeypatch.setattr(doctor, "FREE_GB", 0.0)
    result = call("doctor", write(tmp_path, typo=1), "--results", tmp_path, code=1)
    assert "FAIL ray: as if" in result.stdout and "typo: unknown key" in result.stdout
    assert result.stdout.count("FAIL") == 2


def test_doctor_looks_at_the_disk(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    assert doctor._disk(file)[1:] == (False, f"{file} is not a folder; choose another --results folder")
    assert doctor._disk(file / "below")[1] is False
    monkeypatch.setattr(doctor, "FREE_GB", 1e9)
    _, okay, text = doctor._disk(tmp_path)
    assert not okay and "at least 1e+09 GiB" in text


@pytest.mark.parametrize("package", ["torch", "ray"])
def test_doctor_survives_a_missing_package(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    line = doctor._devices()[0] if package == "torch" else doctor._ray()
    assert line[1] is False and package in line[2]


def test_doctor_checks_weights(tmp_path):
    import hashlib

    (tmp_path / "w.pt").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    given = {"path": str(tmp_path / "w.pt"), "sha256": digest}
    network = {"architecture": "fpn", "encoder": "resnet18"}

    def lines(sha256):
        pair = {"name": "p", "teacher": {**network, "checkpoint": {**given, "sha256": sha256}}, "student": network}
        return doctor._experiment(write(tmp_path, pairs=[pair]))

    assert [okay for _, okay, _ in lines(digest)] == [True, True]
    name, okay, text = lines("0" * 64)[1]
    assert (name, okay) == ("p: teacher.checkpoint", False)
    assert text.startswith(f"{tmp_path / 'w.pt'} has another sha256. Fetch the file again")


def test_what_cannot_be_built_is_told_before_a_teacher_is_trained(tmp_path):
    methods = ["none", {"cwd": {"tau": -1.0}}, ["kd", {"dsd": {"taps": ["stage9", "last"]}}], {"af-dcd": {"groups": 7}}]
    text = refused("run", write(tmp_path, methods=methods), "--results", tmp_path / "results")
    assert "pair tiny, method cwd(tau=-1.0): cwd: tau must be finite and above 0; given tau=-1.0" in text
    assert "method dsd+kd(dsd.taps=[stage9,last]): " in text and "there is no tap stage9" in text
    assert "no multiple of groups 7" in text and text.count("error: ") == 3
    assert not (tmp_path / "results").exists()
