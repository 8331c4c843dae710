"""What the contourlet transform costs, with the copy of the input tensor as the unit.

    pytest tests/benchmarks/bench_contourlet.py -s

One thread, float32, levels (3, 4), least CPU time of several calls. Memory is the largest growth of the process's
resident set during one call, sampled from the kernel's high-water mark, beyond the input; each case is a process of its
own. The traffic bound reads the input once and writes 1.3125 coefficients per sample: 9.25 bytes per sample, where
the copy moves 8.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

CASES = [((2, 64, 128, 256), False), ((2, 64, 128, 256), True), ((8, 64, 128, 128), False), ((8, 64, 128, 128), True)]
BYTES_PER_SAMPLE = 9.25 / 8  # in copies


def measure(shape: list[int], backward: bool, boundary: str) -> dict[str, float]:
    """CPU seconds of the copy and of the transform, and peak MiB; run in a process of its own."""
    import torch

    from sstkd.cdm import CDM
    from sstkd.contourlet import contourlet

    torch.set_num_threads(1)
    x = torch.randn(shape)

    def copy() -> object:
        return x.clone()

    def transform() -> object:
        if not backward:
            return contourlet(x, boundary=boundary)  # type: ignore[arg-type]
        y = x.requires_grad_()
        stacks = CDM(boundary=boundary)(y)  # type: ignore[arg-type]
        return torch.autograd.grad(stacks, y, [stack.detach() for stack in stacks])

    contourlet(x[:1, :1], boundary=boundary)  # type: ignore[arg-type]
    transform()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    transform()
    peak = (_resident("VmHWM") - before) / 1024
    # Taken in turns, so that a neighbour's load meets both.
    pairs = [(_seconds(copy), _seconds(transform)) for _ in range(8)]
    return {"copy": min(a for a, _ in pairs), "transform": min(b for _, b in pairs), "mib": peak}


def _seconds(call) -> float:  # type: ignore[no-untyped-def]
    began = time.process_time()
    call()
    return time.process_time() - began


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise ValueError(f"the kernel tells no {field}")


@pytest.mark.parametrize("boundary", ["periodic", "toolbox"])
@pytest.mark.parametrize(("shape", "backward"), CASES)
def test_contourlet(shape, backward, boundary):
    arguments = json.dumps([shape, backward, boundary])
    run = subprocess.run([sys.executable, __file__, arguments], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    copies = found["transform"] / found["copy"]
    bound = BYTES_PER_SAMPLE * (2 if backward else 1)
    what = "forward + backward" if backward else "forward"
    print(
        f"\n{boundary:8} {'x'.join(map(str, shape)):14} {what:18} {found['transform'] * 1e3:6.1f} ms = {copies:5.1f} copies"
        f" = {copies / bound:5.1f} x the traffic bound, {found['mib']:5.0f} MiB"
    )
    assert copies > 0


if __name__ == "__main__":
    print(json.dumps(measure(*json.loads(sys.argv[1]))))
