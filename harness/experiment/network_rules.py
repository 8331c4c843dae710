"""Rules that a network of an experiment file obeys before anything is built: names, parameters, weights."""

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from harness.borders import quoted
from harness.experiment.meanings import nearest
from harness.experiment.signatures import source_file
from harness.experiment.yaml_reader import KeyPath

ARCHITECTURES = (
    *("unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "pan", "upernet"),
    *("segformer", "dpt", "vit-linear", "vit-multilevel", "vit-dpt", "fcn-torchvision", "deeplabv3-torchvision"),
    *("lraspp", "segformer-transformers", "upernet-transformers", "dpt-transformers", "mask2former", "eomt"),
    *("eomt-dinov3", "pspnet-papers", "deeplabv3-cirkd"),
)
"""Names of the networks; `harness.models.ARCHITECTURES` builds them."""
WITHOUT_ORDER = {"mask2former": "grid_sample"}
"""Networks with an operation whose additions have no fixed order on a GPU, and no other form here."""
WITHOUT_ENCODER: tuple[str, ...] = ()
"""Networks that are described by their parameters alone."""
LOADING = (
    *("cache_dir", "weights", "weights_backbone", "backbone_weights", "encoder_weights", "state_dict", "url", "file"),
    *("init_cfg", "load_from", "model_path", "weight_path", "weights_path", "weights_file", "from_pretrained"),
)
"""Parameters of libraries' networks that name weights, a file or an address, at any depth; so do all that begin with
`pretrained` or `use_pretrained`, and those with `checkpoint` or `ckpt` that are a text or more."""
ADDRESS = re.compile(
    r"(?i)(?:hf|hf[-_]hub|local[-_]dir|timm)[:/].*|.*://.*|.*\.(?:pth|pt|pth\.tar|bin|safetensors|ckpt|npz|onnx)"
)
"""Values that name a file, a repository or an address: `hf_hub:timm/resnet18`, `x.pth`, `https://...`."""
LARGEST = 4096
"""Of a number of channels, a side, a dilation, ... in a network's parameters: ten times what papers use."""
USE_WEIGHTS = "Give the file as encoder_weights: {path: FILE}: its digest is part of what a run is"


STAGE = r"stem|stage[1-9]"
"""Names of an encoder's maps."""
TAP = re.compile(rf"{STAGE}|decoder|logits")
"""Names of taps."""


def stage_order(name: str) -> tuple[int, str]:
    """Sorts names of taps, shallow to deep."""
    return ("stem", "stage", "decoder", "logits").index(name.rstrip("0123456789")), name


def problems(
    architecture: str, encoder: str | None, parameters: dict[str, Any], taps: Mapping[str, str] | None = None
) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with a network's names and parameters: key path and message.

    Args:
        architecture: as in an experiment file.
        encoder: as in an experiment file.
        parameters: as in an experiment file.
        taps: as in an experiment file.
    """
    if ":" in architecture:
        yield from _outside_problems(architecture, encoder)
    elif architecture not in ARCHITECTURES:
        yield (
            ("architecture",),
            f"unknown architecture {architecture!r}.{nearest(architecture, ARCHITECTURES)} "
            f"Allowed: {', '.join(ARCHITECTURES)}, or a class or function of your own: package.module:Name",
        )
    elif encoder is None and architecture not in WITHOUT_ENCODER:
        yield ("encoder",), f"{architecture} needs an encoder: one of segmentation-models-pytorch, or tu-NAME of timm"
    if encoder is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", encoder):
        yield (
            ("encoder",),
            f"{encoder!r} is no encoder's name; one has letters, digits, `.`, `_` and `-`. Networks are not fetched "
            f"from a hub or a folder. {USE_WEIGHTS}",
        )
    yield from _tap_problems(architecture, taps)
    for name, value in parameters.items():
        if at := next(_loads({name: value}), None):
            inner = f" ({'.'.join(at)})" if len(at) > 1 else ""
            message = f"a network's parameters load no files and reach no network{inner}. {USE_WEIGHTS}"
        elif any(abs(number) > LARGEST for number in _numbers(value)):
            message = f"numbers here are at most {LARGEST}; given {quoted(repr(value))}"
        else:
            continue
        yield ("parameters", name), message


def loads(name: str, value: Any) -> bool:
    """Whether a parameter of this name and value would make a library load weights."""
    plain, given = name.lower(), value not in (None, False)
    if plain in LOADING or re.match(r"(use_)?pretrain", plain):
        return given
    if re.search(r"checkpoint|ckpt", plain):  # true or false may be of gradients' checkpoints
        return given and value is not True
    return isinstance(value, str) and ADDRESS.fullmatch(value) is not None


def _loads(parameters: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Places of parameters that would load weights, in nested lists and mappings."""
    for name, value in parameters.items():
        if loads(str(name), value):
            yield (str(name),)
        elif isinstance(value, Mapping | list | tuple):
            inner = value if isinstance(value, Mapping) else {str(i): item for i, item in enumerate(value)}
            yield from ((str(name), *at) for at in _loads(inner))


def _outside_problems(architecture: str, encoder: str | None) -> Iterator[tuple[KeyPath, str]]:
    """Of a class or function from outside, which is not imported here."""
    if not re.fullmatch(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*", architecture):
        yield ("architecture",), f"{architecture!r}: write a class or function of your own as package.module:Name"
        return
    if architecture.partition(".")[0].partition(":")[0] in sys.stdlib_module_names:
        yield ("architecture",), f"{architecture!r} is of Python's own library, which has no networks"
        return
    try:
        source_file(architecture.partition(":")[0])
    except ValueError as error:
        yield ("architecture",), str(error)
    if encoder is not None:
        yield ("encoder",), "a network of your own has no encoder key; name one in its parameters"


def _tap_problems(architecture: str, taps: Mapping[str, str] | None) -> Iterator[tuple[KeyPath, str]]:
    if taps is None:
        return
    if ":" not in architecture:
        yield (
            ("taps",),
            f"{architecture} knows its taps; only those of a network of your own are named",
        )
        return
    for name in taps:
        if TAP.fullmatch(name) is None:
            yield ("taps", name), "unknown tap. Allowed: stem, stage1 to stage9, decoder, logits"
    if not any(name.startswith("st") for name in taps):
        yield ("taps",), "at least one stage is needed: stage1, shallow, to stage9, deep"
    if not {"logits", "decoder"} & taps.keys():
        yield ("taps",), "`logits` is needed: the classifier; the map that goes into it is the tap `decoder`"


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value
