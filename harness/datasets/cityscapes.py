"""cityscapes: street scenes of 50 cities in 19 classes; dev is cut from train by whole cities."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from harness.datasets.base import Data
from harness.datasets.filedata import load
from harness.datasets.pairing import Pairing, one_of
from harness.datasets.source import IGNORE, Listing, Sample, Source, table
from harness.datasets.tree import Tree

# In the order of the train ids: label id, name, colour (cityscapesscripts/helpers/labels.py).
_CLASSES = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
TRAIN_ID_TO_ID = tuple(label_id for label_id, _, _ in _CLASSES)
"""The label id of each class index: what the test server wants in its PNGs."""
LABEL_IDS = 34
ANNOTATIONS = ("fine", "fine+coarse")
FINE, COARSE = 2975, 19997
IMAGE = "_leftImg8bit.png"
BROKEN = "troisdorf/troisdorf_000000_000073"
"""A black frame of train_extra that its users are asked to delete; it is left out whether or not it is there."""


def listing(tree: Tree, annotations: str = "fine") -> Listing:
    """The pairs below a root.

    Args:
        tree: the folder that holds leftImg8bit and gtFine.
        annotations: "fine", or "fine+coarse" for train_extra with its coarse label maps as well.
    """
    pairing = Pairing(tree)
    samples = {split: _split(pairing, split, "gtFine") for split in ("train", "val")}
    if annotations == "fine+coarse":
        samples["train"] += [replace(sample, extra=True) for sample in _split(pairing, "train_extra", "gtCoarse")]
    return Listing(samples, pairing.problems)


def _split(pairing: Pairing, split: str, kind: str) -> list[Sample]:
    """The samples of one folder; a label map in train ids is preferred to the one in label ids."""
    in_train_ids, in_ids = (f"_{kind}_label{coding}.png" for coding in ("TrainIds", "Ids"))
    images = pairing.files(f"leftImg8bit/{split}", IMAGE, _key(IMAGE), deep=True)
    trainids = pairing.files(f"{kind}/{split}", in_train_ids, _key(in_train_ids), deep=True, needed=False)
    ids = pairing.files(f"{kind}/{split}", in_ids, _key(in_ids), deep=True, needed=not trainids)
    for found in (images, trainids, ids):
        found.pop(BROKEN, None)
    labels = {**ids, **trainids}
    return [
        Sample(name, images[name], labels[name], name.split("/")[0], "trainids" if name in trainids else "ids")
        for name in pairing.matched(images, labels, lambda name: f"{kind}/{split}/{name}{in_ids}")
    ]


def _key(suffix: str) -> Callable[[str], str]:
    """CITY/CITY_SEQ_FRAME of a file that ends in `suffix`."""
    return lambda name: "/".join(PurePosixPath(name.removesuffix(suffix)).parts[-2:])


def unlabelled(tree: Tree) -> list[Sample]:
    """The images of the test split."""
    pairing = Pairing(tree)
    images = pairing.files("leftImg8bit/test", IMAGE, _key(IMAGE), deep=True)
    if pairing.problems:
        raise ValueError("\n".join(pairing.problems))
    return [Sample(name, image, None, name.split("/")[0]) for name, image in images.items()]


CITYSCAPES = Source(
    name="cityscapes",
    title="Cityscapes (Cordts et al., CVPR 2016), 19 classes",
    class_names=tuple(name for _, name, _ in _CLASSES),
    palette=tuple(colour for _, _, colour in _CLASSES),
    tables={
        # Licence plates have the id -1 and are not drawn by the authors' tools; 8 bits of it would be 255.
        "ids": table(
            {
                **dict.fromkeys((*range(LABEL_IDS), 255), IGNORE),
                **{label_id: index for index, label_id in enumerate(TRAIN_ID_TO_ID)},
            }
        ),
        "trainids": table({**{index: index for index in range(len(_CLASSES))}, 255: IGNORE}),
    },
    licence="non-commercial use only (research, teaching, personal experiments); the dataset and modified versions of "
    "it must not be passed on. https://www.cityscapes-dataset.com/license/",
    obtain="register at https://www.cityscapes-dataset.com, download leftImg8bit_trainvaltest.zip (11 GB) and "
    "gtFine_trainvaltest.zip (241 MB), and unpack both into one folder. For annotations: fine+coarse also "
    "leftImg8bit_trainextra.zip (44 GB) and gtCoarse.zip; the black frame "
    "troisdorf_000000_000073 of train_extra is left out",
    layout="""\
ROOT/leftImg8bit/{train,val,test}/CITY/CITY_SEQ_FRAME_leftImg8bit.png
ROOT/gtFine/{train,val}/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png (or _labelTrainIds.png, used where it is there)
ROOT/leftImg8bit/train_extra/CITY/CITY_SEQ_FRAME_leftImg8bit.png (annotations: fine+coarse)
ROOT/gtCoarse/train_extra/CITY/CITY_SEQ_FRAME_gtCoarse_labelIds.png (annotations: fine+coarse)""",
    published={"train": FINE, "val": 500},
    cut="group",
    listing=listing,
    note="Street scenes of 50 cities in Germany and neighbouring countries, 2048x1024, seen from a car.",
    unlabelled=unlabelled,
)


def source(root: Path | None = None, annotations: str = "fine") -> Source:
    """The description of the dataset; `root` is not used.

    Raises:
        ValueError: `annotations` is none of `ANNOTATIONS`.
    """
    one_of("cityscapes", "annotations", annotations, ANNOTATIONS)
    if annotations == "fine":
        return CITYSCAPES
    return replace(CITYSCAPES, published={**CITYSCAPES.published, "train": FINE + COARSE})


def cityscapes(
    root: Path | None = None,
    *,
    annotations: Literal["fine", "fine+coarse"] = "fine",
    dev_fraction: float = 0.1,
    dev_seed: int = 0,
    short_side: int | None = None,
) -> Data:
    """Read the dataset's folder or its prepared cache.

    Args:
        root: the folder that holds leftImg8bit and gtFine, or a prepared cache.
        annotations: "fine" for the 2,975 finely labelled training images; "fine+coarse" adds the coarsely labelled
            ones of train_extra, which are never in dev.
        dev_fraction: about this share of the finely labelled training images becomes dev, in whole cities.
        dev_seed: decides which cities.
        short_side: images are downscaled to this many pixels on their shorter side; None leaves them at 1024.

    Raises:
        ValueError: a parameter is out of range, or files are missing or wrong; names them.
    """
    own = source(root, annotations)
    return load(own, root, {"annotations": annotations}, dev_fraction, dev_seed, short_side)
