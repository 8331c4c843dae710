"""What a dataset of the user's own owes beside its contract: the same pairs each time, an end, no image in two splits.

Every pair is read; `data check` lists all that does not hold, `harness.testing.check_dataset` stops at the first.
"""

import hashlib
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np

from harness.borders import quoted
from harness.datasets.base import Data
from harness.datasets.outside import PARTS

AGAIN = 5
"""Pairs of each split that are read a second time."""


def problems(data: Data) -> Iterator[str]:
    """What does not hold, a text each.

    Args:
        data: of `outside.load`.
    """
    for part in PARTS:
        yield from _same_again(part, getattr(data, part))
        yield from _ends(part, getattr(data, part))
    yield from _apart(data)
    yield from _sent(data)


def _same_again(part: str, pairs: Any) -> Iterator[str]:
    """A pair does not depend on when it is read."""
    for i in range(min(AGAIN, len(pairs))):
        if digest(*pairs[i]) != digest(*pairs[i]):
            yield f"{part}[{i}] read again is another pair; draw nothing at random, augmentation is train.augment"
            return


def _ends(part: str, pairs: Any) -> Iterator[str]:
    """The user's own sequence ends: a loop over it stops."""
    try:
        pairs.pairs[len(pairs)]
    except IndexError:
        return
    except Exception as error:  # of the user's code
        what = f"raises {type(error).__name__}"
    else:
        what = "gives a pair"
    yield f"{part}[{len(pairs)}] is past its end and {what}; it raises IndexError"


def _apart(data: Data) -> Iterator[str]:
    """No image is in two splits: a figure on images that were trained on says nothing."""
    seen: dict[bytes, str] = {}
    for part in PARTS:
        pairs = getattr(data, part)
        for i in range(len(pairs)):
            image = pairs[i][0]
            key = hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).digest()
            first = seen.setdefault(key, f"{part}[{i}]")
            if not first.startswith(f"{part}["):
                yield f"{part}[{i}] is the image {first} again; keep it in one split"


def _sent(data: Data) -> Iterator[str]:
    """It goes to the processes that load batches."""
    try:
        again = pickle.loads(pickle.dumps(data))
    except Exception as error:  # of the user's code
        yield (
            f"it cannot be pickled for the processes that load batches ({type(error).__name__}: {quoted(str(error))}). "
            "Keep paths, and open files when a pair is read"
        )
        return
    if digest(*again.train[0]) != digest(*data.train[0]):
        yield "a pickled copy gives other pairs"


def digest(image: Any, label: Any) -> str:
    """Of a pair's pixels."""
    return hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest()
