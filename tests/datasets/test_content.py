"""The content hash of an experiment's data: today's, cheaply, and in full."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from harness.datasets import DATASETS, content, index
from harness.experiment.spec import Dataset
from harness.files import cache_home
from tests.support import trees
from tests.support.caches import prepared


@pytest.fixture(autouse=True)
def _own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))


def data_of(root):
    return Dataset(name="folder", root=str(root))


def test_it_is_the_hash_of_the_loaded_data_and_remembered(tmp_path, monkeypatch):
    root = trees.write_folder(tmp_path / "own")
    first = content.content_hash(data_of(root))
    assert first == DATASETS["folder"](root).info.content_hash
    with monkeypatch.context() as only:
        only.setattr(content, "load", None)
        assert content.content_hash(data_of(root)) == first
    assert content.content_hash(data_of(root), full=True) == first
    texmosaic = Dataset(name="texmosaic", parameters={"size": 32, "train": 2, "dev": 1, "val": 1})
    made = content.content_hash(texmosaic)
    monkeypatch.setattr(content, "load", None)
    assert content.content_hash(texmosaic) == made


def changed(path):
    """One pixel is another one; the file keeps its size where it is a BMP."""
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0] = 7 if (pixels[0, 0] != 7).any() else 9
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("file", ["masks/train/train-1.png", "images/val/val-1.png"])
def test_one_pixel_changes_it(tmp_path, file):
    root = trees.write_folder(tmp_path / "own")
    first = content.content_hash(data_of(root))
    changed(root / file)
    assert content.content_hash(data_of(root)) != first


def test_added_removed_and_renamed_files_change_it(tmp_path):
    root = trees.write_folder(tmp_path / "own")
    hashes = [content.content_hash(data_of(root))]
    for step in (
        lambda: [
            (root / f"{kind}/train/train-7.png").rename(root / f"{kind}/train/new.png") for kind in ("images", "masks")
        ],
        lambda: [(root / f"{kind}/train/new.png").unlink() for kind in ("images", "masks")],
        lambda: (root / "classes.yaml").write_text(trees.CLASSES.replace("soil", "sand")),
    ):
        step()
        hashes.append(content.content_hash(data_of(root)))
    assert len(set(hashes)) == 4


def test_what_a_link_leads_to_counts(tmp_path):
    """As where files are kept by their digests in a hidden folder, and the folder of images is of links."""
    root = trees.write_folder(tmp_path / "own")
    (root / ".kept").mkdir()
    path = root / "masks/train/train-1.png"
    kept = path.rename(root / ".kept/one.png")
    path.symlink_to("../../.kept/one.png")
    first = content.content_hash(data_of(root))
    changed(kept)
    assert content.content_hash(data_of(root)) != first


def test_an_edit_that_leaves_no_trace_outside_the_file_is_found_in_full(tmp_path, monkeypatch):
    """Same size, time set back, and a file system without a time of change of its own."""
    root = trees.write_folder(tmp_path / "own")
    path = root / "masks/train/train-1.png"
    Image.open(path).save(path, compress_level=0)
    monkeypatch.setattr(index, "_stamp", lambda tree, sample: (1, 2, 3))
    monkeypatch.setattr(content, "_files", lambda root: [])
    first = content.content_hash(data_of(root))
    before, status = path.read_bytes(), path.stat()
    pixels = np.asarray(Image.open(path)).copy()
    pixels[5, 5] = 7 if pixels[5, 5] != 7 else 9
    Image.fromarray(pixels).save(path, compress_level=0)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == len(before) and path.read_bytes() != before
    assert content.content_hash(data_of(root)) == first
    second = content.content_hash(data_of(root), full=True)
    assert second != first and content.content_hash(data_of(root)) == second
    path.write_bytes(before)
    assert content.content_hash(data_of(root), full=True) == first


def test_a_prepared_cache_has_the_hash_of_its_folder(tmp_path):
    from harness.datasets import SOURCES

    root = trees.write_folder(tmp_path / "own")
    to = tmp_path / "cache"
    prepared(SOURCES["folder"](root), root, to, variant={"val_fraction": 0.2, "val_seed": 0})
    assert content.content_hash(data_of(to), full=True) == content.content_hash(data_of(root))
    (shard,) = (to / "shards").glob("val-*.arrow")
    whole = bytearray(shard.read_bytes())
    whole[len(whole) // 2] ^= 1
    shard.write_bytes(whole)
    with pytest.raises(ValueError, match=f"{shard.name}: its content changed"):
        content.content_hash(data_of(to), full=True)


def test_a_damaged_memory_is_made_anew(tmp_path):
    root = trees.write_folder(tmp_path / "own")
    first = content.content_hash(data_of(root))
    (file,) = (cache_home() / "content").iterdir()
    for text in ("", "[]", "{}", file.read_text().replace(first, "x"), file.read_text()[:40]):
        file.write_text(text)
        assert content.content_hash(data_of(root)) == first


def test_a_folder_that_is_not_here_is_named(tmp_path):
    for root in (None, str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match=r"data.root is missing|nowhere"):
            content.content_hash(Dataset(name="folder", root=root))


def test_it_is_known_without_torch():
    code = "import sys, harness.datasets.content; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
