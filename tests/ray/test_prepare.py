"""`data prepare` through Ray: complete, resumable, and clear about what is wrong. Marker `ray`."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from harness.datasets import DATASETS, cache, filedata
from harness.execution import prepare_data as module
from harness.execution.prepare_data import PAIRS, prepare
from tests.support import cluster, trees
from tests.support.commands import call, refused
from tests.support.toydata import TOY, write

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_ray"), *cluster.QUIET]
COUNT = 2 * PAIRS + 5


@pytest.fixture(autouse=True)
def _own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))


def shards(to):
    """The whole ones: their descriptions are written last."""
    found = (path.with_suffix(".arrow") for path in (to / "shards").glob("*.json"))
    return {path.name: path.stat().st_mtime_ns for path in found}


def same(root, to):
    direct, cached = (filedata.load(TOY, place, {}, 0.3, 0, None) for place in (root, to))
    assert direct.info == cached.info and direct.train.names == cached.train.names
    for i in (0, len(direct.train) - 1):
        np.testing.assert_array_equal(direct.train[i][0], cached.train[i][0])


def test_only_what_changed_is_made_again(tmp_path):
    root, to, seen = write(tmp_path / "toy", train=COUNT), tmp_path / "cache", []
    manifest = prepare(TOY, root, to, {}, on_progress=lambda done, total: seen.append((done, total)))
    assert [shard.rows for shard in manifest.shards] == [PAIRS, PAIRS, 5, 3]
    assert seen[0] == (0, COUNT + 3) and seen[-1] == (COUNT + 3, COUNT + 3)
    same(root, to)
    before = shards(to)
    assert prepare(TOY, root, to, {}) == manifest and shards(to) == before
    # A changed file, a cut shard: theirs are made again, the others stand.
    Image.fromarray(np.zeros((24, 36, 3), np.uint8)).save(root / "images/val/x_000.png")
    (cut,) = (to / "shards").glob("train-00001-*.arrow")
    os.truncate(cut, 50)
    assert not same_or_refused(root, to)
    prepare(TOY, root, to, {})
    after = shards(to)
    made = {name for name in after if after[name] != before.get(name)}
    assert len(after) == 4 and cut.name in made and len(made) == 2 and not made - {cut.name} & before.keys()
    same(root, to)
    # Fewer pairs: shards that nobody needs any more go.
    for path in [*root.glob("*/train/*")]:
        if int(path.stem[2:]) >= PAIRS:
            path.unlink()
    assert len(prepare(TOY, root, to, {}).shards) == len(shards(to)) == 2
    same(root, to)


def same_or_refused(root, to):
    try:
        same(root, to)
    except (ValueError, AssertionError):
        return False
    return True


def test_wrong_files_are_named_and_nothing_is_lost(tmp_path):
    root, to = write(tmp_path / "toy", train=COUNT), tmp_path / "cache"
    good = (root / "labels/train/x_000.png").read_bytes()
    (root / "labels/train/x_000.png").write_bytes(b"x")
    (root / "images/val/y_001.png").write_bytes(b"y")
    with pytest.raises(ValueError, match=r"y_001.png: not a readable image") as error:
        prepare(TOY, root, to, {})
    assert "x_000.png: not a readable label map" in str(error.value)
    assert not cache.is_cache(to) and {name[:11] for name in shards(to)} == {"train-00001", "train-00002"}
    kept = shards(to)
    (root / "labels/train/x_000.png").write_bytes(good)
    Image.fromarray(np.zeros((26, 36, 3), np.uint8)).save(root / "images/val/y_001.png")
    prepare(TOY, root, to, {})
    assert {name: shards(to)[name] for name in kept} == kept
    same(root, to)


def test_a_full_disk_is_said_and_whole_shards_are_kept(tmp_path, monkeypatch):
    """The third shard's worker finds no room; the files stand for a disk that fills up."""
    root, to = write(tmp_path / "toy", train=COUNT), tmp_path / "cache"
    real = module.make_shard

    def full(source, root, to, task, short_side, how):
        if "train-00002" in task.file:
            raise OSError(28, "No space left on device", str(to / task.file))
        return real(source, root, to, task, short_side, how)

    monkeypatch.setattr(module, "make_shard", full)
    with pytest.raises(OSError, match=r"No space left on device.*complete shards in .* are kept"):
        prepare(TOY, root, to, {})
    assert not cache.is_cache(to)
    kept = shards(to)
    monkeypatch.undo()
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))
    prepare(TOY, root, to, {})
    assert kept.items() <= shards(to).items()
    same(root, to)


def test_when_one_shard_fails_nobody_writes_on(tmp_path, monkeypatch):
    """The next command may hold the folder's lock at once, and sweep the half-written files of whoever was before."""
    to = tmp_path / "cache"

    def slow(source, root, to, task, short_side, how):
        begun = to / ".begun"
        if "train-00000" in task.file:
            while not begun.exists():
                time.sleep(0.05)
            raise OSError(28, "No space left on device", str(to / task.file))
        begun.write_text("")
        try:
            for _ in range(300):
                time.sleep(0.1)
        finally:
            begun.rename(to / ".ended")

    monkeypatch.setattr(module, "make_shard", slow)
    with pytest.raises(OSError, match="No space left"):
        prepare(TOY, write(tmp_path / "toy", train=COUNT), to, {})
    assert (to / ".ended").exists()


def test_a_worker_that_is_killed_is_replaced(tmp_path, monkeypatch):
    root, to, real = write(tmp_path / "toy", train=COUNT), tmp_path / "cache", module.make_shard

    def killed_once(source, root, to, task, short_side, how):
        mark = to / ".killed"
        if "train-00001" in task.file and not mark.exists():
            mark.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return real(source, root, to, task, short_side, how)

    monkeypatch.setattr(module, "make_shard", killed_once)
    prepare(TOY, root, to, {})
    assert (to / ".killed").exists()
    same(root, to)


def test_a_worker_that_is_killed_again_and_again_is_an_error_that_says_so(tmp_path, monkeypatch):
    def killed(source, root, to, task, short_side, how):
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(module, "make_shard", killed)
    with pytest.raises(OSError, match=r"a worker died repeatedly .*re-run the same command to resume"):
        prepare(TOY, write(tmp_path / "toy"), tmp_path / "cache", {})


def test_an_older_cache_stands_until_the_new_one_is_whole(tmp_path):
    """Wrong files, another variant, an interruption: what was a cache before is the same cache after."""
    root, to = write(tmp_path / "toy", train=COUNT), tmp_path / "cache"
    prepare(TOY, root, to, {})
    before, old = shards(to), filedata.load(TOY, to, {}, 0.3, 0, None)
    good = (root / "images/train/x_000.png").read_bytes()
    (root / "images/train/x_000.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="x_000"):
        prepare(TOY, root, to, {}, short_side=16)
    again = filedata.load(TOY, to, {}, 0.3, 0, None)
    assert before.items() <= shards(to).items() and again.info == old.info
    np.testing.assert_array_equal(again.val[0][1], old.val[0][1])
    (root / "images/train/x_000.png").write_bytes(good)
    (to / ".manifest.json.123-ab.tmp").write_bytes(b"left by a killed process")
    (to / "shards/.val-00000.arrow.abc.tmp").write_bytes(b"left by a killed worker")
    prepare(TOY, root, to, {}, short_side=16)
    assert len(shards(to)) == 4 and not before.keys() & shards(to).keys()
    assert min(filedata.load(TOY, to, {}, 0.3, 0, 16).val[0][0].shape[:2]) == 16
    assert not list((to / "shards").glob(".*.tmp"))


def test_one_at_a_time(tmp_path):
    root, to = write(tmp_path / "toy"), tmp_path / "cache"
    with module._alone(to), pytest.raises(ValueError, match="another `data prepare` is running there"):
        prepare(TOY, root, to, {})
    prepare(TOY, root, to, {})


def test_other_folders_are_left_alone(tmp_path):
    root = write(tmp_path / "toy")
    with pytest.raises(ValueError, match="contains other files"):
        prepare(TOY, root, root, {})
    to = tmp_path / "cache"
    prepare(TOY, root, to, {})
    with pytest.raises(ValueError, match="is already a prepared cache"):
        prepare(TOY, to, tmp_path / "again", {})
    with pytest.raises(ValueError, match="is a cache of toy"):
        prepare(replace(TOY, name="other"), root, to, {})


def test_the_command_interrupted_and_called_again(tmp_path):
    root = tmp_path / "camvid"
    trees.write_camvid(root, train=COUNT)
    command = [
        sys.executable,
        "-m",
        "harness.cli",
        "data",
        "prepare",
        "camvid",
        "--root",
        root,
        "--to",
        tmp_path / "to",
    ]
    process = subprocess.Popen(
        [str(word) for word in command],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    limit = time.monotonic() + cluster.PATIENCE
    while not list((tmp_path / "to" / "shards").glob("*.json")) and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=cluster.PATIENCE)[1]
    # On a fast machine it may have been done already.
    stopped = process.returncode == 130 and "re-run the same command to resume" in said
    assert stopped or process.returncode == 0, said
    kept = shards(tmp_path / "to")
    done = call(*command[3:])
    assert f"{COUNT + 3} pairs" in done.stdout and "raw" in done.stdout
    assert kept.items() <= shards(tmp_path / "to").items()
    assert DATASETS["camvid"](tmp_path / "to").info == DATASETS["camvid"](root).info
    assert "no problems found" in call("data", "check", "camvid", "--root", tmp_path / "to").stdout
    small = tmp_path / "small"
    call("data", "prepare", "camvid", "--root", root, "--to", small, "--format", "encoded", "--set", "short_side=40")
    assert json.loads((small / "manifest.json").read_text())["short_side"] == 40
    assert "no files of its own" in refused("data", "prepare", "texmosaic", "--root", root, "--to", tmp_path / "x")
