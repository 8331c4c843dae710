"""States of the library transformers by the names that it writes into files, which differ from those in memory.

Since its version 5 the library renames tensors as it saves and loads them (transformers/conversion_mapping.py), so that
files stay readable while its classes change. Its own conversion is used, both ways.
"""

import copy
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def written(network: Any) -> dict[str, Tensor]:
    """The state of a network of the library by the names that `save_pretrained` writes."""
    loading = importlib.import_module("transformers.core_model_loading")
    return dict(loading.revert_weight_conversion(network, network.state_dict()))


def read(network: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's state by the names of a network of the library, as `from_pretrained` reads it; nothing is drawn.

    Tensors of another shape have the file's, without values. Names that the network has not stay.

    Args:
        network: of the library; it is not changed.
        state: a file's tensors by name.
    """
    own = network.state_dict()
    whole = {name.rpartition(".")[2] for name, value in own.items() if not value.is_floating_point()}
    # The library would take integers for weights.
    given = {n: value for n, value in state.items() if value.is_floating_point() or n.rpartition(".")[2] in whole}
    with _quiet(), torch.random.fork_rng(devices=[]):
        other, info = type(network).from_pretrained(
            None,
            config=copy.deepcopy(network.config),
            state_dict=given,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=next(network.parameters()).dtype,
        )
    reshaped = {name: shape for name, shape, _ in info["mismatched_keys"]}
    found = {n: value for n, value in other.state_dict().items() if n not in {*info["missing_keys"], *reshaped}}
    found |= {name: torch.empty(tuple(shape), device="meta") for name, shape in reshaped.items()}
    return found | {name: state.get(name, torch.empty(0)) for name in info["unexpected_keys"]}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's bars and reports: what does not fit is said by name."""
    logging = importlib.import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
