"""Layouts of the user's own folder beside images/ and masks/: Cityscapes', VOC's, and images without masks."""

from collections.abc import Callable
from pathlib import PurePosixPath

from harness.datasets.pairing import Pairing
from harness.datasets.source import Sample
from harness.datasets.tree import Tree

IMAGES = tuple(
    suffix for low in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp") for suffix in (low, low.upper())
)
MASKS = (".png", ".PNG")
LAYOUTS = ("cityscapes", "voc")


def without_masks(pairing: Pairing, folder: str) -> list[Sample]:
    """The images of a folder below the root, and of the folders in it."""
    images = pairing.files(folder, IMAGES, lambda name: name, deep=True)
    return [Sample(name, image, None) for name, image in images.items()]


def like_cityscapes(pairing: Pairing, split: str, masks_are: str) -> list[Sample]:
    """leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png with gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png, or _color.png.

    Which of the two follows from `masks` in classes.yaml: "values" or "colours".
    """
    ending = "_gtFine_color.png" if masks_are == "colours" else "_gtFine_labelIds.png"
    masks = pairing.files(f"gtFine/{split}", ending, _key(ending), deep=True)
    images = _city_images(pairing, split)
    names = pairing.matched(images, masks, lambda name: f"gtFine/{split}/{name}{ending}")
    return [Sample(name, images[name], masks[name], name.split("/")[0]) for name in names]


def _city_images(pairing: Pairing, split: str) -> dict[str, str]:
    endings = tuple(f"_leftImg8bit{suffix}" for suffix in IMAGES)
    return pairing.files(f"leftImg8bit/{split}", endings, _key("_leftImg8bit"), deep=True)


def _key(ending: str) -> Callable[[str], str]:
    """CITY/NAME of a file whose stem ends in `ending`."""
    stem = ending.removesuffix(".png")

    def key(name: str) -> str:
        path = PurePosixPath(name)
        return f"{path.parent.name}/{path.stem.removesuffix(stem)}"

    return key


def like_voc(pairing: Pairing, split: str) -> list[Sample]:
    """JPEGImages/NAME.jpg with SegmentationClass/NAME.png, by the names in ImageSets/Segmentation/SPLIT.txt."""
    images, masks = pairing.files("JPEGImages", IMAGES), pairing.files("SegmentationClass", MASKS)
    file = f"ImageSets/Segmentation/{split}.txt"
    if split == "train":
        pairing.orphans(masks, images)
        other = set(pairing.lists("ImageSets/Segmentation/val.txt"))
        for name in sorted(other & set(pairing.lists(file))):
            pairing.problems.append(f"{pairing.tree.root / file}: {name} is in val.txt too; keep it in one")
    names = pairing.listed(
        file,
        sorted(pairing.lists(file)),
        images,
        masks,
        lambda name: f"JPEGImages/{name}.jpg",
        lambda name: f"SegmentationClass/{name}.png",
    )
    return [Sample(name, images[name], masks[name]) for name in names]


def _below_test(name: str) -> str:
    """FOLDER/NAME of an image in a folder of images/test."""
    return str(PurePosixPath(name.removeprefix("images/test/")).with_suffix(""))


def for_prediction(tree: Tree, layout: str | None = None) -> list[Sample]:
    """The images for prediction, which have no masks: images/test with its folders, or what a layout has in its place.

    Raises:
        ValueError: a list names an image that is not there, or names leave the folder.
    """
    pairing = Pairing(tree)
    if layout == "voc":
        file, images = "ImageSets/Segmentation/test.txt", pairing.files("JPEGImages", IMAGES)
        names = pairing.listed(
            file, sorted(pairing.lists(file)), images, images, lambda name: f"JPEGImages/{name}.jpg", str
        )
        found = {name: images[name] for name in names}
    elif layout == "cityscapes":
        found = _city_images(pairing, "test")
    else:
        found = pairing.files("images/test", IMAGES, _below_test, deep=True)
    if pairing.problems:
        raise ValueError("\n".join(pairing.problems))
    return [Sample(name, image, None) for name, image in sorted(found.items())]
