"""A network of one's own: torchvision's LR-ASPP, whose taps are named in own_student.yaml."""

from torch import nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large


def lraspp(num_classes: int) -> nn.Module:
    """Images (N, 3, H, W) to {"out": class scores (N, num_classes, H, W)}."""
    network: nn.Module = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=num_classes)
    return network
