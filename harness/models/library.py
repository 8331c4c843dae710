"""A network as its own library has it, for a file that others load without this project."""

import inspect
from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from harness.experiment.spec import Network
from harness.models.build import ARCHITECTURES, build
from harness.models.described import SMP
from harness.models.hooked import HookedNet, TappedNet
from harness.models.tapnet import TapNet
from harness.models.transformers_nets import TransformersNet


def library_of(network: Network) -> str:
    """Whose names the weights of a network have in its own library, for a description.

    Networks that this project builds itself have names that no other library knows.
    """
    if ":" in network.architecture:
        return network.architecture
    if network.architecture in SMP:
        return f"segmentation_models_pytorch.{SMP[network.architecture]}"
    module = inspect.unwrap(ARCHITECTURES[network.architecture]).__module__
    if module.endswith("transformers_nets"):
        return "transformers"
    return "torchvision" if module.endswith("torchvision_nets") else "sstkd-bench"


def library_state(network: Network, built: TapNet) -> dict[str, Tensor]:
    """Weights by the names of the network's library; an auxiliary head, which smp's networks have not, is left out."""
    state = built.saved_state()
    if network.architecture not in SMP:
        return dict(state)
    renamed = {_in_smp(name): value for name, value in state.items()}
    return {name: value for name, value in renamed.items() if not name.startswith("auxiliary.")}


def _in_smp(name: str) -> str:
    return f"segmentation_{name}" if name.startswith("head.") else name


def plain_network(network: Network, num_classes: int) -> nn.Module:
    """The library's own module, with random weights, that `library_state` fits."""
    if network.architecture in SMP:
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in network.parameters.items()}
        made: nn.Module = require_smp(network)(
            encoder_name=network.encoder, encoder_weights=None, classes=num_classes, **options
        )
        return made
    built = build(network.model_copy(update={"encoder_weights": None}), num_classes, 0)
    return built.network if isinstance(built, HookedNet | TappedNet | TransformersNet) else built


def require_smp(network: Network) -> Any:
    """The class of segmentation-models-pytorch.

    Raises:
        ValueError: the network is of another library.
    """
    if network.architecture not in SMP:
        raise ValueError(
            f"--to smp: {network.architecture} is no network of segmentation-models-pytorch, which has "
            f"{', '.join(sorted(SMP))}. Export it as safetensors, torch-export or onnx"
        )
    return getattr(smp, SMP[network.architecture])
