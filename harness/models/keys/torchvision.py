"""torchvision's names: its segmentation networks' published files, and its MobileNets' as backbones.

https://github.com/pytorch/vision: torchvision/models/segmentation, torchvision/models/mobilenetv3.py. Its networks are
here as they are (`backbone`, `classifier`), without the auxiliary head, which is for training only. A backbone of
features alone begins below `features`.
"""

TORCHVISION: tuple[tuple[str, str | None], ...] = ((r"aux_classifier\.", None), (r"", "network."))
"""A whole network."""
TORCHVISION_FEATURES: tuple[tuple[str, str | None], ...] = ((r"features\.", ""),)
"""A classification network's file for its features as a backbone."""
