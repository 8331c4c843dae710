"""Loads the three splits of a run from a dataset in files or from its prepared cache."""

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.borders import quoted
from harness.datasets import cache, decode, index, splits
from harness.datasets.base import Data, DataInfo, Image, Label, faults
from harness.datasets.header import UPRIGHT
from harness.datasets.index import Entry
from harness.datasets.source import IGNORE, OFFICIAL, Sample, Source, require_none, tables_sha256
from harness.datasets.tree import Tree

# Mean and standard deviation of ImageNet in 0..255, used to pretrain most encoders; `train.normalize` has others.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
LOUD = 2**30
"""Bytes of a cache up to which reading them shows no message."""
SEVERAL_SIZES = "train has images of several sizes; batches of them need train.augment.crop_hw"
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
    def labelled(self) -> bool:
        """Whether a pixel of any pair has a class, from the index."""
        return any(pair.entry.counts[:-1].any() for pair in self.pairs)

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


@dataclass(frozen=True)
class Found:
    """A dataset's folder, or its prepared cache, after a look at all of it.

    Attributes:
        pairs: the readable ones, by official split.
        problems: what keeps it from being used, all of it, a text each.
        notes: what else a user should know, such as files that are left out.
        data: the three splits; None where there are problems.
        unlabelled: what is known of images without labels beside the splits.
    """

    pairs: dict[str, list[Pair]]
    problems: list[str]
    notes: list[str]
    data: Data | None = None
    unlabelled: Sequence[Entry] = ()


def load(
    source: Source,
    root: Path | None,
    variant: dict[str, Any],
    dev_fraction: float,
    dev_seed: int,
    short_side: int | None,
) -> Data:
    """The three splits of a dataset's folder or of its prepared cache; arguments as for `look`.

    Raises:
        ValueError: as `look`, and of what keeps the data from being used the first problems, one per line.
    """
    return usable(source, root, look(source, root, variant, dev_fraction, dev_seed, short_side))


def usable(source: Source, root: Path | None, found: Found) -> Data:
    """The splits that a look has found.

    Raises:
        ValueError: there are problems; the first of them, one per line.
    """
    require_none(source, root, found.problems)
    assert found.data is not None
    return found.data


def look(
    source: Source,
    root: Path | None,
    variant: dict[str, Any],
    dev_fraction: float,
    dev_seed: int,
    short_side: int | None,
    full: bool = False,
) -> Found:
    """Read a dataset's folder or its prepared cache, judge it, and split dev off train.

    What data must be is asked here and nowhere else: by `data check`, `check`, `run` and every worker.

    Args:
        source: the dataset.
        root: its folder, or the one written by `sstkd-bench data prepare`.
        variant: the dataset's own parameters, as for `source.listing`.
        dev_fraction: share of train (without its extra samples) that becomes dev, in (0, 1).
        dev_seed: seed of the split.
        short_side: downscale to this many pixels on the shorter side; None keeps the size.
        full: read every file again, those too that seem unchanged since they were read.

    Raises:
        ValueError: a parameter is out of range, there is no such folder, or it cannot be listed; names it.
    """
    if root is None:
        raise ValueError(
            f"{source.name}: data.root is missing; give the dataset's folder, or the one `sstkd-bench data prepare` "
            f"wrote. How to get the data: sstkd-bench data info {source.name}"
        )
    require_ranges(source.name, dev_fraction, dev_seed, short_side)
    found, tables = (
        _cached(source, root, variant, short_side, full)
        if cache.is_cache(root)
        else _direct(source, root, variant, full)
    )
    if found.problems:
        return found
    train, val = (found.pairs[split] for split in OFFICIAL)
    candidates = [pair for pair in train if not pair.sample.extra]
    if len(candidates) < 2 or not val:
        text = (
            f"{root}: {source.name} has {len(candidates)} training and {len(val)} val pairs there; at least 2 and 1 "
            f"are needed. Layout:\n{source.layout}"
        )
        return replace(found, problems=[text])
    try:
        chosen = _cut(source, candidates, dev_fraction, np.random.default_rng(dev_seed))
    except ValueError as error:
        return replace(found, problems=[f"{root}: {error}"])
    dev = [pair for pair, taken in zip(candidates, chosen, strict=True) if taken]
    held = {pair.sample.name for pair in dev}
    parts = {
        "train": Pairs([pair for pair in train if pair.sample.name not in held], short_side),
        "dev": Pairs(dev, short_side),
        "val": Pairs(val, short_side),
    }
    info = DataInfo(
        name=source.name,
        num_classes=len(source.class_names),
        class_names=source.class_names,
        palette=source.palette,
        mean=MEAN,
        std=STD,
        content_hash=_content_hash(source.name, tables, short_side, parts, found.unlabelled),
        note=source.note,
        ignore_index=IGNORE,
        shareable=source.shareable,
    )
    data = Data(info, **parts)
    if wrong := faults(data, str(root)):
        return replace(found, problems=wrong)
    if not parts["train"].one_size:
        found.notes.append(SEVERAL_SIZES)
    if both := _in_both(train, val):
        found.notes.append(
            f"{len(both)} images of val are in train too, byte for byte (e.g. {quoted(both[0])}); a figure on images "
            "that were trained on says nothing. Keep each in one split"
        )
    return replace(found, data=data)


def require_ranges(name: str, dev_fraction: float, dev_seed: int, short_side: int | None) -> None:
    """Raise ValueError if a parameter common to all datasets in files is out of range."""
    if not 0 < dev_fraction < 1:
        raise ValueError(f"{name}: dev_fraction is {dev_fraction}; allowed: above 0 and below 1")
    if dev_seed < 0:
        raise ValueError(f"{name}: dev_seed is {dev_seed}; allowed: 0 and more")
    if short_side is not None and short_side < 1:
        raise ValueError(f"{name}: short_side is {short_side}; allowed: 1 and more, or null")


def _direct(source: Source, root: Path, variant: dict[str, Any], full: bool) -> tuple[Found, str]:
    tree = Tree(root)
    listing = source.listing(tree, **variant)
    notes, pairs = list(listing.notes), dict[str, list[Pair]]()
    samples = {split: listing.samples.get(split, []) for split in OFFICIAL}
    # All at once: what is remembered of the folder is read and written once.
    asked = [*(s for split in OFFICIAL for s in samples[split]), *listing.unlabelled]
    entries, problems = index.survey(source, tree, asked, full=full)
    of = iter(entries)
    for split in OFFICIAL:
        known = [(sample, next(of)) for sample in samples[split]]
        pairs[split] = [Pair(s, entry, FileReader(source, tree, s)) for s, entry in known if entry is not None]
        if turned := sum(pair.entry.orientation > UPRIGHT for pair in pairs[split]):
            notes.append(f"{split} has {turned} images with an orientation tag; they are turned accordingly")
    rest = [entry for entry in of if entry is not None]
    if rest:
        notes.append(f"{len(rest)} unlabelled images are counted and hashed; no method uses them yet")
    return Found(pairs, [*listing.problems, *problems], notes, unlabelled=rest), tables_sha256(source)


def _cached(
    source: Source, root: Path, variant: dict[str, Any], short_side: int | None, full: bool
) -> tuple[Found, str]:
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
    if full and (size := sum(shard.bytes for shard in manifest.shards)) > LOUD:
        print(f"{source.name}: reading {size / 2**30:.1f} GiB of {root} to check them ...", file=sys.stderr, flush=True)

    def pair(sample: Sample, entry: Entry, place: cache.Place) -> Pair:
        return Pair(sample, entry, CacheReader(root, place, manifest.format))

    pairs = {split: [pair(*line) for line in found.get(split, ())] for split in OFFICIAL}
    note = f"a prepared cache, {manifest.format}, short_side {manifest.short_side}"
    return Found(pairs, list(cache.corrupt(root, manifest)) if full else [], [note]), manifest.tables_sha256


def _in_both(train: Sequence[Pair], val: Sequence[Pair]) -> list[str]:
    """The images of val whose files are, byte for byte, files of train, each with that one."""
    names = {pair.entry.image_sha256: pair.sample.image for pair in train}
    same = ((pair.sample.image, names.get(pair.entry.image_sha256)) for pair in val)
    return [f"{name} = {other}" for name, other in same if other is not None]


def _cut(source: Source, pairs: Sequence[Pair], fraction: float, rng: np.random.Generator) -> Any:
    """Which of the training pairs become dev, (N,) bool."""
    if source.cut == "group":
        return splits.by_group([pair.sample.group for pair in pairs], fraction, rng)
    return splits.by_presence(np.stack([pair.entry.counts[:-1] > 0 for pair in pairs]), fraction, rng)


def _content_hash(
    name: str, tables: str, short_side: int | None, parts: Mapping[str, Pairs], unlabelled: Sequence[Entry] = ()
) -> str:
    """Hash of files, labels and splits; the same for the folder and its prepared cache."""
    digest = hashlib.sha256(f"{name}\0{tables}\0{short_side}".encode())
    for split, pairs in parts.items():
        digest.update(f"\0{split}\0{len(pairs)}".encode())
        for pair in pairs.pairs:
            sample = pair.sample
            coding = "" if sample.table == "ids" else sample.table  # the label map's table
            coding += f"\0turned {pair.entry.orientation}" if pair.entry.orientation > UPRIGHT else ""
            digest.update(f"{sample.name}\0{coding}".encode() + pair.entry.image_sha256 + pair.entry.label_sha256)
    if unlabelled:
        digest.update(f"\0unlabelled\0{len(unlabelled)}".encode())
        for entry in unlabelled:
            digest.update(f"{entry.orientation}\0".encode() + entry.image_sha256)
    return digest.hexdigest()
