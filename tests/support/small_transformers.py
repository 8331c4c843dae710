"""Networks of the library transformers at small sizes: encoder and parameters by architecture."""

from typing import Any

SWIN = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4, "drop_path_rate": 0.0}
MASKS = {
    "hidden_dim": 32,
    "mask_feature_size": 32,
    "feature_size": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "dim_feedforward": 16,
    "encoder_feedforward_dim": 16,
    "num_queries": 7,
}
VIT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64}
EOMT = {**VIT, "num_blocks": 2, "num_queries": 7}
DPT = {
    **VIT,
    "intermediate_size": 32,
    "backbone_out_indices": [0, 1, 2, 3],
    "image_size": 32,
    "neck_hidden_sizes": [8, 8, 8, 8],
    "fusion_hidden_size": 16,
}
MIT = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2]}
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "segformer-transformers": ("mit-b0", {**MIT, "decoder_hidden_size": 16}),
    "upernet-transformers": ("swin-tiny", {**SWIN, "hidden_size": 16, "auxiliary_channels": 8}),
    "dpt-transformers": ("vit-base", DPT),
    "mask2former": ("swin-tiny", {**SWIN, **MASKS}),
    "eomt": ("dinov2-small", EOMT),
    "eomt-dinov3": ("dinov3-small", {**EOMT, "intermediate_size": 32}),
}
