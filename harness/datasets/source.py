"""Description of a dataset in files before any is opened: classes, licence, layout, pairs."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.borders import shell
from harness.datasets.decode import NOT_ALLOWED
from harness.datasets.tree import Tree

IGNORE = 255
SHOWN = 20
"""Number of problems that an error lists."""
OFFICIAL = ("train", "val")
"""The splits every dataset is published with; dev is cut from train."""


@dataclass(frozen=True)
class Sample:
    """One image and its label map, as `/`-separated names below the dataset's root.

    Attributes:
        name: unique in its split; used to name predictions.
        image: the image's file.
        label: the label map's file; None if the labels are not public.
        group: samples of one group (e.g. a city) are never divided between train and dev; empty: no groups.
        table: name of the source's label table for this label map.
        extra: labelled differently (coarsely) and therefore never in dev.
    """

    name: str
    image: str
    label: str | None
    group: str = ""
    table: str = "ids"
    extra: bool = False


@dataclass(frozen=True)
class Listing:
    """The pairs of each official split, and a line per problem and per note of the folder."""

    samples: Mapping[str, list[Sample]]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is there and not used."""
    unlabelled: list[Sample] = field(default_factory=list)
    """Images without labels, beside the splits."""


def none_unlabelled(tree: Tree) -> list[Sample]:
    """For datasets without a test split with withheld labels."""
    return []


@dataclass(frozen=True)
class Source:
    """A dataset in files.

    Attributes:
        name: the key in `DATASETS`.
        title: its full name and reference.
        class_names: K names, in the order of the class indices.
        palette: K RGB colours.
        tables: label tables by name, each (256,) int16 from stored value to class index, `IGNORE` or `NOT_ALLOWED`.
        licence: terms of use.
        obtain: how to get it.
        layout: the folder, as published.
        published: pairs of each official split in the published release.
        cut: how dev is cut from train: whole groups, or equal class presence.
        listing: the pairs below a root, for the variant's parameters.
        unlabelled: names and files of the images of the test split, for the test server.
        note: description of the data in one sentence.
        shareable: whether public rows may contain its photographs and labels.
        colours: class index or `IGNORE` by RGB colour, for label maps in colours; these have no use for `tables`.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    tables: Mapping[str, NDArray[np.int16]]
    licence: str
    obtain: str
    layout: str
    published: Mapping[str, int]
    cut: Literal["group", "presence"]
    listing: Callable[..., Listing]
    note: str
    unlabelled: Callable[[Tree], list[Sample]] = none_unlabelled
    shareable: bool = False
    colours: Mapping[tuple[int, int, int], int] = field(default_factory=dict)


def table(values: Mapping[int, int], others: int = NOT_ALLOWED) -> NDArray[np.int16]:
    """A label table: `values` from stored value to class index, everything else is `others`."""
    out = np.full(256, others, np.int16)
    for value, index in values.items():
        out[value] = index
    out.flags.writeable = False
    return out


def require_none(source: Source, root: Path | None, problems: Sequence[str]) -> None:
    """Raise ValueError with the first `SHOWN` problems, a line each, and the command that lists more of them."""
    if problems:
        command = shell("sstkd-bench", "data", "check", source.name, "--root", str(root))
        more = [f"... and {len(problems) - SHOWN} more: {command}"] if len(problems) > SHOWN else []
        raise ValueError("\n".join([*problems[:SHOWN], *more]))


def tables_sha256(source: Source) -> str:
    """Digest of the tables from label values to classes."""
    digest = hashlib.sha256("\0".join(source.class_names).encode())
    for name in sorted(source.tables):
        digest.update(name.encode() + source.tables[name].tobytes())
    for colour, index in source.colours.items():
        digest.update(f"{colour} {index}\0".encode())
    return digest.hexdigest()
