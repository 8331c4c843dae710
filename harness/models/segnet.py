"""Networks of an encoder, a decoder and a head: calls the parts in order and keeps the maps between them."""

from typing import Any

from torch import Tensor, nn

from harness.models.tapnet import TapNet
from harness.taps import Taps


class SegNet(TapNet):
    """Encoder, decoder and head of a segmentation network, called one after the other.

    For segmentation-models-pytorch's networks `full` is bit-identical to the wrapped network's own output. An
    auxiliary head is on stage 3.
    """

    def __init__(self, network: Any) -> None:
        super().__init__(int(network.encoder.output_stride))
        self.encoder: nn.Module = network.encoder
        self.decoder: nn.Module = network.decoder
        self.head: nn.Sequential = network.segmentation_head
        self.auxiliary: nn.Module | None = getattr(network, "auxiliary", None)

    def taps(self, image: Tensor, auxiliary: bool) -> Taps:
        """See `TapNet.taps`."""
        features = self.encoder(image)
        decoded = self.decoder(features)
        logits = self.head[0](decoded)
        full = self.head[2](self.head[1](logits))
        aux = self.auxiliary(features[-2]) if auxiliary and self.auxiliary is not None else None
        return Taps(_stages(features), decoded, logits, full, aux)

    def loaded_encoder(self) -> nn.Module:
        """See `TapNet.loaded_encoder`."""
        return self.encoder

    def auxiliary_head(self) -> nn.Module | None:
        """See `TapNet.auxiliary_head`."""
        return self.auxiliary


def _stages(features: list[Tensor]) -> dict[str, Tensor]:
    """Name the encoder's maps: features[0] is the image, features[1] the stem (empty in patch-based encoders)."""
    stages = {} if features[1].shape[1] == 0 else {"stem": features[1]}
    return stages | {f"stage{i}": x for i, x in enumerate(features[2:], start=1)}
