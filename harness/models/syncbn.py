"""Batch normalisation over the global batch of several workers, on GPUs and, for parity, on CPUs."""

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn


def convert_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm2d in `module` (also timm's with activation) by one synchronised over the ranks.

    On CUDA by torch.nn.SyncBatchNorm (timm's conversion), on the CPU by `CPUSyncBatchNorm`. Parameters, buffers and
    state dict keys stay the same.
    """
    if device.type == "cuda":
        converted: nn.Module = convert_sync_batchnorm(module)
        return converted
    if isinstance(module, nn.BatchNorm2d):
        return CPUSyncBatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, convert_batchnorm(child, device))
    return module


class CPUSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d on (N, C, H, W) with statistics of the global batch; shares the tensors of `source`."""

    def __init__(self, source: nn.BatchNorm2d) -> None:
        super().__init__(source.num_features, source.eps, source.momentum, source.affine, source.track_running_stats)
        self._parameters = source._parameters
        self._buffers = source._buffers
        self._modules = source._modules  # timm's BatchNormAct2d: drop and act, applied after the normalisation
        self.train(source.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; then apply timm's drop and act, if the source has them.

        Raises:
            ValueError: in train mode, if there is only one value per channel over all ranks.
        """
        x = self._normalise(x) if self.training else super().forward(x)
        for name in ("drop", "act"):
            if name in self._modules:
                x = getattr(self, name)(x)
        return x

    def _normalise(self, x: Tensor) -> Tensor:
        given, channels = x.dtype, x.shape[1]
        x = x.to(torch.promote_types(given, torch.float32))  # half precision is too coarse for sums
        # Two passes, because sum of squares minus squared sum is too inaccurate for parity with GPUs.
        total = _AllReduce.apply(torch.cat([x.sum((0, 2, 3)), x.new_full((1,), x.numel() // channels)]))
        count = total[-1]
        if count <= 1:
            raise ValueError(
                f"batch normalisation needs more than 1 value per channel; given {tuple(x.shape)} on every rank"
            )
        centred = x - (total[:-1] / count).view(1, -1, 1, 1)
        variance = _AllReduce.apply(centred.square().sum((0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1
                rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(total[:-1] / count, rate)
                self.running_var.lerp_(variance * count / (count - 1), rate)
        y = centred * (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        if self.affine:
            y = y * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        normalised: Tensor = y.to(given)
        return normalised


class _AllReduce(torch.autograd.Function):
    """Sum over the ranks; since every rank uses the sum, its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient
