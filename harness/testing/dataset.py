"""What a dataset of one's own owes, checked and said in one screen: `check_dataset("mydata:Data", FOLDER)`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness.datasets import Data, outside, owed
from harness.datasets.base import faults
from harness.experiment.load import listed, validate
from harness.experiment.method import dataset_entry
from harness.experiment.yaml_reader import dotted
from harness.testing.case import require


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
    given = _parameters(name, parameters)
    where = None if root is None else Path(root).absolute()
    data = outside.load(name, where, given)
    require(not (wrong := faults(data, name)), "; ".join(wrong))
    for problem in owed.problems(data):
        require(False, problem)
    another = outside.load(name, where, given)
    require(
        another.info.content_hash == data.info.content_hash,
        "made a second time it has other pairs or another order; sort what os.listdir gives, and seed what is random",
    )
    return "\n".join(_described(data, {part: getattr(data, part) for part in outside.PARTS}))


def _parameters(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters with the types of the signature, as of an experiment file.

    Raises:
        ValueError: an unknown or missing one, or a value that is not allowed; a line each.
    """
    try:
        plain = json.loads(json.dumps(given))
    except (TypeError, ValueError) as error:
        raise ValueError(f"parameters are plain data, as in an experiment file: {error}") from None
    problems: list[str] = []
    found = validate(
        dataset_entry(name).parameters, plain, (), lambda at, message: problems.append(f"{dotted(at)}: {message}")
    )
    if found is None:
        raise ValueError(listed(problems))
    return dict(found)


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
