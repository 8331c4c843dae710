"""`train.deterministic`: the same bits each time on one kind of GPU.

`torch.use_deterministic_algorithms` gives most operations an algorithm with a fixed order of additions, and refuses
those that have none on CUDA. Some of these are part of nearly every segmentation network's step, and have another form
with the same values: means over bins as means of slices, the cross-entropy of a map as that of its pixels, bicubic
and antialiased resizing (of a transformer's position embedding) as two matrix products.
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
    """Means over bins; bin i of n is rows floor(i H / n) to ceil((i + 1) H / n). Of other inputs, torch's answer."""
    wanted = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    whole = [one is None or (isinstance(one, int) and one > 0) for one in wanted]
    if wanted in ((1, 1), (1,)) or len(wanted) != 2 or not all(whole) or not _is_map(input):
        return F.adaptive_avg_pool2d(input, output_size)  # (1, 1): a plain mean, whose order is fixed
    kind = torch.promote_types(input.dtype, torch.float32)
    rows, columns = (size if one is None else one for one, size in zip(wanted, input.shape[-2:], strict=True))
    found = _means(_means(input, -2, rows, kind), -1, columns, kind).to(input.dtype)
    last = input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last)
    return found.contiguous(memory_format=torch.channels_last) if last else found


def _is_map(x: Tensor) -> bool:
    return x.ndim in (3, 4) and x.is_floating_point() and all(x.shape)


def _means(x: Tensor, axis: int, bins: int, kind: torch.dtype) -> Tensor:
    size = x.shape[axis]
    ends = ((i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins))
    return torch.stack([x.narrow(axis, a, b - a).mean(axis, dtype=kind) for a, b in ends], axis)


def _interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *args: Any, **rest: Any
) -> Tensor:
    """Resizing along height and then width; in modes that torch fixes by itself, or refuses, its own answer."""
    options = dict(zip(("align_corners", "recompute_scale_factor", "antialias"), args, strict=False)) | rest
    if (mode not in ("bicubic", "area") and not options.get("antialias")) or input.ndim != 4 or not _is_map(input):
        return F.interpolate(input, size, scale_factor, mode, **options)
    given = [value if isinstance(value, (tuple, list)) else (value, value) for value in (size, scale_factor)]
    height, width = (_resizing(input, axis, given[0][axis], given[1][axis], mode, options) for axis in (0, 1))
    # In float64, since TensorFloat-32 would round the products.
    return (height.mT @ input.double() @ width).to(input.dtype)


@torch.no_grad()
def _resizing(input: Tensor, axis: int, size: Any, factor: Any, mode: str, options: dict[str, Any]) -> Tensor:
    """The matrix (old, new) by which torch resizes along one axis: what it makes of an identity matrix."""
    one = torch.eye(input.shape[2 + axis], device=input.device, dtype=torch.float64)
    # With a second side of 1 torch's antialiased forms are wrong; of the sides of 2 the first is read.
    one = (
        one.unsqueeze(2).expand(-1, -1, 2).unsqueeze(0)
        if axis == 0
        else one.unsqueeze(1).expand(-1, 2, -1).unsqueeze(0)
    )
    sizes = None if size is None else (size, 2) if axis == 0 else (2, size)
    factors = None if factor is None else (factor, 1.0) if axis == 0 else (1.0, factor)
    resized = F.interpolate(one, sizes, factors, mode, **options)
    return (resized[..., 0] if axis == 0 else resized[..., 0, :])[0]


def _by_pixel(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A loss of maps (N, K, ...) and labels (N, ...) as that of a list of pixels; of others, torch's own answer."""

    def of_pixels(input: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if input.ndim < 3 or target.shape != (input.shape[0], *input.shape[2:]) or target.is_floating_point():
            return loss(input, target, *args, **kwargs)
        value = loss(input.movedim(1, -1).reshape(-1, input.shape[1]), target.reshape(-1), *args, **kwargs)
        return value.view(target.shape) if value.ndim else value

    return of_pixels


REPLACED: dict[Any, Callable[..., Tensor]] = {
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.interpolate: _interpolate,
    F.cross_entropy: _by_pixel(F.cross_entropy),
    F.nll_loss: _by_pixel(F.nll_loss),
}
