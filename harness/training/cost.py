"""Cost of a run: time per step, peak memory, parameters, MACs."""

import ctypes
import gc
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harness.experiment.plan import WARM_UP_STEPS

LATENCY_CALLS = 20
CPUINFO = Path("/proc/cpuinfo")


class StepClock:
    """Milliseconds of each training step: `with clock: step()`. On CUDA by events, without a sync.

    Args:
        device: device of the step.
        history: milliseconds of the steps before the run was resumed.
    """

    def __init__(self, device: torch.device, history: Iterable[float] = ()) -> None:
        self._cuda = device.type == "cuda"
        self._ms = list(history)
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._began = 0.0
        self._fresh = 0  # steps of this process; the first ones allocate, tune and compile
        self._warm: list[float] = []

    def __enter__(self) -> None:
        if self._cuda:
            events: Any = torch.cuda.Event  # untyped in torch
            self._pending.append((events(enable_timing=True), events(enable_timing=True)))
            self._pending[-1][0].record()
        else:
            self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._cuda:
            self._pending[-1][1].record()
        else:
            self._add((time.perf_counter() - self._began) * 1e3)

    def _add(self, ms: float) -> None:
        self._fresh += 1
        (self._warm if self._fresh <= WARM_UP_STEPS else self._ms).append(ms)

    def history(self) -> list[float]:
        """Milliseconds of every step after warm-up so far. Synchronises with the device."""
        if self._pending:
            torch.cuda.synchronize()
            for start, end in self._pending:
                self._add(start.elapsed_time(end))
            self._pending.clear()
        return self._ms

    def percentile(self, q: float) -> float | None:
        """The q-th percentile in ms (of the warm-up steps if there are no others); None before any step."""
        values = self.history() or self._warm
        return float(np.percentile(values, q)) if values else None


def device_name(device: torch.device) -> str:
    """A GPU's name, or e.g. "CPU AMD EPYC (family 26 model 2)". Different models also round differently.

    Virtual machines often hide the name of a CPU, but not its family and model.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        first = CPUINFO.read_text().partition("\n\n")[0]
    except OSError:  # not Linux
        first = ""
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    name = " ".join(said.get("model name", platform.machine()).split())
    kind = f" (family {said['cpu family']} model {said['model']})" if {"cpu family", "model"} <= said.keys() else ""
    return f"CPU {name}{kind}"


def latency_ms(predict: Callable[[], object], device: torch.device, seconds: float = 5.0) -> float:
    """Median milliseconds of a call after warm-up.

    Args:
        predict: the call to time.
        device: device of the computation.
        seconds: time limit after which no further call starts.
    """
    clock, began = StepClock(device), time.perf_counter()
    for i in range(WARM_UP_STEPS + LATENCY_CALLS):
        if i and time.perf_counter() - began > seconds:
            break
        with clock:
            predict()
    found = clock.percentile(50)
    assert found is not None
    return found


def parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@torch.no_grad()
def macs(network: nn.Module, image: Tensor) -> int:
    """MACs of the convolutions and matrix products of a forward pass on `image` (1, 3, H, W) in eval mode."""
    training = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(image)
    network.train(training)
    return int(counter.get_total_flops()) // 2


class PeakMemory:
    """Peak memory in MiB since construction: allocated on a CUDA device, else resident in the process.

    Resident memory includes the interpreter and its libraries. The kernel's high-water mark is reset first, and memory
    freed by earlier runs of the process is returned, so that they do not count.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._resettable = False
        gc.collect()  # reference cycles of earlier runs
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            self._resettable = True
        except (OSError, AttributeError):  # not Linux or not glibc: then it is the maximum of the process
            self._resettable = False

    def mb(self) -> float:
        """The peak so far, in MiB."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        return (_resident_mb("VmHWM") if self._resettable else None) or _most_resident_mb()


class _Busy:
    """CPU time of this process since the last call in percent of one CPU; above 100 with several threads."""

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None

    def percent(self) -> float | None:
        """None at the first call."""
        now, used = time.monotonic(), time.process_time()
        before, self._before = self._before, (now, used)
        if before is None or now <= before[0]:
            return None
        return 100 * (used - before[1]) / (now - before[0])


_busy = _Busy()


def device_use(device: torch.device) -> dict[str, float | None]:
    """Current use of the device by this process, for a display.

    Returns:
        `memory_mb`: MiB allocated on a CUDA device, else resident in the process. `utilization`: percent of the
        whole CUDA device (needs the package nvidia-ml-py), else of one CPU since the last call (without loader
        workers); None if not known.
    """
    if device.type == "cuda":
        return {"memory_mb": torch.cuda.memory_allocated(device) / 2**20, "utilization": _cuda_percent(device)}
    return {"memory_mb": _resident_mb("VmRSS") or _most_resident_mb(), "utilization": _busy.percent()}


def _cuda_percent(device: torch.device) -> float | None:
    try:
        return float(torch.cuda.utilization(device))
    except Exception:  # no library, no driver, or a part of a device: each raises its own error
        return None


def _resident_mb(field: str) -> float | None:
    """A field of /proc/self/status in MiB; None if there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)


def _most_resident_mb() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
