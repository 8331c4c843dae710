"""Configurations of transformers' networks: which numbers of them a file may set, and which values are possible."""

from collections.abc import Mapping
from typing import Any

from harness.experiment.meanings import nearest

STAGES = 4


def configured(library: Any, config_class: Any, encoder: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The configuration of an encoder, with options in their places.

    Raises:
        ValueError: an option is unknown or of another kind than its default.
    """
    values = {name: value for name, value in encoder.items() if name not in ("backbone", "backbone_class")}
    backbone: dict[str, Any] = {}
    inner = getattr(library, encoder["backbone_class"]) if "backbone_class" in encoder else None
    own, inners = _numbers(config_class), {} if inner is None else _numbers(inner)
    for name, value in options.items():
        if name not in own | inners:
            names = sorted(own | inners)
            raise ValueError(f"no such parameter here: {name!r}.{nearest(name, names)} Allowed: {', '.join(names)}")
        if not _alike(value, (own | inners)[name]):
            raise ValueError(f"{name} is {_KIND[type((own | inners)[name])]}; given {value!r}")
        (values if name in own else backbone)[name] = list(value) if isinstance(value, tuple) else value
    if inner is None:
        return _consistent(config_class(**values))
    backbone = {**encoder["backbone"], **backbone, "out_features": [f"stage{i}" for i in range(1, STAGES + 1)]}
    config = _consistent(inner(**backbone))
    widths = getattr(config, "hidden_sizes", None) or [config.embed_dim * 2**stage for stage in range(STAGES)]
    if "auxiliary_in_channels" in own | config_class.__annotations__:
        values = {"auxiliary_in_channels": widths[2], **values}
    return config_class(backbone_config=config, **values)


def _consistent(config: Any) -> Any:
    """The configuration, if the numbers that the library takes on trust are possible.

    Raises:
        ValueError: they are not.
    """
    image, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if isinstance(image, int) and isinstance(patch, int) and not 0 < patch <= image:
        raise ValueError(f"patch_size is at least 1 and at most image_size; given {patch} and {image}")
    blocks = getattr(config, "backbone_out_indices", None)
    if blocks is None:
        return config
    for name in ("backbone_out_indices", "neck_hidden_sizes", "reassemble_factors"):
        if len(getattr(config, name)) != STAGES:
            raise ValueError(f"{name} has {STAGES} numbers, one per stage; given {list(getattr(config, name))}")
    if len(set(blocks)) < STAGES or not set(blocks) <= set(range(config.num_hidden_layers)):
        last = config.num_hidden_layers - 1
        raise ValueError(f"backbone_out_indices are {STAGES} different blocks, 0 to {last}; given {list(blocks)}")
    return config


_KIND = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of numbers"}


def _alike(value: Any, default: Any) -> bool:
    """Whether a value is of the kind of a default."""
    if isinstance(default, tuple):
        return isinstance(value, tuple | list) and all(_alike(item, 0.5) for item in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, int if isinstance(default, int) else int | float)


def _numbers(config_class: Any) -> dict[str, Any]:
    """Options of a configuration that are numbers, or lists of them, with their defaults."""
    fixed = ("num_channels", "num_stages", "num_encoder_blocks", "is_hybrid", "head_in_index", "reshape_last_stage")
    found = {name: getattr(config_class, name, None) for name in config_class.__annotations__}
    return {k: v for k, v in found.items() if isinstance(v, int | float | tuple) and k not in fixed}
