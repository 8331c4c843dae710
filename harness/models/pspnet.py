"""The PSPNet of the distillation papers (SKD, IFVD, CWD, SSTKD): a dilated deep-stem ResNet with pyramid pooling.

    z = conv1x1(drop(abn(conv3x3([up(abn(conv1x1(pool_b(f4)))) for b in 1, 2, 3, 6] + [f4]))))
    z_aux = conv1x1(drop(abn(conv3x3(f3))))

f3, f4: stages 3 and 4 at stride 8. abn: batch normalisation, then leaky ReLU of slope 0.01. drop: whole channels,
at 0.1.

Zhao, Shi, Qi, Wang, Jia, "Pyramid Scene Parsing Network", CVPR 2017, arXiv 1612.01105; widths, biases and dilations as
in the distillation papers' code (YukangWang/IFVD networks/pspnet.py, the same in SKD's and CWD's repositories).
With the auxiliary head at 19 classes: 70,437,350 parameters (ResNet-101), 13,068,262 (ResNet-18) and 3,271,686
(ResNet-18 of half width), the papers' 70.43 M, 13.07 M and 3.27 M.

Deviations: a 512 x 1024 image gives maps of 64 x 128 (65 x 129 with the authors' `ceil_mode` max-pooling), so that
cells are 8 x 8 pixels and all networks of the benchmark have the same grid; plain batch normalisation instead of the
in-place-activated one, which uses the absolute value of its scale.
"""

import torch
from torch import Tensor, nn

from harness.models.dilated import (
    Parts,
    checked_switch,
    checked_width,
    classifier,
    conv_bn,
    deep_stem_resnet,
    resized_like,
)

BINS = (1, 2, 3, 6)
_SLOPE = 0.01
_DROPOUT = 0.1


class PyramidPooling(nn.Module):
    """Stage 4 and its means over 1x1, 2x2, 3x3 and 6x6 bins, merged by a 3x3 convolution to `width` channels.

    In train mode the 1x1 bin has one value per image and channel, so batch normalisation needs at least two images.
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.bins = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), *conv_bn(width_in, width, 1, nn.LeakyReLU(_SLOPE)))
            for side in BINS
        )
        merged = conv_bn(width_in + len(BINS) * width, width, 3, nn.LeakyReLU(_SLOPE))
        self.merge = nn.Sequential(*merged, nn.Dropout2d(_DROPOUT))

    def forward(self, features: list[Tensor]) -> Tensor:
        """The last of the encoder's maps, (N, width_in, h, w), to (N, width, h, w)."""
        deepest = features[-1]
        pooled = [resized_like(pool(deepest), deepest) for pool in self.bins]
        merged: Tensor = self.merge(torch.cat([*pooled, deepest], dim=1))
        return merged


def pspnet(
    encoder_name: str,
    encoder_weights: None,
    classes: int,
    *,
    head_width: int | None = None,
    half_width: bool = False,
    auxiliary: bool = True,
) -> Parts:
    """The papers' PSPNet.

    Args:
        encoder_name: `tu-resnet101` (teacher), `tu-resnet18` (student), or 34, 50, 152.
        encoder_weights: None; `build` loads ImageNet weights from a file.
        classes: number of classes.
        head_width: channels per pyramid bin, of the map before the classifier and in the auxiliary head; default: a
            quarter of stage 4's (512, 128 and 64 in the papers' three networks).
        half_width: halve all widths of the encoder, including the stem's.
        auxiliary: add the auxiliary head on stage 3.

    Raises:
        ValueError: another encoder, or a value out of range.
    """
    encoder = deep_stem_resnet(encoder_name, checked_switch("half_width", half_width))
    third, fourth = encoder.out_channels[-2:]
    # timm and torchvision use the preceding stage's dilation in a stage's first block; the papers do not.
    _dilate(encoder.model["layer3"], 2)
    _dilate(encoder.model["layer4"], 4)
    width = fourth // 4 if head_width is None else checked_width("head_width", head_width)
    head = None
    if checked_switch("auxiliary", auxiliary):
        # The papers' code has a bias here although batch normalisation follows.
        head = nn.Sequential(
            *conv_bn(third, width, 3, nn.LeakyReLU(_SLOPE), bias=True),
            nn.Dropout2d(_DROPOUT),
            nn.Conv2d(width, classes, 1),
        )
    return Parts(encoder, PyramidPooling(fourth, width), classifier(width, classes), head)


def _dilate(stage: nn.Module, dilation: int) -> None:
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.dilation = module.padding = (dilation, dilation)
