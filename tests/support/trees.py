"""Tiny copies of the datasets' folders in the very layouts they are published in, with made-up content.

Pictures are noise over rectangles of classes, so that every map has several classes and JPEG has something to encode.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from harness.datasets import SOURCES
from harness.datasets.tree import Tree
from harness.datasets.voc2012 import colour

SIZE = (64, 128)
CITIES = ("aachen", "bochum", "ulm")


def label_map(rng, values: Sequence[int], size=SIZE):
    """(H, W) uint8 in which at least four of `values` occur: a grid of 4 x 4 cells."""
    cells = rng.choice(np.asarray(values, np.uint8), (4, 4))
    cells[0] = rng.choice(np.asarray(values, np.uint8), 4, replace=False)
    return np.repeat(np.repeat(cells, size[0] // 4, 0), size[1] // 4, 1)


def picture(rng, values):
    """(H, W, 3) uint8: a colour per value, and noise."""
    base = values.astype(int)[..., None] * [7, 31, 53] % 256
    return np.clip(base + rng.integers(-20, 20, base.shape), 0, 255).astype(np.uint8)


def save(path: Path, pixels, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette([channel for index in range(256) for channel in colour(index)])
        assert image.mode == "P"
    image.save(path, quality=90) if path.suffix == ".jpg" else image.save(path)


def write_cityscapes(
    root: Path, train: int = 9, val: int = 3, test: int = 2, coarse: int = 0, trainids: bool = False, seed: int = 0
) -> Path:
    """leftImg8bit and gtFine, `train` pairs over three cities; `coarse` pairs of train_extra in gtCoarse."""
    rng = np.random.default_rng(seed)
    ids = [0, 1, 3, 4, 7, 8, 11, 21, 23, 26, 33]
    for split, count, cities in (
        ("train", train, CITIES),
        ("val", val, ("frankfurt",)),
        ("test", test, ("berlin",)),
        ("train_extra", coarse, ("augsburg", "troisdorf")),
    ):
        kind = "gtCoarse" if split == "train_extra" else "gtFine"
        for i in range(count):
            city = cities[i % len(cities)]
            name = f"{city}/{city}_{i:06d}_000019"
            values = label_map(rng, ids)
            save(root / f"leftImg8bit/{split}/{name}_leftImg8bit.png", picture(rng, values))
            if split == "test":
                values = np.zeros_like(values)  # the test split's maps say nothing
            save(root / f"{kind}/{split}/{name}_{kind}_labelIds.png", values)
            save(root / f"{kind}/{split}/{name}_{kind}_color.png", picture(rng, values))
            if trainids and split != "test":
                lut = np.full(256, 255, np.uint8)
                lut[[7, 8, 11, 21, 23, 26, 33]] = [0, 1, 2, 8, 10, 13, 18]
                save(root / f"{kind}/{split}/{name}_{kind}_labelTrainIds.png", lut[values])
    return root


def voc_names(count: int, year: int = 2007) -> list[str]:
    return [f"{year}_{i:06d}" for i in range(count)]


def write_voc2012(root: Path, train: int = 8, val: int = 3, others: int = 6, test: int = 2, seed: int = 0) -> Path:
    """VOCdevkit/VOC2012: `train` and `val` with palette masks that have borders, `others` and `test` without masks.

    Returns:
        The folder VOC2012. The others are called 2008_...; test is called 2009_....
    """
    rng = np.random.default_rng(seed)
    base = root / "VOCdevkit/VOC2012"
    lists = {"train": voc_names(train), "val": voc_names(train + val)[train:], "test": voc_names(test, 2009)}
    for name in [*lists["train"], *lists["val"]]:
        values = label_map(rng, [0, 1, 5, 12, 15, 20])
        values[:, ::32] = 255
        save(base / f"JPEGImages/{name}.jpg", picture(rng, values))
        save(base / f"SegmentationClass/{name}.png", values, palette=True)
    for name in [*voc_names(others, 2008), *lists["test"]]:
        save(base / f"JPEGImages/{name}.jpg", picture(rng, label_map(rng, [0, 3, 7, 9])))
    folder = base / "ImageSets/Segmentation"
    folder.mkdir(parents=True)
    for split, names in lists.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "trainval.txt").write_text("".join(f"{name}\n" for name in [*lists["train"], *lists["val"]]))
    return base


def write_sbd(where: Path, train: Sequence[str], val: Sequence[str], seed: int = 1) -> Path:
    """benchmark_RELEASE/dataset with cls/*.mat (no borders) and the two lists."""
    rng = np.random.default_rng(seed)
    base = where / "benchmark_RELEASE/dataset"
    (base / "cls").mkdir(parents=True)
    for name in [*train, *val]:
        write_mat(base / f"cls/{name}.mat", label_map(rng, [0, 3, 7, 9, 18]))
    (base / "train.txt").write_text("".join(f"{name}\n" for name in train))
    (base / "val.txt").write_text("".join(f"{name}\n" for name in val))
    return base


def write_mat(path: Path, values) -> None:
    """A label map as SBD has it: GTcls is a struct, compressed, of version 5."""
    present = np.setdiff1d(np.unique(values), [0]).reshape(-1, 1).astype(np.uint8)
    boundaries = np.empty((20, 1), object)
    boundaries[:] = [[np.zeros(values.shape, np.uint8)] for _ in range(20)]
    gtcls = {"Boundaries": boundaries, "Segmentation": values, "CategoriesPresent": present}
    savemat(path, {"GTcls": gtcls}, do_compression=True)


def write_aug(voc: Path, names: Sequence[str], form: str = "{name}", file: str = "trainaug.txt", seed: int = 1) -> None:
    """SegmentationClassAug with grey masks, and its list, beside VOC's own folders."""
    rng = np.random.default_rng(seed)
    for name in names:
        save(voc / f"SegmentationClassAug/{name}.png", label_map(rng, [0, 3, 7, 9, 18]))
    lines = "".join(form.format(name=name) + "\n" for name in names)
    (voc / f"ImageSets/Segmentation/{file}").write_text(lines)


def write_ade20k(root: Path, train: int = 8, val: int = 3, test: int = 2, seed: int = 0) -> Path:
    """ADEChallengeData2016 and release_test; sizes differ, and the third image of train is a grey JPEG."""
    rng = np.random.default_rng(seed)
    base = root / "ADEChallengeData2016"
    for split, folder, count in (("train", "training", train), ("val", "validation", val)):
        for i in range(count):
            values = label_map(rng, [0, 1, 2, 3, 13, 21, 150], (SIZE[0] + 4 * (i % 3), SIZE[1]))
            pixels = picture(rng, values)
            name = f"ADE_{split}_{i + 1:08d}"
            save(base / f"images/{folder}/{name}.jpg", pixels[..., 0] if (split, i) == ("train", 2) else pixels)
            save(base / f"annotations/{folder}/{name}.png", values)
    (base / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n")
    for i in range(test):
        save(root / f"release_test/testing/ADE_test_{i + 1:08d}.jpg", picture(rng, label_map(rng, range(9))))
    return base


def write_camvid(root: Path, train: int = 9, val: int = 3, test: int = 2, suffix: str = ".png", seed: int = 0) -> Path:
    """SegNet's layout: three drives in train."""
    rng = np.random.default_rng(seed)
    drives = {"train": ("0001TP", "0006R0", "0016E5"), "val": ("0016E5",), "test": ("Seq05VD",)}
    for split, count in (("train", train), ("val", val), ("test", test)):
        for i in range(count):
            name = f"{drives[split][i % len(drives[split])]}_{30 * i + 7000:06d}"
            values = label_map(rng, range(12))
            save(root / f"{split}/{name}{suffix}", picture(rng, values))
            save(root / f"{split}annot/{name}.png", values)
        if count:
            (root / f"{split}.txt").write_text("/SegNet/CamVid/... /SegNet/CamVid/...\n")
    return root


CLASSES = """\
classes:
  - {name: soil, value: 0}
  - {name: crop, value: 7, colour: [0, 158, 115]}
  - {name: weed, value: 9}
ignore: [255]
"""


def write_folder(
    root: Path, form: str = "folders", train: int = 8, val: int = 3, classes: str | None = CLASSES, seed: int = 0
) -> Path:
    """The user's own images; `form` is "folders" (train and val), "lists" or "flat"."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        below = f"{split}/" if form == "folders" else ""
        names = [f"{split}-{i}" for i in range(count)]
        for i, name in enumerate(names):
            values = label_map(rng, [0, 7, 9, 255])
            save(root / f"images/{below}{name}{('.jpg', '.png')[i % 2]}", picture(rng, values))
            save(root / f"masks/{below}{name}.png", values, palette=i % 3 == 0)
        if form == "lists":
            (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    if classes is not None:
        (root / "classes.yaml").write_text(classes)
    return root


WRITE = {
    "ade20k": write_ade20k,
    "camvid": write_camvid,
    "cityscapes": write_cityscapes,
    "folder": write_folder,
    "voc2012": lambda root: write_sbd(write_voc2012(root).parents[1], voc_names(4, 2008), voc_names(9)[7:]),
}
# train and val pairs of those trees; VOC has 8 of its own and 4 of SBD, whose val has one of each VOC list.
COUNTS = {"ade20k": (8, 3), "camvid": (9, 3), "cityscapes": (9, 3), "folder": (8, 3), "voc2012": (12, 3)}
CITY = "train/aachen/aachen_000000_000019"
# The files of one pair of train: image and label map.
ONE = {
    "ade20k": (
        "ADEChallengeData2016/images/training/ADE_train_00000001.jpg",
        "ADEChallengeData2016/annotations/training/ADE_train_00000001.png",
    ),
    "camvid": ("train/0001TP_007000.png", "trainannot/0001TP_007000.png"),
    "cityscapes": (f"leftImg8bit/{CITY}_leftImg8bit.png", f"gtFine/{CITY}_gtFine_labelIds.png"),
    "folder": ("images/train/train-0.jpg", "masks/train/train-0.png"),
    "voc2012": (
        "VOCdevkit/VOC2012/JPEGImages/2007_000000.jpg",
        "VOCdevkit/VOC2012/SegmentationClass/2007_000000.png",
    ),
}


def made(name, root):
    """A tree of the dataset, and its source."""
    WRITE[name](root)
    return SOURCES[name](root)


def problems(name, root, **variant):
    """What the listing of a tree says is wrong, without the root in front."""
    found = SOURCES[name](root, **variant).listing(Tree(root), **variant).problems
    return [line.replace(f"{root}/", "") for line in found]
