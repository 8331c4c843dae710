"""What the contourlet transform costs, with the copy of the input tensor as the unit.

    pytest tests/benchmarks/bench_contourlet.py

One thread, float32, levels (3, 4); least CPU time of several calls, the copy and the transform taken in turns, so that a
neighbour's load meets both. Memory is the largest sum of tensors alive at a time beyond the input. The traffic bound
reads the input once and writes 1.3125 coefficients per sample: 9.25 bytes per sample, where the copy moves 8; forward
and backward are twice that. The copy is `x.clone()` into memory that is kept: a fresh block of 32 MiB costs from nothing
to five further copies, as the system has large pages free or not.
"""

import time
from collections.abc import Callable

import pytest
import torch

from sstkd import CDM, contourlet
from tests.benchmarks.measure import peak_mib

BYTES_PER_SAMPLE = 9.25 / 8  # in copies
# CPU seconds and MiB that a plain prototype of each needs on the same kind of machine.
LIMITS = {
    ((2, 64, 128, 256), False, "periodic"): (0.10, None),
    ((2, 64, 128, 256), False, "toolbox"): (0.30, None),
    ((8, 64, 128, 128), True, "periodic"): (0.70, 450),
    ((8, 64, 128, 128), True, "toolbox"): (2.1, 1160),
}


def seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


@pytest.mark.parametrize("boundary", ["periodic", "toolbox"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("shape", [(2, 64, 128, 256), (8, 64, 128, 128)], ids=str)
def test_contourlet(shape, backward, boundary):
    x = torch.randn(shape, requires_grad=backward)
    cdm = CDM(boundary=boundary)

    def transform() -> object:
        if not backward:
            return contourlet(x, boundary=boundary)
        stacks = cdm(x)
        return torch.autograd.grad(stacks, x, [stack.detach() for stack in stacks])

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        transform()  # makes the tables
        clone = x.detach().clone()
        pairs = [(seconds(lambda: clone.copy_(x.detach())), seconds(transform)) for _ in range(10)]
        mib = peak_mib(transform)
    finally:
        torch.set_num_threads(threads)
    copy, least = (min(times) for times in zip(*pairs, strict=True))
    bound = BYTES_PER_SAMPLE * (2 if backward else 1)
    print(
        f"\n{boundary:8} {'x'.join(map(str, shape)):12} {'forward + backward' if backward else 'forward':18}"
        f" {least * 1e3:6.1f} ms = {least / copy:5.1f} copies of {copy * 1e3:4.1f} ms"
        f" = {least / copy / bound:5.1f} x the traffic bound, {mib:4.0f} MiB"
    )
    limit = LIMITS.get((shape, backward, boundary))
    if limit is not None:
        print(f"         limit {limit[0] * 1e3:.0f} ms" + (f", {limit[1]} MiB" if limit[1] else ""))
        assert limit[1] is None or mib <= limit[1]
