"""A row is a result of what it was made from: other data, another teacher or other source files are found by every command."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import harness
from harness.execution import launcher
from harness.experiment.load import load
from harness.results import paths, store
from tests.support import tiny

pytestmark = pytest.mark.torch
ROOT = Path(__file__).parents[1]

MINE = """
from beside import WEIGHT
from helpers.ops import SCALE
from harness import Distiller, Pair, View

class Mine(Distiller):
    def __init__(self, pair: Pair) -> None:
        super().__init__()

    def forward(self, view: View):
        return {"mine": WEIGHT * SCALE * (view.student.full - view.taught().full).square().mean()}
"""
CHANGED = "rows are not of today's content"


def write_data(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / f"images/{i}.png")
        Image.fromarray(rng.integers(0, 3, (64, 64), dtype=np.uint8)).save(root / f"masks/{i}.png")
    (root / "classes.yaml").write_text("classes: [{name: a, value: 0}, {name: b, value: 1}, {name: c, value: 2}]\n")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, an experiment file, the modules of a method, and the rows of all runs."""
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder / "data")
    (folder / "mine.py").write_text(MINE)
    (folder / "beside.py").write_text("WEIGHT = 0.1\n")
    (folder / "helpers").mkdir()
    (folder / "helpers/ops.py").write_text("SCALE = 1.0\n")
    (folder / "helpers/template.py").write_text("{{ no Python }}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        bench = of(folder)
        for run in bench.runs():
            assert tiny.in_process(run, bench.directory) == "ok"
    return folder


def of(folder: Path, *overrides: str) -> harness.Bench:
    data = {"name": "folder", "root": str(folder / "data")}
    train = {**tiny.TINY["train"], "steps": 2, "eval_every": 2, "schedule": {"warmup_steps": 1}}
    file = tiny.write(folder, data=data, train=train, methods=["none", "kd", "mine:Mine"])
    return harness.Bench(load(file, overrides), folder / "results", file)


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in a folder of this test; training there is an error."""
    folder = tmp_path / "here"
    copytree(trained, folder)
    monkeypatch.syspath_prepend(folder)
    for name in ("mine", "beside", "helpers", "helpers.ops"):  # imported from the other folder
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(launcher, "run_all", lambda *_: pytest.fail("training began"))
    return folder


def change_a_pixel(folder: Path) -> None:
    path = folder / "data/masks/3.png"
    mask = np.asarray(Image.open(path)).copy()
    mask[0, 0] = (mask[0, 0] + 1) % 3
    Image.fromarray(mask).save(path)


def change_a_byte_of_the_method(folder: Path) -> None:
    (folder / "mine.py").write_text(MINE + "#")


def change_a_byte_beside_it(folder: Path) -> None:
    (folder / "beside.py").write_text("WEIGHT = 0.2\n")


def change_a_byte_of_a_package_beside_it(folder: Path) -> None:
    (folder / "helpers/ops.py").write_text("SCALE = 2.0\n")


def change_a_weight_of_the_teacher(folder: Path) -> None:
    bench = of(folder)
    path = paths.weights_path(bench.directory, bench.runs()[0].run_id)
    state = load_file(path)
    next(value for value in state.values() if value.dtype == np.float32).flat[0] += 1e-3
    save_file(state, path)


CHANGES: dict[Callable[[Path], None], int] = {
    change_a_pixel: 4,
    change_a_byte_of_the_method: 1,
    change_a_byte_beside_it: 1,
    change_a_byte_of_a_package_beside_it: 1,
    change_a_weight_of_the_teacher: 1,
}
"""What is changed, and how many of the four rows are stale then."""


def test_without_a_change_everything_is_reused(here: Path) -> None:
    bench = of(here)
    assert set(bench.run().values()) == {"ok"} and bench.pending() == []
    assert {x.code for x in bench.standings().values()} == {"today's"}
    assert "today" not in bench.table().to_markdown()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_makes_run_refuse(here: Path, change: Callable[[Path], None]) -> None:
    change(here)
    bench = of(here)
    with pytest.raises(ValueError, match=rf"{CHANGES[change]} of 4 {CHANGED}(.|\n)*--rerun-changed") as error:
        bench.run()
    assert str(error.value).count(" in the row, ") == CHANGES[change]


def test_other_data_is_in_no_table_and_nothing_learns_from_it(here: Path) -> None:
    before = of(here).table()
    change_a_pixel(here)
    bench = of(here)
    assert set(bench.states().values()) == {"stale"} and bench.pending() == []
    for looked_at in (
        bench.table,
        bench.write_report,
        lambda: bench.rows(["run_id"]),
        lambda: harness.compare([bench]),
    ):
        with pytest.raises(ValueError, match=CHANGED):
            looked_at()
    (block,) = bench.table(keep_stale=True).blocks
    assert block.pair == "tiny (stale)" and block.methods == before.blocks[0].methods
    assert any("not of today's content: data" in text for text in block.caveats)
    bench.write_report(keep_stale=True)
    assert "(stale)" in (bench.directory / "report.html").read_text()
    for run in bench.runs()[1:]:
        paths.run_path(bench.directory, run.run_id).unlink()
    with pytest.raises(ValueError, match=rf"1 of 1 {CHANGED}(.|\n)*teacher, tiny, seed 0"):
        bench.run()
    more = of(here, "methods=[none, kd, cwd]")
    with pytest.raises(ValueError, match=CHANGED):
        more.run()


def test_a_run_refuses_a_teacher_of_other_data(here: Path) -> None:
    """Where data is on the workers' machines only, they look."""
    bench = of(here)
    run = bench.runs()[2]
    paths.run_path(bench.directory, run.run_id).unlink()
    change_a_pixel(here)
    assert tiny.in_process(run, bench.directory) == "failed"
    message = store.read_run(bench.directory, run.run_id)["message"]
    assert f"1 of 1 {CHANGED}" in message and "(teacher, tiny, seed 0): data " in message


def test_what_was_made_from_other_data_is_made_anew_on_request(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_a_byte_beside_it(here)
    bench, again = of(here), list[str]()

    def run_all(runs: Any, resources: Any, directory: Path, on_update: Any, retry_failed: bool, judge: Any) -> None:
        again.extend(run for run, state in judge(directory, [run.run_id for run in runs]).items() if state == "waiting")

    monkeypatch.setattr(launcher, "run_all", run_all)
    bench.run(rerun_changed=True)
    assert again == [bench.runs()[3].run_id]
    (replaced,) = (bench.directory / "replaced").iterdir()
    assert store.read_rows(replaced, ["method"]).to_pylist() == [{"method": "mine:Mine"}]
    assert len(list((replaced / "weights").iterdir())) == 1


def test_files_where_nobody_looks_are_noted_and_change_nothing(here: Path) -> None:
    """By `check`, before anything is trained."""
    of(here)
    (here / "data/images/more").mkdir()
    (here / "data/images/more/11.png").write_bytes((here / "data/images/1.png").read_bytes())
    done = command(ROOT, "check", here / "tiny.yaml", "--no-measure", "--results", here / "results", at=here)
    assert done.returncode == 0, done.stderr
    assert "note: images/more: 1 files are not used (images/more/11.png)" in done.stdout
    assert set(of(here).states().values()) == {"ok"}


def test_without_the_data_rows_are_shown_and_it_is_said(here: Path) -> None:
    of(here)
    (here / "data").rename(here / "elsewhere")
    done = command(ROOT, "tables", here / "tiny.yaml", "--results", here / "results", at=here)
    assert done.returncode == 0, done.stderr
    assert "the data was not looked at: it is not on this machine" in " ".join(done.stdout.split())


def test_one_character_of_a_loss_is_told(here: Path, tmp_path: Path) -> None:
    """Of a copy of the package, as after an upgrade."""
    copy = tmp_path / "copy"
    for name in ("harness", "sstkd"):
        copytree(ROOT / name, copy / name)
    loss = copy / "harness/distillers/kd.py"
    loss.write_text(loss.read_text() + "#")
    of(here)
    done = command(copy, "tables", here / "tiny.yaml", "--results", here / "results", at=here)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "1 row was made by other code than today's (harness/distillers/kd.py)" in said


def command(package: Path, *words: object, at: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": f"{package}:{at}", "PATH": "/usr/bin:/bin", "HOME": str(at), "COLUMNS": "200"}
    line = [sys.executable, "-m", "harness.cli", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=at, check=False)
