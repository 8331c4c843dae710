"""folder: your own images and masks, with the classes in a file classes.yaml beside them."""

import colorsys
import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field

from harness.borders import quoted
from harness.datasets import cache, splits
from harness.datasets.base import Data
from harness.datasets.filedata import load
from harness.datasets.layouts import IMAGES, LAYOUTS, MASKS, for_prediction, like_cityscapes, like_voc, without_masks
from harness.datasets.pairing import Pairing, one_of
from harness.datasets.source import IGNORE, OFFICIAL, Listing, Sample, Source, table
from harness.datasets.tree import Tree
from harness.experiment import yaml_reader
from harness.experiment.load import listed, validate

CLASSES = "classes.yaml"
Colour = tuple[int, int, int]
Byte = Annotated[int, Field(ge=0, le=255)]


class ClassEntry(BaseModel):
    """One class of classes.yaml."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    name: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")
    value: Byte | None = None
    """Its value in the masks; not with `masks: colours`."""
    colour: list[Byte] | None = Field(None, min_length=3, max_length=3)
    """RGB, for pictures of labels; one that differs from the others is made where there is none. With `masks: colours`
    its colour in the masks."""


class ClassTable(BaseModel):
    """The file classes.yaml."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    classes: list[ClassEntry] = Field(min_length=2, max_length=IGNORE)
    ignore: list[Byte] | None = None
    """Values that never count; 255 where this is left out and no class has it. Not with `masks: colours`."""
    masks: Literal["values", "colours"] = "values"
    """Whether masks hold values, or colours by which the classes are told apart."""
    ignore_colours: list[Annotated[list[Byte], Field(min_length=3, max_length=3)]] | None = None
    """Colours that never count, with `masks: colours`."""


def listing(
    tree: Tree,
    val_fraction: float = 0.2,
    val_seed: int = 0,
    layout: str | None = None,
    unlabelled: str | None = None,
) -> Listing:
    """The pairs below a root, and the images without masks; each problem once.

    Arguments as for `_pairs`, and `unlabelled`: a folder below the root with images that have no masks.
    """
    pairing = Pairing(tree)
    extra = [] if unlabelled is None else without_masks(pairing, unlabelled)
    samples = _pairs(pairing, val_fraction, val_seed, layout)
    labelled = {sample.image for split in samples.values() for sample in split}
    if both := [sample.image for sample in extra if sample.image in labelled]:
        pairing.problems.append(
            f"{tree.root / str(unlabelled)}: {len(both)} of its images are of train or val, e.g. {quoted(both[0])}; "
            "unlabelled images are others, or a method would learn from those it is evaluated on"
        )
    return Listing(samples, list(dict.fromkeys(pairing.problems)), pairing.notes, extra)


def _pairs(
    pairing: Pairing,
    val_fraction: float,
    val_seed: int,
    layout: str | None,
) -> dict[str, list[Sample]]:
    """The pairs of each split: by folders train and val, by lists train.txt and val.txt, or cut at random.

    Args:
        pairing: of the folder that holds images, masks and classes.yaml.
        val_fraction: share of the pairs that becomes val where neither folders nor lists say.
        val_seed: of that cut.
        layout: "cityscapes" or "voc" for folders and names of files like theirs.
    """
    if layout is not None:
        kind = read_classes(pairing.tree.file(CLASSES)).masks
        like = functools.partial(like_cityscapes, masks_are=kind) if layout == "cityscapes" else like_voc
        samples = {split: like(pairing, split) for split in OFFICIAL}
        if layout == "voc" and not pairing.exists("ImageSets/Segmentation/test.txt"):
            _note_unlisted(pairing, samples, "JPEGImages")
        return samples
    if any(pairing.exists(f"{kind}/{split}") for kind in ("images", "masks") for split in OFFICIAL):
        samples = {split: _by_folder(pairing, f"/{split}") for split in OFFICIAL}
        _note_unused(pairing, OFFICIAL)
        if lists := [f"{split}.txt" for split in OFFICIAL if pairing.exists(f"{split}.txt")]:
            pairing.notes.append(f"{' and '.join(lists)}: not used, because there are folders train and val")
    elif any(pairing.exists(f"{split}.txt") for split in OFFICIAL):
        samples = _by_lists(pairing)
        _note_unused(pairing, ())
        _note_unlisted(pairing, samples)
    else:
        pairs = _by_folder(pairing, "")
        held = _cut(len(pairs), val_fraction, val_seed)
        _note_unused(pairing, ())
        samples = {
            split: [pair for pair, is_val in zip(pairs, held, strict=True) if is_val == (split == "val")]
            for split in OFFICIAL
        }
    return samples


def _note_unused(pairing: Pairing, used: Sequence[str]) -> None:
    """Note files that lie where this layout does not look: beside the folders of the splits, or in other folders."""
    for kind, suffix in (("images", IMAGES), ("masks", MASKS)):
        if used:
            pairing.leave(kind, suffix, "because there are folders train and val")
        folder = pairing.tree.root / kind
        inner = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        for name in inner:
            if kind == "images" and name == "test":  # without masks, for prediction: no reason to refuse the others
                with contextlib.suppress(ValueError):
                    count = len(pairing.tree.names("images/test", IMAGES, deep=True))
                    pairing.notes.append(f"images/test: {count} images for prediction; no run sees them")
            elif name not in used and not name.startswith("."):
                pairing.leave(f"{kind}/{name}", suffix, "because this layout does not look into this folder", deep=True)
            elif name in used:
                below = (pairing.tree.root / kind / name).iterdir()
                for deeper in sorted(path.name for path in below if path.is_dir() and path.name[0] != "."):
                    pairing.leave(f"{kind}/{name}/{deeper}", suffix, "because it is deeper than this layout looks")


def _note_unlisted(pairing: Pairing, samples: dict[str, list[Sample]], folder: str = "images") -> None:
    listed_images = {sample.image for split in samples.values() for sample in split}
    left = [name for name in pairing.tree.names(folder, IMAGES) if name not in listed_images]
    if left:
        pairing.notes.append(f"{folder}: {len(left)} files are in neither list, e.g. {quoted(left[0])}")


def _cut(count: int, fraction: float, seed: int) -> Sequence[Any]:
    if count < 2:
        return [False] * count
    marked: list[Any] = splits.at_random(count, fraction, np.random.default_rng(seed)).tolist()
    return marked


def _by_folder(pairing: Pairing, below: str) -> list[Sample]:
    images, masks = pairing.files(f"images{below}", IMAGES), pairing.files(f"masks{below}", MASKS)
    names = pairing.matched(images, masks, lambda name: f"masks{below}/{name}.png")
    return [Sample(name, images[name], masks[name]) for name in sorted(names)]


def _by_lists(pairing: Pairing) -> dict[str, list[Sample]]:
    images, masks = pairing.files("images", IMAGES), pairing.files("masks", MASKS)
    pairing.orphans(masks, images)
    files = {image.removeprefix("images/"): name for name, image in images.items()}
    samples, lists = {}, {}
    for split in OFFICIAL:
        lists[split] = pairing.lists(f"{split}.txt", lambda line: files.get(line, line))
        names = pairing.listed(
            f"{split}.txt",
            lists[split],
            images,
            masks,
            lambda name: f"images/{name}",
            lambda name: f"masks/{name}.png",
        )
        samples[split] = [Sample(name, images[name], masks[name]) for name in sorted(names)]
    for name in sorted(set(lists["train"]) & set(lists["val"])):
        pairing.problems.append(f"{pairing.tree.root}: {name} is in train.txt and in val.txt; keep it in one")
    return samples


def read_classes(path: Path) -> ClassTable:
    """Read a class table.

    Raises:
        ValueError: no such file, not YAML, an unknown or missing key, a value out of range or twice; a line each.
    """
    if not path.is_file():
        raise ValueError(f"{path}: the list of classes is missing. Write one:\n{indent(EXAMPLE, '    ')}")
    data, lines = yaml_reader.read(path, "a list of classes", "classes:, ignore:")
    problems: list[str] = []

    def report(at: yaml_reader.KeyPath, message: str) -> None:
        line = next((f":{lines[at[:n]]}" for n in range(len(at), 0, -1) if at[:n] in lines), "")
        problems.append(f"{path}{line}: {yaml_reader.dotted(at)}: {message}")

    found = validate(ClassTable, data, (), report)
    if found is not None:
        _told_apart(found, report)
    if found is not None and not problems:
        problems = [f"{path}: {line}" for line in _repeated(found)]
    if found is None or problems:
        raise ValueError(listed(problems))
    return found


def class_table(names: Sequence[str], palette: Sequence[Colour]) -> str:
    """The text of a class table whose values are the class indices."""
    classes = [
        {"name": name, "value": value, "colour": list(colour)}
        for value, (name, colour) in enumerate(zip(names, palette, strict=True))
    ]
    return yaml.safe_dump({"classes": classes}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def _told_apart(found: ClassTable, report: Callable[[yaml_reader.KeyPath, str], None]) -> None:
    """Report classes without what tells them apart in the masks, and keys of the other kind of mask."""
    key, other = ("value", "ignore_colours") if found.masks == "values" else ("colour", "ignore")
    for index, entry in enumerate(found.classes):
        if getattr(entry, key) is None:
            report(("classes", index, key), f"this key is missing; with masks: {found.masks} it has no default")
        if found.masks == "colours" and entry.value is not None:
            report(("classes", index, "value"), "not with masks: colours; delete it")
    if getattr(found, other) is not None:
        report((other,), f"not with masks: {found.masks}; delete it")


def _repeated(found: ClassTable) -> Iterable[str]:
    """A line for each name, value or colour that occurs twice."""
    ignored = [("ignore", value) for value in found.ignore or ()]
    for what, values in (
        ("the name", [entry.name for entry in found.classes]),
        ("the value", [*(e.value for e in found.classes if e.value is not None), *(value for _, value in ignored)]),
        (
            "the colour",
            [*(tuple(e.colour) for e in found.classes if e.colour), *map(tuple, found.ignore_colours or ())],
        ),
    ):
        for value, count in Counter[Any](values).items():
            if count > 1:
                where = " (classes and ignore together)" if what == "the value" else ""
                yield f"{what} {value} occurs {count} times{where}; it can belong to one class only"


def distinct_colours(given: Sequence[Colour | None]) -> tuple[Colour, ...]:
    """`given` with a colour for each None, all different: hues a golden angle apart, in three brightnesses."""
    used, out, number = {colour for colour in given if colour is not None}, [], 0
    for colour in given:
        while colour is None:
            brightness = (0.95, 0.65, 0.8)[number % 3]
            red, green, blue = colorsys.hsv_to_rgb(number * 0.61803398875 % 1, (0.85, 0.6)[number // 3 % 2], brightness)
            new, number = (round(255 * red), round(255 * green), round(255 * blue)), number + 1
            if new not in used:
                used.add(new)
                colour = new
        out.append(colour)
    return tuple(out)


EXAMPLE = """\
classes:
  - {name: soil, value: 0}
  - {name: crop, value: 1, colour: [0, 158, 115]}
  - {name: weed, value: 2}
ignore: [255]"""

FOLDER = Source(
    name="folder",
    title="your own images and masks",
    class_names=(),
    palette=(),
    tables={},
    licence="yours; photographs are kept out of what is made for others to see",
    obtain="put images, masks and classes.yaml into one folder",
    layout=f"""\
ROOT/classes.yaml:
{EXAMPLE}
and one of
  ROOT/images/{{train,val}}/NAME.jpg (or .png and others) with ROOT/masks/{{train,val}}/NAME.png
  ROOT/images/NAME.jpg with ROOT/masks/NAME.png and lists of names ROOT/train.txt and ROOT/val.txt
  ROOT/images/NAME.jpg with ROOT/masks/NAME.png; val_fraction of them becomes val at random
  layout: cityscapes  ROOT/leftImg8bit/{{train,val}}/CITY/NAME_leftImg8bit.png, ROOT/gtFine/.../NAME_gtFine_labelIds.png
  layout: voc         ROOT/JPEGImages/NAME.jpg, ROOT/SegmentationClass/NAME.png, ROOT/ImageSets/Segmentation/train.txt
masks have one channel of 8 bits, or a palette, whose values classes.yaml names, or colours (masks: colours);
ROOT/images/test/NAME.jpg have no masks and are for prediction""",
    published={},
    cut="presence",
    listing=listing,
    unlabelled=for_prediction,
    note="A folder of images and masks of the user's own.",
)


def source(
    root: Path | None = None,
    val_fraction: float = 0.2,
    val_seed: int = 0,
    layout: str | None = None,
    unlabelled: str | None = None,
) -> Source:
    """The description of the dataset; without `root` only its layout.

    Args:
        root: the folder that holds classes.yaml, or a prepared cache, which has the classes in its manifest.
        val_fraction: checked only.
        val_seed: checked only.
        layout: "cityscapes" cuts dev by whole cities.
        unlabelled: checked only.

    Raises:
        ValueError: a parameter is out of range, there is no such folder, or classes.yaml is missing or wrong.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"folder: val_fraction is {val_fraction}; allowed: above 0 and below 1")
    if val_seed < 0:
        raise ValueError(f"folder: val_seed is {val_seed}; allowed: 0 and more")
    if unlabelled is not None and not unlabelled.strip("./ "):
        raise ValueError(f"folder: unlabelled is {unlabelled!r}; name a folder below the root, or leave it out")
    how = FOLDER
    if layout is not None:
        one_of("folder", "layout", layout, LAYOUTS)
        cut: Literal["group", "presence"] = "group" if layout == "cityscapes" else "presence"
        how = replace(FOLDER, cut=cut, unlabelled=functools.partial(for_prediction, layout=layout))
    if root is None:
        return how
    if cache.is_cache(root):
        if unlabelled is not None:
            raise ValueError(f"{root}: a prepared cache has no unlabelled images; give the dataset's own folder")
        manifest = cache.read_manifest(root)
        return replace(how, class_names=manifest.class_names, palette=manifest.palette)
    found = read_classes(Tree(root).file(CLASSES))
    values = {entry.value: index for index, entry in enumerate(found.classes) if entry.value is not None}
    ignored = [value for value in (IGNORE,) if value not in values] if found.ignore is None else found.ignore
    colours = [(c[0], c[1], c[2]) if (c := entry.colour) else None for entry in found.classes]
    in_masks = {tuple(e.colour): index for index, e in enumerate(found.classes) if e.colour}
    in_masks |= {tuple(colour): IGNORE for colour in found.ignore_colours or ()}
    return replace(
        how,
        class_names=tuple(entry.name for entry in found.classes),
        colours={(c[0], c[1], c[2]): index for c, index in in_masks.items()} if found.masks == "colours" else {},
        palette=distinct_colours(colours),
        tables={"ids": table({**values, **dict.fromkeys(ignored, IGNORE)})},
    )


def folder(
    root: Path | None = None,
    *,
    val_fraction: float = 0.2,
    val_seed: int = 0,
    layout: Literal["cityscapes", "voc"] | None = None,
    unlabelled: str | None = None,
    dev_fraction: float = 0.1,
    dev_seed: int = 0,
    short_side: int | None = None,
) -> Data:
    """Read the user's folder or its prepared cache.

    Args:
        root: the folder that holds images, masks and classes.yaml, or a prepared cache.
        val_fraction: share of the pairs that becomes val where neither folders nor lists name one.
        val_seed: decides which pairs that are.
        layout: folders and names of files like those of Cityscapes or of Pascal VOC.
        unlabelled: a folder below the root with images that have no masks; they are counted and hashed, and no method
            uses them yet.
        dev_fraction: this share of the training images becomes dev, every class about as often as in the others.
        dev_seed: decides which images.
        short_side: images are downscaled to this many pixels on their shorter side; None keeps their size.

    Raises:
        ValueError: a parameter is out of range, or files are missing or wrong; names them.
    """
    own = source(root, val_fraction, val_seed, layout, unlabelled)
    variant: dict[str, Any] = {"val_fraction": val_fraction, "val_seed": val_seed}
    added = {"layout": layout, "unlabelled": unlabelled}  # left out where they are not given, as in earlier caches
    variant |= {key: value for key, value in added.items() if value is not None}
    return load(own, root, variant, dev_fraction, dev_seed, short_side)
