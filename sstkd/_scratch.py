"""Buffers shared by the steps of one call, so that a tile's memory is allocated once and not once per step.

On a CPU a new array of megabytes costs a page fault per 4 KiB, as much time as the arithmetic of many steps here.
"""

import torch
from torch import Tensor


class Scratch:
    """Named buffers; taking a name again returns the same memory without clearing it."""

    def __init__(self) -> None:
        self._memory: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """An array of this shape with undefined values, on the device and (unless given) in the type of `like`."""
        dtype = dtype or like.dtype
        size = torch.Size(shape).numel()
        memory = self._memory.get((name, dtype))
        if memory is None or memory.numel() < size:
            memory = self._memory[name, dtype] = torch.empty(size, dtype=dtype, device=like.device)
        return memory[:size].view(shape)
