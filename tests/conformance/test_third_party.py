"""A distiller in a package of its own: installed without network, checked, and run from an experiment file."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.results import store
from harness.testing import check_distiller
from tests.support import tiny

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tests" / "third_party" / "logit_margin"
PAGE = (ROOT / "docs" / "add-a-distiller.md").read_text()


def methods() -> list[object]:
    """The list that the page shows."""
    found = re.search(r"^methods: (\[.*\])$", PAGE, re.MULTILINE)
    assert found is not None
    return yaml.safe_load(found[1])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("third-party")
    shutil.copytree(PACKAGE, folder / "source")  # the build writes into it
    options = [
        "--no-index",
        "--no-build-isolation",
        "--no-deps",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--quiet",
    ]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *options,
        "--target",
        str(folder / "site"),
        str(folder / "source"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def sstkd_bench(installed: Path, *arguments: str) -> str:
    """What the command prints, run where only the installed package can be found."""
    command = [sys.executable, "-m", "harness.cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(installed), str(ROOT)))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_shows_the_very_file() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code == "# logit_margin.py\n" + (PACKAGE / "logit_margin.py").read_text()
    assert 'py-modules = ["logit_margin"]' in (PACKAGE / "pyproject.toml").read_text()


@pytest.mark.slow
def test_it_has_every_property(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(installed)
    kind = importlib.import_module("logit_margin").LogitMargin
    assert Path(sys.modules["logit_margin"].__file__ or "").parent == installed
    check_distiller(kind, weight=0.3)


@pytest.mark.slow
def test_an_experiment_names_it(installed: Path, tmp_path: Path) -> None:
    """`check` builds it and times a few of its steps; a wrong key is answered as the project's own are."""
    file = tiny.write(tmp_path, methods=methods())
    printed = sstkd_bench(installed, "check", str(file))
    assert "logit_margin:LogitMargin(weight=0.3)" in printed
    tiny.write(tmp_path, methods=[{"logit_margin:LogitMargin": {"wight": 0.3}}])
    with pytest.raises(AssertionError, match=r"(?s)wight.*weight"):
        sstkd_bench(installed, "check", str(file), "--no-measure")


@pytest.mark.ray
@pytest.mark.smoke
def test_an_experiment_runs_it(installed: Path, tmp_path: Path) -> None:
    file = tiny.write(tmp_path, methods=methods())
    printed = sstkd_bench(
        installed, "run", str(file), "--results", str(tmp_path / "results"), "--set", "resources.concurrent=1"
    )
    assert "logit_margin:LogitMargin(weight=0.3)" in printed
    rows = store.read_rows(
        tmp_path / "results" / "tiny", ["method", "status", "losses", "extra_parameters"]
    ).to_pylist()
    (row,) = (row for row in rows if row["method"] == "logit_margin:LogitMargin")
    assert row["status"] == "ok" and row["extra_parameters"] == 0
    assert all("margin" in dict(point["terms"]) for point in row["losses"])
