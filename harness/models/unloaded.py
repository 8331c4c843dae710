"""Networks from outside are built without weights: a run is what its file says, by the content of files."""

import contextlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from harness.experiment.network_rules import loads

READERS = (
    *(("torch", "load"), ("torch.jit", "load"), ("torch.hub", "load"), ("torch.hub", "load_state_dict_from_url")),
    *(("torch.hub", "download_url_to_file"), ("safetensors", "safe_open"), ("safetensors.torch", "safe_open")),
    *(
        ("safetensors.torch", "load"),
        ("transformers.modeling_utils", "safe_open"),
        ("huggingface_hub", "hf_hub_download"),
    ),
    *(("huggingface_hub", "snapshot_download"), ("timm.models._hub", "hf_hub_download")),
    *(("torchvision.models._api", "load_state_dict_from_url"), ("timm.models._builder", "load_state_dict_from_hf")),
)
"""What libraries read weights with, by module and name."""
INSTEAD = (
    "Build it without them (weights=None, pretrained=False) and name the file in the experiment, where its digest is "
    "part of what a run is: encoder_weights (for its part `encoder` or `backbone`), or a teacher's checkpoint"
)


def without_weights(maker: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Values for those parameters by which a function would load weights by default: None, or False.

    Args:
        maker: the function or class.
        given: its parameters from the file, which stay.
    """
    defaults = {name: p.default for name, p in inspect.signature(maker).parameters.items()}
    return {
        name: False if isinstance(value, bool) else None
        for name, value in defaults.items()
        if name not in given and value is not inspect.Parameter.empty and loads(name, value)
    }


@contextlib.contextmanager
def reading_nothing() -> Iterator[None]:
    """An error where libraries would read or fetch weights.

    Raises:
        ValueError: they do; says what to do instead.
    """

    building = [True]

    def watched(reader: Any) -> Any:
        def read(*arguments: Any, **options: Any) -> Any:
            if building:  # a module that is imported meanwhile keeps this function
                raise ValueError(f"it loads weights while it is built. {INSTEAD}")
            return reader(*arguments, **options)

        return read

    kept = []
    for module_name, name in READERS:
        module = sys.modules.get(module_name)
        if module is not None and hasattr(module, name):
            kept.append((module, name, getattr(module, name)))
    try:
        for module, name, reader in kept:
            setattr(module, name, watched(reader))
        yield
    finally:
        building.clear()
        for module, name, reader in kept:
            setattr(module, name, reader)
