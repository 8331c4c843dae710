"""voc2012: Pascal VOC 2012 segmentation in 21 classes, with SBD's annotations as the usual 10,582 training images.

train_aug is (SBD train + SBD val + VOC train) without VOC val. An image of VOC's own train list has VOC's mask, which
marks borders as 255; all others have SBD's, which have no border. This is what mmsegmentation's voc_aug.py makes and
`pascal_voc12_aug.py` reads. The names are sorted, so that every source of the list gives the same dev split.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from harness.datasets.base import Data
from harness.datasets.filedata import load
from harness.datasets.pairing import Pairing, one_of
from harness.datasets.source import IGNORE, Listing, Sample, Source, table
from harness.datasets.tree import Tree

CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
ANNOTATIONS = ("train", "train_aug")
COUNTS = {"train": 1464, "train_aug": 10582, "val": 1449}
BASES = ("", "VOC2012/", "VOCdevkit/VOC2012/")
SBD = tuple(
    f"{base}{folder}"
    for base in ("", "VOCdevkit/", *BASES[1:])
    for folder in ("benchmark_RELEASE/dataset/", "SBD/benchmark_RELEASE/dataset/", "SBD/dataset/", "SBD/")
)
LISTS = ("trainaug.txt", "train_aug.txt")
# DeepLab's form of a list: the image and its mask in a line.
_PAIR = re.compile(r"/?JPEGImages/([\w-]+)\.jpg(?:\s+/?SegmentationClass(?:Aug)?/\1\.png)?")


def colour(index: int) -> tuple[int, int, int]:
    """Colour of a class in VOC's palette: bits 0, 1, 2 of the index, then 3, 4, 5, are RGB from the high bits down."""
    red, green, blue = (
        sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(8)) for channel in range(3)
    )
    return red, green, blue


def listing(tree: Tree, annotations: str = "train_aug") -> Listing:
    """The pairs below a root: the folder VOC2012, VOCdevkit, or the one that lies in.

    Args:
        tree: the folder.
        annotations: "train", or "train_aug" for the images of SBD as well.
    """
    pairing = Pairing(tree)
    base = pairing.base(BASES, "JPEGImages")
    if base is None:
        pairing.problems.append(f"{tree.root}: JPEGImages is in none of . VOC2012 VOCdevkit/VOC2012. {_LAYOUT}")
        return Listing({}, pairing.problems)
    images = pairing.files(f"{base}JPEGImages", ".jpg")
    masks = pairing.files(f"{base}SegmentationClass", ".png")
    pairing.orphans(masks, images)
    train, val = (pairing.lists(_list(base, split), _name) for split in ("train", "val"))
    samples = {"val": _listed(pairing, base, "val", val, images, masks)}
    pairing.problems += [
        f"{tree.root / _list(base, 'train')}: {name} is in val.txt too; no image of val may be trained on"
        for name in sorted(set(train) & set(val))
    ]
    if annotations == "train":
        samples["train"] = _listed(pairing, base, "train", train, images, masks)
    else:
        samples["train"] = _augmented(pairing, base, train, val, images, masks)
    return Listing(samples, pairing.problems)


def _augmented(
    pairing: Pairing, base: str, train: list[str], val: list[str], images: dict[str, str], masks: dict[str, str]
) -> list[Sample]:
    """The samples of train_aug. The list and the masks are looked for one by one, ready made first, in SBD else."""
    sbd = pairing.base(SBD, "cls")
    ready = pairing.exists(f"{base}SegmentationClassAug")
    listed = next((name for name in LISTS if pairing.exists(f"{base}ImageSets/Segmentation/{name}")), None)
    if sbd is None and not (ready and listed):
        pairing.problems.append(
            f"{pairing.tree.root}: train_aug needs SBD, and neither benchmark_RELEASE/dataset/cls nor SBD/cls is "
            f"there, nor {base}SegmentationClassAug with a list {base}ImageSets/Segmentation/trainaug.txt. Unpack "
            "benchmark.tgz there, or set annotations: train"
        )
        return []
    if listed is not None:
        file = f"{base}ImageSets/Segmentation/{listed}"
        names = pairing.lists(file, _name)
        pairing.problems += [
            f"{pairing.tree.root / file}: {name} is in val.txt too; no image of val may be trained on"
            for name in sorted(set(names) & set(val))
        ]
    else:
        file = f"{sbd}train.txt"
        names = [*pairing.lists(file), *pairing.lists(f"{sbd}val.txt"), *train]
    folder, suffix = (f"{base}SegmentationClassAug", ".png") if ready else (f"{sbd}cls", ".mat")
    added = pairing.files(folder, suffix)
    pairing.orphans(added, images)
    own, held = set(train), set(val)
    labels = {**{k: v for k, v in added.items() if k not in own}, **{k: v for k, v in masks.items() if k in own}}
    chosen = pairing.listed(
        file,
        # That a folder of masks is missing or empty was said already, and is not said again for each name.
        [name for name in sorted(set(names) - held) if (masks if name in own else added)],
        images,
        labels,
        lambda name: f"{base}JPEGImages/{name}.jpg",
        lambda name: f"{base}SegmentationClass/{name}.png" if name in own else f"{folder}/{name}{suffix}",
    )
    return [Sample(name, images[name], labels[name]) for name in chosen]


def _listed(
    pairing: Pairing, base: str, split: str, names: list[str], images: dict[str, str], masks: dict[str, str]
) -> list[Sample]:
    """The samples of one of VOC's own lists."""
    chosen = pairing.listed(
        _list(base, split),
        sorted(names),
        images,
        masks,
        lambda name: f"{base}JPEGImages/{name}.jpg",
        lambda name: f"{base}SegmentationClass/{name}.png",
    )
    return [Sample(name, images[name], masks[name]) for name in chosen]


def _list(base: str, split: str) -> str:
    return f"{base}ImageSets/Segmentation/{split}.txt"


def _name(line: str) -> str:
    found = _PAIR.fullmatch(line)
    return found[1] if found else line


def unlabelled(tree: Tree) -> list[Sample]:
    """The images of the test split, which is a download of its own."""
    pairing = Pairing(tree)
    base = pairing.base(BASES, "JPEGImages") or ""
    images = pairing.files(f"{base}JPEGImages", ".jpg")
    names = pairing.lists(_list(base, "test"))
    found = pairing.listed(_list(base, "test"), names, images, images, lambda name: f"{base}JPEGImages/{name}.jpg", str)
    if pairing.problems:
        raise ValueError("\n".join(pairing.problems))
    return [Sample(name, images[name], None) for name in found]


_LAYOUT = """\
ROOT/VOCdevkit/VOC2012/JPEGImages/NAME.jpg
ROOT/VOCdevkit/VOC2012/SegmentationClass/NAME.png
ROOT/VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val,test}.txt
for annotations: train_aug one of
  ROOT/benchmark_RELEASE/dataset/{cls/NAME.mat,train.txt,val.txt} (SBD as published; SBD/ is found too)
  ROOT/VOCdevkit/VOC2012/{SegmentationClassAug/NAME.png,ImageSets/Segmentation/trainaug.txt} (ready made)
ROOT may be VOCdevkit or VOC2012 itself, with SBD in it"""

VOC2012 = Source(
    name="voc2012",
    title="Pascal VOC 2012 segmentation (Everingham et al., IJCV 2015) with SBD (Hariharan et al., ICCV 2011)",
    class_names=CLASSES,
    palette=tuple(colour(index) for index in range(len(CLASSES))),
    tables={"ids": table({**{index: index for index in range(len(CLASSES))}, 255: IGNORE})},
    licence="photographs from Flickr, whose terms of use hold for them",
    obtain="download VOCtrainval_11-May-2012.tar (2 GB) from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and "
    "benchmark.tgz (SBD, 1.4 GB) from http://home.bharathh.info/pubs/codes/SBD/download.html, and unpack both into one "
    "folder. The images of the test split are on the evaluation server, http://host.robots.ox.ac.uk:8080",
    layout=_LAYOUT,
    published={"train": COUNTS["train_aug"], "val": COUNTS["val"]},
    cut="presence",
    listing=listing,
    note="Photographs of everyday objects, about 500x375; 20 kinds of objects and the background.",
    unlabelled=unlabelled,
)


def source(root: Path | None = None, annotations: str = "train_aug") -> Source:
    """The description of the dataset; `root` is not used.

    Raises:
        ValueError: `annotations` is none of `ANNOTATIONS`.
    """
    one_of("voc2012", "annotations", annotations, ANNOTATIONS)
    if annotations == "train_aug":
        return VOC2012
    return replace(VOC2012, published={"train": COUNTS["train"], "val": COUNTS["val"]})


def voc2012(
    root: Path | None = None,
    *,
    annotations: Literal["train", "train_aug"] = "train_aug",
    dev_fraction: float = 0.1,
    dev_seed: int = 0,
    short_side: int | None = None,
) -> Data:
    """Read the dataset's folder or its prepared cache.

    Args:
        root: the folder VOC2012, VOCdevkit, the one that lies in, or a prepared cache.
        annotations: "train" for VOC's own 1,464 training images, "train_aug" for the usual 10,582.
        dev_fraction: this share of the training images becomes dev, every class about as often as in the others.
        dev_seed: decides which images.
        short_side: images are downscaled to this many pixels on their shorter side; None keeps their size.

    Raises:
        ValueError: a parameter is out of range, or files are missing or wrong; names them.
    """
    own = source(root, annotations)
    return load(own, root, {"annotations": annotations}, dev_fraction, dev_seed, short_side)
