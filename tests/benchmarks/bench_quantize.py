"""What STLNet's statistics cost: its dense formula against the counting of `sstkd.quantize`, forward and backward.

    pytest tests/benchmarks/bench_quantize.py

All run in one process on one thread. Memory is the largest sum of tensors alive at a time, beyond the input, counted
allocation by allocation.
"""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sstkd.quantize import assign, cooccurrence, interpolate_vectors, stlnet_statistic, uniform_levels
from tests.benchmarks.measure import peak_mib

Call = Callable[[], object]


def dense_weights(intensity: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """L_n = min + (2n + 1) / (2N) (max - min); w_in = 1 - |L_n - s_i| where |L_n - s_i| < (max - min) / N, else 0."""
    low, high = intensity.amin(-1, keepdim=True), intensity.amax(-1, keepdim=True)
    levels = low + (2 * torch.arange(number) + 1) / (2 * number) * (high - low)
    weight = 1 - (levels[..., None, :] - intensity[..., None]).abs()
    return levels, weight * (weight > 1 - ((high - low) / number)[..., None])


def dense_statistic(intensity: Tensor, number: int) -> tuple[Tensor, Tensor]:
    levels, weight = dense_weights(intensity, number)
    count = weight.sum(-2)
    return levels, count / count.sum(-1, keepdim=True)


def dense_pairs(intensity: Tensor, hw: tuple[int, int], number: int) -> Tensor:
    weight = dense_weights(intensity, number)[1].mT.unflatten(-1, hw)
    product = weight[..., :, None, :-1, :-1] * weight[..., None, :, 1:, 1:]
    total = product.sum((-2, -1))
    return total / (total.sum((-2, -1), keepdim=True) + 1e-6)


def sparse_pairs(intensity: Tensor, hw: tuple[int, int], number: int) -> Tensor:
    return cooccurrence(assign(intensity, uniform_levels(intensity, number), "stlnet"), hw, number)


def dense_enhanced(intensity: Tensor, values: Tensor) -> Tensor:
    return dense_weights(intensity, values.shape[-2])[1] @ values


def sparse_enhanced(intensity: Tensor, values: Tensor) -> Tensor:
    levels = uniform_levels(intensity, values.shape[-2])
    return interpolate_vectors(assign(intensity, levels, "stlnet"), values)


def backward(function: Callable[[], Tensor | tuple[Tensor, ...]], inputs: list[Tensor]) -> list[Tensor]:
    out = function()
    outs = out if isinstance(out, tuple) else (out,)
    towards = [torch.linspace(-1, 1, o.shape[-1]).expand_as(o) for o in outs]
    return list(torch.autograd.grad(outs, inputs, towards))


def fastest_ms(call: Call, rounds: int) -> float:
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def compare(title: str, dense: Call, sparse: Call, rounds: tuple[int, int]) -> tuple[float, float]:
    """Ratios of time and of memory, dense over ours."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # Interleaved, and the fastest of each: neighbours on the machine slow both alike.
        pairs = [(fastest_ms(dense, rounds[0]), fastest_ms(sparse, rounds[1])) for _ in range(3)]
        ms = tuple(min(times) for times in zip(*pairs, strict=True))
        mib = peak_mib(dense), peak_mib(sparse)
    finally:
        torch.set_num_threads(threads)
    print(f"\n{title}, forward + backward, 1 thread")
    for name, time_ms, memory in zip(("dense", "ours"), ms, mib, strict=True):
        print(f"  {name:6s} {time_ms:9.3f} ms {memory:9.2f} MiB")
    print(f"  dense / ours: time x {ms[0] / ms[1]:.1f}, memory x {mib[0] / mib[1]:.1f}")
    return ms[0] / ms[1], mib[0] / mib[1]


@pytest.fixture
def intensity() -> Tensor:
    return torch.rand(2, 128 * 256, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_statistic_1d(intensity: Tensor) -> None:
    def dense() -> list[Tensor]:
        return backward(lambda: dense_statistic(intensity, 128), [intensity])

    def sparse() -> list[Tensor]:
        return backward(lambda: stlnet_statistic(intensity, 128), [intensity])

    torch.testing.assert_close(sparse(), dense(), rtol=1e-3, atol=1e-4)
    faster, smaller = compare("1-d statistic (2, 128x256), N = 128", dense, sparse, (3, 50))
    assert faster >= 100 and smaller >= 10


def test_statistic_2d(intensity: Tensor) -> None:
    hw = (128, 256)

    def dense() -> list[Tensor]:
        return backward(lambda: dense_pairs(intensity, hw, 8), [intensity])

    def sparse() -> list[Tensor]:
        return backward(lambda: sparse_pairs(intensity, hw, 8), [intensity])

    torch.testing.assert_close(sparse(), dense(), rtol=1e-3, atol=1e-4)
    faster, smaller = compare("2-d statistic (2, 128x256), N = 8", dense, sparse, (3, 20))
    assert faster > 1 and smaller > 1


def test_enhanced_map(intensity: Tensor) -> None:
    values = torch.rand(2, 128, 256, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def dense() -> list[Tensor]:
        return backward(lambda: dense_enhanced(intensity, values), [intensity, values])

    def sparse() -> list[Tensor]:
        return backward(lambda: sparse_enhanced(intensity, values), [intensity, values])

    torch.testing.assert_close(sparse(), dense(), rtol=1e-3, atol=1e-2)
    faster, smaller = compare("map read back (2, 256, 128x256), N = 128", dense, sparse, (2, 3))
    assert faster > 1 and smaller > 1
