"""The dev split, cut from train by a seed: nothing is ever selected on the split that is reported."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def at_random(count: int, fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mark round(fraction * count) of `count` samples, at least one: (count,) bool, True for dev."""
    chosen = np.zeros(count, np.bool_)
    chosen[rng.permutation(count)[: _size(count, fraction)]] = True
    return chosen


def by_group(groups: Sequence[str], fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mark whole groups (cities) until about `fraction` of the samples is marked: (N,) bool, True for dev.

    Groups are visited in random order; a group is marked if that brings the number of samples closer to the target. At
    least one group is marked and at least one is not.

    Raises:
        ValueError: there is only one group.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"dev is cut by whole groups, and train has only {names.tolist()}; at least 2 are needed")
    sizes, wanted = np.bincount(member), _size(len(groups), fraction)
    order = rng.permutation(len(names))
    taken = np.zeros(len(names), np.bool_)
    for group in order:
        have = int(sizes[taken].sum())
        left = (~taken).sum()
        if left > 1 and abs(have + sizes[group] - wanted) < abs(have - wanted):
            taken[group] = True
    if not taken.any():
        taken[order[np.argmin(sizes[order])]] = True
    marked: NDArray[np.bool_] = taken[member]
    return marked


def by_presence(present: NDArray[np.bool_], fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Mark samples so that each class is in about `fraction` of its images on either side: (N,) bool, True for dev.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas, ECML 2011) with two subsets: the class with the fewest
    images left is assigned first, each image to the side that needs more of that class or, if equal, more images.

    Args:
        present: (N, K), whether class k is in image n.
        fraction: share of the images for dev.
        rng: orders the images and breaks ties.
    """
    count = len(present)
    share = np.array([1 - fraction, fraction])
    wants = share[:, None] * present.sum(0)  # (2, K) images of each class that each side still lacks
    room = np.array([count - _size(count, fraction), _size(count, fraction)], float)
    side = np.full(count, -1)
    while (side < 0).any():
        open_ = side < 0
        left = present[open_].sum(0)
        if left.any():
            rarest = int(np.flatnonzero(left == left[left > 0].min())[0])
            images, lacks = (
                np.flatnonzero(open_ & present[:, rarest]),
                wants[:, rarest],
            )  # a view: follows what is dealt
        else:  # images without any class
            images, lacks = np.flatnonzero(open_), room
        for image in rng.permutation(images):
            best = max((to for to in (0, 1) if room[to] > 0), key=lambda to: (lacks[to], room[to], rng.random()))
            side[image] = best
            wants[best] -= present[image]
            room[best] -= 1
    marked: NDArray[np.bool_] = side == 1
    return marked


def _size(count: int, fraction: float) -> int:
    """Samples in dev; dev and train get at least one each."""
    return min(max(1, round(count * fraction)), count - 1)
