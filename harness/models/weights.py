"""Weight files: identified by their SHA-256, judged by their content, read without executing code."""

import difflib
import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from harness.borders import one_line
from harness.files import sha256, write_atomic
from harness.models.keys import by_own_names, unprefixed
from harness.models.tapnet import TapNet

WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights", "module"),
    *("ema", "model_ema", "ema_state_dict", "state_dict_ema", "params_ema", "student", "teacher"),
)
"""Keys under which training programs keep a state dict inside a checkpoint."""
DEEPEST = 8
"""Wrappings of a state dict that are removed; a mapping may hold itself."""
COUNTER = "num_batches_tracked"
"""Of a batch normalisation: how often its statistics were updated. Files of old or converted networks lack it."""
CLOSEST = 10
"""Names of a network's missing tensors that are shown with the closest ones of the file."""
LONGEST, MOST = 160, 4096
"""Characters and names of a file that are compared for that."""
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
FETCH = "Fetch the file again"
SAVE = "Save its state dict: safetensors.torch.save_file(model.state_dict(), FILE)"


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 of a state dict's names, types, shapes and values, independent of any file format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_state(path: Path, expected_sha256: str) -> dict[str, Tensor]:
    """Read a state dict from a file with the given SHA-256: safetensors, or what `torch.save` writes.

    Wrappings are removed (`unwrapped`); prefixes of names stay until it is known what the names are for (`load_into`).

    Raises:
        ValueError: the file is missing, has another SHA-256, is not a state dict, or has values that are not finite.
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
        state = unwrapped(_content(path))
        _check_values(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return state


def unwrapped(content: Any) -> dict[str, Tensor]:
    """The state dict in a checkpoint: that under one of `WRAPPERS`, by its names there.

    Args:
        content: what was read from a file.

    Raises:
        ValueError: there is none, or more than one.
    """
    for _ in range(DEEPEST):
        if not isinstance(content, dict) or _is_state(content):
            break
        inside = [key for key in WRAPPERS if isinstance(content.get(key), dict) and content[key]]
        if len(inside) > 1:
            raise ValueError(f"holds several state dicts ({', '.join(inside)}). Save the one that is meant by itself.")
        if not inside:
            raise ValueError(f"is not a state dict: a mapping with the keys {_some(content)}, none of them one. {SAVE}")
        content = content[inside[0]]
    if isinstance(content, dict) and not _is_state(content):
        raise ValueError(f"is not a state dict: mappings within mappings, more than {DEEPEST}. {SAVE}")
    if not isinstance(content, dict):
        raise ValueError(f"is not a state dict (a mapping of names to tensors) but a {type(content).__name__}. {SAVE}")
    return content


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
        state: tensors by the network's names, those that its library writes, or those of another source
            (`harness.models.keys`).
        source: origin of the state dict, for the message.
        assign: use the tensors themselves instead of copies where their types are the network's.

    Raises:
        ValueError: names are missing or unexpected, or shapes or kinds of number differ; counts them.
    """
    own = network.state_dict()
    found = fitted(own, by_own_names(own, state))
    counted = _counted(own, found)
    differing = _differing(own, found) if _differing(own, counted) else ""
    found = found if differing else counted
    if differing and isinstance(network, TapNet):
        for plain in unprefixed(state):
            read = network.read_state(plain)
            if own.keys() & read.keys() > own.keys() & found.keys() or not _differing(own, read):
                found, differing = dict(read), _differing(own, read)
    if differing:
        raise ValueError(
            f"{source}: does not fit this network: {differing}. "
            "Give weights saved from the same architecture, encoder, parameters and number of classes."
        )
    network.load_state_dict(found, assign=assign and all(own[n].dtype == found[n].dtype for n in own))


def _counted(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the network's counters of batches where the file has none, and without those it has beside."""
    kept = {n: value for n, value in found.items() if n in own or not n.endswith(COUNTER)}
    return kept | {n: value for n, value in own.items() if n.endswith(COUNTER) and n not in found}


def _differing(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    return differences(own.keys() - found.keys(), found.keys() - own.keys(), own, found)


def fitted(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with linear layers (O, I) in place of 1x1 convolutions (O, I, 1, 1), or these of those, as needed."""

    def shaped(name: str, value: Tensor) -> Tensor:
        shapes = sorted((value.shape, own[name].shape), key=len) if name in own else []
        if shapes and (len(shapes[0]), len(shapes[1])) == (2, 4) and shapes[1] == (*shapes[0], 1, 1):
            return value.reshape(own[name].shape)
        return value

    return {name: shaped(name, value) for name, value in state.items()}


def differences(
    missing: Iterable[str], unexpected: Iterable[str], own: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> str:
    """How weights differ from what a network needs, by counting; empty if they fit.

    Args:
        missing: names that the network has and the file lacks.
        unexpected: names that the file has and the network lacks.
        own: the network's tensors.
        found: the file's tensors, by the network's names.
    """
    missing, unexpected = sorted(missing), sorted(unexpected)
    both = [name for name in own if name in found]
    reshaped = [name for name in both if found[name].shape != own[name].shape]
    other_kind = [name for name in both if found[name].is_floating_point() != own[name].is_floating_point()]
    if not (missing or unexpected or reshaped or other_kind):
        return ""
    matched = len(both) - len({*reshaped, *other_kind})
    counts = [f"{matched} matched", f"{len(missing)} missing", f"{len(unexpected)} unexpected"]
    counts += [f"{len(reshaped)} reshaped", *([f"{len(other_kind)} of another kind of number"] if other_kind else [])]
    details = [
        *(f"{_short(n)} is {_shape(found[n])} in the file and {_shape(own[n])} in the network" for n in reshaped[:3]),
        *(f"{_short(n)} is {_kind(found[n])} in the file and {_kind(own[n])} in the network" for n in other_kind[:3]),
        _closest(missing, unexpected),
    ]
    return f"{', '.join(counts)} ({'; '.join(filter(None, details))})"


def _closest(missing: list[str], unexpected: list[str]) -> str:
    """The first missing names, each with the closest unexpected one; the first of either where there is no other."""
    if not missing or not unexpected:
        words = ("missing", missing) if missing else ("unexpected", unexpected)
        return f"{words[0]}: {_some(words[1])}" if words[1] else ""
    names = [_short(name) for name in unexpected[:MOST] if len(name) <= LONGEST]
    shown = []
    for name in missing[:CLOSEST]:
        near = difflib.get_close_matches(name, names, 1, 0.0)
        shown.append(f"{_short(name)} ~ {near[0]}" if near else _short(name))
    more = len(missing) - len(shown)
    left = "" if names else f"; unexpected: {_some(unexpected)}"
    return f"missing ~ closest in the file: {', '.join(shown)}{f' and {more} more' if more else ''}{left}"


def _content(path: Path) -> Any:
    """What is in a file, by its first bytes and not by its name.

    Raises:
        ValueError: it is no weight file, cut short, or holds other things than tensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
    if problem := _no_weights(start):
        raise ValueError(problem)
    if start[8:9] == b"{":
        return _safetensors(path, size, int.from_bytes(start[:8], "little"))
    if start[:2] == b"PK":
        _check_archive(path)
    elif start[:1] != b"\x80":
        raise ValueError(f"cannot be read as weights: it begins like no weight file. {FETCH}, or give another.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on arbitrary bytes the unpickler may raise anything
        raise ValueError(f"cannot be read as weights: {_unread(error)}") from None


def _safetensors(path: Path, size: int, header: int) -> dict[str, Tensor]:
    if size < 8 + header:
        raise ValueError(f"is cut short: it has {size} bytes, its header alone needs {header}. {FETCH}.")
    try:
        return load_file(path)
    except Exception as error:  # on arbitrary bytes the library may raise anything
        cut = "MetadataIncompleteBuffer" in str(error) or "not fully covered" in str(error)
        raise ValueError(f"is {'cut short' if cut else 'a damaged safetensors file'}. {FETCH}.") from None


def _check_archive(path: Path) -> None:
    """Check that a zip archive is whole and is one of torch.save.

    Raises:
        ValueError: it is not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # on arbitrary bytes the library may raise anything
        raise ValueError(f"is cut short: the end of its archive is missing or damaged. {FETCH}.") from None
    if any(name.endswith("/constants.pkl") for name in names):
        raise ValueError(f"is a TorchScript program. Load it where it comes from. {SAVE}.")
    if not any(name.endswith("/data.pkl") for name in names):
        raise ValueError(f"is an archive of other files (first: {_some(names)}), not of weights. Unpack it.")


def _no_weights(start: bytes) -> str | None:
    """What a file is by its first bytes, where these are no weights."""
    text = start.lstrip().lower()
    if not start:
        return f"is empty. {FETCH}."
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file that it stands for. Fetch it: git lfs pull."
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "is a web page, not weights: its address asks for something first. Download it with a browser."
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")) or start[257:262] == b"ustar":
        return "is a packed archive. Unpack it and give the weight file inside."
    return None


def _unread(error: Exception) -> str:
    """Why torch did not read a file; its own words advise to execute what the file says."""
    named = re.search(r"GLOBAL ([A-Za-z_][\w.]{0,80})", str(error))
    if isinstance(error, pickle.UnpicklingError) and named:
        return f"it holds the Python object {named[1]}, which only code can make. Load it where it comes from. {SAVE}."
    if isinstance(error, EOFError) or "truncated" in str(error) or "unexpected EOF" in str(error):
        return f"it is cut short. {FETCH}."
    return f"it is no state dict written by torch.save, or a damaged one. {FETCH}, or {SAVE[0].lower()}{SAVE[1:]}."


def _is_state(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(n, str) and isinstance(value, Tensor) for n, value in content.items())


def _check_values(state: Mapping[str, Tensor]) -> None:
    """Check that all tensors are plain ones of floating-point numbers or integers, and finite.

    Raises:
        ValueError: names the first ones that are not.
    """
    for name, value in state.items():
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.dtype not in FLOATS + WHOLE:
            kind = "meta" if value.is_meta else str(value.layout if value.layout != torch.strided else value.dtype)
            raise ValueError(f"the tensor {_short(name)} is of the kind {kind.removeprefix('torch.')}; give float32.")
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ValueError(f"the tensor {_short(name)} claims {value.numel()} values, more than there are. {SAVE}.")
    bad = [name for name, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(state)} tensors have values that are not finite (NaN or infinity; first: "
            f"{_some(bad)}). The training that wrote them has diverged: give an earlier checkpoint."
        )


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a single number"


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _some(names: Iterable[object]) -> str:
    """The first three of some names, as a message can show them."""
    listed = list(names)
    return ", ".join(_short(name) for name in listed[:3]) + (", ..." if len(listed) > 3 else "")


def _short(name: object) -> str:
    """A name as a message can show it: no control characters, no more than 160 characters."""
    return one_line(name, 160)
