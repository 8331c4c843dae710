"""Shared by the papers' networks: timm's dilated ResNet with a deep stem, and the parts that SegNet calls."""

from dataclasses import dataclass
from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from harness.experiment.meanings import nearest

ENCODERS = tuple(f"tu-resnet{depth}" for depth in (18, 34, 50, 101, 152))
STRIDE = 8
_STEM_WIDTH = 64  # channels of the first two 3x3 convolutions; the third has twice as many
_WIDTHS = (64, 128, 256, 512)  # channels of the four stages, before a bottleneck's factor 4


@dataclass(frozen=True)
class Parts:
    """The parts of a segmentation network, in SegNet's order and with the names of segmentation-models-pytorch.

    Attributes:
        encoder: image (N, 3, H, W) to [image, stem, stage1, ..., stage4]; has `output_stride` and `out_channels`.
        decoder: that list to the map before the classifier, (N, C, H/8, W/8).
        segmentation_head: classifier, up-sampling, activation.
        auxiliary: stage 3 to class scores (N, K, H/8, W/8), for training only; None without such a head.
    """

    encoder: Any
    decoder: nn.Module
    segmentation_head: nn.Sequential
    auxiliary: nn.Module | None


def deep_stem_resnet(encoder_name: str, half_width: bool = False) -> Any:
    """ResNet of output stride 8 with a stem of three 3x3 convolutions of 64, 64 and 128 channels.

    Args:
        encoder_name: one of ENCODERS.
        half_width: halve all widths, including the stem's.

    Raises:
        ValueError: the encoder is not in ENCODERS.
    """
    if encoder_name not in ENCODERS:
        raise ValueError(
            f"the encoder is a ResNet, rebuilt with a deep stem and output stride {STRIDE}; given {encoder_name!r}."
            f"{nearest(encoder_name, ENCODERS)} Allowed: {', '.join(ENCODERS)}."
        )
    share = 2 if half_width else 1
    widths = tuple(width // share for width in _WIDTHS)
    return smp.encoders.get_encoder(
        encoder_name,
        weights=None,
        output_stride=STRIDE,
        stem_type="deep",
        stem_width=_STEM_WIDTH // share,
        channels=widths,
    )


def conv_bn(width_in: int, width_out: int, kernel: int, activation: nn.Module, **options: Any) -> nn.Sequential:
    """Same-size convolution, batch normalisation, activation: (N, width_in, h, w) to (N, width_out, h, w).

    `options` are keywords of nn.Conv2d; the default is no bias.
    """
    padding = kernel // 2 * int(options.get("dilation", 1))
    conv = nn.Conv2d(width_in, width_out, kernel, padding=padding, **{"bias": False, **options})
    return nn.Sequential(conv, nn.BatchNorm2d(width_out), activation)


def classifier(width: int, classes: int) -> nn.Sequential:
    """1x1 convolution to class scores, then bilinear up-sampling (corners aligned) to the image's size."""
    return nn.Sequential(nn.Conv2d(width, classes, 1), nn.UpsamplingBilinear2d(scale_factor=STRIDE), nn.Identity())


def resized_like(x: Tensor, target: Tensor) -> Tensor:
    """(N, C, h, w) resized to the height and width of `target`, bilinear with aligned corners."""
    return nn.functional.interpolate(x, size=target.shape[-2:], mode="bilinear", align_corners=True)


def checked_width(name: str, value: object) -> int:
    """`value` as a number of channels.

    Raises:
        ValueError: it is not an integer of at least 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is a number of channels, a whole number of at least 1; given {value!r}.")
    return value


def checked_switch(name: str, value: object) -> bool:
    """`value` as a bool.

    Raises:
        ValueError: it is neither true nor false.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} is true or false; given {value!r}.")
    return value
