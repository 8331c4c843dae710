"""Malformed input of `submit`, made by tables of variants: no cluster is asked, nothing is sent, the remedy is named."""

import os
from pathlib import Path

import pytest
import yaml

from tests.support import hostile, tiny

pytestmark = pytest.mark.slow

NAMES = [
    "",
    ".",
    "..",
    "../up",
    "a/b",
    "a b",
    "-x",
    "a\x1b[31m",
    "a\nb",
    "$(id)",
    "a;id",
    "x" * 300,
    7,
    None,
    ["a"],
    {},
]
ADDRESSES = [
    *("", "127.0.0.1:8265", "auto", "ray://127.0.0.1:10001", "file:///etc/passwd", "ftp://127.0.0.1", "http://"),
    *(
        "http://127.0.0.1:1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "http://[::1",
        "http://127.0.0.1:1/\x1b[31m",
    ),
]
RESULTS = ["", ".", "results", "../x", "~", "~other/x", "s3://bucket/x", "$HOME/x"]
VARIABLES = ["", "1A", "A B", "A-B", "A=word", "$(id)", "A\x1b[31m", "UNSET_ANYWHERE"]
WORD = "hunter2"
OVERRIDES = [
    f"data.parameters.password={WORD}",
    f"name={'AKIA' + 'ABCDEFGHIJKLMNOP'}",
    f"resources.storage=s3://k:{WORD}@b",
]
"""Assignments with a secret."""


@pytest.fixture(scope="module", autouse=True)
def imported():
    """Once, and not in every process that is forked."""

    import harness.cluster.job
    import harness.cluster.manifests
    import harness.report.console
    import harness.report.write  # noqa: F401


@pytest.fixture
def folder(tmp_path):
    """A project: the tiny experiment in it, and nothing else beside it that others change."""
    made = tmp_path / "project"
    made.mkdir()
    tiny.write(made)
    return made


def refused(folder, *arguments, words, codes=(2,)):
    ended = hostile.run(["submit", *arguments], folder)
    assert hostile.complaints(ended, words, codes) == [], ended.text
    assert "job gets" not in ended.text or "--address" in words, "all that can be known before is said before the list"
    return ended.text


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names(folder, name):
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**tiny.TINY, "name": name}))
    refused(folder, "tiny.yaml", words=["tiny.yaml", "name"])


@pytest.mark.parametrize("address", ADDRESSES, ids=repr)
def test_addresses(folder, address):
    refused(folder, "tiny.yaml", "--address", address, words=["--address"])


@pytest.mark.parametrize("place", RESULTS, ids=repr)
def test_results_folders(folder, place):
    refused(folder, "tiny.yaml", "--cluster-results", place, words=["--cluster-results"])


@pytest.mark.parametrize("name", VARIABLES, ids=repr)
def test_variables(folder, name):
    refused(folder, "tiny.yaml", "--env", name, "--address", "http://127.0.0.1:1", words=["--env"])


@pytest.mark.parametrize("override", OVERRIDES)
def test_overrides_with_secrets(folder, override):
    assert WORD not in refused(folder, "tiny.yaml", "--set", override, words=["--set:1: looks like"])


def a_fifo(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def a_loop(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")


def a_secret(folder: Path) -> None:
    (folder / "settings.yaml").write_text(f"a: 1\npassword: {WORD}\n")


def many_secrets(folder: Path) -> None:
    (folder / "settings.yaml").write_text(f"password: {WORD}\n" * 20_000)


def a_name_that_is_not_utf8(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe"))).touch()


def a_large_file(folder: Path) -> None:
    with (folder / "movie.bin").open("wb") as file:
        file.truncate(2**41)


def a_secret_in_a_strange_name(folder: Path) -> None:
    (folder / "a\x1b[31m\n.txt").write_text(f"pwd: {WORD}\n")


def a_broken_checkout(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/x\n")
    (folder / ".git" / "config").write_text("[core\n")
    for name in ("objects", "refs"):
        (folder / ".git" / name).mkdir()


PACKAGES = {
    a_secret: ["settings.yaml:2", "--exclude"],
    many_secrets: ["settings.yaml:1", "--exclude", "and 19995 more"],
    a_name_that_is_not_utf8: ["not UTF-8", "--exclude"],
    a_large_file: ["movie.bin", "--exclude"],
    a_secret_in_a_strange_name: [r"a\x1b[31m\n.txt:1", "--exclude"],
    a_broken_checkout: ["git"],
}


@pytest.mark.parametrize("spoil", PACKAGES, ids=lambda spoil: spoil.__name__)
def test_packages(folder, spoil):
    spoil(folder)
    refused(folder, "tiny.yaml", "--list-files", words=PACKAGES[spoil])


@pytest.mark.parametrize("spoil", [a_fifo, a_loop], ids=lambda spoil: spoil.__name__)
def test_packages_without_what_is_no_file(folder, spoil):
    spoil(folder)
    ended = hostile.run(["submit", "tiny.yaml", "--list-files"], folder)
    assert hostile.complaints(ended, ["1 files", "tiny.yaml"], codes=[0]) == [], ended.text


FILES = {
    "empty.yaml": lambda text: b"",
    "binary.yaml": lambda text: bytes(range(256)),
    "list.yaml": lambda text: b"[1, 2]",
    "latin.yaml": lambda text: text.replace("tiny", "t\u00e4ny").encode("latin-1"),
    "secret.yaml": lambda text: f"{text}# password: {WORD}\n".encode(),
    "key.yaml": lambda text: f"{text}# {'AKIA' + 'ABCDEFGHIJKLMNOP'}\n".encode(),
    "jwt.yaml": lambda text: f"{text}# {'.'.join(['eyJ' + 'a1' * 9, 'eyJ' + 'b2' * 9, 'c3' * 9])}\n".encode(),
}


@pytest.mark.parametrize("name", [*FILES, "absent.yaml", "folder.yaml"])
def test_job_files(folder, name):
    if name == "folder.yaml":
        (folder / name).mkdir()
    elif name in FILES:
        (folder / name).write_bytes(FILES[name]((folder / "tiny.yaml").read_text()))
    assert WORD not in refused(folder, name, words=[name])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ([], "name the experiment file"),
        (["--manifest", "slurm", "tiny.yaml", "--list-files"], "--list-files"),
        (["--manifest", "slurm", "tiny.yaml", "--include", "x"], "--include"),
        (["--manifest", "slurm", "tiny.yaml", "--stop", "x"], "--stop"),
        (["--manifest", "pbs", "tiny.yaml"], "--manifest"),
        (["--manifest", "kuberay", "tiny.yaml", "--nodes", "0"], "--nodes"),
        (["--manifest", "kuberay", "tiny.yaml", "--memory", "-1"], "--memory"),
        (["--manifest", "kuberay", "tiny.yaml", "--nodes", "x"], "--nodes"),
        (["--manifest", "slurm", "tiny.yaml", "--cluster-results", "s3://b/x"], "--cluster-results"),
        (["--manifest", "slurm", "tiny.yaml", "--output", "no/folder/job.sh"], "no/folder/job.sh"),
        (["tiny.yaml", "--image", "x"], "--image"),
        (["--stop", "x", "--address", "http://127.0.0.1:1"], "--address"),
    ],
)
def test_options(folder, options, word):
    refused(folder, *options, words=[word], codes=(1, 2))
