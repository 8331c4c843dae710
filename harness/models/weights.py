"""Weight files: identified by their SHA-256, read without executing code."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from harness.files import sha256, write_atomic


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 of a state dict's names, types, shapes and values, independent of any file format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_state(path: Path, expected_sha256: str) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors, .pt or .pth file with the given SHA-256.

    Raises:
        ValueError: the file is missing, has another SHA-256, or is not a plain state dict.
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: the weight file is missing. Put it there or correct the path; no random weights are used."
        )
    found = sha256(path)
    if found != expected_sha256:
        raise ValueError(
            f"{path}: has sha256 {found}, expected {expected_sha256}. It is a different file, or a corrupt one."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on arbitrary bytes the unpickler may raise anything
        raise ValueError(
            f"{path}: cannot be read as weights ({error}). Save it with safetensors.torch.save_file."
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: is not a state dict (a mapping of names to tensors). Save model.state_dict().")
    return state


def save_state(state: Mapping[str, Tensor], path: Path) -> str:
    """Write a state dict as safetensors, atomically; returns the file's SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Serialised in memory, so that a full disk raises OSError instead of a safetensors error.
    content = save({name: value.detach().cpu().contiguous().clone() for name, value in state.items()})
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def load_into(network: nn.Module, state: Mapping[str, Tensor], source: str, assign: bool = False) -> None:
    """Load a state dict that must fit exactly.

    Args:
        network: network to load into.
        state: tensors by name.
        source: origin of the state dict, for the message.
        assign: use the tensors themselves instead of copies where their types are the network's.

    Raises:
        ValueError: names are missing or unknown, or shapes differ; gives their number and the first ones.
    """
    own = network.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or unknown or shapes:
        raise ValueError(
            f"{source}: does not fit this network: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}, {len(shapes)} of another shape {shapes[:3]}. "
            "Give weights saved from the same architecture, encoder, parameters and number of classes."
        )
    network.load_state_dict(dict(state), assign=assign and all(own[n].dtype == state[n].dtype for n in own))
