"""Divergence between the rows of two similarity matrices, without storing either matrix.

A row is the softmax over keys of (anchor . key) / temperature. Rows are computed in blocks. The forward pass also
computes the gradient; the backward pass only scales it, so it neither recomputes nor stores a matrix.
"""

from typing import Any

import torch
from torch import Tensor

_ELEMENTS = {"cpu": 2**20}  # elements per block of a matrix: 4 MiB in float32, which fits in the cache
_MOST = 2**24  # elsewhere: 64 MiB, enough for every unit of a GPU; a few such blocks are there at a time
_ROWS = 64  # least rows per block: each block reads and writes all keys


class _RowKL(torch.autograd.Function):
    """Weighted sum over rows of KL(teacher's row || student's), with gradients for the student's anchors and keys."""

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        keys: Tensor,
        teacher: Tensor,
        teacher_keys: Tensor,
        share: Tensor | None,
        scale: float,
        groups: int,
    ) -> Tensor:
        rows, count = len(anchors), len(keys)
        wants = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_anchors = torch.zeros_like(anchors) if ctx.needs_input_grad[0] else None
        grad_keys = torch.zeros_like(keys) if ctx.needs_input_grad[1] else None
        total, each = anchors.new_zeros(()), groups if share is not None else rows * groups
        step = max(_ROWS, _ELEMENTS.get(anchors.device.type, _MOST) // max(1, count))
        for at in range(0, rows, step):
            ours, theirs = anchors[at : at + step], teacher[at : at + step]
            log_q = _log_rows(ours @ keys.T, scale, groups)
            log_p = _log_rows(theirs @ teacher_keys.T, scale, groups)
            p = log_p.exp()
            found = p * log_p.sub_(log_q)
            total += found.sum() if share is None else found.sum((1, 2)) @ share[at : at + step]
            if wants:
                slope = log_q.exp_().sub_(p).mul_(scale / each).flatten(1)
                if share is not None:
                    slope *= share[at : at + step].unsqueeze(1)
                if grad_anchors is not None:
                    grad_anchors[at : at + step] = slope @ keys
                if grad_keys is not None:
                    grad_keys.addmm_(slope.T, ours)
        ctx.save_for_backward(*(g for g in (grad_anchors, grad_keys) if g is not None))
        return total / each

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = list(ctx.saved_tensors)
        return (*(grad * saved.pop(0) if wanted else None for wanted in ctx.needs_input_grad[:2]), *([None] * 5))


def _log_rows(scores: Tensor, scale: float, groups: int) -> Tensor:
    """log-softmax of (rows, groups * keys) within each group of keys, as (rows, groups, keys)."""
    return scores.view(len(scores), groups, -1).mul_(scale).log_softmax(2)


def row_kl(
    anchors: Tensor,
    keys: Tensor,
    teacher: Tensor,
    teacher_keys: Tensor,
    temperature: float,
    groups: int = 1,
    share: Tensor | None = None,
) -> Tensor:
    """Mean over anchors (and groups) of KL between softmax rows of similarities.

    Args:
        anchors: the student's anchors (A, C).
        keys: the student's keys (groups * K, C).
        teacher: the teacher's anchors (A, D); no gradient.
        teacher_keys: the teacher's keys (groups * K, D); no gradient.
        temperature: divides the similarities.
        groups: the softmax runs over the K keys of each group.
        share: the weight of each anchor in the mean (A,), in sum 1; equal if None.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        theirs = teacher.detach(), teacher_keys.detach()
        out: Tensor = _RowKL.apply(anchors, keys, *theirs, share, 1.0 / temperature, groups)
        return out
