"""Loads pretrained weights of an encoder: matches tensor names, and explains why a file does not fit."""

import re
import sys
from collections.abc import Iterable, Mapping

import timm
import torch
from torch import Tensor, nn

from harness.experiment.spec import Network
from harness.models import transformers_files
from harness.models.keys import ENCODERS, by_own_names, unprefixed
from harness.models.keys.efficientnet_lite import by_timm_names
from harness.models.pretrained import load_weights, timm_name
from harness.models.transformers_nets import KINDS
from harness.models.weights import differences, fitted

_DEEP_STEM = [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3)]


def load_encoder(encoder: nn.Module, network: Network) -> None:
    """Load the file that `network.encoder_weights` names: a state dict of the encoder or of the whole timm model.

    Raises:
        ValueError: the file is missing, has another checksum, or its tensors do not fit.
    """
    assert network.encoder_weights is not None
    weights = network.encoder_weights
    own, complete = encoder.state_dict(), getattr(encoder, "_depth", 5) >= 5
    state = _by_library_names(own, load_weights(weights))
    found, differing = _matched(own, state, complete)
    if differing and network.architecture in KINDS:
        other, still = _matched(own, transformers_files.read(encoder, list(unprefixed(state))[-1]), complete)
        if len(other) > len(found) or not still:
            found, differing = other, still
    if differing and (converted := _converted(network, list(unprefixed(state))[-1])) is not None:
        other, still = _matched(own, converted, complete)
        if not still and _patches(state) in (None, _patches(own)):
            found, differing = other, ""
    if differing:
        name = network.encoder or f"of {network.architecture}"
        raise ValueError(
            _stem_differs(weights.path, network, state, own)
            or f"{weights.path}: does not fit the encoder {name}: {differing}. Give weights of this very encoder."
        )
    encoder.load_state_dict(found, strict=False)


def _matched(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], complete: bool
) -> tuple[Mapping[str, Tensor], str]:
    """The encoder's tensors from a file, and how they differ from what it needs (`differences`)."""
    source = {key: _name_in_file(key, state) for key in own}
    found = fitted(own, {key: state[name] for key, name in source.items() if name is not None})
    missing = sorted(key for key in own if key not in found and not key.endswith("num_batches_tracked"))
    unused = state.keys() - source.values()
    return found, differences(missing, unused if missing else _left_over(unused, own, complete), own, found)


def _by_library_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A file's tensors by the names of the encoder's library, where they have those of another source."""
    plain = dict.fromkeys(name for key in own for name in _names(key))
    last = list(unprefixed(state))[-1]
    flat = "conv3.weight" in last and "layer1.0.conv1.weight" in last
    tables = {source: table for source, table in ENCODERS.items() if source != "CIRKD" or flat}
    return by_own_names(plain, by_timm_names(own, last) if "_conv_stem.weight" in last else state, tables)


def _converted(network: Network, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The state as timm converts files of a model: position embeddings resized, names of older files replaced.

    None if timm has no conversion for the encoder, or it takes other files.
    """
    name = timm_name(network.encoder or "")
    if name is None or not timm.is_model(name.partition(".")[0]):
        return None
    options = {key: value for key, value in network.parameters.items() if key in ("img_size", "patch_size")}
    try:
        with torch.device("meta"):  # its shapes are needed, and no random numbers are to be drawn
            model = timm.create_model(name.partition(".")[0], pretrained=False, **options)
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        return None if convert is None else dict(convert(dict(state), model))
    except Exception:  # made for other files: what does not fit is said by name
        return None


def _patches(state: Mapping[str, Tensor]) -> tuple[int, ...] | None:
    """Height and width of the kernel that makes patches of the image; None without one.

    timm's conversion resizes it too, which makes weights of patches of 8 or 14 fit those of 16.
    """
    names = (name for name in state if re.search(r"(^|\.)patch_embed\.proj\.weight$", name))
    return next((tuple(state[name].shape[-2:]) for name in names if state[name].ndim == 4), None)


def _left_over(unused: Iterable[str], own: Iterable[str], complete: bool) -> list[str]:
    """Unused tensors of the file that show that it is of another (e.g. deeper) encoder.

    Parts that the encoder lacks entirely do not count: the classifier, and stages after the last one in use.

    Args:
        unused: names in the file that match no tensor of the encoder.
        own: names of the encoder's tensors.
        complete: the encoder has all its stages, so further numbered parts count too.
    """
    plain = [name.removeprefix("model.") for name in own]
    parts = {_part(name) for name in plain}
    series = {re.split(r"[._]\d+\.|\.", name, maxsplit=1)[0] for name in plain} if complete else set()
    names = (name for name in unused if not name.endswith("num_batches_tracked"))
    return sorted(name for name in names if _part(name.removeprefix("model.")) in parts or name.split(".")[0] in series)


def _part(name: str) -> str:
    """A tensor's stage, its name up to the first number (`layer1`, `blocks4`, `stages3`), or its outermost module."""
    numbered = re.match(r"([A-Za-z][A-Za-z_]*?)[._]?(\d+)[._]", name)
    return "".join(numbered.groups()) if numbered else name.split(".")[0]


def _name_in_file(key: str, state: Mapping[str, Tensor]) -> str | None:
    """A tensor's name in a weight file: the encoder's own name, or the plain timm model's."""
    return next((name for name in _names(key) if name in state), None)


def _names(key: str) -> tuple[str, str, str]:
    """What a tensor of an encoder may be called in a file."""
    plain = key.removeprefix("model.")
    # timm flattens the outermost sequence of a backbone with feature maps: stages.0.x becomes stages_0.x.
    return key, plain, re.sub(r"^([A-Za-z]\w*?)_(\d+)\.", r"\1.\2.", plain)


def _stem(state: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
    """Shapes of the convolutions of a ResNet's stem, in order; empty if there is no such stem."""
    at = {name: re.fullmatch(r"(?:model\.)?conv1(?:\.(\d+))?\.weight", name) for name in state}
    named = [(int(match[1] or 0), name) for name, match in at.items() if match and state[name].ndim == 4]
    return [tuple(state[name].shape) for _, name in sorted(named)]


def _stem_differs(path: str, network: Network, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    given, needed = _stem(state), _stem(own)
    if not given or not needed or given == needed:
        return None
    known = (
        " (timm: resnet50s, resnet101s, resnet152s; winycg/CIRKD: resnet18-imagenet.pth, resnet101-imagenet.pth)"
        if needed == _DEEP_STEM
        else ""
    )
    return (
        f"{path}: does not fit the encoder {network.encoder} of {network.architecture}: the stem differs. The file has "
        f"{_described(given)}, the network needs {_described(needed)}. Give weights of the same ResNet with the "
        f"network's stem{known}, or leave encoder_weights out to train from random weights."
    )


def _described(stem: list[tuple[int, ...]]) -> str:
    """`three 3x3 convolutions from 3 to 64, 64, 128 channels`."""
    count = {1: "one", 2: "two", 3: "three"}.get(len(stem), str(len(stem)))
    noun = "convolution" if len(stem) == 1 else "convolutions"
    widths = ", ".join(str(shape[0]) for shape in stem)
    return f"{count} {stem[0][2]}x{stem[0][3]} {noun} from {stem[0][1]} to {widths} channels"
