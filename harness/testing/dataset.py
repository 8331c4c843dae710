"""What a dataset of one's own owes, checked and said in one screen: `check_dataset("mydata:Data", FOLDER)`."""

import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.datasets import Data, outside
from harness.datasets.base import faults
from harness.experiment.method import dataset_entry
from harness.experiment.signatures import keywords
from harness.testing.case import require

AGAIN = 5
"""Pairs of each split that are read a second time."""


def check_dataset(name: str, root: str | Path | None = None, /, **parameters: Any) -> str:
    """Read a dataset of one's own as an experiment would, whole, and check what it owes (harness/datasets/outside.py).

    Args:
        name: `package.module:Name`, as `data.name` in an experiment file.
        root: the folder, as `data.root`.
        parameters: as `data.parameters`.

    Returns:
        What was found, a line each: pairs and sizes of the splits, pixels of each class, the content hash.

    Raises:
        AssertionError: a property that does not hold, and how to fix it.
        ValueError: it cannot be made, or a pair, a name or a split breaks the contract; names it.

    Example:
        >>> check_dataset("mydata:Data", "fields")  # doctest: +SKIP
    """
    if ":" not in name:
        raise ValueError(f"{name!r} is no dataset of your own; write it as package.module:Name")
    given = keywords(dataset_entry(name), json.loads(json.dumps(parameters)))
    where = None if root is None else Path(root).absolute()
    data = outside.load(name, where, given)
    require(not (wrong := faults(data, name)), "; ".join(wrong))
    splits = {part: getattr(data, part) for part in outside.PARTS}
    for part, pairs in splits.items():
        _same_again(part, pairs)
        _ends(part, pairs)
    _apart(splits)
    another = outside.load(name, where, given)
    require(
        another.info.content_hash == data.info.content_hash,
        "made a second time it has other pairs or another order; sort what os.listdir gives, and seed what is random",
    )
    _sent(data)
    return "\n".join(_described(data, splits))


def _same_again(part: str, pairs: Any) -> None:
    """A pair does not depend on when it is read."""
    for i in range(min(AGAIN, len(pairs))):
        require(
            _digest(*pairs[i]) == _digest(*pairs[i]),
            f"{part}[{i}] read again is another pair; draw nothing at random, augmentation is train.augment",
        )


def _ends(part: str, pairs: Any) -> None:
    """The user's own sequence ends: a loop over it stops."""
    try:
        pairs.pairs[len(pairs)]
    except IndexError:
        return
    except Exception as error:
        what = f"raises {type(error).__name__}"
    else:
        what = "gives a pair"
    raise AssertionError(f"{part}[{len(pairs)}] is past its end and {what}; it raises IndexError")


def _apart(splits: dict[str, Any]) -> None:
    """No image is in two splits: a figure on images that were trained on says nothing."""
    seen: dict[bytes, str] = {}
    for part, pairs in splits.items():
        for i in range(len(pairs)):
            image = pairs[i][0]
            digest = hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).digest()
            first = seen.setdefault(digest, f"{part}[{i}]")
            require(first.startswith(f"{part}["), f"{part}[{i}] is the image {first} again; keep it in one split")


def _sent(data: Data) -> None:
    """It goes to the processes that load batches."""
    try:
        again = pickle.loads(pickle.dumps(data))
    except Exception as error:
        raise AssertionError(
            f"it cannot be pickled for the processes that load batches ({type(error).__name__}: {error}). Keep paths, "
            "and open files when a pair is read"
        ) from error
    require(_digest(*again.train[0]) == _digest(*data.train[0]), "a pickled copy gives other pairs")


def _digest(image: Any, label: Any) -> str:
    return hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()


def _described(data: Data, splits: dict[str, Any]) -> Iterator[str]:
    info = data.info
    yield f"{info.name}: {info.num_classes} classes, {info.ignore_index} is ignored"
    counts: dict[str, Any] = {}
    for part, pairs in splits.items():
        sizes = np.array([pairs[i][1].shape for i in range(len(pairs))])
        low, high = sizes.min(0), sizes.max(0)
        span = f"{low[0]}x{low[1]}" if (low == high).all() else f"{low[0]}x{low[1]} to {high[0]}x{high[1]}"
        crop = "" if part != "train" or (low == high).all() else "; batches need train.augment.crop_hw"
        yield f"{part:6} {len(pairs):6} pairs  height x width {span}{crop}"
        counts[part] = sum(np.bincount(pairs[i][1].reshape(-1), minlength=256) for i in range(len(pairs)))
    for value, name in (*enumerate(info.class_names), (info.ignore_index, "(ignored)")):
        shares = (100 * counts[part][value] / counts[part].sum() for part in splits)
        missing = [part for part in splits if not counts[part][value]] if value < info.num_classes else []
        note = f"  none in {', '.join(missing)}" if missing else ""
        each = "  ".join(f"{part} {share:6.2f} %" for part, share in zip(splits, shares, strict=True))
        yield f"  {name:20} {each}{note}"
    yield f"content hash {info.content_hash}"
