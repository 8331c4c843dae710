"""`data check`, `check` and `run` say the same of a folder, word for word: they ask one function."""

import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import harness
from harness.cli.app import app
from harness.datasets import SOURCES
from harness.execution import launcher
from harness.experiment.load import load
from harness.training.build import _load_data
from tests.support import tiny, trees
from tests.support.caches import prepared

SETS = ["train.augment={crop_hw: [32, 32]}", "methods=[none]"]


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    def run_all(*_):
        raise AssertionError("something was launched")

    monkeypatch.setattr(launcher, "run_all", run_all)
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))
    _load_data.cache_clear()


def ignored(root, names):
    for name in names:
        trees.save(root / f"masks/{name}.png", np.full(trees.SIZE, 255, np.uint8))


def all_of(root, split):
    return [f"{split}/{path.stem}" for path in (root / f"masks/{split}").iterdir()]


def one_labelled(root):
    ignored(root, all_of(root, "train")[1:])


def image(root, name):
    (found,) = (root / "images").glob(f"{name}.*")
    return found


def spoilt(root):
    image(root, "val/val-1").write_bytes(image(root, "val/val-1").read_bytes()[:300])
    (root / "masks/train/train-2.png").unlink()
    trees.save(root / "masks/train/train-3.png", np.full(trees.SIZE, 77, np.uint8))


def few(root):
    for name in all_of(root, "train")[1:]:
        (root / f"masks/{name}.png").unlink()
        image(root, name).unlink()


def emptied(root):
    for kind in ("images", "masks"):
        for path in (root / f"{kind}/val").iterdir():
            path.unlink()


def none(root):
    shutil.rmtree(root / "masks")


def many(root):
    for n in range(30):
        shutil.copy(image(root, "train/train-1"), root / f"images/train/more-{n}.png")


def escape(root):
    shutil.copy(image(root, "train/train-1"), root / "images/train/\x07.png")


def no_classes(root):
    (root / "classes.yaml").unlink()


def out(root):
    image(root, "val/val-1").unlink()
    (root / "images/val/val-1.png").symlink_to("/etc/passwd")


FOLDERS = (spoilt, few, emptied, none, many, escape, no_classes, out, one_labelled)
FOLDERS += tuple(lambda root, split=split: ignored(root, all_of(root, split)) for split in ("train", "val"))


def said(*arguments):
    """The errors of a command, without what stands before them, and its exit code."""
    done = CliRunner().invoke(app, [str(word) for word in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    text = done.stderr.replace(":\n    sstkd-bench", ": sstkd-bench")  # a command is alone on its line
    lines = [line.removeprefix("error: ").removeprefix("wrong: ") for line in text.splitlines()]
    return [line for line in lines if line], done.exit_code


def three(folder, root, parameters=()):
    """What `data check`, `check` and `run` say."""
    file, results = tiny.write(folder, data={"name": "folder", "root": str(root)}), folder / "results"
    sets = [word for text in (*SETS, *(f"data.parameters.{p}" for p in parameters)) for word in ("--set", text)]
    given = [word for text in parameters for word in ("--set", text)]
    checked = said("data", "check", "folder", "--root", root, *given)
    before = said("check", file, "--no-measure", "--results", results, *sets)
    try:
        harness.Bench(load(file, sets[1::2]), results, file).run()
        ran = []
    except ValueError as error:
        ran = str(error).splitlines()
    except AssertionError as error:
        ran = [] if "something was launched" in str(error) else [str(error)]
    return checked, before, ran


@pytest.mark.parametrize("spoil", FOLDERS, ids=lambda f: f.__name__)
def test_a_folder_that_one_refuses_all_refuse(tmp_path, spoil):
    root = trees.write_folder(tmp_path / "own")
    spoil(root)
    (checked, code), (before, code_before), ran = three(tmp_path, root)
    assert before == ran and code_before == 2 and code in (1, 2) and before
    if more := [line for line in before if line.startswith("... and ")]:
        before, checked = before[:-1], checked[: len(before) - 1]
        assert "more: sstkd-bench data check folder --root" in more[0]
    assert before == checked


def test_a_good_folder_is_good_for_all(tmp_path):
    root = trees.write_folder(tmp_path / "own")
    assert three(tmp_path, root) == (([], 0), ([], 0), [])


PARAMETERS = (["dev_seed=-1"], ["dev_fraction=2"], ["short_side=0"])


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_a_parameter_that_one_refuses_all_refuse(tmp_path, parameters):
    (checked, code), (before, _), ran = three(tmp_path, trees.write_folder(tmp_path / "own"), parameters)
    assert checked == before == ran and code == 2


def damaged(to):
    (shard,) = (to / "shards").glob("val-00000-*.arrow")
    content = bytearray(shard.read_bytes())
    content[1000] ^= 255
    shard.write_bytes(content)


def shorter(to):
    (shard,) = (to / "shards").glob("val-00000-*.arrow")
    shard.write_bytes(shard.read_bytes()[:-8])


CACHES = {
    "damaged": (damaged, []),
    "shorter": (shorter, []),
    "index": (lambda to: (to / "index.parquet").write_bytes(b"no"), []),
    "manifest": (lambda to: (to / "manifest.json").write_text("{}"), []),
    "other parameters": (lambda to: None, ["val_seed=3"]),
    "other size": (lambda to: None, ["short_side=48"]),
}


@pytest.mark.parametrize("name", CACHES)
def test_a_cache_that_one_refuses_all_refuse(tmp_path, name):
    spoil, parameters = CACHES[name]
    root = trees.write_folder(tmp_path / "own")
    variant = {"val_fraction": 0.2, "val_seed": 0}
    to = prepared(SOURCES["folder"](root), root, tmp_path / "to", variant=variant, short_side=64)
    assert three(tmp_path, to, ["short_side=64"]) == (([], 0), ([], 0), [])
    _load_data.cache_clear()
    spoil(to)
    (checked, code), (before, _), ran = three(tmp_path, to, parameters or ["short_side=64"])
    assert before and checked == before == ran and code in (1, 2)


def test_what_is_left_out_is_noted_by_all(tmp_path):
    root = trees.write_folder(tmp_path / "own")
    shutil.copy(image(root, "train/train-1"), root / "images/loose.png")
    note = "note: images: 1 files are not used (images/loose.png)"
    file = tmp_path / "tiny.yaml"
    assert three(tmp_path, root) == (([], 0), ([], 0), [])
    sets = [word for text in SETS for word in ("--set", text)]
    for command in (
        ["data", "check", "folder", "--root", root],
        ["check", file, "--no-measure", *sets],
        ["run", file, *sets],
    ):
        results = [] if command[0] == "data" else ["--results", tmp_path / "results"]
        done = CliRunner().invoke(app, [str(word) for word in (*command, *results)])
        assert note in done.stdout, (command, done.output)
