"""MMSegmentation's names: UPerNet on ConvNeXt, and the ResNets and ConvNeXts of any of its networks.

https://github.com/open-mmlab/mmsegmentation: mmseg/models/decode_heads/uper_head.py, psp_head.py, backbones/resnet.py
(ResNetV1c: a deep stem of 32, 32 and 64 channels, timm's resnet50c); open-mmlab/mmpretrain:
mmpretrain/models/backbones/convnext.py. UPerNet's other backbones have no normalisation of each stage before the
decoder, which segmentation-models-pytorch's UPerNet has; other decoders of MMSegmentation are built differently here.
The auxiliary head is for training only.
"""

_CONV_MODULE = {r"conv\.": "0.", r"bn\.": "1."}
"""A convolution with normalisation and activation: mmcv's ConvModule, and smp's Conv2dReLU."""
_STEM = {0: "conv1.0", 1: "conv1.1", 3: "conv1.3", 4: "conv1.4", 6: "conv1.6", 7: "bn1"}
_CONVNEXT: tuple[tuple[str, str], ...] = (
    (r"downsample_layers\.0\.([01])\.", r"stem_\1."),
    (r"downsample_layers\.(\d)\.", r"stages_\1.downsample."),
    (r"stages\.(\d)\.(\d+)\.depthwise_conv\.", r"stages_\1.blocks.\2.conv_dw."),
    (r"stages\.(\d)\.(\d+)\.pointwise_conv([12])\.", r"stages_\1.blocks.\2.mlp.fc\3."),
    (r"stages\.(\d)\.(\d+)\.", r"stages_\1.blocks.\2."),
)

MMSEG: tuple[tuple[str, str | None], ...] = (
    (r"auxiliary_head\.", None),
    (r"backbone\.norm(\d)\.", r"decoder.feature_norms.\1."),
    *((rf"backbone\.{theirs}", f"encoder.model.{ours}") for theirs, ours in _CONVNEXT),
    *(
        (rf"decode_head\.{theirs}{part}", f"decoder.{ours}{place}")
        for theirs, ours in (
            (r"psp_modules\.(\d)\.1\.", r"psp.blocks.\1.1."),
            (r"bottleneck\.", "psp.out_conv."),
            # From shallow to deep there, from deep to shallow here.
            *((rf"lateral_convs\.{2 - i}\.", f"fpn_lateral_blocks.{i}.conv_norm_relu.") for i in range(3)),
            *((rf"fpn_convs\.{2 - i}\.", f"fpn_conv_blocks.{i}.") for i in range(3)),
            (r"fpn_bottleneck\.", "fusion_block."),
        )
        for part, place in _CONV_MODULE.items()
    ),
    (r"decode_head\.conv_seg\.", "head.0."),
)
"""A whole network: UPerNet on ConvNeXt."""
MMSEG_BACKBONE: tuple[tuple[str, str | None], ...] = (
    (r"(decode_head|auxiliary_head|neck)\.", None),
    (r"backbone\.norm\d\.", None),
    *((rf"backbone\.stem\.{theirs}\.", f"{ours}.") for theirs, ours in _STEM.items()),
    *((rf"backbone\.{theirs}", ours) for theirs, ours in _CONVNEXT),
    (r"backbone\.", ""),
)
"""The backbone of a whole network, to timm's names."""
