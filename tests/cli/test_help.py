"""`--help`: whole sentences in the order of use, at 80 columns; completion in the user's shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from harness.cli.app import app
from harness.cli.help import SECTIONS, summary
from tests.support.commands import call, refused

COMMAND = Path(sys.executable).with_name("sstkd-bench")


def every(command, words=()):
    """All commands and groups, by their words."""
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from every(below, (*words, name))


ROOT = typer.main.get_command(app)
EVERY = dict(every(ROOT))


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_nothing_is_cut_off(words):
    lines = call(*words, "--help").output.splitlines()
    assert [line for line in lines if line.rstrip().endswith("...") and not line.startswith("Usage: ")] == []
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_help_is_in_sentences(words):
    command = EVERY[words]
    paragraphs = [" ".join(text.split()) for text in command.help.split("\n\n")]
    assert [text for text in paragraphs if not text.endswith(".")] == []
    assert paragraphs[0][0].isupper() and summary(command.help).endswith(".")
    options = {option.name: option.help for option in command.params if getattr(option, "help", None)}
    assert {name: text for name, text in options.items() if not text.endswith(".")} == {}


def test_the_order_is_that_of_use():
    lines = call("--help").output.splitlines()
    named = [line.split()[0] for line in lines if line.startswith("  ") and line[2:3].isalpha()]
    order = [name for names in SECTIONS.values() for name in names]
    assert [name for name in named if name in order] == order
    assert sorted(order) == sorted(ROOT.commands), "a command without a section"
    assert [line[:-1] for line in lines if line[:-1] in SECTIONS] == list(SECTIONS)


@pytest.mark.parametrize(
    ("words", "meant"),
    [(["train"], "run"), (["tabels"], "tables"), (["results", "shwo"], "show"), (["validate"], "check")],
)
def test_an_unknown_command_is_answered(words, meant):
    assert f"No such command '{words[-1]}'. Did you mean '{meant}'?" in call(*words, code=2).stderr


def test_an_unknown_method_is_answered_by_its_meaning():
    assert "Did you mean 'cwd'? (with {feature: 50, logits: 0})" in refused("methods", "cwd-feature")


# --- Completion --------------------------------------------------------------------------------------------------------


def in_bash(home, text):
    """What bash prints; the shell is asked twice, so that it is there as the parent of the command."""
    variables = {**os.environ, "HOME": str(home), "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", f"{text}; true"], capture_output=True, text=True, check=False, env=variables)
    assert "Traceback" not in done.stderr
    return done.stdout


def test_completion_is_shown_and_writes_nothing(tmp_path):
    assert "complete -o default -F _sstkd_bench_completion sstkd-bench" in in_bash(
        tmp_path, "sstkd-bench --show-completion"
    )
    assert list(tmp_path.iterdir()) == []


def test_completion_is_installed_below_home_alone(tmp_path):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    (home / ".bashrc").write_text("# mine\n")
    assert "bash completion installed" in in_bash(home, f"cd {elsewhere}; sstkd-bench --install-completion")
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"home/.bashrc", "home/.bash_completions/sstkd-bench.sh"}
    assert (home / ".bashrc").read_text().startswith("# mine\n")
    asked = (
        "source ~/.bashrc; COMP_WORDS=(sstkd-bench {0}); COMP_CWORD={1}; _sstkd_bench_completion sstkd-bench; "
        'echo "${{COMPREPLY[@]}}"'
    )
    assert in_bash(home, asked.format("ta", 1)).split() == ["tables"]
    assert in_bash(home, asked.format("results pu", 2)).split() == ["pull"]
    assert "--from-search" in in_bash(home, asked.format("run --fr", 2))
