"""Semantic-segmentation networks of the library transformers (Hugging Face), which is imported when one is built.

Networks, parameters and the names in their states are the library's. Two rules are ours:

- A network that takes images of one size (DPT, EoMT) sees an image in tiles of that size; the maps are put together.
- Networks that predict masks (Mask2Former, EoMT) have no class scores. Theirs are log(sum_q p_q(c) m_q(x)), where p_q
  is the softmax over classes of query q without its last entry, "none", and m_q the sigmoid of its mask: the logarithm
  of the semantic map of Cheng et al. (MaskFormer, NeurIPS 2021, section 3.4), whose softmax shares out what masks say.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from harness.borders import one_line
from harness.experiment.meanings import nearest
from harness.models import transformers_files
from harness.models.hooked import Keep, Kept
from harness.models.tapnet import TapNet
from harness.models.transformers_config import STAGES, configured
from harness.taps import Taps

FLOOR = 1e-6
"""Added to a semantic map before its logarithm."""
_Maps = tuple[list[Tensor], Tensor, Tensor, Tensor]
"""Stages, decoder, logits, full."""


@dataclass(frozen=True)
class Kind:
    """How one family of networks is built and read.

    Attributes:
        network: class of the library.
        encoders: values of its configuration by name of encoder; those of a backbone under `backbone`, whose class is
            under `backbone_class`.
        kept: the modules whose input (`PATH:in`) or output is read, by name, for a configuration.
        read: the maps, from the network's output, what was kept and the size of the image.
        encoder: path of the module that `encoder_weights` are for.
        multiple: sides of an image are multiples of it; None: the image is cut into tiles of the configuration's size.
    """

    network: str
    encoders: Mapping[str, Mapping[str, Any]]
    kept: Callable[[Any], dict[str, str]]
    read: Callable[[Any, dict[str, Any], tuple[int, int]], _Maps]
    encoder: str
    multiple: int | None = None


class TransformersNet(TapNet):
    """A network of transformers with its taps.

    Args:
        network: of the library.
        kind: how it is read.
    """

    def __init__(self, network: Any, kind: Kind) -> None:
        super().__init__(kind.multiple or int(network.config.image_size))
        self.network, self._kind = network, kind
        self._kept = Kept()
        for name, path in kind.kept(network.config).items():
            module, _, end = path.partition(":")
            network.get_submodule(module).register_forward_hook(Keep(self._kept, name, end == "in"))

    def taps(self, image: Tensor, auxiliary: bool) -> Taps:
        """See `TapNet.taps`."""
        tiled = self._kind.multiple is None
        rows, columns = (side // self.multiple for side in image.shape[-2:]) if tiled else (1, 1)
        tiles = cut(image, self.multiple) if tiled else image
        self._kept.clear()
        try:
            output = self.network(pixel_values=tiles, output_hidden_states=True)
            kept = {name: found[-1] for name, found in self._kept.items()}
            stages, *others = self._kind.read(output, kept, (tiles.shape[-2], tiles.shape[-1]))
        finally:
            self._kept.clear()
        maps = [put_together(x, rows, columns) for x in (*stages, *others)]
        return Taps({f"stage{number}": x for number, x in enumerate(maps[:-3], start=1)}, *maps[-3:])

    def saved_state(self) -> dict[str, Tensor]:
        """See `TapNet.saved_state`."""
        return transformers_files.written(self.network)

    def read_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `TapNet.read_state`."""
        return {f"network.{name}": value for name, value in transformers_files.read(self.network, state).items()}

    def loaded_encoder(self) -> nn.Module:
        """See `TapNet.loaded_encoder`."""
        return self.network.get_submodule(self._kind.encoder)  # type: ignore[no-any-return]


def cut(image: Tensor, side: int) -> Tensor:
    """Images (N, C, r side, c side) in tiles (N r c, C, side, side), row by row."""
    return image.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def put_together(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """Tiles (N r c, C, h, w) as maps (N, C, r h, c w): the inverse of `cut`."""
    if rows * columns == 1:
        return tiles
    _, width, height, across = tiles.shape
    maps = tiles.reshape(-1, rows, columns, width, height, across).permute(0, 3, 1, 4, 2, 5)
    return maps.reshape(-1, width, rows * height, columns * across)


def _resized(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinearly, as the library's own post-processing does."""
    if scores.shape[-2:] == size:
        return scores
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


def _square(tokens: Tensor, patches: Tensor) -> Tensor:
    """The last of the tokens (N, T, C), one per patch of the image, as a map (N, C, h, h)."""
    cells = patches[0].numel() // tokens.shape[-1]
    side = round(cells**0.5)
    return tokens[:, tokens.shape[1] - cells :].transpose(1, 2).reshape(len(tokens), -1, side, side)


def _squares(kept: dict[str, Any]) -> list[Tensor]:
    return [_square(kept[f"stage{number}"], kept["patches"]) for number in range(1, STAGES + 1)]


def _semantic(output: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Class scores of predicted masks, at the masks' size and at `size`; in float32."""
    with torch.autocast(output.masks_queries_logits.device.type, enabled=False):
        classes = output.class_queries_logits.float().softmax(-1)[..., :-1]
        found = torch.einsum("nqk,nqhw->nkhw", classes, output.masks_queries_logits.float().sigmoid())
        return torch.log(found + FLOOR), torch.log(_resized(found, size) + FLOOR)


def _read_segformer(output: Any, kept: dict[str, Any], size: tuple[int, int]) -> _Maps:
    return list(output.hidden_states), kept["decoder"], output.logits, _resized(output.logits, size)


def _read_upernet(output: Any, kept: dict[str, Any], size: tuple[int, int]) -> _Maps:
    return list(kept["backbone"].feature_maps), kept["decoder"], kept["logits"], output.logits


def _read_dpt(output: Any, kept: dict[str, Any], size: tuple[int, int]) -> _Maps:
    return _squares(kept), kept["decoder"], kept["logits"], _resized(output.logits, size)


def _read_mask2former(output: Any, kept: dict[str, Any], size: tuple[int, int]) -> _Maps:
    return list(output.encoder_hidden_states), output.pixel_decoder_last_hidden_state, *_semantic(output, size)


def _read_eomt(output: Any, kept: dict[str, Any], size: tuple[int, int]) -> _Maps:
    return _squares(kept), kept["decoder"], *_semantic(output, size)


def _segformer_modules(config: Any) -> dict[str, str]:
    return {"decoder": "decode_head.classifier:in"}


def _upernet_modules(config: Any) -> dict[str, str]:
    return {"backbone": "backbone", "logits": "decode_head.classifier", "decoder": "decode_head.classifier:in"}


def _no_modules(config: Any) -> dict[str, str]:
    return {}


def _dpt_modules(config: Any) -> dict[str, str]:
    blocks = sorted(config.backbone_out_indices)  # as the library reads them, whatever their order
    stages = {f"stage{i}": f"dpt.encoder.layer.{at}" for i, at in enumerate(blocks, start=1)}
    head = {"decoder": "head.head.4:in", "logits": "head.head.4"}
    return {**stages, **head, "patches": "dpt.embeddings.patch_embeddings"}


def _eomt_modules(config: Any) -> dict[str, str]:
    blocks = config.num_hidden_layers
    stages = {f"stage{i}": f"layers.{blocks * i // STAGES - 1}" for i in range(1, STAGES + 1)}
    return {**stages, "patches": "embeddings.patch_embeddings", "decoder": "upscale_block"}


def _swin(width: int, third: int, heads: int, window: int) -> dict[str, Any]:
    return {
        "backbone_class": "SwinConfig",
        "backbone": {
            "embed_dim": width,
            "depths": [2, 2, third, 2],
            "window_size": window,
            "num_heads": [heads * 2**stage for stage in range(STAGES)],
        },
    }


def _convnext(width: int, third: int) -> dict[str, Any]:
    return {
        "backbone_class": "ConvNextConfig",
        "backbone": {"hidden_sizes": [width * 2**stage for stage in range(STAGES)], "depths": [3, 3, third, 3]},
    }


def _mit(depths: tuple[int, ...], decoder: int, width: int = 64) -> dict[str, Any]:
    widths = (width, 2 * width, 5 * width, 8 * width)
    return {"depths": depths, "hidden_sizes": widths, "decoder_hidden_size": decoder}


def _vit(width: int, blocks: int) -> dict[str, Any]:
    return {"hidden_size": width, "num_hidden_layers": blocks, "num_attention_heads": width // 64}


# Swin: Liu et al., ICCV 2021; base and large with the windows of their pretraining at 384 pixels.
_SWINS = {
    "swin-tiny": _swin(96, 6, 3, 7),
    "swin-small": _swin(96, 18, 3, 7),
    "swin-base": _swin(128, 18, 4, 12),
    "swin-large": _swin(192, 18, 6, 12),
}
# ConvNeXt: Liu et al., CVPR 2022, section 3.
_CONVNEXTS = {
    "convnext-tiny": _convnext(96, 9),
    "convnext-small": _convnext(96, 27),
    "convnext-base": _convnext(128, 27),
    "convnext-large": _convnext(192, 27),
}
_VITS = {"small": _vit(384, 12), "base": _vit(768, 12), "large": _vit(1024, 24)}
KINDS = {
    # Xie et al., NeurIPS 2021, table 6.
    "segformer-transformers": Kind(
        "SegformerForSemanticSegmentation",
        {
            "mit-b0": _mit((2, 2, 2, 2), 256, 32),
            "mit-b1": _mit((2, 2, 2, 2), 256),
            "mit-b2": _mit((3, 4, 6, 3), 768),
            "mit-b3": _mit((3, 4, 18, 3), 768),
            "mit-b4": _mit((3, 8, 27, 3), 768),
            "mit-b5": _mit((3, 6, 40, 3), 768),
        },
        _segformer_modules,
        _read_segformer,
        "segformer",
        32,
    ),
    # Xiao et al., ECCV 2018.
    "upernet-transformers": Kind(
        "UperNetForSemanticSegmentation",
        {**_SWINS, **_CONVNEXTS},
        _upernet_modules,
        _read_upernet,
        "backbone",
        32,
    ),
    # Ranftl et al., ICCV 2021; a ViT-L as there.
    "dpt-transformers": Kind(
        "DPTForSemanticSegmentation",
        {
            "vit-base": _VITS["base"],
            "vit-large": {
                **_VITS["large"],
                "intermediate_size": 4096,
                "backbone_out_indices": (5, 11, 17, 23),
                "image_size": 480,
                "neck_hidden_sizes": (256, 512, 1024, 1024),
                "use_batch_norm_in_fusion_residual": True,
            },
        },
        _dpt_modules,
        _read_dpt,
        "dpt",
    ),
    # Cheng et al., CVPR 2022.
    "mask2former": Kind(
        "Mask2FormerForUniversalSegmentation",
        _SWINS,
        _no_modules,
        _read_mask2former,
        "model.pixel_level_module.encoder",
        32,
    ),
    # Kerssies et al., CVPR 2025.
    "eomt": Kind(
        "EomtForUniversalSegmentation",
        {f"dinov2-{size}": {**values, "num_blocks": 4 if size == "large" else 3} for size, values in _VITS.items()},
        _eomt_modules,
        _read_eomt,
        "",
    ),
    "eomt-dinov3": Kind(
        "EomtDinov3ForUniversalSegmentation",
        {
            f"dinov3-{size}": {
                **values,
                "num_blocks": 4 if size == "large" else 3,
                "intermediate_size": 4 * values["hidden_size"],
            }
            for size, values in _VITS.items()
        },
        _eomt_modules,
        _read_eomt,
        "",
    ),
}
"""By architecture."""


def transformers_net(kind: Kind) -> Callable[..., TapNet]:
    """The function that builds networks of a kind, as the table of architectures has them."""

    def make(encoder_name: str, encoder_weights: None, classes: int, **options: Any) -> TapNet:
        try:
            library = importlib.import_module("transformers")
        except ImportError:
            raise ValueError(
                "this network is of the library transformers, which is not installed: "
                "pip install 'sstkd-bench[transformers]'"
            ) from None
        if not hasattr(library, kind.network):
            raise ValueError(f"transformers {library.__version__} has no {kind.network}; a newer version has")
        if encoder_name not in kind.encoders:
            near = nearest(encoder_name, kind.encoders)
            raise ValueError(f"no such encoder here: {encoder_name!r}.{near} Allowed: {', '.join(kind.encoders)}")
        network_class = getattr(library, kind.network)
        try:
            config = configured(library, network_class.config_class, kind.encoders[encoder_name], options)
            config.num_labels = classes
            return TransformersNet(network_class(config), kind)
        except (ArithmeticError, LookupError, StrictDataclassError) as error:  # lists of unequal lengths, a width of 0
            words = one_line(error, 300)
            raise ValueError(f"these parameters do not fit together: {type(error).__name__}: {words}") from None

    return make
