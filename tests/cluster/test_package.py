"""What a cluster job is given: the package of a folder, variables by name, and nothing that looks like a secret."""

import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.cluster import package as bundle
from harness.cluster import secrets
from tests.support.commands import ROOT

# --- Variables and secrets ---------------------------------------------------------------------------------------------


def test_variables_survive_the_shell_and_the_hook(tmp_path, monkeypatch):
    values = {"PLAIN": "a", "WILD": 'it\'s $HOME "x" `y`\n= #', "EMPTY": ""}
    (tmp_path / secrets.FILE).parent.mkdir(parents=True)
    (tmp_path / secrets.FILE).write_text(secrets.written(list(values), values))
    shown = f"{sys.executable} -c 'import os, json; print(json.dumps(dict(os.environ)))'"
    done = subprocess.run(f". ./{secrets.FILE} && {shown}", shell=True, cwd=tmp_path, capture_output=True, check=True)
    assert values.items() <= json.loads(done.stdout).items()
    monkeypatch.chdir(tmp_path)
    for name in values:
        monkeypatch.delenv(name, raising=False)
    secrets.load()
    assert {name: os.environ[name] for name in values} == values
    for name in values:
        del os.environ[name]
    monkeypatch.chdir(tmp_path / "job")
    secrets.load()  # no file, no harm
    assert "PLAIN" not in os.environ


@pytest.mark.parametrize(
    ("name", "words"),
    [("A=secret7", "give the name alone"), ("1A", "is not the name"), ("A B", "is not the name"), ("UNSET", "not set")],
)
def test_variables_are_given_by_name(name, words):
    with pytest.raises(ValueError, match=words) as error:
        secrets.written([name], {"A": "x"})
    assert "secret7" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        "password: hunter2",
        "    access_key: 'x'",
        "data.parameters.api-key=abc",
        "wandb_token = abc",
        "id: " + "AKIA" + "ABCDEFGHIJKLMNOP",
        "key: hf_" + "abcdefghijklmnopqrst",
        "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
        "storage: https://me:" + "word@host/x",
    ],
)
def test_secrets_are_refused_without_being_repeated(line):
    with pytest.raises(ValueError, match=r"e\.yaml:2: looks like .*--env NAME") as error:
        secrets.refuse_secrets(f"name: x\n{line}\n", "e.yaml")
    assert line.split()[-1] not in str(error.value)


def test_shipped_files_hold_no_secrets():
    for path in (ROOT / "experiments").glob("*.yaml"):
        secrets.refuse_secrets(path.read_text(), path.name)
    secrets.refuse_secrets(
        "# token: \nmethods: [skd]\nssh_private_key: ~/.ssh/x\n~/.ray/auth_token: ~/.ray/auth_token", ""
    )


# --- The package -------------------------------------------------------------------------------------------------------


def project_in(where: Path) -> Path:
    """A folder with what a job needs and what it does not."""
    folder = where / "project"
    for name in (
        *("code/a.py", "run.sh", "e.yaml", "sub/data/keep.txt"),
        *(
            "results/x/runs/1.parquet",
            "data/big.bin",
            ".venv/lib/x.py",
            "code/__pycache__/a.pyc",
            "w.pt",
            "w.safetensors",
        ),
        *(".git/config", ".env", "sub/host.key", "x.egg-info/a", ".mypy_cache/a", "site/index.html"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "run.sh").chmod(0o755)
    return folder


@pytest.fixture
def project(tmp_path):
    return project_in(tmp_path)


def test_a_package_has_what_the_job_needs(project):
    assert bundle.contents(project).names == (
        "code/a.py",
        "e.yaml",
        "run.sh",
        "sub/data/keep.txt",
    )
    assert bundle.contents(project, ["sub", "*.sh"]).names == (
        "code/a.py",
        "e.yaml",
    )
    assert bundle.contents(project, ["sub/data/*"]).names == (
        "code/a.py",
        "e.yaml",
        "run.sh",
    )


def test_git_is_asked_what_is_ignored(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init", "-q")
    for name, text in ((".gitignore", "scratch\n"), ("scratch", ""), ("new.py", ""), ("gone.py", ""), ("data", "")):
        (tmp_path / name).write_text(text)
    git("add", "gone.py")
    (tmp_path / "gone.py").unlink()
    assert bundle.contents(tmp_path).names == (
        ".gitignore",
        "new.py",
    )


def test_the_same_files_are_the_same_package(project, tmp_path):
    first, second = tmp_path / "a.zip", tmp_path / "b.zip"
    names = bundle.contents(project).names
    bundle.write_zip(first, project, names, {"job/env": b"x"})
    os.utime(project / "e.yaml", (1, 1))
    bundle.write_zip(second, project, names, {"job/env": b"x"})
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as package:
        modes = {info.filename: stat.S_IMODE(info.external_attr >> 16) for info in package.infolist()}
    assert modes["job/env"] == 0o600 and modes["run.sh"] == 0o755 and modes["e.yaml"] == 0o644


def test_a_large_package_is_refused_with_its_largest_files(project, tmp_path, monkeypatch):
    (project / "movie.bin").write_bytes(os.urandom(60_000))
    (project / "photo.bin").write_bytes(os.urandom(30_000))
    monkeypatch.setattr(bundle, "LIMIT_BYTES", 50_000)
    with pytest.raises(ValueError, match=r"largest files: movie.bin \(0.1 MiB\), photo.bin .*--exclude NAME"):
        bundle.write_zip(tmp_path / "a.zip", project, bundle.contents(project).names, {})
    bundle.write_zip(tmp_path / "a.zip", project, bundle.contents(project, ["movie.bin"]).names, {})


def test_a_folder_of_many_files_is_no_project(project, monkeypatch):
    monkeypatch.setattr(bundle, "MAX_FILES", 3)
    with pytest.raises(ValueError, match=r"more than 3 files.*--exclude"):
        bundle.contents(project)
