"""What a user will paste comes alone on its line; a problem comes before what is fine, with its remedy."""

import re
import shlex
import sys

import pytest
import typer

from harness.cli import doctor
from harness.cli.app import app
from harness.cli.common import answering, error_lines
from harness.experiment.spec import Dataset
from tests.support import trees
from tests.support.commands import call, refused
from tests.support.tiny import write

ROOT = typer.main.get_command(app)


def commands_in(text):
    """The commands on lines of their own; each is one that exists."""
    found = [line.strip() for line in text.splitlines() if re.match(r"\s+(sstkd-bench|pip|harness\.)", line)]
    for line in found:
        words = shlex.split(line)
        if words[0] == "sstkd-bench":
            below = ROOT.commands[words[1]]
            options = [word for word in words if word.startswith("--")]
            below = below.commands[words[2]] if hasattr(below, "commands") else below
            known = {name for option in below.params for name in (*option.opts, *option.secondary_opts)}
            assert set(options) <= known, line
    return found


# --- Errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: is wrong", ["error: a: is wrong"]),
        ("a\nb", ["error: a", "error: b"]),
        ("write one:\n    classes:\n      - {}", ["error: write one:", "    classes:", "      - {}"]),
        (
            "tpe needs Optuna: pip install 'sstkd-bench[search]'",
            ["error: tpe needs Optuna:", "    pip install 'sstkd-bench[search]'"],
        ),
        (
            "no results yet. Run it first: sstkd-bench run a.yaml",
            ["error: no results yet. Run it first:", "    sstkd-bench run a.yaml"],
        ),
        (
            "the best point. First: sstkd-bench tune FILE; then: sstkd-bench run FILE --from-search",
            [
                "error: the best point. First:",
                "    sstkd-bench tune FILE",
                "       then:",
                "    sstkd-bench run FILE --from-search",
            ],
        ),
        (
            "runs anew: sstkd-bench run a.yaml --rerun-changed (the rows move)",
            ["error: runs anew:", "    sstkd-bench run a.yaml --rerun-changed", "       (the rows move)"],
        ),
        (
            "If you have edited it: sstkd-bench run 'my (first).yaml'. --force writes it anew",
            [
                "error: If you have edited it:",
                "    sstkd-bench run 'my (first).yaml'",
                "       --force writes it anew",
            ],
        ),
        ("start it: ray start --head. Then again", ["error: start it: ray start --head. Then again"]),
        ("`sstkd-bench results list` shows them", ["error: `sstkd-bench results list` shows them"]),
        ("", ["error: ValueError"]),
    ],
)
def test_a_command_in_an_error_is_alone_on_its_line(text, lines, capsys):
    assert error_lines(text, "ValueError") == lines
    with pytest.raises(typer.Exit), answering():
        raise ValueError(text)
    assert capsys.readouterr().err.splitlines() == lines


def test_tables_without_results_says_what_to_run(tmp_path):
    file = write(tmp_path)
    (found,) = commands_in(refused("tables", file, "--results", tmp_path))
    assert found == f"sstkd-bench run {file}"


# --- reproduce, init ---------------------------------------------------------------------------------------------------


def test_reproduce_lists_its_tables_and_what_to_run():
    text = call("reproduce").stdout
    assert "sstkd-table-1" in text
    assert commands_in(text) == ["sstkd-bench reproduce TABLE --dry-run"]


def test_a_plan_says_how_to_run_it(tmp_path):
    text = call("reproduce", "sstkd-table-1", "--dry-run", "--results", tmp_path).stdout
    assert commands_in(text) == [
        "sstkd-bench reproduce sstkd-table-1 --write FOLDER",
        "sstkd-bench reproduce sstkd-table-1",
    ]


# --- data check --------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A copy of a dataset with a label map missing."""
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))
    root = tmp_path / "a copy"
    trees.write_camvid(root)
    sorted((root / "trainannot").iterdir())[1].unlink()
    return root


def test_what_is_wrong_comes_first(broken):
    done = call("data", "check", "camvid", "--root", broken, code=1)
    lines = done.output.splitlines()
    assert lines[0] == f"camvid in {broken}: 1 problem"
    assert lines[1].startswith("wrong: ") and "is missing" in lines[1]
    after = "\n".join(lines[2:])
    assert commands_in(after) == [
        "sstkd-bench data info camvid",
        f"sstkd-bench data check camvid --root '{broken}'",
    ]
    assert after.index("data info") < after.index("The rest of it:") < after.index("pavement")
    assert "no problems found" not in done.output


def test_a_wrong_folder_has_no_empty_tables(broken):
    done = call("data", "check", "camvid", "--root", broken.parent, code=1)
    assert "pavement" not in done.output and "The rest of it:" not in done.output
    assert "has no images of camvid with label maps. Its folder has:" in done.stdout and "trainannot" in done.stdout
    assert all(line.startswith("wrong: ") for line in done.stderr.splitlines())


# --- doctor ------------------------------------------------------------------------------------------------------------


def said(capsys, monkeypatch, line):
    """What the doctor prints of one line."""
    for name in ("_python", "_devices", "_datasets"):
        monkeypatch.setattr(doctor, name, list)
    for name in ("_disk", "_ray"):
        monkeypatch.setattr(doctor, name, lambda *_: ("disk", True, "fine"))
    monkeypatch.setattr(doctor, "_experiment", lambda file: [line])
    doctor.diagnose(None, None)
    return capsys.readouterr().out


def test_a_missing_dataset_says_how_to_get_it(capsys, monkeypatch):
    text = said(capsys, monkeypatch, doctor._data(Dataset(name="camvid"))[0])
    assert "FAIL data.root: is missing" in text and commands_in(text) == ["sstkd-bench data info camvid"]


def test_a_broken_copy_says_how_to_see_all(broken, capsys, monkeypatch):
    text = said(capsys, monkeypatch, doctor._data(Dataset(name="camvid", root=str(broken)))[0])
    assert "FAIL data.root: 1 problem; the first: " in text and "is missing" in text
    assert commands_in(text) == [f"sstkd-bench data check camvid --root '{broken}'"]


@pytest.mark.parametrize("package", ["ray", "torch"])
def test_a_missing_package_says_how_to_install_it(package, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    line = doctor._ray() if package == "ray" else doctor._devices()[0]
    text = said(capsys, monkeypatch, line)
    assert "FAIL" in text and "is not installed. Install it:" in text
    (command,) = commands_in(text)
    assert shlex.split(command)[:2] == ["pip", "install"] and shlex.split(command)[2].startswith(package)


def test_little_disk_says_where_else(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "FREE_GB", 1e9)
    line = doctor._disk(tmp_path)
    text = said(capsys, monkeypatch, line)
    assert "at least 1e+09 GiB is advisable. Free some, or check another folder:" in text
    assert commands_in(text) == ["sstkd-bench doctor --results FOLDER"]


@pytest.mark.torch
def test_an_experiment_that_wants_gpus_where_there_is_none(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines = doctor._experiment(write(tmp_path, resources={"gpus_per_worker": 1.0}))
    ((_, _, text),) = [line for line in lines if not line[1]]
    assert text.startswith("asks for 1, and there is none here.")
    assert "--set resources.gpus_per_worker=0" in text.splitlines()[1]
    assert not [
        line
        for line in doctor._experiment(write(tmp_path, resources={"gpus_per_worker": 1.0, "address": "10.0.0.1:6379"}))
        if not line[1]
    ]
