"""Loads pretrained weights of an encoder: matches tensor names, and explains why a file does not fit."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from harness.experiment.spec import Network
from harness.models.weights import differences, load_state

# Names of a deep stem in the distillation papers' ResNets (left) and in timm. Their bn1 is not timm's bn1.
_FLAT_STEM = {
    "conv1.": "conv1.0.",
    "bn1.": "conv1.1.",
    "conv2.": "conv1.3.",
    "bn2.": "conv1.4.",
    "conv3.": "conv1.6.",
    "bn3.": "bn1.",
}
_DEEP_STEM = [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3)]


def load_encoder(encoder: nn.Module, network: Network) -> None:
    """Load the file that `network.encoder_weights` names: a state dict of the encoder or of the whole timm model.

    Raises:
        ValueError: the file is missing, has another checksum, or its tensors do not fit.
    """
    assert network.encoder_weights is not None
    weights = network.encoder_weights
    state = _with_timm_stem(load_state(Path(weights.path), weights.digest))
    own = encoder.state_dict()
    source = {key: _name_in_file(key, state) for key in own}
    found = {key: state[name] for key, name in source.items() if name is not None}
    missing = sorted(key for key in own if key not in found and not key.endswith("num_batches_tracked"))
    left_over = _left_over(state.keys() - source.values(), own, complete=getattr(encoder, "_depth", 5) >= 5)
    if differing := differences(missing, left_over, own, found):
        raise ValueError(
            _stem_differs(weights.path, network, state, own)
            or f"{weights.path}: does not fit the encoder {network.encoder}: {differing}. "
            "Give weights of this very encoder."
        )
    encoder.load_state_dict(found, strict=False)


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
    plain = key.removeprefix("model.")
    # timm flattens the outermost sequence of a backbone with feature maps: stages.0.x becomes stages_0.x.
    for name in (key, plain, re.sub(r"^([A-Za-z]\w*?)_(\d+)\.", r"\1.\2.", plain)):
        if name in state:
            return name
    return None


def _with_timm_stem(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the deep stem of the distillation papers' checkpoints, recognised by a conv3 outside the stages."""
    if "conv3.weight" not in state or "layer1.0.conv1.weight" not in state:
        return state
    renamed = {}
    for name, value in state.items():
        prefix = next((prefix for prefix in _FLAT_STEM if name.startswith(prefix)), "")
        renamed[_FLAT_STEM.get(prefix, "") + name.removeprefix(prefix)] = value
    return renamed


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
