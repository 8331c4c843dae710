"""What the benchmarks measure with."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_mib(call: Callable[[], object]) -> float:
    """The largest sum of tensors alive at a time during the call, counted allocation by allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    alive = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak / 2**20
