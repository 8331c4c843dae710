"""torchvision's segmentation networks, with hooks on the stages of their backbones."""

from collections.abc import Callable
from typing import Any

from torchvision.models import segmentation

from harness.experiment.meanings import nearest
from harness.models.hooked import HookedNet
from harness.models.tapnet import TapNet

_RESNET = {"stem": "backbone.relu", **{f"stage{i}": f"backbone.layer{i}" for i in range(1, 5)}}
_MOBILE = {"stem": "backbone.1", "stage1": "backbone.3", "stage2": "backbone.6", "stage3": "backbone.12"}
_LAST = {"stage4": "backbone.16"}
_HEADS = {"logits": "classifier.4"}
_LRASPP = {"decoder": "classifier.cbr", "logits": "classifier.high_classifier"}
_FCN = {"resnet50": (segmentation.fcn_resnet50, _RESNET), "resnet101": (segmentation.fcn_resnet101, _RESNET)}
_DEEPLAB = {
    "resnet50": (segmentation.deeplabv3_resnet50, _RESNET),
    "resnet101": (segmentation.deeplabv3_resnet101, _RESNET),
    "mobilenet_v3_large": (segmentation.deeplabv3_mobilenet_v3_large, _MOBILE | _LAST),
}
_MAKERS = dict[str, tuple[Callable[..., Any], dict[str, str]]]


def fcn_torchvision(encoder_name: str, encoder_weights: None, classes: int) -> TapNet:
    """FCN (Long et al., CVPR 2015) on a dilated ResNet."""
    return _made(_FCN, _HEADS, encoder_name, classes)


def deeplabv3_torchvision(encoder_name: str, encoder_weights: None, classes: int) -> TapNet:
    """DeepLabV3 (Chen et al., arXiv 1706.05587) on a dilated ResNet or MobileNetV3."""
    return _made(_DEEPLAB, _HEADS, encoder_name, classes)


def lraspp(encoder_name: str, encoder_weights: None, classes: int) -> TapNet:
    """LR-ASPP (Howard et al., ICCV 2019) on MobileNetV3."""
    makers = {"mobilenet_v3_large": (segmentation.lraspp_mobilenet_v3_large, _MOBILE | _LAST)}
    return _made(makers, _LRASPP, encoder_name, classes)


def _made(makers: _MAKERS, head: dict[str, str], encoder: str, classes: int) -> TapNet:
    if encoder not in makers:
        raise ValueError(f"no such encoder here: {encoder!r}.{nearest(encoder, makers)} Allowed: {', '.join(makers)}")
    make, stages = makers[encoder]
    network = make(weights=None, weights_backbone=None, num_classes=classes)
    return HookedNet(network, stages | head, encoder="backbone")
