"""A segmentation network with taps, without hooks: calls the parts in order and keeps the maps between them."""

import inspect
from collections.abc import Callable
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.experiment import network_rules
from harness.experiment.method import nearest
from harness.experiment.spec import Network
from harness.experiment.yaml_reader import dotted
from harness.models.deeplabv3 import deeplabv3
from harness.models.encoder_weights import load_encoder
from harness.models.pspnet import pspnet
from harness.taps import NetworkInfo, TapInfo, Taps

# DPT also reads class tokens and does not follow encoder -> decoder -> head.
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
    "pspnet-papers": pspnet,
    "deeplabv3-cirkd": deeplabv3,
}

# These are set by other keys of the experiment file, or would change the meaning of `full`: class scores of an image.
_RESERVED = ("encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params")
_LEARNT: dict[tuple[str, int], tuple[NetworkInfo, frozenset[str]]] = {}  # by network and classes
_DRY_SIDE = 128  # image side of dry runs: PAN pools its deepest map three times, and needs 8 positions there


class SegNet(nn.Module):
    """Encoder, decoder and head of a segmentation network, called one after the other.

    For segmentation-models-pytorch's networks `full` is bit-identical to the wrapped network's own output. If the
    input's size is not a multiple of the encoder's stride, it is padded at the bottom and right by its border values.
    `full` is cropped back, and every other tap to the cells that cover the image, so that networks with different
    padding give maps of the same area.

    In train mode an auxiliary head on stage 3 is called too, unless it is frozen.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.encoder: nn.Module = network.encoder
        self.decoder: nn.Module = network.decoder
        self.head: nn.Sequential = network.segmentation_head
        self.auxiliary: nn.Module | None = getattr(network, "auxiliary", None)
        self.multiple = int(network.encoder.output_stride)
        self._info: NetworkInfo | None = None

    def forward(self, image: Tensor) -> Taps:
        """Image (N, 3, H, W) to its taps.

        Raises:
            ValueError: not a batch of RGB images, or the head's output does not have the image's size.
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"a batch of RGB images is (N, 3, H, W); given {tuple(image.shape)}")
        height, width = image.shape[-2:]
        bottom, right = -height % self.multiple, -width % self.multiple
        if bottom or right:
            image = F.pad(image, (0, right, 0, bottom), mode="replicate")
        features = self.encoder(image)
        decoded = self.decoder(features)
        logits = self.head[0](decoded)
        full = self.head[2](self.head[1](logits))
        aux = self.auxiliary(features[-2]) if self.auxiliary is not None and self._trains_auxiliary() else None
        padded = image.shape[-2:]
        if full.shape[-2:] != padded:
            raise ValueError(
                f"the head gives {tuple(full.shape[-2:])} for an image of {tuple(padded)}; correct `upsampling` or "
                "`encoder_depth` in the network's parameters"
            )

        def crop(x: Tensor) -> Tensor:
            if not (bottom or right):
                return x
            return x[..., : -(-height * x.shape[-2] // padded[0]), : -(-width * x.shape[-1] // padded[1])]

        stages = {name: crop(x) for name, x in _stages(features).items()}
        return Taps(stages, crop(decoded), crop(logits), crop(full), None if aux is None else crop(aux))

    def _trains_auxiliary(self) -> bool:
        head = self.auxiliary
        return head is not None and self.training and any(p.requires_grad for p in head.parameters())

    @torch.no_grad()
    def info(self) -> NetworkInfo:
        """Widths and strides of all taps, from a dry run in eval mode or from the one that `build` made."""
        if self._info is None:
            training = self.training
            parameter = next(self.parameters())
            self._info = _described(self.eval()(_dry_image(parameter)))
            self.train(training)
        return self._info


def _stages(features: list[Tensor]) -> dict[str, Tensor]:
    """Name the encoder's maps: features[0] is the image, features[1] the stem (empty in patch-based encoders)."""
    stages = {} if features[1].shape[1] == 0 else {"stem": features[1]}
    return stages | {f"stage{i}": x for i, x in enumerate(features[2:], start=1)}


def build(network: Network, num_classes: int, seed: int) -> SegNet:
    """Build a network on the CPU; its initial weights depend on `seed` alone. Nothing is downloaded.

    Parameters that do not affect the output (an encoder stage that the decoder does not read) are frozen, so that
    weight decay does not change them and DistributedDataParallel does not wait for their gradients.

    Raises:
        ValueError: unknown architecture, encoder or parameter, or encoder weights that do not fit.
    """
    for at, message in network_rules.problems(network.architecture, network.encoder, network.parameters):
        raise ValueError(f"{dotted(at)}: {message}" if at[0] == "parameters" else message)
    _check_parameters(network)
    keywords: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in network.parameters.items()}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        try:
            model: Any = ARCHITECTURES[network.architecture](
                encoder_name=network.encoder, encoder_weights=None, classes=num_classes, **keywords
            )
        except KeyError:
            names = smp.encoders.get_encoder_names()
            raise ValueError(
                f"unknown encoder {network.encoder!r}.{nearest(network.encoder, names)} Allowed: tu-NAME for any timm "
                f"backbone with feature maps, or one of {', '.join(names)}"
            ) from None
        except (AssertionError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            near = ""
            if network.encoder.startswith("tu-") and not timm.is_model(network.encoder[3:]):
                near = nearest(network.encoder, [f"tu-{name}" for name in timm.list_models()])
            what = f"{network.architecture} with encoder {network.encoder} and parameters {network.parameters}"
            raise ValueError(f"{what} cannot be built: {error}{near}") from None
    if network.encoder_weights is not None:
        try:
            load_encoder(model.encoder, network)
        except ValueError as error:
            raise ValueError(f"encoder_weights: {error}") from None
    wrapped = SegNet(model)
    key = (network.model_dump_json(), num_classes)
    if key not in _LEARNT:
        try:
            _LEARNT[key] = _dry_run(wrapped)
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"{network.architecture} with encoder {network.encoder} and parameters {network.parameters} fails on "
                f"an image of {_DRY_SIDE}x{_DRY_SIDE}: {error} A timm backbone of fixed input size may take parameters "
                f"{{img_size: {_DRY_SIDE}, strict_img_size: false}}."
            ) from None
    wrapped._info, unused = _LEARNT[key]
    for name, parameter in wrapped.named_parameters():
        if name in unused:
            parameter.requires_grad_(False)
    return wrapped


def _check_parameters(network: Network) -> None:
    """Check the parameters' names; a timm backbone checks its own parameters itself.

    Raises:
        ValueError: a name is reserved or unknown.
    """
    signature = inspect.signature(ARCHITECTURES[network.architecture])
    named = [name for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD and name not in _RESERVED]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    passed_on = network.encoder.startswith("tu-") and open_ended
    for name in network.parameters:
        if name in _RESERVED or (name not in named and not passed_on):
            raise ValueError(
                f"{network.architecture} with encoder {network.encoder} takes no parameter {name!r}."
                f"{nearest(name, named)} Allowed: {', '.join(named)}"
            )


def _dry_image(parameter: Tensor) -> Tensor:
    return torch.zeros(1, 3, _DRY_SIDE, _DRY_SIDE, device=parameter.device, dtype=parameter.dtype)


def _described(taps: Taps) -> NetworkInfo:
    """Widths and strides of the dry run's taps."""

    def tap(x: Tensor) -> TapInfo:
        return TapInfo(channels=x.shape[1], stride=_DRY_SIDE // x.shape[2])

    return NetworkInfo({name: tap(x) for name, x in taps.stages.items()}, tap(taps.decoder), tap(taps.logits))


def _dry_run(network: SegNet) -> tuple[NetworkInfo, frozenset[str]]:
    """The network's `info`, and the names of parameters without a gradient.

    From one forward and backward pass in eval mode, which changes no statistics.
    """
    network.eval()
    taps = network(_dry_image(next(network.parameters())))
    scores = taps.full.sum()
    if network.auxiliary is not None:  # not called in eval mode
        scores = scores + network.auxiliary(taps.stages["stage3"]).sum()
    scores.backward()
    unused = frozenset(name for name, parameter in network.named_parameters() if parameter.grad is None)
    network.zero_grad()
    network.train()
    return _described(taps), unused
