"""camvid: street scenes of Cambridge from a driving car, 11 classes, in SegNet's layout."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from harness.datasets.base import Data
from harness.datasets.filedata import load
from harness.datasets.pairing import Pairing, one_of
from harness.datasets.source import IGNORE, Listing, Sample, Source, table
from harness.datasets.tree import Tree

# SegNet's order and colours (SegNet-Tutorial, Scripts/test_segmentation_camvid.py).
CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
VOID = 11
SUFFIXES = (".png", ".jpg")
COUNTS = {"train": 367, "val": 101, "test": 233}
EVALUATE = ("val", "test")
BLOCK = 20
"""Consecutive frames, 20 seconds of film, that stay together."""


def listing(tree: Tree, evaluate: str = "val") -> Listing:
    """The pairs of train, and of the split that is evaluated.

    Args:
        tree: the folder that holds train, trainannot, val and so on.
        evaluate: which of the published splits takes the part of val.
    """
    pairing = Pairing(tree)
    samples = {split: _split(pairing, folder) for split, folder in (("train", "train"), ("val", evaluate))}
    return Listing(samples, pairing.problems)


def _split(pairing: Pairing, folder: str) -> list[Sample]:
    images, labels = pairing.files(folder, SUFFIXES), pairing.files(f"{folder}annot", ".png")
    names = pairing.matched(images, labels, lambda name: f"{folder}annot/{name}.png")
    samples, seen = [], dict[str, int]()
    for name in sorted(names):
        film = name.partition("_")[0]
        seen[film] = seen.get(film, -1) + 1
        # Neighbouring frames are too alike to be one in train and one in dev.
        samples.append(Sample(name, images[name], labels[name], group=f"{film}-{seen[film] // BLOCK}"))
    return samples


def unlabelled(tree: Tree) -> list[Sample]:
    """The images of the test split."""
    pairing = Pairing(tree)
    images = pairing.files("test", SUFFIXES)
    if pairing.problems:
        raise ValueError("\n".join(pairing.problems))
    return [Sample(name, images[name], None) for name in sorted(images)]


CAMVID = Source(
    name="camvid",
    title="CamVid (Brostow, Fauqueur, Cipolla, Pattern Recognition Letters 30(2), 2009), SegNet's 11 classes",
    class_names=tuple(CLASSES),
    palette=tuple(CLASSES.values()),
    tables={"ids": table({**{i: i for i in range(len(CLASSES))}, VOID: IGNORE, 255: IGNORE})},
    licence="CC BY-NC 4.0 as SegNet's copy is commonly passed on: personal and research use",
    obtain="https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid, 480x360)",
    layout="""\
ROOT/{train,val,test}/NAME.png (or .jpg)
ROOT/{trainannot,valannot,testannot}/NAME.png (values 0..10; 11 is void)
of val and test only the one that is evaluated is needed""",
    published={"train": COUNTS["train"], "val": COUNTS["val"]},
    cut="group",
    listing=listing,
    note="701 frames of a drive through Cambridge, labelled by hand; neighbouring frames resemble each other.",
    unlabelled=unlabelled,
)


def source(root: Path | None = None, evaluate: str = "val") -> Source:
    """The description of the dataset; `root` is not used.

    Raises:
        ValueError: `evaluate` is none of `EVALUATE`.
    """
    one_of("camvid", "evaluate", evaluate, EVALUATE)
    if evaluate == "val":
        return CAMVID
    return replace(CAMVID, published={"train": COUNTS["train"], "val": COUNTS[evaluate]})


def camvid(
    root: Path | None = None,
    *,
    evaluate: Literal["val", "test"] = "val",
    dev_fraction: float = 0.1,
    dev_seed: int = 0,
    short_side: int | None = None,
) -> Data:
    """CamVid in SegNet's layout.

    Args:
        root: the folder with train/, trainannot/, val/, ...; or the prepared cache.
        evaluate: which published split is `val`, the one final figures are of; papers mostly report `test`.
        dev_fraction: share of train that becomes dev, in (0, 1), in whole stretches of film.
        dev_seed: of that cut.
        short_side: pairs are downscaled to this many pixels on their shorter side.

    Raises:
        ValueError: a parameter is out of range, or files are missing or wrong; names them.
    """
    own = source(root, evaluate)
    return load(own, root, {"evaluate": evaluate}, dev_fraction, dev_seed, short_side)
