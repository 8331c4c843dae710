"""The datasets in files: classes, label tables, and what is found below a root."""

import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from harness.datasets import DATASETS, SOURCES, decode, index
from harness.datasets.ade20k import ADE20K
from harness.datasets.camvid import CAMVID
from harness.datasets.cityscapes import CITYSCAPES, TRAIN_ID_TO_ID
from harness.datasets.decode import NOT_ALLOWED
from harness.datasets.source import IGNORE
from harness.datasets.tree import Tree
from harness.datasets.voc2012 import VOC2012, colour
from tests.support import trees

CAMVID_COPY = Path(__file__).parents[3] / "shared" / "data" / "camvid"


@pytest.fixture(autouse=True)
def _own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))


# --- classes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_says_everything(name, tmp_path):
    source = trees.made(name, tmp_path / name)
    count = len(source.class_names)
    assert source.name == name and name in DATASETS
    assert len(set(source.class_names)) == count == len(source.palette) > 2
    assert all(label == label.strip() and label for label in source.class_names)
    assert all(len(rgb) == 3 and all(0 <= channel <= 255 for channel in rgb) for rgb in source.palette)
    for table in source.tables.values():
        assert table.shape == (256,) and table.dtype == np.int16
        assert set(table.tolist()) - {IGNORE, NOT_ALLOWED} == set(range(count))
    for text in (source.title, source.licence, source.obtain, source.layout, source.note):
        assert text.strip() == text and len(text) > 10
    assert not source.shareable


@pytest.mark.parametrize("name", SOURCES)
def test_no_two_classes_have_one_colour(name, tmp_path):
    source = trees.made(name, tmp_path / name)
    twice = [rgb for rgb, count in Counter(source.palette).items() if count > 1]
    # The benchmark's own palette gives one colour to road and skyscraper; everybody's pictures have it so.
    assert twice == ([(140, 140, 140)] if name == "ade20k" else [])


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "folder"])
def test_classes_are_known_without_a_folder(name):
    source = SOURCES[name](None)
    assert source.class_names and source.tables and sum(source.published.values())


def test_cityscapes_ids():
    assert TRAIN_ID_TO_ID == (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    ids, trainids = CITYSCAPES.tables["ids"], CITYSCAPES.tables["trainids"]
    for value in range(256):
        known = TRAIN_ID_TO_ID.index(value) if value in TRAIN_ID_TO_ID else None
        assert ids[value] == (known if known is not None else IGNORE if value in (*range(34), 255) else NOT_ALLOWED)
        assert trainids[value] == (value if value < 19 else IGNORE if value == 255 else NOT_ALLOWED)
    named = dict(zip(CITYSCAPES.class_names, CITYSCAPES.palette, strict=True))
    assert CITYSCAPES.class_names[13] == "car" and TRAIN_ID_TO_ID[13] == 26
    assert (named["road"], named["rider"], named["bicycle"]) == ((128, 64, 128), (255, 0, 0), (119, 11, 32))


def test_voc_colours_follow_the_formula():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 7: (128, 128, 128), 8: (64, 0, 0), 15: (192, 128, 128)}
    known |= {19: (128, 192, 0), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {index: colour(index) for index in known} == known
    assert (VOC2012.class_names[15], VOC2012.class_names[20]) == ("person", "tvmonitor")
    table = VOC2012.tables["ids"]
    assert table[:21].tolist() == list(range(21)) and table[255] == IGNORE
    assert (table[21:255] == NOT_ALLOWED).all()


def test_ade20k_values():
    table = ADE20K.tables["ids"]
    assert table[0] == IGNORE and table[1:151].tolist() == list(range(150))
    assert (table[151:] == NOT_ALLOWED).all()
    for value, name, rgb in ((1, "wall", (120, 120, 120)), (13, "person", (150, 5, 61)), (150, "flag", (92, 0, 255))):
        assert (ADE20K.class_names[value - 1], ADE20K.palette[value - 1]) == (name, rgb)


def test_camvid_values():
    table = CAMVID.tables["ids"]
    assert table[:11].tolist() == list(range(11)) and (table[[11, 255]] == IGNORE).all()
    assert (table[12:255] == NOT_ALLOWED).all()
    names = "sky building pole road pavement tree sign fence car pedestrian bicyclist"
    assert CAMVID.class_names == tuple(names.split())


# --- what is found -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_a_whole_tree_is_listed_and_read(name, tmp_path):
    source, tree = trees.made(name, tmp_path / name), Tree(tmp_path / name)
    listing = source.listing(tree)
    assert listing.problems == []
    assert tuple(len(listing.samples[split]) for split in ("train", "val")) == trees.COUNTS[name]
    for split, samples in listing.samples.items():
        names = [sample.name for sample in samples]
        assert names == sorted(set(names))
        for sample in samples:
            pair = index.examine(source, tree, sample)
            assert pair.label.shape == pair.entry.size_hw == pair.image.shape[:2], split
            assert (pair.entry.counts[:-1] > 0).sum() >= 2


@pytest.mark.parametrize("name", SOURCES)
def test_the_loader_reads_it(name, tmp_path):
    trees.made(name, tmp_path / name)
    data = DATASETS[name](tmp_path / name, dev_fraction=0.3, short_side=32)
    again = DATASETS[name](tmp_path / name, dev_fraction=0.3, short_side=32)
    train, val = trees.COUNTS[name]
    assert len(data.train) + len(data.dev) == train and len(data.val) == val
    assert min(len(data.train), len(data.dev)) > 0
    assert data.info == again.info and data.dev.names == again.dev.names
    assert data.info.name == name and not data.info.shareable
    image, label = data.dev[0]
    assert min(image.shape[:2]) == 32 and image.shape[:2] == label.shape
    assert set(np.unique(label)) <= {*range(data.info.num_classes), IGNORE}


@pytest.mark.parametrize("name", SOURCES)
def test_parameters_out_of_range(name, tmp_path):
    trees.made(name, tmp_path / name)
    for wrong in ({"dev_fraction": 1.0}, {"dev_seed": -1}, {"short_side": 0}):
        with pytest.raises(ValueError, match=f"{name}: {next(iter(wrong))} is"):
            DATASETS[name](tmp_path / name, **wrong)
    with pytest.raises(ValueError, match=f"data info {name}"):
        DATASETS[name](None)
    with pytest.raises(ValueError, match="no such folder"):
        DATASETS[name](tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("cityscapes", {"annotations": "coarse"}, "cityscapes: annotations is 'coarse'; allowed: fine, fine+coarse"),
        ("voc2012", {"annotations": "aug"}, "voc2012: annotations is 'aug'; allowed: train, train_aug"),
        ("camvid", {"evaluate": "train"}, "camvid: evaluate is 'train'; allowed: val, test"),
        ("folder", {"val_fraction": 0.0}, "folder: val_fraction is 0.0; allowed: above 0 and below 1"),
        ("folder", {"val_seed": -1}, "folder: val_seed is -1; allowed: 0 and more"),
    ],
)
def test_variants_out_of_range(name, wrong, message, tmp_path):
    for call in (SOURCES[name], DATASETS[name]):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(tmp_path, **wrong)


def test_cityscapes_samples(tmp_path):
    root = trees.write_cityscapes(tmp_path)
    samples = CITYSCAPES.listing(Tree(root)).samples["train"]
    assert samples[0].name == "aachen/aachen_000000_000019"
    assert samples[0].image == "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    assert samples[0].label == "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
    assert Counter(sample.group for sample in samples) == dict.fromkeys(trees.CITIES, 3)
    assert {sample.table for sample in samples} == {"ids"} and not any(sample.extra for sample in samples)
    found = CITYSCAPES.unlabelled(Tree(root))
    assert [s.name for s in found] == ["berlin/berlin_000000_000019", "berlin/berlin_000001_000019"]
    assert all(s.label is None and s.group == "berlin" for s in found)
    data = DATASETS["cityscapes"](root, dev_fraction=0.3)
    cities = [{name.split("/")[0] for name in part.names} for part in (data.train, data.dev)]
    assert not cities[0] & cities[1]


def test_cityscapes_train_ids_are_used_where_they_are(tmp_path):
    plain = DATASETS["cityscapes"](trees.write_cityscapes(tmp_path / "a"))
    coded = DATASETS["cityscapes"](root := trees.write_cityscapes(tmp_path / "b", trainids=True))
    assert {s.table for s in CITYSCAPES.listing(Tree(root)).samples["train"]} == {"trainids"}
    for i in range(len(plain.train)):
        np.testing.assert_array_equal(plain.train[i][1], coded.train[i][1])
    for path in root.glob("gtFine/*/*/*_labelIds.png"):
        path.unlink()
    assert trees.problems("cityscapes", root) == []
    for path in root.glob("gtFine/train/*/*_labelTrainIds.png"):
        path.unlink()
    assert trees.problems("cityscapes", root) == ["gtFine/train: no file here ends in _gtFine_labelIds.png"]


def test_cityscapes_coarse_is_extra_and_its_black_frame_is_left_out(tmp_path):
    root = trees.write_cityscapes(tmp_path, coarse=4)
    black = "leftImg8bit/train_extra/troisdorf/troisdorf_000000_000073_leftImg8bit.png"
    label = "gtCoarse/train_extra/troisdorf/troisdorf_000000_000073_gtCoarse_labelIds.png"
    trees.save(root / label, np.zeros(trees.SIZE, np.uint8))
    for _ in range(2):
        listing = CITYSCAPES.listing(Tree(root), annotations="fine+coarse")
        assert listing.problems == []
        extra = [sample for sample in listing.samples["train"] if sample.extra]
        assert len(listing.samples["train"]) == 13
        assert [s.group for s in extra] == ["augsburg", "augsburg", "troisdorf", "troisdorf"]
        trees.save(root / black, np.zeros(trees.SIZE, np.uint8))
    data = DATASETS["cityscapes"](root, annotations="fine+coarse", dev_fraction=0.3)
    assert not {name.split("/")[0] for name in data.dev.names} - set(trees.CITIES)
    assert len(data.train) + len(data.dev) == 13
    assert SOURCES["cityscapes"](annotations="fine+coarse").published == {"train": 22972, "val": 500}


@pytest.mark.parametrize("below", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
@pytest.mark.parametrize("sbd", ["", "SBD"])
def test_voc_roots_and_places_of_sbd(tmp_path, below, sbd):
    voc = trees.write_voc2012(tmp_path)
    trees.write_sbd(tmp_path / below / sbd, trees.voc_names(4, 2008), [])
    first = VOC2012.listing(Tree(tmp_path / below))
    assert first.problems == [] and len(first.samples["train"]) == 12
    assert len(VOC2012.unlabelled(Tree(tmp_path / below))) == 2
    plain = VOC2012.listing(Tree(voc), annotations="train")
    assert [s.name for s in plain.samples["train"]] == trees.voc_names(8)


@pytest.mark.parametrize("below", ["SBD", "SBD/dataset"])
def test_sbd_without_its_outer_folder_is_found(tmp_path, below):
    trees.write_voc2012(tmp_path)
    there = trees.write_sbd(tmp_path / "x", trees.voc_names(4, 2008), [])
    shutil.copytree(there, tmp_path / below)
    assert trees.problems("voc2012", tmp_path) == []


def test_the_augmented_list_is_sbd_and_voc_train_without_voc_val(tmp_path):
    voc = trees.write_voc2012(tmp_path, train=3, val=2, others=4)
    own = trees.voc_names(5)
    other = trees.voc_names(4, 2008)
    # SBD's train has an image of each VOC list and its val another one; VOC's third training image is in neither.
    trees.write_sbd(tmp_path, [other[2], own[0], own[3], other[0]], [other[1], own[4], own[1]])
    samples = {sample.name: sample for sample in VOC2012.listing(Tree(tmp_path)).samples["train"]}
    assert list(samples) == [own[0], own[1], own[2], other[0], other[1], other[2]]
    base = "VOCdevkit/VOC2012"
    for name, sample in samples.items():
        assert sample.image == f"{base}/JPEGImages/{name}.jpg"
        mine = f"{base}/SegmentationClass/{name}.png"
        assert sample.label == (mine if name in own else f"benchmark_RELEASE/dataset/cls/{name}.mat")
    assert trees.problems("voc2012", tmp_path) == []
    # The same as ready-made masks with a list, in any order and in DeepLab's form, has the same samples in the same order.
    shutil.rmtree(tmp_path / "benchmark_RELEASE")
    pair = "/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png"
    for form, file in (("{name}", "trainaug.txt"), (pair, "train_aug.txt")):
        trees.write_aug(voc, [other[1], own[2], own[0], other[0], own[1], other[2]], form, file)
        again = VOC2012.listing(Tree(tmp_path))
        assert again.problems == [] and [s.name for s in again.samples["train"]] == list(samples)
        assert again.samples["train"][0].label == f"{base}/SegmentationClass/{own[0]}.png"
        assert again.samples["train"][3].label == f"{base}/SegmentationClassAug/{other[0]}.png"
        (voc / f"ImageSets/Segmentation/{file}").unlink()


def test_an_augmented_list_with_images_of_val_is_refused(tmp_path):
    voc = trees.write_voc2012(tmp_path, train=3, val=2)
    trees.write_aug(voc, trees.voc_names(5))
    assert trees.problems("voc2012", tmp_path) == [
        f"VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt: {name} is in val.txt too; no image of val may be trained on"
        for name in trees.voc_names(5)[3:]
    ]


def test_voc_without_sbd_says_what_to_do(tmp_path):
    trees.write_voc2012(tmp_path)
    assert re.search(r"train_aug needs SBD.*set annotations: train", trees.problems("voc2012", tmp_path)[0])
    assert trees.problems("voc2012", tmp_path, annotations="train") == []
    assert SOURCES["voc2012"](annotations="train").published == {"train": 1464, "val": 1449}


def test_mat_labels_are_what_was_stored(tmp_path):
    values = trees.label_map(np.random.default_rng(3), range(21), (40, 60))
    trees.write_mat(tmp_path / "a.mat", values)
    read = decode.label_values((tmp_path / "a.mat").read_bytes(), "a.mat")
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.uint8 and read.flags.c_contiguous


def test_mat_labels_that_are_none(tmp_path):
    trees.write_mat(path := tmp_path / "a.mat", np.zeros((40, 60), np.uint8))
    whole = path.read_bytes()
    savemat(other := tmp_path / "b.mat", {"Other": np.zeros(3)})
    trees.write_mat(wide := tmp_path / "c.mat", np.zeros((40, 60), np.uint16))
    savemat(old := tmp_path / "d.mat", {"GTcls": np.zeros((3, 3))}, format="4")
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    for data, message in (
        (b"", "not a MATLAB file of version 5"),
        (old.read_bytes(), "not a MATLAB file of version 5"),
        (whole[: len(whole) // 2], "GTcls.Segmentation cannot be read"),
        (bytes(damaged), "GTcls.Segmentation cannot be read"),
        (other.read_bytes(), "GTcls.Segmentation cannot be read"),
        (wide.read_bytes(), "not an array"),
    ):
        with pytest.raises(ValueError, match=rf"sbd/x\.mat: .*{message}"):
            decode.label_values(data, "sbd/x.mat")


@pytest.mark.parametrize("below", [".", "ADEChallengeData2016"])
def test_ade20k_roots(tmp_path, below):
    trees.write_ade20k(tmp_path)
    found = ADE20K.listing(Tree(tmp_path / below))
    assert found.problems == [] and len(found.samples["train"]) == 8
    assert found.samples["train"][0].name == "ADE_train_00000001"
    image = tmp_path / "ADEChallengeData2016/images/training/ADE_train_00000003.jpg"
    with Image.open(image) as grey:
        assert grey.mode == "L"
    assert decode.image_pixels(image.read_bytes(), image).shape[2] == 3


def test_ade20k_test_images(tmp_path):
    base = trees.write_ade20k(tmp_path)
    assert [s.name for s in ADE20K.unlabelled(Tree(tmp_path))] == ["ADE_test_00000001", "ADE_test_00000002"]
    with pytest.raises(ValueError, match=r"unpack release_test\.zip"):
        ADE20K.unlabelled(Tree(base))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_camvid_can_be_evaluated_on_its_test_split(tmp_path, suffix):
    root = trees.write_camvid(tmp_path, test=4, suffix=suffix)
    assert len(DATASETS["camvid"](root).val) == 3
    data = DATASETS["camvid"](root, evaluate="test")
    assert len(data.val) == 4 and data.val.names[0].startswith("Seq05VD")
    assert SOURCES["camvid"](evaluate="test").published == {"train": 367, "val": 233}
    assert [s.name for s in CAMVID.unlabelled(Tree(root))] == data.val.names
    shutil.rmtree(root / "test")
    assert trees.problems("camvid", root) == []
    assert trees.problems("camvid", root, evaluate="test") == ["test: this folder of the dataset is missing"]


def test_camvid_dev_is_whole_stretches(tmp_path):
    samples = CAMVID.listing(Tree(trees.write_camvid(tmp_path, train=66))).samples["train"]
    assert Counter(s.group for s in samples) == {
        f"{drive}-{k}": n for drive in ("0001TP", "0006R0", "0016E5") for k, n in ((0, 20), (1, 2))
    }


if CAMVID_COPY.is_dir():  # the development copy is beside this checkout

    def test_camvid_itself():
        data = DATASETS["camvid"](CAMVID_COPY)
        assert (len(data.train), len(data.dev), len(data.val)) == (327, 40, 101)
        assert CAMVID.listing(Tree(CAMVID_COPY)).problems == []
        label = np.concatenate([data.dev[i][1].reshape(-1) for i in range(len(data.dev))])
        assert set(range(8)) <= set(np.unique(label))
