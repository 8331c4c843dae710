"""`train.deterministic`: the same bits each time on one GPU.

`torch.use_deterministic_algorithms` gives most operations an algorithm with a fixed order of additions, and refuses
those that have none on CUDA. Three of these are part of nearly every segmentation network's step, and have another form
with the same values: means over bins as two matrix products, and the cross-entropy of a map as that of its pixels.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from harness.experiment.recipe import Train


def in_fixed_order(recipe: Train) -> AbstractContextManager[Any]:
    """The context of a step's forward passes; operations are replaced only if the recipe is deterministic."""
    return _Replace() if recipe.deterministic else nullcontext()


class _Replace(TorchFunctionMode):
    """Calls the functions of `REPLACED` by their other form: also those of libraries and of networks of one's own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return REPLACED.get(func, func)(*args, **kwargs or {})


def _adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Means over bins, (..., H, W) to (..., h, w): P_h x P_w^T; bin i is rows floor(i H / h) to ceil((i + 1) H / h)."""
    wanted = (output_size,) * 2 if isinstance(output_size, int) else tuple(output_size)
    size = input.shape[-2:]
    rows, columns = (given if one is None else one for one, given in zip(wanted, size, strict=True))
    if (rows, columns) == (1, 1):  # a plain mean, whose order is fixed
        return F.adaptive_avg_pool2d(input, 1)
    with torch.autocast(input.device.type, enabled=False):
        kind = torch.promote_types(input.dtype, torch.float32)
        left, right = (_bins(n, m, input.device, kind) for n, m in ((size[0], rows), (size[1], columns)))
        return (left @ input.to(kind) @ right.mT).to(input.dtype)


def _bins(size: int, bins: int, device: torch.device, kind: torch.dtype) -> Tensor:
    """(bins, size): the weight of each position in each bin's mean."""
    index, at = torch.arange(bins, device=device).unsqueeze(1), torch.arange(size, device=device)
    inside = (at >= index * size // bins) & (at < -(-(index + 1) * size // bins))
    return inside.to(kind) / inside.sum(1, keepdim=True)


def _by_pixel(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss of maps (N, K, ...) and labels (N, ...) as that of a list of pixels; soft labels are left alone."""

    def of_pixels(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if input.ndim < 3 or target.is_floating_point():
            return loss(input, target, *args, **kwargs)
        value = loss(input.movedim(1, -1).reshape(-1, input.shape[1]), target.reshape(-1), *args, **kwargs)
        return value.view(target.shape) if value.ndim else value

    return of_pixels


REPLACED: dict[Any, Callable[..., Tensor]] = {
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.cross_entropy: _by_pixel(F.cross_entropy),
    F.nll_loss: _by_pixel(F.nll_loss),
}
