"""Builds the networks that an experiment file names: by architecture, encoder and parameters, without downloading."""

import inspect
from collections.abc import Callable
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from harness.experiment import network_rules
from harness.experiment.meanings import nearest
from harness.experiment.spec import Network
from harness.experiment.yaml_reader import dotted
from harness.models.deeplabv3 import deeplabv3
from harness.models.encoder_weights import load_encoder
from harness.models.outside import outside, said
from harness.models.pspnet import pspnet
from harness.models.segnet import SegNet
from harness.models.tapnet import TapNet, dry_run
from harness.models.torchvision_nets import deeplabv3_torchvision, fcn_torchvision, lraspp
from harness.models.transformers_nets import KINDS, transformers_net
from harness.models.vit import dpt, vit_dpt, vit_linear, vit_multilevel
from harness.taps import NetworkInfo

ARCHITECTURES: dict[str, Callable[..., Any]] = {
    "unet": smp.Unet,
    "unetplusplus": smp.UnetPlusPlus,
    "manet": smp.MAnet,
    "linknet": smp.Linknet,
    "fpn": smp.FPN,
    "pspnet": smp.PSPNet,
    "deeplabv3": smp.DeepLabV3,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "pan": smp.PAN,
    "upernet": smp.UPerNet,
    "segformer": smp.Segformer,
    "dpt": dpt,
    "vit-linear": vit_linear,
    "vit-multilevel": vit_multilevel,
    "vit-dpt": vit_dpt,
    "fcn-torchvision": fcn_torchvision,
    "deeplabv3-torchvision": deeplabv3_torchvision,
    "lraspp": lraspp,
    **{name: transformers_net(kind) for name, kind in KINDS.items()},
    "pspnet-papers": pspnet,
    "deeplabv3-cirkd": deeplabv3,
}
"""By name: the function that gives a `TapNet`, or a network of segmentation-models-pytorch's parts."""

# These are set by other keys of the experiment file, or would change the meaning of `full`: class scores of an image.
_RESERVED = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params")
_Learnt = tuple[NetworkInfo, frozenset[str], dict[tuple[str, ...], str]]
_LEARNT: dict[tuple[str, int], _Learnt] = {}
"""By network and classes: its taps, its unused parameters, and which of its outputs are the scores."""


def build(network: Network, num_classes: int, seed: int) -> TapNet:
    """Build a network on the CPU; its initial weights depend on `seed` alone. Nothing is downloaded.

    Parameters that do not affect the output (an encoder stage that the decoder does not read) are frozen, so that
    weight decay does not change them and DistributedDataParallel does not wait for their gradients.

    Raises:
        ValueError: unknown architecture, encoder or parameter, or encoder weights that do not fit.
    """
    for at, message in network_rules.problems(network.architecture, network.encoder, network.parameters, network.taps):
        raise ValueError(f"{dotted(at)}: {message}" if at[0] in ("parameters", "taps") else message)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        if ":" in network.architecture:
            wrapped: TapNet = outside(network, num_classes)
        else:
            model = _library_network(network, num_classes)
            wrapped = model if isinstance(model, TapNet) else SegNet(model)
    if network.encoder_weights is not None:
        try:
            load_encoder(wrapped.loaded_encoder(), network)
        except ValueError as error:
            raise ValueError(f"encoder_weights: {error}") from None
    key = (network.model_dump_json(), num_classes)
    if key not in _LEARNT:
        _LEARNT[key] = _learnt(network, wrapped)
    wrapped._info, unused, chosen = _LEARNT[key]
    wrapped.chosen.update(chosen)
    for name, parameter in wrapped.named_parameters():
        if name in unused:
            parameter.requires_grad_(False)
    return wrapped


def _learnt(network: Network, wrapped: TapNet) -> _Learnt:
    """What a dry run tells of a network."""
    own = ":" in network.architecture
    try:
        return *dry_run(wrapped), dict(wrapped.chosen)
    except ValueError as error:
        raise ValueError(f"{network.architecture}: {error}") from error if own else None
    except Exception as error:
        if not own and not isinstance(error, AssertionError | RuntimeError):
            raise
        side = wrapped.dry_image().shape[-1]
        fails = f"{described(network)} fails on an image of {side}x{side}: "
        if own:
            size = ". If it takes images of other sizes only, `input: {multiple: SIDE}` says so"
            raise ValueError(f"{fails}{said(error)}{size if isinstance(error, RuntimeError) else ''}") from error
        raise ValueError(
            f"{fails}{error} A timm backbone of fixed input size may take parameters {{img_size: {side}, "
            "strict_img_size: false}."
        ) from None


def described(network: Network) -> str:
    """The network in words, for a message."""
    encoder = "" if network.encoder is None else f" with encoder {network.encoder}"
    return f"{network.architecture}{encoder} and parameters {network.parameters}"


def _library_network(network: Network, num_classes: int) -> nn.Module:
    """Call the architecture's builder."""
    _check_parameters(network)
    keywords: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in network.parameters.items()}
    encoder = network.encoder
    if encoder is not None:
        keywords |= {"encoder_name": encoder}
    try:
        built: nn.Module = ARCHITECTURES[network.architecture](encoder_weights=None, classes=num_classes, **keywords)
        return built
    except KeyError:
        names = smp.encoders.get_encoder_names()
        raise ValueError(
            f"unknown encoder {encoder!r}.{nearest(str(encoder), names)} Allowed: tu-NAME for any timm "
            f"backbone with feature maps, or one of {', '.join(names)}"
        ) from None
    except (AssertionError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        near = ""
        if encoder is not None and encoder.startswith("tu-") and not timm.is_model(encoder[3:]):
            near = nearest(encoder, [f"tu-{name}" for name in timm.list_models()])
        raise ValueError(f"{described(network)} cannot be built: {error}{near}") from None


def _check_parameters(network: Network) -> None:
    """Check the parameters' names; a timm backbone checks its own parameters itself.

    Raises:
        ValueError: a name is reserved or unknown.
    """
    signature = inspect.signature(ARCHITECTURES[network.architecture])
    named = [name for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD and name not in _RESERVED]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    # timm and transformers name their own.
    passed_on = open_ended and ((network.encoder or "").startswith("tu-") or network.architecture in KINDS)
    for name in network.parameters:
        if name in _RESERVED or (name not in named and not passed_on):
            raise ValueError(
                f"{network.architecture} with encoder {network.encoder} takes no parameter {name!r}."
                f"{nearest(name, named)} Allowed: {', '.join(named)}"
            )
