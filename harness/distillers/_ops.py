"""Small tensor operations that several distillers share."""

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself, or as float32 where autocast made it half precision: too few digits for log-softmax and sums."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def match_size(x: Tensor, like: Tensor) -> Tensor:
    """`x` (N, C, h, w) resized bilinearly (align_corners=False) to the size of `like`; `x` itself if equal."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
