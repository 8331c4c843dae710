"""Datasets in files: the index, the dev split, the prepared cache, and that both ways of reading give the same bytes."""

import hashlib
import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps

from harness.datasets import cache, filedata, index
from harness.datasets.source import IGNORE, table
from harness.datasets.tree import Tree
from tests.support import caches
from tests.support.toydata import TOY, write


@pytest.fixture(autouse=True)
def _own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))


def load(root, short_side=None, source=TOY, fraction=0.3, seed=0, **variant):
    return filedata.load(source, root, variant, fraction, seed, short_side)


def shard(cached, split="val"):
    (found,) = (cached / "shards").glob(f"{split}-00000-*.arrow")
    return found


def escape(cached):
    """Let the manifest name a file outside the cache."""
    text = (cached / "manifest.json").read_text()
    (cached / "manifest.json").write_text(text.replace('"shards/val-', '"shards/../../val-'))


def every_pair(data):
    return [getattr(data, part)[i] for part in ("train", "dev", "val") for i in range(len(getattr(data, part)))]


def prepared(tmp_path, root, how="raw", short_side=None):
    return caches.prepared(TOY, root, tmp_path / f"cache-{how}-{short_side}", how, short_side)


def test_pairs_are_the_files(tmp_path):
    root = write(tmp_path / "toy")
    data = load(root)
    assert (len(data.train), len(data.dev), len(data.val)) == (6, 3, 3)
    assert not set(data.train.names) & set(data.dev.names)
    image, label = data.val[1]
    name = data.val.names[1]
    np.testing.assert_array_equal(image, np.asarray(Image.open(root / f"images/val/{name}.png")))
    raw = np.asarray(Image.open(root / f"labels/val/{name}.png"))
    want = np.select([raw == 10, raw == 20, raw == 30], [0, 1, 2], IGNORE)
    np.testing.assert_array_equal(label, want)
    assert image.dtype == label.dtype == np.uint8
    with pytest.raises(IndexError):
        data.val[3]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("how", ["raw", "encoded"])
@pytest.mark.parametrize("short_side", [None, 16])
def test_the_cache_gives_the_same_samples_bit_for_bit(tmp_path, how, short_side, suffix):
    root = write(tmp_path / "toy", suffix=suffix)
    direct, cached = load(root, short_side), load(prepared(tmp_path, root, how, short_side), short_side)
    assert direct.info == cached.info
    for (a, b), (c, d) in zip(every_pair(direct), every_pair(cached), strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
        if short_side:
            assert min(a.shape[:2]) == short_side


def test_a_full_size_cache_serves_a_smaller_side_but_not_the_other_way_round(tmp_path):
    root = write(tmp_path / "toy")
    full = prepared(tmp_path, root)
    for (a, b), (c, d) in zip(every_pair(load(root, 16)), every_pair(load(full, 16)), strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    small = prepared(tmp_path, root, short_side=16)
    with pytest.raises(ValueError, match="short_side 16, the run asks for None"):
        load(small)


def test_raw_pairs_are_views_of_the_mapped_file(tmp_path):
    image, _ = load(prepared(tmp_path, write(tmp_path / "toy"))).train[0]
    assert not image.flags.owndata and not image.flags.writeable


@pytest.mark.parametrize("cached", [True, False])
def test_splits_survive_pickling(tmp_path, cached):
    root = write(tmp_path / "toy")
    data = load(prepared(tmp_path, root) if cached else root)
    again = pickle.loads(pickle.dumps(data.train))  # how a spawned loader worker gets it
    np.testing.assert_array_equal(again[0][0], data.train[0][0])


def test_the_content_hash_follows_content_splits_and_size_only(tmp_path):
    root = write(tmp_path / "toy")
    first = load(root).info.content_hash
    os.utime(root / "images/train/x_000.png")
    assert load(root).info.content_hash == first
    moved = root.rename(tmp_path / "elsewhere")
    assert load(moved).info.content_hash == first
    others = {load(moved, 16).info.content_hash, load(moved, seed=1).info.content_hash, first}
    assert len(others) == 3
    path = moved / "labels/val/x_000.png"
    values = np.asarray(Image.open(path)).copy()
    values[0, 0] = 10 if values[0, 0] != 10 else 20
    Image.fromarray(values).save(path)
    assert load(moved).info.content_hash not in others
    recoded = replace(TOY, tables={"ids": table({10: 1, 20: 0, 30: 2, 0: 255})})
    assert load(moved, source=recoded).info.content_hash != load(moved).info.content_hash


def test_unchanged_files_are_not_read_again(tmp_path, monkeypatch):
    root = write(tmp_path / "toy")
    load(root)
    seen = []
    real = index.examine
    monkeypatch.setattr(index, "examine", lambda *a: seen.append(a[2].name) or real(*a))
    load(root)
    assert seen == []
    Image.fromarray(np.zeros((24, 36, 3), np.uint8)).save(root / "images/train/x_000.png")
    load(root)
    assert seen == ["x_000"]


def test_a_memory_that_is_torn_is_made_anew(tmp_path):
    root = write(tmp_path / "toy")
    first = load(root).info
    (file,) = (tmp_path / "remembered/index").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert load(root).info == first


def test_a_memory_that_cannot_be_written_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "blocked"))
    load(write(tmp_path / "toy"))
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "labels/train/x_000.png").unlink(), r"images/train/x_000.png: its label map labels/train"),
        (lambda r: (r / "images/train/x_000.png").write_bytes(b"GIF"), r"images/train/x_000.png: not a readable image"),
        (lambda r: (r / "labels/val/y_001.png").write_bytes(b""), r"labels/val/y_001.png: not a readable label map"),
        (
            lambda r: Image.fromarray(np.full((24, 36), 7, np.uint8)).save(r / "labels/train/x_000.png"),
            r"label values 7 \(864 pixels\) are not allowed; allowed: 0, 10, 20, 30",
        ),
        (
            lambda r: Image.fromarray(np.zeros((24, 36, 3), np.uint8)).save(r / "labels/train/x_000.png"),
            r"labels/train/x_000.png: a label map has one channel of 8 bits.*has 3 channels",
        ),
        (
            lambda r: Image.fromarray(np.zeros((24, 36), np.uint16)).save(r / "labels/train/x_000.png"),
            r"labels/train/x_000.png: a label map has one channel of 8 bits.*with 16 bits",
        ),
        (
            lambda r: Image.fromarray(np.full((9, 9), 10, np.uint8)).save(r / "labels/train/x_000.png"),
            r"x_000.png: 36x24 pixels, its label map 9x9",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, damage, message):
    root = write(tmp_path / "toy")
    damage(root)
    with pytest.raises(ValueError, match=message):
        load(root)


def test_many_problems_are_counted(tmp_path):
    root = write(tmp_path / "toy", train=30)
    for path in (root / "labels/train").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"\.\.\. and 10 more: sstkd-bench data check toy --root") as error:
        load(root)
    assert len(str(error.value).splitlines()) == 21


def test_a_truncated_jpeg_is_named(tmp_path):
    """Its header and its label map are whole; before a run starts, and again if it happens later."""
    root = write(tmp_path / "toy", suffix=".jpg", size=(200, 200))
    path, data = root / "images/val/x_000.jpg", load(write(tmp_path / "again", suffix=".jpg", size=(200, 200)))
    for cut in (path, tmp_path / "again/images/val/x_000.jpg"):
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"x_000.jpg: not a readable image, or cut short"):
        load(root)
    with pytest.raises(ValueError, match=r"x_000.jpg: not a readable image, or cut short"):
        data.val[0]


def test_a_file_whose_time_was_set_back_is_read_again(tmp_path):
    root = write(tmp_path / "toy")
    first, path = load(root).info.content_hash, root / "labels/train/x_000.png"
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(content + b"more after the end")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = load(root).info.content_hash
    path.write_bytes(content + b"else after the end")  # of the same length, and the time set back again
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len({first, second, load(root).info.content_hash}) == 3


@pytest.mark.parametrize("turn", range(1, 9))
def test_an_orientation_tag_is_followed(tmp_path, turn):
    """As Pillow does it; a label map that has other sides then is refused, and so is one with such a tag."""
    root = write(tmp_path / "toy", suffix=".jpg", size=(24, 36))
    plain = load(root).info.content_hash
    path, label = root / "images/val/x_000.jpg", root / "labels/val/x_000.png"
    exif = Image.Exif()
    exif[0x0112] = turn
    pixels = np.repeat(np.arange(24 * 36, dtype=np.uint16).reshape(24, 36, 1) // 4, 3, 2).astype(np.uint8)
    Image.fromarray(pixels).save(path, exif=exif, quality=100)
    with Image.open(path) as picture:
        want = np.asarray(ImageOps.exif_transpose(picture))
    if turn >= 5:
        with pytest.raises(ValueError, match=rf"x_000.jpg: 24x36 pixels once .* tag {turn} says, its label map 36x24"):
            load(root)
        values = np.asarray(Image.open(label)).T.copy()
        Image.fromarray(values).save(label)
    data = load(root)
    np.testing.assert_array_equal(data.val[0][0], want)
    assert data.info.content_hash != plain
    direct, cached = load(root), load(caches.prepared(TOY, root, tmp_path / "cache", "encoded", None))
    np.testing.assert_array_equal(cached.val[0][0], want)
    assert cached.info == direct.info
    Image.open(label).save(label, exif=exif)
    if turn > 1:
        with pytest.raises(ValueError, match=f"x_000.png: a label map .* orientation tag {turn}"):
            load(root)


def test_a_cache_of_before_orientations_keeps_its_pixels_and_its_hash(tmp_path):
    import pyarrow.parquet as pq

    root = write(tmp_path / "toy", suffix=".jpg")
    exif = Image.Exif()
    exif[0x0112] = 3
    path = root / "images/val/x_000.jpg"
    before = load(root).info.content_hash
    stored = np.asarray(Image.open(path))
    Image.fromarray(stored).save(path, exif=exif, quality=100)
    to = caches.prepared(TOY, root, tmp_path / "cache", "encoded", None)
    table = pq.read_table(to / "index.parquet").drop_columns(["orientation"])
    manifest = cache.read_manifest(to)
    pq.write_table(table, to / "index.parquet")
    digest = hashlib.sha256((to / "index.parquet").read_bytes()).hexdigest()
    (to / "manifest.json").write_text(manifest.model_copy(update={"index_sha256": digest}).model_dump_json())
    data = load(to)
    np.testing.assert_array_equal(data.val[0][0], np.asarray(Image.open(path)))
    assert len({data.info.content_hash, load(root).info.content_hash, before}) == 3


@pytest.mark.parametrize("name", ["../x.png", "/etc/passwd", "a/../../x", "a\\..\\x", "x\0y"])
def test_names_that_leave_the_root_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="leaves the dataset's folder"):
        Tree(tmp_path).file(name)


def test_links_that_leave_the_root_are_refused_and_others_are_not(tmp_path):
    root = write(tmp_path / "toy")
    outside = write(tmp_path / "other")
    (root / "images/train/linked.png").symlink_to(outside / "images/train/x_000.png")
    with pytest.raises(ValueError, match="leads out of"):
        Tree(root).file("images/train/linked.png")
    (root / "folder").symlink_to(outside)
    with pytest.raises(ValueError, match="leads out of"):
        Tree(root).file("folder/images/train/x_000.png")
    (root / "inner.png").symlink_to(root / "images/train/x_000.png")
    assert Tree(root).file("inner.png").is_file()
    twin = tmp_path / "toy-twin"  # begins with the root's own name
    twin.mkdir()
    (root / "images/train/linked.png").unlink()
    (root / "twin").symlink_to(twin)
    with pytest.raises(ValueError, match="leads out of"):
        Tree(root).file("twin/x.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fraction": 0.0}, "dev_fraction is 0.0"),
        ({"fraction": 1.0}, "dev_fraction is 1.0"),
        ({"seed": -1}, "dev_seed is -1"),
        ({"short_side": 0}, "short_side is 0"),
    ],
)
def test_parameters_out_of_range(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "toy"), **change)


def test_whether_all_pairs_are_of_one_size(tmp_path):
    root = write(tmp_path / "toy")  # heights of 24, 26 and 28
    assert not load(root).train.one_size and not load(root, 25).train.one_size
    single = filedata.Pairs([p for p in load(root).train.pairs if p.entry.size_hw == (24, 36)])
    assert single.one_size
    # 24x36 and 48x72 become one size, which the sizes of the files do not tell.
    pairs = [
        replace(single.pairs[0], entry=replace(single.pairs[0].entry, size_hw=size)) for size in ((24, 36), (48, 72))
    ]
    assert not filedata.Pairs(pairs).one_size and filedata.Pairs(pairs, 12).one_size


def test_no_root_and_an_empty_root(tmp_path):
    with pytest.raises(ValueError, match="data info toy"):
        load(None)
    with pytest.raises(ValueError, match="no such folder"):
        load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="0 training and 0 val pairs"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: (c / "manifest.json").write_text("{}"), "not the manifest of a prepared cache"),
        (lambda c: shard(c).unlink(), r"val-00000-\w+.arrow: this part of the cache is missing"),
        (lambda c: os.truncate(shard(c), 100), "has 100 bytes instead of"),
        (lambda c: (c / "index.parquet").write_bytes(b"x"), "index.parquet: not readable"),
        (lambda c: escape(c), "not the manifest of a prepared cache"),
    ],
)
def test_a_damaged_cache_is_named(tmp_path, damage, message):
    to = prepared(tmp_path, write(tmp_path / "toy"))
    damage(to)
    with pytest.raises(ValueError, match=message):
        load(to)


def test_a_flipped_byte_of_a_cache_is_found_by_a_check(tmp_path):
    to = prepared(tmp_path, write(tmp_path / "toy"))
    assert list(cache.corrupt(to, cache.read_manifest(to))) == []
    path = shard(to, "train")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert [str(path) in line for line in cache.corrupt(to, cache.read_manifest(to))] == [True]


def test_a_cache_of_something_else_is_refused(tmp_path):
    to = prepared(tmp_path, write(tmp_path / "toy"))
    with pytest.raises(ValueError, match=r"prepared for the parameters \{\}, the run asks for"):
        load(to, kind="coarse")
    with pytest.raises(ValueError, match="prepared for the dataset toy"):
        load(to, source=replace(TOY, name="other"))
    manifest = json.loads((to / "manifest.json").read_text())
    (to / "manifest.json").write_text(json.dumps({**manifest, "version": 0}))
    with pytest.raises(ValueError, match="a cache of version 0"):
        load(to)


def test_a_cache_of_other_label_tables_is_refused(tmp_path):
    to = prepared(tmp_path, write(tmp_path / "toy"))
    with pytest.raises(ValueError, match="other label tables of toy"):
        load(to, source=replace(TOY, tables={"ids": table({10: 1, 20: 0, 30: 2, 0: 255})}))


def test_an_index_memory_of_another_version_is_made_anew(tmp_path):
    import pyarrow.parquet as pq

    root = write(tmp_path / "toy")
    first = load(root).info
    (file,) = (tmp_path / "remembered/index").iterdir()
    pq.write_table(pq.read_table(file).drop_columns(["counts"]), file)
    assert load(root).info == first


def test_names_that_are_not_text_are_named(tmp_path):
    root = write(tmp_path / "toy")
    os.rename(os.fsencode(root / "images/train/x_000.png"), os.fsencode(root / "images/train") + b"/\xff.png")
    with pytest.raises(ValueError, match="is not UTF-8; rename it"):
        load(root)


def test_extra_pairs_are_trained_on_and_never_in_dev(tmp_path):
    def listing(tree, **variant):
        found = TOY.listing(tree)
        train = [replace(s, extra=i >= 4) for i, s in enumerate(found.samples["train"])]
        return replace(found, samples={**found.samples, "train": train})

    data = load(write(tmp_path / "toy"), source=replace(TOY, listing=listing), fraction=0.5)
    assert (len(data.train), len(data.dev)) == (7, 2)
    assert set(data.dev.names) <= {"x_000", "x_003", "x_006", "y_001"}


def test_whole_groups_go_to_dev(tmp_path):
    data = load(write(tmp_path / "toy"), source=replace(TOY, cut="group"))
    cities = [{name[0] for name in part.names} for part in (data.train, data.dev)]
    assert len(cities[1]) == 1 and not cities[0] & cities[1]
