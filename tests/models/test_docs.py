"""docs/networks.md and docs/weights.md: their commands and files, as they stand there, in a home of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
pytestmark = pytest.mark.torch


def blocks(page: str, kind: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", (DOCS / page).read_text(), re.S | re.M)
    return [text for which, text in found if which == kind]


def answered(folder: Path, command: list[str], code: int = 0) -> str:
    """What a command says in `folder`, which is the home too; a path below it begins with ~."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"PYTHONPATH": f".{os.pathsep}{ROOT}", "HOME": str(folder), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return (done.stdout + done.stderr).replace(str(folder), "~")


def experiment(folder: Path, **student: object) -> list[str]:
    """The command `check` of an experiment with this student."""
    teacher = {"architecture": "unet", "encoder": "tu-resnet18", "steps": 2}
    found = {
        "name": "tried",
        "data": {"name": "texmosaic", "parameters": {"train": 8, "dev": 4, "val": 4}},
        "pairs": [{"name": "a", "teacher": teacher, "student": student}],
        "train": {"steps": 2, "batch_size": 2},
        "methods": ["none", "kd"],
        "seeds": [0],
    }
    (folder / "tried.yaml").write_text(yaml.safe_dump(found))
    return [sys.executable, "-m", "harness.cli", "check", "tried.yaml", "--no-measure"]


@pytest.mark.slow
def test_a_network_of_ones_own_is_checked_by_the_command(tmp_path: Path) -> None:
    (tmp_path / "mynet.py").write_text(blocks("networks.md", "python")[0])
    (command,) = (line for line in blocks("networks.md", "sh")[0].splitlines() if line)
    option, code = re.fullmatch(r"python (-c) '(.*)'", command, re.S).groups()
    said = answered(tmp_path, [sys.executable, option, code])
    assert "stage1" in said and "sstkd" in said, said
    student = yaml.safe_load(blocks("networks.md", "yaml")[0])["student"]
    assert "kd" in answered(tmp_path, experiment(tmp_path, **student))


@pytest.mark.slow
def test_weights_that_are_not_here_are_asked_for_in_these_words(tmp_path: Path) -> None:
    student = yaml.safe_load(blocks("weights.md", "yaml")[0])["student"]
    said = answered(tmp_path, experiment(tmp_path, **student), code=2)
    shown = next(text for text in blocks("weights.md", "") if text.startswith("error: "))
    assert " ".join(shown.split()) in " ".join(said.split())


@pytest.mark.slow
def test_weights_of_packages_are_checked(tmp_path: Path) -> None:
    text = next(text for text in blocks("weights.md", "yaml") if text.startswith("name: lite"))
    (tmp_path / "lite.yaml").write_text(text)
    (command,) = re.findall(r"`sstkd-bench (check lite.yaml)` lists the three runs", (DOCS / "weights.md").read_text())
    said = answered(tmp_path, [sys.executable, "-m", "harness.cli", *command.split(), "--no-measure"])
    assert "3 runs, 3 pending" in said, said
