"""Description of a dataset in files before any is opened: classes, licence, layout, pairs."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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
        name: unique in its split; what predictions are named after.
        image: the image's file.
        label: the label map's file; None for an image whose labels are not public.
        group: what a dev split must not tear apart, e.g. the city; empty where there is no such thing.
        table: which of the source's label tables the label map is coded in.
        extra: labelled in another way (coarsely) and therefore never in dev.
    """

    name: str
    image: str
    label: str | None
    group: str = ""
    table: str = "ids"
    extra: bool = False


@dataclass(frozen=True)
class Listing:
    """The pairs of each official split, and a line per problem of the folder."""

    samples: Mapping[str, list[Sample]]
    problems: list[str] = field(default_factory=list)


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
        licence: what one may do with it.
        obtain: how to get it.
        layout: the folder, as published.
        published: pairs of each official split in the published release.
        cut: how dev is cut from train: whole groups, or equal class presence.
        listing: the pairs below a root, for the variant's parameters.
        unlabelled: names and files of the images of the test split, for the test server.
        note: one sentence on what the data is.
        shareable: whether rows that anybody may see can hold its photographs and labels.
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


def table(values: Mapping[int, int], others: int = NOT_ALLOWED) -> NDArray[np.int16]:
    """A label table: `values` from stored value to class index, everything else is `others`."""
    out = np.full(256, others, np.int16)
    for value, index in values.items():
        out[value] = index
    out.flags.writeable = False
    return out


def require_none(source: Source, root: Path, problems: Sequence[str]) -> None:
    """Raise ValueError with the first `SHOWN` problems, a line each, and the command that lists all of them."""
    if problems:
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        hint = f"`sstkd-bench data check {source.name} --root {root}` lists all problems."
        raise ValueError("\n".join([*problems[:SHOWN], *more, hint]))


def tables_sha256(source: Source) -> str:
    """Digest of how label values become classes."""
    digest = hashlib.sha256("\0".join(source.class_names).encode())
    for name in sorted(source.tables):
        digest.update(name.encode() + source.tables[name].tobytes())
    return digest.hexdigest()
