"""Rules that a network of an experiment file obeys before anything is built: names, parameters, weights."""

import re
from collections.abc import Iterator
from typing import Any

from harness.borders import quoted
from harness.experiment.method import nearest
from harness.experiment.yaml_reader import KeyPath

ARCHITECTURES = (
    *("unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "pan", "upernet"),
    *("segformer", "pspnet-papers", "deeplabv3-cirkd"),
)
"""Names of the networks; `harness.models.ARCHITECTURES` builds them."""
LOADING = ("checkpoint_path", "cache_dir", "pretrained", "weights", "state_dict", "url", "file")
"""Parameters of timm's models that name a file or an address; so do all that begin with `pretrained`."""
LARGEST = 4096
"""Of a number of channels, a side, a dilation, ... in a network's parameters: ten times what papers use."""
USE_WEIGHTS = "Give the file as encoder_weights: {path: FILE}: its digest is part of what a run is"


def problems(architecture: str, encoder: str, parameters: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with a network's names and parameters: key path and message.

    Args:
        architecture: as in an experiment file.
        encoder: as in an experiment file.
        parameters: as in an experiment file.
    """
    if ":" in architecture:
        yield (
            ("architecture",),
            f"{architecture!r}: networks of one's own are not possible, only methods are. Allowed: "
            f"{', '.join(ARCHITECTURES)}",
        )
    elif architecture not in ARCHITECTURES:
        yield (
            ("architecture",),
            f"unknown architecture {architecture!r}.{nearest(architecture, ARCHITECTURES)} "
            f"Allowed: {', '.join(ARCHITECTURES)}",
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", encoder):
        yield (
            ("encoder",),
            f"{encoder!r} is no encoder's name; one has letters, digits, `.`, `_` and `-`. Networks are not fetched "
            f"from a hub or a folder. {USE_WEIGHTS}",
        )
    for name, value in parameters.items():
        if name in LOADING or name.startswith("pretrained"):
            message = f"a network's parameters load no files and reach no network. {USE_WEIGHTS}"
        elif any(abs(number) > LARGEST for number in _numbers(value)):
            message = f"numbers here are at most {LARGEST}; given {quoted(repr(value))}"
        else:
            continue
        yield ("parameters", name), message


def how_to_make(encoder: str) -> str:
    """The command that makes a file of an encoder's ImageNet weights."""
    save = "import safetensors.torch as s"
    if encoder.startswith("tu-"):
        model = f"timm.create_model('{encoder[3:]}', pretrained=True)"
        return f"python -c \"{save}, timm; s.save_file({model}.state_dict(), '{encoder}.safetensors')\""
    model = f"m.encoders.get_encoder('{encoder}', weights='imagenet')"
    return (
        f'python -c "{save}, segmentation_models_pytorch as m; '
        f"s.save_file({model}.state_dict(), '{encoder}.safetensors')\""
    )


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value
