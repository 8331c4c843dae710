"""The clock, the counts and the memory meter against values known beforehand."""

import gc
import mmap
import platform
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from harness.experiment.load import load
from harness.experiment.plan import WARM_UP_STEPS
from harness.models import build
from harness.training import build as parts
from harness.training import cost, estimate, loop
from harness.training.build import _load_teacher
from harness.training.cost import PeakMemory, Span, StepClock, device_use, macs, parameters
from tests.support import tiny

ROOT = Path(__file__).parent.parent.parent
CPU = torch.device("cpu")


class Time:
    """A clock that is set by hand."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Time:
    hand = Time()
    monkeypatch.setattr(cost, "time", hand)
    return hand


def steps(clock: StepClock, hand: Time, milliseconds: list[float]) -> None:
    for ms in milliseconds:
        hand.now += 17.0  # evaluation between steps: the clock stands
        with clock:
            hand.now += ms / 1e3


def test_warm_up_is_left_out_and_percentiles_are_those_of_the_rest(hand: Time) -> None:
    clock = StepClock(CPU)
    assert clock.percentile(50) is None
    rest = [float(ms) for ms in range(10, 31)]
    steps(clock, hand, [900.0] * WARM_UP_STEPS)
    assert clock.percentile(50) == pytest.approx(900), "a run of warm-up steps only still has a figure"
    assert clock.history() == []
    steps(clock, hand, rest)
    assert clock.history() == pytest.approx(rest, rel=1e-6)
    assert clock.percentile(50) == pytest.approx(20)
    assert clock.percentile(90) == pytest.approx(float(np.percentile(rest, 90)))


def test_a_resumed_run_warms_up_again_and_keeps_its_history(hand: Time) -> None:
    clock = StepClock(CPU, history=[10.0, 20.0])
    steps(clock, hand, [900.0] * WARM_UP_STEPS + [30.0])
    assert clock.history() == pytest.approx([10, 20, 30])
    given = [10.0]
    steps(StepClock(CPU, given), hand, [1.0] * 9)
    assert given == [10.0], "the caller's list is its own"


def test_gpu_steps_are_timed_by_events_read_later(monkeypatch: pytest.MonkeyPatch, hand: Time) -> None:
    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = hand.now

        def elapsed_time(self, end: "Event") -> float:
            assert synchronised, "read before the device was done"
            return (end.at - self.at) * 1e3

    synchronised: list[int] = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: synchronised.append(1))
    clock = StepClock(torch.device("cuda"))
    steps(clock, hand, [900.0] * WARM_UP_STEPS + [40.0, 60.0])
    assert synchronised == []
    assert clock.percentile(50) == pytest.approx(50)
    assert clock.percentile(50) == pytest.approx(50), "events are read once"
    assert len(synchronised) == 1


def test_seconds_of_runs_in_step_on_a_gpu_are_the_devices(monkeypatch: pytest.MonkeyPatch, hand: Time) -> None:
    """Work is queued at once, and the process waits only where a run asks; each still gets what its own work took."""
    done_at = 0.0

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            pass

        def record(self) -> None:
            self.at = done_at

        def elapsed_time(self, end: "Event") -> float:
            return (end.at - self.at) * 1e3

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: setattr(hand, "now", max(hand.now, done_at)))
    device = torch.device("cuda")
    clocks, costs = [StepClock(device) for _ in range(2)], (0.25, 1.0)
    for _ in range(2 * WARM_UP_STEPS):
        with (teacher := Span(device)):
            done_at += 0.5
        for clock, own in zip(clocks, costs, strict=True):
            with clock:
                done_at += own
            clock.before(teacher)
    for clock, own in zip(clocks, costs, strict=True):
        seconds, shared = clock.taken()
        assert shared == pytest.approx(WARM_UP_STEPS) and seconds == pytest.approx(2 * WARM_UP_STEPS * (own + 0.5))
        assert clock.percentile(50) == pytest.approx(1e3 * (own + 0.5))
        assert clock.taken() == (0.0, 0.0)


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 12), 8 * 3 * 9 * 120),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), (1, 3, 10, 12), 8 * 3 * 9 * 30),
        (nn.Conv2d(6, 6, 5, padding=2, groups=6), (1, 6, 7, 9), 6 * 25 * 63),
        (nn.Linear(7, 5), (1, 11, 7), 11 * 7 * 5),
        (nn.ReLU(), (1, 3, 10, 12), 0),
    ],
)
def test_macs_in_closed_form(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert macs(layer, torch.zeros(shape)) == expected


def test_macs_leaves_mode_statistics_and_gradients_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    for training in (True, False):
        model.train(training)
        macs(model, torch.ones(1, 3, 2, 2))
        assert [module.training for module in model.modules()] == [training] * 3
    assert model[1].num_batches_tracked == 0 and torch.equal(model[1].running_mean, torch.zeros(4))


def test_parameters_are_the_trainable_ones() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    assert parameters(model) == 3 * 4 + 4 + 4 * 5 + 5
    model[1].requires_grad_(False)
    assert parameters(model) == 3 * 4 + 4


def allocate(mib: int) -> torch.Tensor:
    return torch.ones(mib * 2**18)  # float32, written to, so that the pages exist


resettable = pytest.mark.skipif(
    not PeakMemory(CPU)._resettable, reason="the kernel does not let this process reset its high-water mark"
)


@resettable
def test_a_passing_allocation_is_seen_and_the_next_run_is_not_charged_for_it() -> None:
    memory = PeakMemory(CPU)
    before = memory.mb()
    tensor = allocate(200)
    del tensor
    assert 195 < memory.mb() - before < 240
    following = PeakMemory(CPU)
    assert abs(following.mb() - before) < 30
    assert following.mb() > 50, "the interpreter and its libraries are in the figure"


@resettable
def test_what_a_predecessor_left_in_a_reference_cycle_is_handed_back() -> None:
    gc.collect()
    before = PeakMemory(CPU).mb()
    gc.disable()
    try:
        knot: dict[str, Any] = {"tensor": allocate(200)}
        knot["self"] = knot
        del knot
        assert PeakMemory(CPU).mb() - before < 30
    finally:
        gc.enable()


def test_without_a_resettable_mark_it_is_the_maximum_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, text: str) -> int:
        raise PermissionError(self)

    monkeypatch.setattr(Path, "write_text", refuse)
    memory = PeakMemory(CPU)
    tensor = allocate(50)
    assert memory.mb() == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, rel=0.05)
    assert memory.mb() > tensor.numel() * 4 / 2**20


def test_use_of_a_cpu_is_that_of_this_process_since_the_last_call(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [100.0, 40.0]
    monkeypatch.setattr(cost, "_busy", cost._Busy())
    monkeypatch.setattr(cost.time, "monotonic", lambda: times[0])
    monkeypatch.setattr(cost.time, "process_time", lambda: times[1])
    assert device_use(CPU)["utilization"] is None, "nothing to compare with yet"
    assert device_use(CPU)["utilization"] is None, "no time has passed"
    times[:] = [104.0, 46.0]
    assert device_use(CPU)["utilization"] == pytest.approx(150)
    times[:] = [106.0, 46.0]
    assert device_use(CPU)["utilization"] == 0


def test_memory_of_a_cpu_is_what_is_resident_now() -> None:
    before = device_use(CPU)["memory_mb"]
    with mmap.mmap(-1, 200 * 2**20) as pages:  # not by the allocator, which may keep what is freed
        for page in range(0, len(pages), mmap.PAGESIZE):  # in place: bytes to write would be of the allocator
            pages[page] = 1
        held = device_use(CPU)["memory_mb"]
    after = device_use(CPU)["memory_mb"]
    assert before is not None and held is not None and after is not None
    assert 190 < held - before < 240 and held - after > 150


def test_without_proc_the_memory_is_the_maximum_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", refuse)
    expected = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert device_use(CPU)["memory_mb"] == pytest.approx(expected, rel=0.05)


def test_use_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "memory_allocated", {device: 3 * 2**30}.__getitem__)
    monkeypatch.setattr(torch.cuda, "utilization", {device: 87}.__getitem__)
    assert device_use(device) == {"memory_mb": 3072.0, "utilization": 87.0}

    def unknown(device: torch.device) -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed or it can't be imported.")

    monkeypatch.setattr(torch.cuda, "utilization", unknown)
    assert device_use(device) == {"memory_mb": 3072.0, "utilization": None}


@pytest.mark.slow
def test_networks_are_counted_without_computing_anything() -> None:
    """On the meta device as with numbers, for every student of the grid of backbones."""
    experiment = load(ROOT / "experiments" / "backbones_small.yaml")
    for network in {pair.student.model_dump_json(): pair.student for pair in experiment.pairs}.values():
        built = build(network, 5, 0)
        assert parts.network_cost(network, 5, 64, 96) == (
            cost.parameters(built),
            cost.macs(built, torch.zeros(1, 3, 64, 96)),
        )


def test_classes_are_those_of_the_datasets_own_modules() -> None:
    known = {"ade20k": 150, "camvid": 11, "cityscapes": 19, "texmosaic": 8, "voc2012": 21}
    assert {name: estimate.classes_of(name) for name in known} == known
    with pytest.raises(ValueError, match="landcover: its classes are not known"):
        estimate.classes_of("landcover")


def test_a_cpu_is_named_by_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(cost, "CPUINFO", info)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert cost.device_name(CPU) == "CPU riscv64"  # no such file
    first = "processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD  EPYC\n"
    info.write_text(f"{first}\nprocessor\t: 1\nmodel name\t: another: kind\n")
    assert cost.device_name(CPU) == "CPU AMD EPYC (family 26 model 2)"
    info.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert cost.device_name(CPU) == "CPU riscv64"
    assert "," not in cost.device_name(CPU)  # tables join devices by commas


def test_latency_is_the_median_after_warm_up(hand: Time) -> None:
    calls = []

    def predict() -> None:
        calls.append(1)
        hand.now += 0.5 if len(calls) <= cost.WARM_UP_STEPS else 0.001 * len(calls)

    timed = [*range(cost.WARM_UP_STEPS + 1, cost.WARM_UP_STEPS + cost.LATENCY_CALLS + 1)]
    assert cost.latency_ms(predict, CPU) == pytest.approx(float(np.median(timed)))
    assert len(calls) == cost.WARM_UP_STEPS + cost.LATENCY_CALLS


def test_of_a_slow_network_few_calls_are_timed(hand: Time) -> None:
    calls = []

    def predict() -> None:
        calls.append(1)
        hand.now += 4.0

    assert cost.latency_ms(predict, CPU) == pytest.approx(4000.0)
    assert len(calls) == 2


def test_the_meter_of_a_gpu_begins_with_what_this_run_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier run left in the cache is given back, and CUDA has been initialised before its statistics are reset."""
    calls: list[str] = []
    for name in ("init", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *given, name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    assert PeakMemory(torch.device("cuda:0")).mb() == 3
    assert calls == ["init", "empty_cache", "reset_peak_memory_stats"]


def test_a_teacher_in_memory_is_not_charged_to_a_run_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []

    class Noted(PeakMemory):
        def __init__(self, device: torch.device) -> None:
            held.append(_load_teacher.cache_info().currsize)
            super().__init__(device)

    monkeypatch.setattr(loop, "PeakMemory", Noted)
    data = {"name": "texmosaic", "parameters": {"size": 64, "train": 4, "dev": 2, "val": 1}}
    teacher, none, kd = tiny.plan(tmp_path, "train.steps=1", "pairs.0.teacher.steps=1", "train.eval_every=1", data=data)
    for run in (teacher, kd, none):
        assert tiny.in_process(run, tmp_path) == "ok"
    assert held[-1] == 0 and _load_teacher.cache_info().currsize == 0
