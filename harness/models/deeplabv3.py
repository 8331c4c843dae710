"""The DeepLabV3 of CIRKD and later papers (DIST, MGD, Af-DCD, ...): a dilated deep-stem ResNet with ASPP.

    a = cbr1x1([cbr1x1(f4), cbr3x3 of dilation 12, 24 and 36 (f4), up(cbr1x1(mean(f4)))])
    z = conv1x1(drop0.1(cbr3x3(drop0.5(a))))
    z_aux = conv1x1(drop0.1(cbr3x3(f3)))

f3, f4: stages 3 and 4 at stride 8. cbr: convolution, batch normalisation, ReLU.

Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017, arXiv
1706.05587; widths as in Yang et al., "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", CVPR
2022, arXiv 2204.06986, winycg/CIRKD models/deeplabv3.py. That file has two versions. In the second (`head_width` 512
for every encoder) the networks have 79,084,262 (ResNet-101) and 22,762,918 (ResNet-18) parameters with the auxiliary
head at 19 classes; in the first (256 and 128) 61,118,950 and 13,607,974, the paper's 61.1 M and 13.6 M.
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

RATES = (12, 24, 36)


class ASPP(nn.Module):
    """Five branches on stage 4 (1x1, three dilations, the mean), merged to `width` channels, and a 3x3 convolution.

    In train mode the mean has one value per image and channel, so batch normalisation needs at least two images.
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.views = nn.ModuleList(
            [
                conv_bn(width_in, width, 1, nn.ReLU(inplace=True)),
                *(conv_bn(width_in, width, 3, nn.ReLU(inplace=True), dilation=rate) for rate in RATES),
            ]
        )
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn(width_in, width, 1, nn.ReLU(inplace=True)))
        merged = conv_bn((len(RATES) + 2) * width, width, 1, nn.ReLU(inplace=True))
        self.merge = nn.Sequential(*merged, nn.Dropout(0.5))
        self.last = nn.Sequential(*conv_bn(width, width, 3, nn.ReLU(inplace=True)), nn.Dropout(0.1))

    def forward(self, features: list[Tensor]) -> Tensor:
        """The last of the encoder's maps, (N, width_in, h, w), to (N, width, h, w)."""
        deepest = features[-1]
        views = [view(deepest) for view in self.views]
        merged = self.merge(torch.cat([*views, resized_like(self.mean(deepest), deepest)], dim=1))
        last: Tensor = self.last(merged)
        return last


def deeplabv3(
    encoder_name: str, encoder_weights: None, classes: int, *, head_width: int = 512, auxiliary: bool = True
) -> Parts:
    """CIRKD's DeepLabV3.

    Args:
        encoder_name: `tu-resnet101` (teacher), `tu-resnet18` (student), or 34, 50, 152.
        encoder_weights: None; `build` loads ImageNet weights from a file.
        classes: number of classes.
        head_width: channels of the ASPP and of the map before the classifier.
        auxiliary: add the auxiliary head on stage 3, with a quarter of that stage's channels.

    Raises:
        ValueError: another encoder, or a value out of range.
    """
    encoder = deep_stem_resnet(encoder_name)
    third, fourth = encoder.out_channels[-2:]
    width = checked_width("head_width", head_width)
    head = None
    if checked_switch("auxiliary", auxiliary):
        head = nn.Sequential(
            *conv_bn(third, third // 4, 3, nn.ReLU(inplace=True)),
            nn.Dropout(0.1),
            nn.Conv2d(third // 4, classes, 1),
        )
    return Parts(encoder, ASPP(fourth, width), classifier(width, classes), head)
