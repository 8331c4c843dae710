"""Names of tensors in what others publish: a table per source, and the one that fits a network best.

A table is a list of patterns and what stands in their place here, in order; the first that a name begins with counts,
and None leaves the tensor out. Names without a pattern stay. Sources of the names: in each table's file.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from harness.models.keys.cirkd import CIRKD, CIRKD_ENCODER
from harness.models.keys.mmseg import MMSEG, MMSEG_BACKBONE
from harness.models.keys.torchvision import TORCHVISION, TORCHVISION_FEATURES

T = TypeVar("T")
Table = tuple[tuple[str, str | None], ...]

SMP: Table = ((r"segmentation_head\.", "head."),)
"""segmentation-models-pytorch (https://github.com/qubvel-org/segmentation_models.pytorch base/model.py)."""
OUTSIDE: Table = ((r"", "network."),)
"""A network from outside by itself."""
NETWORKS: dict[str, Table] = {
    "segmentation-models-pytorch": SMP,
    "a network from outside": OUTSIDE,
    "torchvision": TORCHVISION,
    "CIRKD": CIRKD,
    "MMSegmentation": MMSEG,
}
"""Tables for whole networks."""
ENCODERS: dict[str, Table] = {
    "CIRKD": CIRKD_ENCODER,
    "MMSegmentation": MMSEG_BACKBONE,
    "torchvision": TORCHVISION_FEATURES,
}
"""Tables for encoders, to timm's and torchvision's names."""


def renamed(state: Mapping[str, T], table: Table) -> dict[str, T]:
    """The state by the names of a table; of two names that become one the first stays."""
    found: dict[str, T] = {}
    for name, value in state.items():
        new = _new_name(name, table)
        if new is not None:
            found.setdefault(new, value)
    return found


def by_own_names(
    own: Mapping[str, object], state: Mapping[str, T], tables: Mapping[str, Table] = NETWORKS
) -> Mapping[str, T]:
    """The state by a network's names: the table with the most names of the network, then with the fewest others.

    Args:
        own: the network's tensors by name.
        state: a file's; its names stay where no table has more of the network's.
        tables: which to try.
    """
    found, best = state, _fit(own, state)
    for table in tables.values():
        named = renamed(state, table)
        if (fit := _fit(own, named)) > best and fit[0]:
            found, best = named, fit
    return found


def _fit(own: Mapping[str, object], state: Mapping[str, object]) -> tuple[int, int]:
    matched = len(own.keys() & state.keys())
    return matched, matched - len(state)


def _new_name(name: str, table: Table) -> str | None:
    for pattern, replacement in table:
        if match := re.match(pattern, name):
            return None if replacement is None else match.expand(replacement) + name[match.end() :]
    return name
