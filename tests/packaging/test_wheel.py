"""A wheel is built from the project's files: it carries what the commands need, and works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from harness.files import SHIPPED, shipped
from tests.support.commands import ROOT, call
from tests.support.rows import with_opencv_5

PARTS = ("harness", "sstkd", "experiments", "results/published", "results/examples")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built in a copy of what git has."""
    source, to = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # What a checkout may hold beside the example rows.
    weights = source / "results/examples/quickstart/weights"
    weights.mkdir()
    (weights / "x.safetensors").write_bytes(b"large")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir"]
    done = subprocess.run([*command, str(to), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = to.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_carries_experiments_figures_and_rows(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind, folder in SHIPPED.items():
        here = {
            f"harness/shipped/{kind}/{path.relative_to(ROOT / folder).as_posix()}"
            for pattern in ("*.yaml", "*.json", "*.csv", "*/runs/*.parquet", "*/packs/*.parquet")
            for path in (ROOT / folder).glob(pattern)
        }
        assert here and here <= names
    assert not [name for name in names if name.endswith(".safetensors") or name.startswith(("tests/", "experiments/"))]
    assert wheel.stat().st_size < 8_000_000


@pytest.mark.slow
@with_opencv_5
def test_it_works_where_there_is_no_checkout(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def answered(*words: str) -> str:
        command = [sys.executable, "-m", "harness.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=empty, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "75.15 (V2)" in answered("reproduce", "sstkd-table-1", "--dry-run")
    # All runs of the quickstart are in the example rows: nothing is trained.
    file = site / "harness" / "shipped" / "experiments" / "quickstart.yaml"
    assert "| kd |" in answered("tables", str(file), "--results", str(file.parents[1] / "examples"), "--format", "md")
    assert sorted(path.name for path in empty.iterdir()) == []


def test_a_checkout_uses_its_own_files(tmp_path, monkeypatch):
    assert [shipped(name) for name in SHIPPED] == [ROOT / folder for folder in SHIPPED.values()]
    monkeypatch.setattr("harness.files.__file__", str(tmp_path / "harness" / "files.py"))
    (tmp_path / "experiments").mkdir()  # beside site-packages' harness: somebody else's
    with pytest.raises(ValueError, match="installed incompletely"):
        shipped("experiments")


@pytest.mark.torch
def test_the_quickstart_is_run_with_the_flags_of_run(tmp_path):
    shutil.copytree(ROOT / "results" / "examples" / "quickstart", tmp_path / "quickstart")
    text = call("quickstart", "--results", tmp_path).stdout
    assert "quickstart.yaml" in text.splitlines()[0] and "none at equal seconds" in text
    assert "train.bogus" in call("quickstart", "--set", "train.bogus=1", "--results", tmp_path, code=2).stderr
    assert "networks:" not in text  # the example rows come without them


@pytest.mark.parametrize("words", [[], ["run"], ["results", "list"], ["data", "info"], ["quickstart"], ["init"]])
def test_help_has_a_short_form(words):
    assert call(*words, "-h").stdout == call(*words, "--help").stdout != ""
