"""A dataset of the user's own: a class or function named `package.module:Name` that gives three splits of pairs.

It is called with the folder `data.root` (if it takes a positional argument) and with `data.parameters` as keyword
arguments, and gives an object with

- `class_names`: names of the K classes, 2 to 255;
- `train`, `dev`, `val`: sequences (`len` and `[index]`) of pairs: an image (H, W, 3) uint8 RGB and a label (H, W) uint8
  of class indices 0..K-1, or `ignore_index` where no class is known. Reading a pair again gives the same pair;
- optional: `ignore_index` (255), `palette` (K colours), `mean` and `std` (RGB, in 0..255; ImageNet's without them),
  `note` (a sentence).

A `harness.datasets.base.Data` is such an object too, with all but the splits in its `info`. Its content hash is over
the names of the classes and the bytes of every pair, so that it is read once, whole.
"""

import hashlib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.borders import quoted
from harness.datasets.base import Data, DataInfo, Image, Label
from harness.datasets.decode import value_counts
from harness.datasets.folder import distinct_colours
from harness.datasets.source import IGNORE
from harness.experiment.recipe import MOST_PIXELS

PARTS = ("train", "dev", "val")
# Mean and standard deviation of ImageNet in 0..255.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CONTRACT = (
    "A pair is an image (H, W, 3) uint8 RGB and a label (H, W) uint8 of class indices or ignore_index, both numpy"
)


@dataclass(frozen=True)
class Checked:
    """A split of the user's, every pair of which is looked at when it is read.

    Attributes:
        pairs: what the user's object has.
        where: its name for messages.
        num_classes: K.
        ignore_index: the other label that is allowed.
        one_size: whether all pairs are of one size.
    """

    pairs: Any
    where: str
    num_classes: int
    ignore_index: int
    one_size: bool = True

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[Image, Label]:
        """Pair `i`: image (H, W, 3) uint8 and label (H, W) uint8.

        Raises:
            IndexError: there is no such pair.
            ValueError: it cannot be read, or is no such pair; names split and index.
        """
        if not 0 <= i < len(self):
            raise IndexError(i)
        where = f"{self.where}[{i}]"
        try:
            found = self.pairs[i]
        except Exception as error:  # of the user's code
            raise ValueError(f"{where} cannot be read: {type(error).__name__}: {quoted(str(error))}") from error
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise ValueError(f"{where} is {_kind(found)}. {CONTRACT}")
        image, label = found
        for what, value, ndim in (("image", image, 3), ("label", label, 2)):
            fine = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == ndim
            if not fine or (ndim == 3 and value.shape[2] != 3):
                raise ValueError(f"{where}: its {what} is {_kind(value)}. {CONTRACT}")
            if not 0 < value.shape[0] * value.shape[1] <= MOST_PIXELS:
                raise ValueError(
                    f"{where}: its {what} has {value.shape[1]} x {value.shape[0]} pixels; allowed are 1 to "
                    f"{MOST_PIXELS:,}. Cut it into tiles"
                )
        if image.shape[:2] != label.shape:
            raise ValueError(
                f"{where}: the image has {image.shape[1]}x{image.shape[0]} pixels, its label "
                f"{label.shape[1]}x{label.shape[0]}"
            )
        counts = value_counts(np.ascontiguousarray(label))
        counts[: self.num_classes] = 0
        counts[self.ignore_index] = 0
        if counts.any():
            wrong = int(np.flatnonzero(counts)[0])
            raise ValueError(
                f"{where}: {counts[wrong]} pixels of the label have the value {wrong}; allowed are 0 to "
                f"{self.num_classes - 1}, and {self.ignore_index} where no class is known"
            )
        return image, label


def _kind(value: Any) -> str:
    """What a value is, for messages."""
    shape, kind = getattr(value, "shape", None), type(value)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    return f"{name} {tuple(shape)} of {value.dtype}" if shape is not None and hasattr(value, "dtype") else name


class Known(NamedTuple):
    """What reading all pairs has told.

    Attributes:
        content_hash: of `hash_of`.
        one_size: whether all images of train are of one size.
    """

    content_hash: str
    one_size: bool


def load(target: str, root: Path | None, keywords: dict[str, Any], known: Known | None = None) -> Data:
    """The splits of a dataset from outside.

    Args:
        target: `package.module:Name`.
        root: `data.root`.
        keywords: `data.parameters`, with the types of its signature.
        known: from an earlier look at the same pairs; without it every pair is read and checked.

    Raises:
        ValueError: it cannot be imported or called, or what it gives is no dataset; names it, and the remedy.
    """
    found = _called(target, root, keywords)
    described: Any = getattr(found, "info", found)
    names, ignore = _names(target, described), getattr(described, "ignore_index", IGNORE)
    ignore = int(ignore) if isinstance(ignore, np.integer) else ignore
    if not isinstance(ignore, int) or not len(names) <= ignore <= IGNORE:
        raise ValueError(
            f"{target}: ignore_index is {quoted(repr(ignore))}; allowed: {len(names)} to {IGNORE}, which is no class"
        )
    splits = {}
    for part in PARTS:
        pairs: Any = getattr(found, part, None)
        if not (hasattr(pairs, "__len__") and hasattr(pairs, "__getitem__")):
            raise ValueError(
                f"{target}: {part} is {_kind(pairs)}; it needs train, dev and val, each with len() and [index]. dev is "
                "for choices during development: divide train"
            )
        try:
            len(pairs)
        except Exception as error:  # of the user's code
            raise ValueError(f"{target}: len({part}) fails: {type(error).__name__}: {quoted(str(error))}") from error
        splits[part] = Checked(pairs, f"{target}: {part}", len(names), ignore)
    mean, std = _three(target, described, "mean", MEAN), _three(target, described, "std", STD)
    if known is None:
        sizes: set[tuple[int, ...]] = set()
        content_hash = hash_of(names, ignore, splits, mean + std, sizes)
        known = Known(content_hash, len(sizes) < 2)
    splits["train"] = replace(splits["train"], one_size=known.one_size)
    info = DataInfo(
        name=target,
        num_classes=len(names),
        class_names=names,
        palette=_palette(target, described, len(names)),
        mean=mean,
        std=std,
        content_hash=known.content_hash,
        note=str(getattr(described, "note", "") or f"A dataset of the user's own, {target}."),
        ignore_index=ignore,
        shareable=False,
    )
    return Data(info, **splits)


def hash_of(
    names: tuple[str, ...],
    ignore_index: int,
    splits: dict[str, Checked],
    normalization: tuple[float, ...],
    sizes: set[tuple[int, ...]] | None = None,
) -> str:
    """SHA-256 over the classes, what images are normalised by, and every pair's size and bytes, in order.

    The sizes of the training images are added to `sizes`.
    """
    digest = hashlib.sha256(f"outside\0{ignore_index}\0{normalization}\0".encode() + "\0".join(names).encode())
    for part, pairs in splits.items():
        digest.update(f"\0{part}\0{len(pairs)}".encode())
        for i in range(len(pairs)):
            image, label = pairs[i]
            digest.update(f"\0{label.shape}".encode())
            if sizes is not None and part == "train":
                sizes.add(label.shape)
            for pixels in (image, label):
                digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def imported(target: str) -> Callable[..., Any]:
    """The class or function.

    Raises:
        ValueError: it cannot be imported.
    """
    module, _, name = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as error:  # of the user's code
        raise ValueError(f"{target} cannot be imported: {type(error).__name__}: {quoted(str(error))}") from error
    if not callable(found):
        raise ValueError(f"{target}: {module} has no class or function {name}")
    kind: Callable[..., Any] = found
    return kind


def _called(target: str, root: Path | None, keywords: dict[str, Any]) -> Any:
    maker = imported(target)
    kinds = [p.kind for p in inspect.signature(maker).parameters.values()]
    places = sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)
    if places > 1:
        raise ValueError(
            f"{target} takes {places} positional arguments; it gets one, the folder data.root, and everything else by "
            "name: write (root, *, ...)"
        )
    if places and root is None:
        raise ValueError(f"{target}: data.root is missing; it is called with the folder")
    if root is not None and not root.is_dir():
        raise ValueError(f"{target}: there is no folder {root}; correct data.root")
    try:
        return maker(*([root] if places else []), **keywords)
    except (Exception, SystemExit) as error:  # of the user's code
        raise ValueError(f"{target} cannot be made: {type(error).__name__}: {quoted(str(error))}") from error


def _names(target: str, described: Any) -> tuple[str, ...]:
    names: Any = getattr(described, "class_names", None)
    names = names.tolist() if isinstance(names, np.ndarray) else names
    fine = isinstance(names, list | tuple) and 2 <= len(names) <= IGNORE
    if not fine or not all(
        isinstance(name, str) and name and name.isprintable() and len(name) <= 100 for name in names
    ):
        raise ValueError(
            f"{target}: class_names is {quoted(repr(names))}; give a list of 2 to {IGNORE} names, in the order of the "
            "class indices"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{target}: class_names has a name twice; give each class a name of its own")
    return tuple(names)


def _palette(target: str, described: Any, classes: int) -> tuple[tuple[int, int, int], ...]:
    palette = getattr(described, "palette", None)
    if palette is None:
        return distinct_colours([None] * classes)
    try:
        colours = np.asarray(palette)
        fine = (
            colours.shape == (classes, 3) and colours.dtype.kind in "iu" and colours.min() >= 0 and colours.max() <= 255
        )
    except ValueError:
        fine = False
    if not fine:
        raise ValueError(f"{target}: palette is no list of {classes} colours [red, green, blue] of 0 to 255")
    return tuple((int(r), int(g), int(b)) for r, g, b in colours)


def _three(target: str, described: Any, name: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    given = getattr(described, name, None)
    if given is None:
        return default
    try:
        red, green, blue = (float(value) for value in given)
    except (TypeError, ValueError):
        red = green = blue = -1.0
    if not all((0 if name == "mean" else 1e-3) <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"{target}: {name} is {quoted(repr(given))}; give three numbers, RGB, in 0 to 255")
    if 0 < max(red, green, blue) < (1 if name == "std" else 1 + 1e-9):  # std 1 with the mean taken off divides nothing
        raise ValueError(
            f"{target}: {name} is {quoted(repr(given))}, of values in 0 to 1; images are bytes, 0 to 255: multiply it "
            "by 255"
        )
    return red, green, blue
