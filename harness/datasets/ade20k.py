"""ade20k: scenes of every kind in 150 classes, the scene parsing benchmark; dev has each class as often as train."""

from pathlib import Path

from harness.datasets._ade20k_classes import CLASSES
from harness.datasets.base import Data
from harness.datasets.filedata import load
from harness.datasets.pairing import Pairing
from harness.datasets.source import IGNORE, Listing, Sample, Source, table
from harness.datasets.tree import Tree

FOLDER = "ADEChallengeData2016/"
FOLDERS = {"train": "training", "val": "validation"}


def listing(tree: Tree) -> Listing:
    """The pairs below a root: the folder ADEChallengeData2016, or the one it lies in."""
    pairing = Pairing(tree)
    base = pairing.base(("", FOLDER), "annotations")
    if base is None:
        pairing.problems.append(f"{tree.root}: neither annotations nor {FOLDER}annotations is there. {_LAYOUT}")
        return Listing({}, pairing.problems)
    samples = {}
    for split, folder in FOLDERS.items():
        images = pairing.files(f"{base}images/{folder}", ".jpg")
        where = f"{base}annotations/{folder}"
        labels = pairing.files(where, ".png")
        names = pairing.matched(images, labels, lambda name, where=where: f"{where}/{name}.png")  # type: ignore[misc]
        samples[split] = [Sample(name, images[name], labels[name]) for name in names]
    return Listing(samples, pairing.problems)


def unlabelled(tree: Tree) -> list[Sample]:
    """The images of the test split, which is a download of its own."""
    pairing = Pairing(tree)
    for folder in ("release_test/testing", "images/testing"):
        base = pairing.base(("", FOLDER), folder)
        if base is not None:
            images = pairing.files(base + folder, ".jpg")
            if not pairing.problems:
                return [Sample(name, image, None) for name, image in images.items()]
    raise ValueError(
        "\n".join(pairing.problems)
        or f"{tree.root}: neither release_test/testing nor images/testing is there; unpack release_test.zip in it"
    )


_LAYOUT = """\
ROOT/ADEChallengeData2016/images/{training,validation}/ADE_{train,val}_NUMBER.jpg
ROOT/ADEChallengeData2016/annotations/{training,validation}/ADE_{train,val}_NUMBER.png (values 1..150; 0 is ignored)
ROOT/release_test/testing/ADE_test_NUMBER.jpg (for the test server only)
ROOT may be ADEChallengeData2016 itself"""

ADE20K = Source(
    name="ade20k",
    title="ADE20K scene parsing benchmark, SceneParse150 (Zhou et al., CVPR 2017)",
    class_names=tuple(name for name, _ in CLASSES),
    palette=tuple(colour for _, colour in CLASSES),
    tables={"ids": table({0: IGNORE, **{index + 1: index for index in range(len(CLASSES))}})},
    licence="images for non-commercial research and education only, their copyright is not MIT's; "
    "annotations BSD 3-clause. http://groups.csail.mit.edu/vision/datasets/ADE20K/",
    obtain="download train/val (922 MB) from http://sceneparsing.csail.mit.edu and unpack ADEChallengeData2016.zip; "
    "release_test.zip (203 MB) for the test server",
    layout=_LAYOUT,
    published={"train": 20210, "val": 2000},
    cut="presence",
    listing=listing,
    note="Scenes indoors and outdoors in images of any size, some of them grey.",
    unlabelled=unlabelled,
)


def source(root: Path | None = None) -> Source:
    """The description of the dataset; `root` is not used."""
    return ADE20K


def ade20k(
    root: Path | None = None,
    *,
    dev_fraction: float = 0.1,
    dev_seed: int = 0,
    short_side: int | None = None,
) -> Data:
    """Read the dataset's folder or its prepared cache.

    Args:
        root: the folder ADEChallengeData2016, the one it lies in, or a prepared cache.
        dev_fraction: this share of the training images becomes dev, every class about as often as in the others.
        dev_seed: decides which images.
        short_side: images are downscaled to this many pixels on their shorter side; None keeps their size.

    Raises:
        ValueError: a parameter is out of range, or files are missing or wrong; names them.
    """
    return load(ADE20K, root, {}, dev_fraction, dev_seed, short_side)
