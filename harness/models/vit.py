"""Plain vision transformers of timm (DINOv2, DINOv3, SigLIP 2, EVA, ...) with a linear, a multi-level or a DPT head.

All maps of a plain transformer have the stride of its patches; the taps `stage1` to `stage4` are those after a quarter,
a half, three quarters and all of its blocks. Encoder and DPT's decoder are segmentation-models-pytorch's.
"""

from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from torch import Tensor, nn

from harness.models.tapnet import TapNet
from harness.taps import Taps

STAGES = 4
_DPT_STRIDE = 16
"""Which stride DPT's decoder takes the maps for: its own are 4, 2, 1 and 1/2 times as large, whatever the patch."""


class LinearNet(TapNet):
    """A transformer under batch normalisation and a 1x1 convolution, as in the linear evaluation of DINOv2.

    Args:
        encoder: gives the maps (N, C, h, w) after some blocks.
        indices: of these blocks.
        levels: how many of the last maps the classifier sees, side by side.
        classes: number of classes.
    """

    def __init__(self, encoder: Any, indices: list[int], levels: int, classes: int) -> None:
        super().__init__(int(encoder.output_stride))
        width = sum(encoder.out_channels[-levels:])
        self.encoder, self.norm, self.classifier = encoder, nn.BatchNorm2d(width), nn.Conv2d(width, classes, 1)
        self._indices, self._levels = indices, levels

    def taps(self, image: Tensor, auxiliary: bool) -> Taps:
        """See `TapNet.taps`."""
        maps = self.encoder.model.forward_intermediates(
            image, indices=self._indices, norm=True, intermediates_only=True
        )
        decoder = self.norm(torch.cat(maps[-self._levels :], dim=1))
        logits = self.classifier(decoder)
        full = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return Taps(_stages(maps), decoder, logits, full)

    def loaded_encoder(self) -> nn.Module:
        """See `TapNet.loaded_encoder`."""
        return self.encoder  # type: ignore[no-any-return]


class DptNet(TapNet):
    """A transformer under DPT's decoder (Ranftl et al., ICCV 2021). Of smp's DPT `full` is the very output."""

    def __init__(self, encoder: Any, decoder: nn.Module, head: Any) -> None:
        # The decoder halves the map once and doubles it again.
        super().__init__(2 * int(encoder.output_stride))
        self.encoder, self.decoder, self.head = encoder, decoder, head

    def taps(self, image: Tensor, auxiliary: bool) -> Taps:
        """See `TapNet.taps`."""
        maps, prefix = self.encoder(image)
        decoder = self.decoder(maps, prefix)
        logits = self.head.head(decoder)
        full = F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=True)
        return Taps(_stages(maps), decoder, logits, full)

    def loaded_encoder(self) -> nn.Module:
        """See `TapNet.loaded_encoder`."""
        return self.encoder  # type: ignore[no-any-return]


def vit_linear(encoder_name: str, encoder_weights: None, classes: int, **options: Any) -> TapNet:
    """A linear head on the last map; `options` are timm's, of the backbone."""
    return LinearNet(*_encoder(encoder_name, options), 1, classes)


def vit_multilevel(encoder_name: str, encoder_weights: None, classes: int, **options: Any) -> TapNet:
    """A linear head on the four maps side by side; `options` are timm's, of the backbone."""
    return LinearNet(*_encoder(encoder_name, options), STAGES, classes)


def vit_dpt(
    encoder_name: str,
    encoder_weights: None,
    classes: int,
    *,
    intermediate_channels: tuple[int, ...] = (256, 512, 1024, 1024),
    fusion_channels: int = 256,
    **options: Any,
) -> TapNet:
    """DPT's decoder for patches of any size; `options` are timm's, of the backbone."""
    encoder, _ = _encoder(encoder_name, options)
    decoder = DPTDecoder(
        encoder.out_channels,
        [_DPT_STRIDE] * STAGES,
        encoder.has_prefix_tokens,
        "cat" if encoder.has_prefix_tokens else "ignore",
        intermediate_channels,
        fusion_channels,
    )
    return DptNet(encoder, decoder, DPTSegmentationHead(fusion_channels, classes))


def dpt(encoder_name: str, encoder_weights: None, classes: int, **options: Any) -> TapNet:
    """segmentation-models-pytorch's DPT, for patches of 16; `options` are its own and timm's."""
    network: Any = smp.DPT(encoder_name, encoder_weights=None, classes=classes, **any_size(options))
    return DptNet(network.encoder, network.decoder, network.segmentation_head)


def _encoder(name: str, options: dict[str, Any]) -> tuple[Any, list[int]]:
    """The transformer, and the blocks whose maps are the stages.

    Raises:
        ValueError: it is none of timm's, or has too few blocks.
    """
    if not name.startswith("tu-"):
        raise ValueError(f"the encoder is a plain vision transformer of timm, tu-NAME; given {name!r}")
    try:
        encoder: Any = TimmViTEncoder(name.removeprefix("tu-"), pretrained=False, depth=STAGES, **any_size(options))
    except TypeError as error:
        if "dynamic_img_size" not in str(error) or "dynamic_img_size" in options:
            raise
        raise ValueError(f"{name} is no plain transformer: it takes no images of any size ({error})") from None
    strides = set(encoder.output_strides)
    if len(strides) > 1:
        raise ValueError(f"{name} is no plain transformer: its maps have the strides {sorted(strides)}")
    blocks = len(encoder.model.feature_info)
    return encoder, [blocks * (stage + 1) // STAGES - 1 for stage in range(STAGES)]


def any_size(options: dict[str, Any]) -> dict[str, Any]:
    """timm's option to take images of other sizes than the pretraining's."""
    return {"dynamic_img_size": True} | options


def _stages(maps: list[Tensor]) -> dict[str, Tensor]:
    return {f"stage{number}": x for number, x in enumerate(maps, start=1)}
