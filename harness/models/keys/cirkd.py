"""CIRKD's names: its DeepLabV3 (here `deeplabv3-cirkd`), and its ResNets with a deep stem.

https://github.com/winycg/CIRKD: models/deeplabv3.py, models/segbase.py, models/base_models/resnet.py. Its encoder is
`pretrained`, its stem is flat (conv1, bn1, conv2, bn2, conv3, bn3), its auxiliary head is `auxlayer`.
"""

_STEM = {"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv1.3", "bn2": "conv1.4", "conv3": "conv1.6", "bn3": "bn1"}

CIRKD: tuple[tuple[str, str | None], ...] = (
    *((rf"pretrained\.{theirs}\.", f"encoder.model.{ours}.") for theirs, ours in _STEM.items()),
    (r"pretrained\.(fc|avgpool)\.", None),
    (r"pretrained\.", "encoder.model."),
    (r"head\.aspp\.b0\.", "decoder.views.0."),
    (r"head\.aspp\.b([123])\.block\.", r"decoder.views.\1."),
    (r"head\.aspp\.b4\.gap\.", "decoder.mean."),
    (r"head\.aspp\.project\.", "decoder.merge."),
    (r"head\.block\.4\.", "head.0."),
    (r"head\.block\.", "decoder.last."),
    (r"auxlayer\.block\.", "auxiliary."),
)
"""A whole network."""
CIRKD_ENCODER: tuple[tuple[str, str | None], ...] = tuple(
    (rf"{theirs}\.", f"{ours}.") for theirs, ours in _STEM.items()
)
"""A ResNet with the flat deep stem, to timm's names. Its bn1 is not timm's bn1."""
