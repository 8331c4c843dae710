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


class Span:
    """The time of a block, `with span: ...`. On CUDA by events: nothing waits for the device until `ms` is asked for.

    Args:
        device: device of the block.
    """

    def __init__(self, device: torch.device) -> None:
        events: Any = torch.cuda.Event  # untyped in torch
        self._events = [events(enable_timing=True) for _ in range(2)] if device.type == "cuda" else []
        self.seconds = 0.0
        """Of this process; a device may still be at work."""

    def __enter__(self) -> None:
        if self._events:
            self._events[0].record()
        self._began = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.seconds = time.perf_counter() - self._began
        if self._events:
            self._events[1].record()

    @property
    def ms(self) -> float:
        """Milliseconds on the device, which must have come to the end of the block."""
        if not self._events:
            return self.seconds * 1e3
        return float(self._events[0].elapsed_time(self._events[1]))


class StepClock:
    """Milliseconds of each training step: `with clock: step()`.

    Args:
        device: device of the step.
        history: milliseconds of the steps before the run was resumed.
    """

    def __init__(self, device: torch.device, history: Iterable[float] = ()) -> None:
        self._device, self._ms = device, list(history)
        self._pending: list[tuple[Span, Span | None, bool]] = []
        self._all_ms, self._shared_ms = 0.0, 0.0
        self._fresh = 0  # steps of this process; the first ones allocate, tune and compile
        self._warm: list[float] = []

    def __enter__(self) -> None:
        self._pending.append((Span(self._device), None, False))
        self._pending[-1][0].__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pending[-1][0].__exit__(kind, error, at)

    def before(self, part: Span | None, shared: bool = True) -> None:
        """A part of the last step that was done before it, and whether that was for several runs at once."""
        self._pending[-1] = (self._pending[-1][0], part, shared)

    def history(self) -> list[float]:
        """Milliseconds of every step after warm-up so far. Synchronises with the device."""
        if self._pending and self._device.type == "cuda":
            torch.cuda.synchronize()
        for own, part, shared in self._pending:
            self._fresh += 1
            before_ms = 0.0 if part is None else part.ms
            ms = own.ms + before_ms
            (self._warm if self._fresh <= WARM_UP_STEPS else self._ms).append(ms)
            self._all_ms += ms
            self._shared_ms += before_ms if shared else 0.0
        self._pending.clear()
        return self._ms

    def taken(self) -> tuple[float, float]:
        """Seconds of the steps since the last call, and of these what was spent for several runs at once."""
        self.history()
        seconds = self._all_ms / 1e3, self._shared_ms / 1e3
        self._all_ms, self._shared_ms = 0.0, 0.0
        return seconds

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


def held(module: nn.Module) -> int:
    """Bytes that training a module holds between steps, with an optimizer that keeps two averages of each weight."""
    trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
    return 3 * trained + sum(int(x.numel() * x.element_size()) for x in module.state_dict().values())


def free_bytes(device: torch.device) -> int:
    """Memory that this process may still take: of the GPU, else of the machine or of its control group."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    found = [_kilobytes("/proc/meminfo", "MemAvailable")]
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
        found += [None if limit == "max" else int(limit) - int(used)]
    except (OSError, ValueError):  # no control groups, or their first version
        pass
    return min((each for each in found if each is not None), default=2**63)


def _kilobytes(file: str, field: str) -> int | None:
    """A field of one of the kernel's tables, in bytes; None if there is none."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


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
            torch.cuda.init()  # type: ignore[no-untyped-call]  # before it there are no statistics to reset
            torch.cuda.empty_cache()
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
    found = _kilobytes("/proc/self/status", field)
    return None if found is None else found / 2**20


def _most_resident_mb() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
