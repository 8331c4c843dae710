"""The protocols under which figures are published, by name: networks and recipes, as far as they are known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NETWORKS: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "PSPNet-R101": ("pspnet-papers", "tu-resnet101", {}),
    "PSPNet-R18": ("pspnet-papers", "tu-resnet18", {}),
    "PSPNet-R18(0.5)": ("pspnet-papers", "tu-resnet18", {"half_width": True}),
    "DeepLabV3-R101": ("deeplabv3-cirkd", "tu-resnet101", {}),
    "DeepLabV3-R18": ("deeplabv3-cirkd", "tu-resnet18", {}),
}
"""Architecture, encoder and parameters by the papers' name; other networks are not available."""


@dataclass(frozen=True)
class Recipe:
    """A protocol's recipe, as far as it is known: steps, images per step, crop (H, W) by dataset."""

    steps: int | None
    batch_size: int | None = None
    crop_hw: Mapping[str, tuple[int, int]] = field(default_factory=dict)


SKD, CIRKD = "SKD/IFVD/CWD/SSTKD: 512x512, 40k x 8", "CIRKD: 512x1024 (Cityscapes) / 512x512, 40k x 16"
MMSEG, MGD = "mmsegmentation 80k, 512x1024 (Cityscapes) / 512x512", "MGD (mmseg 40k, 512x512)"
MMSEG_160K = "mmsegmentation 160k, 512x1024 (Cityscapes) / 512x512"
MMSEG_769 = "mmsegmentation 80k, 769x769 (Cityscapes)"
CONTEXT = "mmsegmentation 80k, 480x480 (Pascal Context)"
CWD_AUTHOR = "CWD's author: mmsegmentation 40k, 512x1024"
CIRKDV2 = "CIRKDv2: 80k, 512x1024 x 8 (Cityscapes) / 512x512 x 16"
CIRKDV2_SEGFORMER = "CIRKDv2, SegFormer: 160k, 1024x1024 (Cityscapes)"
ATTNFD = "AttnFD (DeepLabV3+)"
_SQUARE, _WIDE = (512, 512), (512, 1024)
RECIPES = {
    SKD: Recipe(40_000, 8, {"cityscapes": _SQUARE, "voc2012": _SQUARE, "ade20k": _SQUARE}),
    CIRKD: Recipe(40_000, 16, {"cityscapes": _WIDE, "voc2012": _SQUARE, "ade20k": _SQUARE}),
    MMSEG: Recipe(80_000, None, {"cityscapes": _WIDE, "ade20k": _SQUARE}),
    MGD: Recipe(40_000, None, {"cityscapes": _SQUARE}),
    CONTEXT: Recipe(80_000, None, {"pascal-context": (480, 480)}),
    CWD_AUTHOR: Recipe(40_000, None, {"cityscapes": _WIDE}),
    CIRKDV2: Recipe(
        80_000, None, {"cityscapes": _WIDE, "voc2012": _SQUARE, "ade20k": _SQUARE, "coco-stuff-164k": _SQUARE}
    ),
    CIRKDV2_SEGFORMER: Recipe(160_000, None, {"cityscapes": (1024, 1024)}),
    ATTNFD: Recipe(None),
}
