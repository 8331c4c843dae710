"""Weights for the library that a network comes from: a file of safetensors, or a folder of smp's `save_pretrained`."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from harness.deployment.deployed import Runner, on_multiples, quiet
from harness.deployment.source import Source
from harness.files import write_atomic
from harness.models import build, load_into
from harness.models.described import SMP
from harness.models.hooked import HookedNet, TappedNet
from harness.models.library import library_state, plain_network, require_smp

WEIGHTS = "model.safetensors"


def write_safetensors(source: Source, folder: Path) -> None:
    """Weights by the library's names; the file's metadata is the description, as JSON.

    It has one key, since safetensors writes several in any order.
    """
    state = library_state(source.run.network, source.network)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    write_atomic(folder / WEIGHTS, save(tensors, {"sstkd-bench": json.dumps(source.described())}))


def load_safetensors(source: Source, folder: Path) -> Runner:
    """The network with these weights, which have to fit the library's own network by every name."""
    network, path = source.run.network, folder / WEIGHTS
    state = load_file(path)
    if network.architecture in SMP:
        plain = plain_network(network, source.info.num_classes)
        plain.load_state_dict(state, strict=True)
        return _scores(plain.eval(), source.network.multiple)
    whole = build(network.model_copy(update={"encoder_weights": None}), source.info.num_classes, 0).eval()
    if isinstance(whole, HookedNet | TappedNet):
        whole.network.load_state_dict(state, strict=True)
    else:  # transformers writes other names than its classes have, which it renames as it reads
        load_into(whole, state, str(path))

    @torch.no_grad()
    def run(image: Tensor) -> Tensor:
        scores: Tensor = whole(image).full
        return scores

    return run


def write_smp(source: Source, folder: Path) -> None:
    """A folder that `segmentation_models_pytorch.from_pretrained` loads."""
    require_smp(source.run.network)
    plain: Any = plain_network(source.run.network, source.info.num_classes)
    plain.load_state_dict(library_state(source.run.network, source.network), strict=True)
    with quiet():
        plain.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # it states a licence


def load_smp(source: Source, folder: Path) -> Runner:
    """What the library makes of the folder."""
    with quiet():
        loaded: nn.Module = require_smp(source.run.network).from_pretrained(str(folder))
    return _scores(loaded.eval(), source.network.multiple)


def _scores(network: nn.Module, multiple: int) -> Runner:
    @torch.no_grad()
    def run(image: Tensor) -> Tensor:
        scores: Tensor = network(image)
        return scores

    return on_multiples(run, multiple)
