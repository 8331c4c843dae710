"""What every distillation loss costs, beside the forms that public implementations use.

    pytest tests/benchmarks/bench_distillers.py

Forward and backward, one thread, float32. Before a loss is measured, its value and gradients are compared with those of
the plain forms (plain_distillers.py, plain_relations.py, plain_critic.py). Time is the least CPU time of several calls,
ours and the plain forms taken in turns, so that a neighbour's load meets all; of several public forms the fastest
counts. Memory is the largest sum of tensors alive at a time beyond the inputs.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from tests.benchmarks.distiller_cases import Case, Loss, cases
from tests.benchmarks.measure import peak_mib

SECONDS = 1.0  # of measuring per case, and this many times longer while ours seems too slow
PATIENCE = 5
FEWEST = 3
HEAD = (
    f"{'method':10} {'term':25} {'size':20} {'plain ms':>9} {'ours ms':>9} {'ratio':>6}"
    f" {'plain MiB':>10} {'ours MiB':>9} {'ratio':>6}"
)


def test_losses() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wrong = []
    print("\n" + HEAD)
    try:
        for case in cases():
            agree(case)
            wrong += report(case)
    finally:
        torch.set_num_threads(threads)
    assert not wrong, "\n".join(wrong)


def gradients(loss: Loss, leaves: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    value = loss()
    return value.detach(), torch.autograd.grad(value, leaves) if leaves else ()


def agree(case: Case) -> None:
    """The same number, and the same slopes for what both have."""
    value, slopes = gradients(case.ours, case.leaves)
    for form in case.check or case.plain:
        plain_value, plain_slopes = gradients(form, case.leaves)
        torch.testing.assert_close(value, plain_value, rtol=1e-4, atol=1e-6 if value.ndim else 0.0)
        for found, expected in zip(slopes, plain_slopes, strict=True):
            # The mean, for where a difference is 0 but for rounding an absolute value has either slope.
            assert (found - expected).abs().mean() <= 1e-3 * expected.abs().mean(), f"{case.method} {case.term}"


def seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def measure(case: Case) -> tuple[list[float], list[float]]:
    """Least milliseconds and peak MiB, of ours first, then of every plain form."""

    def call(form: Loss, parameters: tuple[Tensor, ...]) -> Callable[[], object]:
        return lambda: gradients(form, case.leaves + parameters)

    ours, theirs = case.parameters
    calls = [call(case.ours, ours), *(call(form, theirs) for form in case.plain)]
    times: list[list[float]] = [[] for _ in calls]
    spent = 0.0
    while len(times[0]) < FEWEST or spent < SECONDS or (spent < PATIENCE * SECONDS and slow(case, times)):
        # Each goes first in turn: what the one before left in the cache and in the allocator helps or harms.
        turn = len(times[0]) % len(calls)
        for i in (*range(turn, len(calls)), *range(turn)):
            times[i].append(seconds(calls[i]))
            spent += times[i][-1]
    return [1e3 * min(each) for each in times], [peak_mib(each) for each in calls]


def slow(case: Case, times: list[list[float]]) -> bool:
    ours, *plain = map(min, times)
    return bool(plain) and min(plain) < case.least * ours


def report(case: Case) -> list[str]:
    """Print a line of the table; what is wrong with it."""
    (ms, *plain_ms), (mib, *plain_mib) = measure(case)
    name = f"{case.method:10} {case.term:25} {case.size:20}"
    if not plain_ms:
        print(f"{name} {'-':>9} {ms:9.2f} {'-':>6} {'-':>10} {mib:9.2f} {'-':>6}", flush=True)
        return []
    best = plain_ms.index(min(plain_ms))
    faster, smaller = plain_ms[best] / ms, plain_mib[best] / mib
    time_columns = f"{plain_ms[best]:9.2f} {ms:9.2f} {faster:6.2f}"
    print(f"{name} {time_columns} {plain_mib[best]:10.2f} {mib:9.2f} {smaller:6.2f}", flush=True)
    wrong = []
    if faster < case.least:
        wrong.append(f"{name}: {faster:.2f} times as fast as the plain form, not {case.least:.2f}")
    if smaller * case.most < 1:
        wrong.append(f"{name}: {mib:.2f} MiB where the plain form needs {plain_mib[best]:.2f}")
    return wrong
