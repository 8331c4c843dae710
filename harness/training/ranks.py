"""The processes that share a run: who this one is, and what they compute together by torch.distributed."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.models.syncbn import convert_batchnorm


@dataclass
class Ranks:
    """This process among the workers of a run. Every rank must call the same methods in the same order.

    Attributes:
        device: where tensors are.
        rank: of this process.
        workers: number of processes that share the run.
        bucket_mb: size of the pieces in which gradients are summed over the workers.
        loader_workers: extra processes of this one that read data.
    """

    device: torch.device
    rank: int = 0
    workers: int = 1
    bucket_mb: int = 25
    loader_workers: int = 0

    def wrap(self, step: nn.Module, sync_batchnorm: bool, equal_buffers: Sequence[str] = ()) -> nn.Module:
        """The module on its device; with several workers inside DistributedDataParallel.

        Args:
            step: the module that is trained.
            sync_batchnorm: whether statistics are those of all workers' images.
            equal_buffers: names of buffers that every worker keeps equal by itself; the others are sent at each step.
        """
        step = step.to(self.device)
        if self.workers == 1:
            return step
        if sync_batchnorm:
            step = convert_batchnorm(step, self.device)
        devices = [self.device] if self.device.type == "cuda" else None
        ignore: Any = nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        ignore(step, list(equal_buffers))
        return nn.parallel.DistributedDataParallel(
            step, device_ids=devices, gradient_as_bucket_view=True, bucket_cap_mb=self.bucket_mb
        )

    def unsynced(self, step: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around the passes of a micro-batch: gradients are summed over the workers only with the last one."""
        if last or not isinstance(step, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return step.no_sync()

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over the ranks, in place."""
        if self.workers > 1:
            dist.all_reduce(values)
        return values

    def minimum(self, values: Tensor) -> Tensor:
        """The minimum of `values` over the ranks, in place."""
        if self.workers > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MIN)
        return values

    def agreed(self, values: Sequence[float]) -> list[float]:
        """Rank 0's values, on every rank. The ranks wait for each other."""
        if self.workers == 1:
            return list(values)
        sent = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(sent, 0)
        out: list[float] = sent.tolist()
        return out

    def send(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors rank 0's values, in place, on every rank."""
        if self.workers > 1:
            for tensor in tensors:
                sent = tensor.contiguous()
                dist.broadcast(sent, 0)
                if sent is not tensor:
                    tensor.copy_(sent)

    def gather(self, values: Tensor) -> Tensor:
        """Every rank's `values` (n, ...), concatenated by rank: (sum of n, ...). n may differ, the rest may not."""
        if self.workers == 1:
            return values
        own = torch.tensor([len(values)], device=values.device)
        sizes = [torch.empty_like(own) for _ in range(self.workers)]
        dist.all_gather(sizes, own)
        lengths = [int(size) for size in sizes]
        padded = values.new_zeros(max(lengths), *values.shape[1:])
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded)  # tensors only: nothing from another process is unpickled
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
