"""Loads the three splits of a run from a dataset in files or from its prepared cache."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.datasets import cache, decode, index, splits
from harness.datasets.base import Data, DataInfo, Image, Label
from harness.datasets.header import UPRIGHT
from harness.datasets.index import Entry
from harness.datasets.source import IGNORE, OFFICIAL, Sample, Source, require_none, tables_sha256
from harness.datasets.tree import Tree

# Mean and standard deviation of ImageNet in 0..255, used to pretrain most encoders; `train.normalize` has others.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
Read = Callable[[], tuple[Image, Label]]


@dataclass(frozen=True)
class Pair:
    """One labelled pair: its sample, its entry in the index, and its reader."""

    sample: Sample
    entry: Entry
    read: Read


@dataclass(frozen=True)
class Pairs:
    """A split of a dataset in files."""

    pairs: Sequence[Pair]
    short_side: int | None = None

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[Image, Label]:
        """Pair `i`: image (H, W, 3) uint8 RGB and label (H, W) uint8; they may be read-only views.

        Raises:
            ValueError: a file cannot be read; names it.
        """
        image, label = decode.shrink(*self.pairs[i].read(), self.short_side)
        assert label is not None
        return image, label

    @property
    def one_size(self) -> bool:
        """Whether all pairs are of one size, from the index."""
        return len({decode.shrunk_size(pair.entry.size_hw, self.short_side) for pair in self.pairs}) == 1

    @property
    def names(self) -> list[str]:
        """The samples' names, in order."""
        return [pair.sample.name for pair in self.pairs]


@dataclass(frozen=True)
class FileReader:
    """Reads a pair from the dataset's own files."""

    source: Source
    tree: Tree
    sample: Sample

    def __call__(self) -> tuple[Image, Label]:
        """Image (H, W, 3) uint8 RGB and label (H, W) uint8."""
        image, label = self.tree.file(self.sample.image), self.tree.file(str(self.sample.label))
        classes = index.read_label(self.source, self.sample, label.read_bytes(), label)
        return decode.image_pixels(image.read_bytes(), image), classes


@dataclass(frozen=True)
class CacheReader:
    """Reads a pair from a prepared cache."""

    root: Path
    place: cache.Place
    how: cache.Format

    def __call__(self) -> tuple[Image, Label]:
        """Image (H, W, 3) uint8 RGB and label (H, W) uint8, read-only."""
        return cache.read_pair(self.root, self.place, self.how)


def load(
    source: Source,
    root: Path | None,
    variant: dict[str, Any],
    dev_fraction: float,
    dev_seed: int,
    short_side: int | None,
) -> Data:
    """Read a dataset's folder or its prepared cache, and split dev off train.

    Args:
        source: the dataset.
        root: its folder, or the one written by `sstkd-bench data prepare`.
        variant: the dataset's own parameters, as for `source.listing`.
        dev_fraction: share of train (without its extra samples) that becomes dev, in (0, 1).
        dev_seed: seed of the split.
        short_side: downscale to this many pixels on the shorter side; None keeps the size.

    Raises:
        ValueError: a parameter is out of range, the folder is incomplete, or files are invalid; names them.
    """
    if root is None:
        raise ValueError(
            f"{source.name}: data.root is missing; give the dataset's folder, or the one `sstkd-bench data prepare` "
            f"wrote. How to get the data: sstkd-bench data info {source.name}"
        )
    require_ranges(source.name, dev_fraction, dev_seed, short_side)
    stock, tables = (
        _cached(source, root, variant, short_side) if cache.is_cache(root) else _direct(source, root, variant)
    )
    train, val = (list(stock.get(split, ())) for split in OFFICIAL)
    usable = [pair for pair in train if not pair.sample.extra]
    require_pairs(source, root, {split: [pair.sample for pair in stock.get(split, ())] for split in OFFICIAL})
    chosen = _cut(source, usable, dev_fraction, np.random.default_rng(dev_seed))
    dev = [pair for pair, taken in zip(usable, chosen, strict=True) if taken]
    held = {pair.sample.name for pair in dev}
    parts = {
        "train": Pairs([pair for pair in train if pair.sample.name not in held], short_side),
        "dev": Pairs(dev, short_side),
        "val": Pairs(val, short_side),
    }
    if empty := [
        split for split, part in parts.items() if not any(pair.entry.counts[:-1].any() for pair in part.pairs)
    ]:
        raise ValueError("\n".join(unlabelled(root, split, len(parts[split])) for split in empty))
    info = DataInfo(
        name=source.name,
        num_classes=len(source.class_names),
        class_names=source.class_names,
        palette=source.palette,
        mean=MEAN,
        std=STD,
        content_hash=_content_hash(source.name, tables, short_side, parts),
        note=source.note,
        ignore_index=IGNORE,
        shareable=source.shareable,
    )
    return Data(info, **parts)


def require_pairs(source: Source, root: Path, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Raise ValueError if there are too few pairs to train, to select and to evaluate on."""
    train = sum(not sample.extra for sample in samples.get("train", ()))
    val = len(samples.get("val", ()))
    if train < 2 or not val:
        raise ValueError(
            f"{root}: {source.name} has {train} training and {val} val pairs there; at least 2 and 1 are "
            f"needed. Layout:\n{source.layout}"
        )


def unlabelled(root: Path, split: str, pairs: int) -> str:
    """The error of a split that nothing can be learned from or measured on."""
    remedy = "Are the values of the classes right, and not all of them ignored?"
    return f"{root}: {split} has no labelled pixel in its {pairs} pairs; every pixel is ignored. {remedy}"


def require_ranges(name: str, dev_fraction: float, dev_seed: int, short_side: int | None) -> None:
    """Raise ValueError if a parameter common to all datasets in files is out of range."""
    if not 0 < dev_fraction < 1:
        raise ValueError(f"{name}: dev_fraction is {dev_fraction}; allowed: above 0 and below 1")
    if dev_seed < 0:
        raise ValueError(f"{name}: dev_seed is {dev_seed}; allowed: 0 and more")
    if short_side is not None and short_side < 1:
        raise ValueError(f"{name}: short_side is {short_side}; allowed: 1 and more, or null")


def _direct(source: Source, root: Path, variant: dict[str, Any]) -> tuple[dict[str, list[Pair]], str]:
    tree = Tree(root)
    listing = source.listing(tree, **variant)
    require_none(source, root, listing.problems)
    everything = [sample for split in OFFICIAL for sample in listing.samples.get(split, ())]
    entries = iter(index.build(source, tree, everything))
    stock = {
        split: [
            Pair(sample, next(entries), FileReader(source, tree, sample)) for sample in listing.samples.get(split, ())
        ]
        for split in OFFICIAL
    }
    return stock, tables_sha256(source)


def _cached(
    source: Source, root: Path, variant: dict[str, Any], short_side: int | None
) -> tuple[dict[str, list[Pair]], str]:
    manifest = cache.read_manifest(root)
    own = cache.variant_text(variant)
    for what, has, wants in (
        ("dataset", manifest.name, source.name),
        ("parameters", cache.variant_text(manifest.variant), own),
        ("classes", manifest.class_names, source.class_names),
    ):
        if has != wants:
            raise ValueError(f"{root}: this cache was prepared for the {what} {has}, the run asks for {wants}")
    if source.tables and manifest.tables_sha256 != tables_sha256(source):
        raise ValueError(f"{root}: this cache was prepared with other label tables of {source.name}; prepare it again")
    if manifest.short_side not in (None, short_side):
        raise ValueError(
            f"{root}: this cache was prepared with short_side {manifest.short_side}, the run asks for {short_side}; "
            "set data.parameters.short_side, or prepare another cache"
        )
    found = cache.read_index(root, manifest)
    stock = {
        split: [Pair(sample, entry, CacheReader(root, place, manifest.format)) for sample, entry, place in lines]
        for split, lines in found.items()
    }
    return stock, manifest.tables_sha256


def _cut(source: Source, pairs: Sequence[Pair], fraction: float, rng: np.random.Generator) -> Any:
    """Which of the training pairs become dev, (N,) bool."""
    if source.cut == "group":
        return splits.by_group([pair.sample.group for pair in pairs], fraction, rng)
    return splits.by_presence(np.stack([pair.entry.counts[:-1] > 0 for pair in pairs]), fraction, rng)


def _content_hash(name: str, tables: str, short_side: int | None, parts: Mapping[str, Pairs]) -> str:
    """Hash of files, labels and splits; the same for the folder and its prepared cache."""
    digest = hashlib.sha256(f"{name}\0{tables}\0{short_side}".encode())
    for split, pairs in parts.items():
        digest.update(f"\0{split}\0{len(pairs)}".encode())
        for pair in pairs.pairs:
            sample = pair.sample
            coding = "" if sample.table == "ids" else sample.table  # the label map's table
            coding += f"\0turned {pair.entry.orientation}" if pair.entry.orientation > UPRIGHT else ""
            digest.update(f"{sample.name}\0{coding}".encode() + pair.entry.image_sha256 + pair.entry.label_sha256)
    return digest.hexdigest()
