"""docs/coming-from.md: every key, method and command that it names exists, and takes the value that stands there."""

import re
import shlex

import pytest
import typer
import yaml

from harness.cli.app import app
from harness.experiment.load import load
from harness.experiment.meanings import nearest
from harness.experiment.network_rules import ARCHITECTURES
from tests.experiment.test_meanings import METHODS, PATHS
from tests.support.commands import ROOT
from tests.support.tiny import write

PAGE = (ROOT / "docs" / "coming-from.md").read_text()
COMMANDS = typer.main.get_command(app).commands
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and line != "| there | here |"
]
OURS = sorted({span for row in ROWS for span in re.findall(r"`([^`]+)`", row[1])})
THEIRS = {"package.module:Name"}
"""Forms that are neither a key, a method nor a command."""


def check_command(text):
    words = shlex.split(text)[1:]
    command = COMMANDS[words.pop(0)]
    if hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    options = {name for option in command.params for name in option.opts}
    assert {word for word in words if word.startswith("--")} <= options
    return words


def test_the_page_is_read():
    assert len(ROWS) > 70 and all(len(row) == 2 for row in ROWS)
    assert len(OURS) > 60


@pytest.mark.parametrize("span", OURS)
def test_what_stands_on_the_right_exists(span, tmp_path):
    key, colon, value = span.partition(": ")
    if span.startswith("sstkd-bench "):
        words = check_command(span)
        if "--set" in words:
            load(write(tmp_path), [words[words.index("--set") + 1]])
    elif key in METHODS:
        load(write(tmp_path, methods=["none", yaml.safe_load(f"{{{span}}}") if colon else key]))
    elif span.startswith("["):
        load(write(tmp_path, methods=["none", yaml.safe_load(span)]))
    elif span in ARCHITECTURES or span in THEIRS:
        return
    elif colon and not key.startswith("pairs.0.student.encoder_weights"):
        whole = "precision" not in key
        load(write(tmp_path), [f"{key}={value}", *(() if whole else ("resources.gpus_per_worker=1",))], here=False)
    else:
        assert key in PATHS


def test_names_of_the_left_are_answered(tmp_path):
    """What a reader would carry over as it is."""
    for word in ("max_iters", "samples_per_gpu", "workers_per_gpu", "crop_size", "teacher_ckpt", "num_epochs"):
        assert nearest(word, ["name"], keys=True)


def test_it_is_linked():
    for page in ("docs/index.md", "mkdocs.yml"):
        assert "coming-from.md" in (ROOT / page).read_text()
