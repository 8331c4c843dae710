"""Names of tensors in what others publish: a table per source, and the one that fits a network best.

A table is a list of patterns and what stands in their place here, in order; the first that a name begins with counts,
and None leaves the tensor out. Names without a pattern stay. Sources of the names: in each table's file.
"""

import re
from collections.abc import Iterator, Mapping
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
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""What DataParallel, torch.compile and training programs put before every name; also names of networks' own parts."""
COMPILED = "._orig_mod."
"""Within a name: torch.compile of a part."""
AVERAGED = "n_averaged"
"""Beside the names `module....` in a state of torch.optim.swa_utils.AveragedModel."""
NESTED = 8
"""Prefixes before a name that are tried."""


def unprefixed(state: Mapping[str, T]) -> Iterator[Mapping[str, T]]:
    """The state as it is, then without the first of `PREFIXES` that most of its names have, then without the next.

    Names without the prefix stay: what a training program keeps beside the network (`mean`, `criterion.weight`) is then
    named as what does not fit. The counter of torch's AveragedModel is left out.
    """
    yield state
    if any(COMPILED in name for name in state):
        state = {name.replace(COMPILED, "."): value for name, value in state.items()}
        yield state
    for _ in range(NESTED):
        counts = {p: sum(name.startswith(p) for name in state) for p in PREFIXES}
        prefix = next((p for p in PREFIXES if 2 * counts[p] > len(state)), None)
        if prefix is None:
            return
        if AVERAGED in state and counts["module."] == len(state) - 1:
            state = {name: value for name, value in state.items() if name != AVERAGED}
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        yield state


def renamed(state: Mapping[str, T], table: Table) -> dict[str, T]:
    """The state by the names of a table; of two names that would become one the second stays as it is."""
    found: dict[str, T] = {}
    for name, value in state.items():
        new = _new_name(name, table)
        if new is not None:
            found[name if new in found else new] = value
    return found


def by_own_names(
    own: Mapping[str, object], state: Mapping[str, T], tables: Mapping[str, Table] = NETWORKS
) -> Mapping[str, T]:
    """The state by a network's names: the table with the most names of the network, then with the fewest others.

    A prefix that most names have may be a wrapper's or the name of the network's only part, so both are tried; what
    is there as it is goes first. If nothing fits, all prefixes are removed.

    Args:
        own: the network's tensors by name.
        state: a file's; its names stay where no table has more of the network's.
        tables: which to try.
    """
    found, best, plain = state, _fit(own, state), state
    for plain in unprefixed(state):
        for named in (plain, *(renamed(plain, table) for table in tables.values())):
            if (fit := _fit(own, named)) > best and fit[0]:
                found, best = named, fit
    return found if best[0] else plain


def _fit(own: Mapping[str, object], state: Mapping[str, object]) -> tuple[int, int]:
    matched = len(own.keys() & state.keys())
    return matched, matched - len(state)


def _new_name(name: str, table: Table) -> str | None:
    for pattern, replacement in table:
        if match := re.match(pattern, name):
            return None if replacement is None else match.expand(replacement) + name[match.end() :]
    return name
