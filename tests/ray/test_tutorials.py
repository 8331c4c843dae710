"""The tutorials, word for word: their files are written, their commands run by a shell, in the order of the page.

Settings are shorter than a reader's: `check` and `run` get a few steps more of `--set`. Nothing is installed, and
`ray stop`, which ends what is everybody's, ends here the processes of this home alone.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.results import store

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
SHORT = ("train.steps=4", "train.eval_every=4", "pairs.0.teacher.steps=4")
SHORT += tuple(f"data.parameters.{split}={count}" for split, count in (("train", 16), ("dev", 4), ("val", 4)))
COMMAND = """#!/bin/sh
case "$1" in
  check | run) exec {python} -m harness.cli "$@" {short} ;;
esac
exec {python} -m harness.cli "$@"
"""
RAY = """#!/bin/sh
if [ "$1" = stop ]; then exec touch "$HOME/stopped"; fi
exec {python} -m ray.scripts.scripts "$@"
"""


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder and a home of its own below a short path (Ray's sockets); what is left of it is ended."""
    home = Path("/tmp") / f"tut{os.getpid()}"
    for name in ("bin", "folder", "tmp"):
        (home / name).mkdir(parents=True)
    short = " ".join(f"--set {each}" for each in SHORT)
    scripts = {
        "sstkd-bench": COMMAND,
        "ray": RAY,
        "pip": "#!/bin/sh\nexit 0\n",
        "python": '#!/bin/sh\nexec {python} "$@"\n',
    }
    for name, text in scripts.items():
        (home / "bin" / name).write_text(text.replace("{python}", sys.executable).replace("{short}", short))
        (home / "bin" / name).chmod(0o755)
    yield home
    for pid in of_home(home):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(home, ignore_errors=True)


def of_home(home: Path) -> Iterator[int]:
    """Processes whose home is this one."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"HOME={home}\0".encode() in path.read_bytes():
                yield int(path.parent.name)


def files(page: str) -> dict[str, str]:
    """The page's files, by the name in their first line."""
    found = re.findall(r"^```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)^```", page, re.S | re.M)
    return dict(found)


def follow(home: Path, name: str, *more: str) -> str:
    """Do what a page says, and give what its commands print."""
    page = (ROOT / "docs" / name).read_text()
    for file, text in files(page).items():
        (home / "folder" / file).write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    script = "\n".join(["set -eu", *re.findall(r"^```sh\n(.*?)^```", page, re.S | re.M), *more]).replace("6390", port)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH"))}
    given = {"HOME": str(home), "PATH": f"{home / 'bin'}:{kept['PATH']}", "OMP_NUM_THREADS": "1"}
    given |= {"RAY_TMPDIR": str(home / "tmp"), "PYTHONPATH": "", "SSTKD_BENCH_CACHE": str(home / "cache")}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=home / "folder",
        env=kept | given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_first_comparison_then_two_nodes_then_its_rows(reader: Path) -> None:
    said = follow(reader, "first-comparison.md")
    rows = store.read_rows(reader / "folder" / "results" / "first", ["method", "seed", "status"]).to_pylist()
    assert {row["status"] for row in rows} == {"ok"} and {row["seed"] for row in rows} == {0, 1, 2, 3, 4}
    assert (reader / "folder" / "results" / "first" / "report.html").is_file() and "none at equal seconds" in said
    scripts = files((ROOT / "docs" / "how-to.md").read_text())
    said = follow(reader, "how-to.md", *(f"python {name}" for name in scripts))
    assert len(scripts) == 3 and said.count("cwd") == 3, said
    shutil.rmtree(reader / "folder" / "results")
    said = follow(reader, "two-nodes.md")
    assert "connecting to Ray at 127.0.0.1" in said and (reader / "stopped").is_file()
    assert "9/9 runs" in said, said


@pytest.mark.parametrize(
    ("page", "method"), [("your-network.md", "sstkd"), ("add-a-distiller.md", "logit_margin:LogitMargin")]
)
def test_a_network_and_a_method_of_ones_own(reader: Path, page: str, method: str) -> None:
    follow(reader, page)
    (folder,) = (reader / "folder" / "results").iterdir()
    rows = store.read_rows(folder, ["method", "status"]).to_pylist()
    assert {"ok": method} in [{row["status"]: row["method"]} for row in rows], rows
