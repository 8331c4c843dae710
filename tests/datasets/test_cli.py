"""`sstkd-bench data`: what it says of a dataset, and of a copy that is not whole."""

import os

import pytest

from harness.datasets import DATASETS, SOURCES
from tests.support import trees
from tests.support.caches import prepared
from tests.support.commands import call, refused


@pytest.fixture(autouse=True)
def _own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))


def test_all_datasets_in_a_line_each():
    lines = call("data", "info").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_one_dataset(name):
    text = call("data", "info", name).stdout
    if name in SOURCES:
        source = SOURCES[name](None)
        for words in (source.title, source.licence, source.obtain, source.layout, *source.class_names[:3]):
            assert words in text
    assert "parameters" in text
    assert "voc2012" in refused("data", "info", "voc2021")


@pytest.mark.parametrize("name", SOURCES)
def test_a_whole_copy(name, tmp_path):
    root = tmp_path / name
    root.mkdir()
    trees.WRITE[name](root)
    done = call("data", "check", name, "--root", root)
    assert "no problems found" in done.stdout
    train, val = trees.COUNTS[name]
    assert any(line.split()[:2] == ["train", str(train)] for line in done.stdout.splitlines())
    assert any(line.split()[:2] == ["val", str(val)] for line in done.stdout.splitlines())


def test_a_copy_that_is_not_whole(tmp_path):
    trees.write_camvid(tmp_path / "c", suffix=".jpg")
    images = sorted((tmp_path / "c/train").iterdir())
    labels = sorted((tmp_path / "c/trainannot").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:-200])  # cut short: its header is whole
    labels[1].unlink()
    labels[2].write_bytes(b"no picture")
    done = call("data", "check", "camvid", "--root", tmp_path / "c", code=1)
    wrong = [line for line in done.stderr.splitlines() if line.startswith("wrong: ")]
    assert len(wrong) == 3 and "3 problems" in done.stdout
    assert sum(images[0].name in line and "cut short" in line for line in wrong) == 1
    assert sum(labels[1].name in line and "is missing" in line for line in wrong) == 1
    assert sum(labels[2].name in line and "not a readable label map" in line for line in wrong) == 1


def test_a_damaged_cache(tmp_path):
    root = trees.write_camvid(tmp_path / "c") or tmp_path / "c"
    to = prepared(SOURCES["camvid"](None), tmp_path / "c", tmp_path / "to", variant={"evaluate": "val"})
    assert "a prepared cache, raw" in call("data", "check", "camvid", "--root", to).stdout
    (shard,) = (to / "shards").glob("val-00000-*.arrow")
    content = bytearray(shard.read_bytes())
    content[1000] ^= 255
    shard.write_bytes(content)
    assert f"{shard}: its content changed" in call("data", "check", "camvid", "--root", to, code=1).stderr
    os.truncate(shard, 10)
    assert "has 10 bytes instead of" in refused("data", "check", "camvid", "--root", to)
    assert "prepared for the dataset camvid" in refused("data", "check", "ade20k", "--root", to)
    assert root.is_dir()


def test_mistakes(tmp_path):
    assert "--root is missing" in refused("data", "check", "camvid")
    assert "no such folder" in refused("data", "check", "camvid", "--root", tmp_path / "x")
    assert "Did you mean 'dev_seed'?" in refused("data", "check", "camvid", "--root", tmp_path, "--set", "dev_sed=1")
    assert "not valid YAML" in refused("data", "check", "camvid", "--root", tmp_path, "--set", "dev_seed=[a")
    assert "short_side is 0" in refused(
        "data", "prepare", "camvid", "--root", tmp_path, "--to", tmp_path / "y", "--set", "short_side=0"
    )
    assert 'given "x"' in refused("data", "check", "camvid", "--root", tmp_path, "--set", "dev_seed=x")
    assert "Did you mean 'camvid'?" in refused("data", "check", "canvid")


def test_a_dataset_from_packages_is_made_and_counted():
    done = call(
        "data",
        "check",
        "texmosaic",
        "--set",
        "size=32",
        "--set",
        "regions=[3, 4]",
        "--set",
        "train=4",
        "--set",
        "dev=2",
        "--set",
        "val=2",
    )
    assert "no problems found" in done.stdout and "look-up table from a single pixel" in done.stdout
