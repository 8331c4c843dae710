"""A network as its own library has it, for a file that others load without this project."""

import inspect
from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from harness.experiment.spec import Network
from harness.models.build import ARCHITECTURES
from harness.models.described import SMP
from harness.models.tapnet import TapNet
from harness.models.vit import any_size


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
    """Weights by the names of the network's library."""
    state = built.saved_state()
    if network.architecture not in SMP:
        return dict(state)
    return {f"segmentation_{name}" if name.startswith("head.") else name: value for name, value in state.items()}


def plain_network(network: Network, num_classes: int) -> nn.Module:
    """The network as segmentation-models-pytorch makes it, with random weights, that `library_state` fits.

    Raises:
        ValueError: it is of another library.
    """
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in network.parameters.items()}
    options = any_size(options) if network.architecture == "dpt" else options
    made: nn.Module = require_smp(network)(
        encoder_name=network.encoder, encoder_weights=None, classes=num_classes, **options
    )
    return made


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
