"""What an exported student takes by its own runtime, against eager PyTorch: one image, one thread, in one run.

    pytest tests/benchmarks/bench_export.py

Random weights; the table prints milliseconds (the fastest of interleaved rounds) and the ratio to eager PyTorch. An
ONNX student is not to be slower than it.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from harness.deployment.judge import on_threads
from harness.deployment.source import Form
from tests.support.exported import TARGETS, source

STUDENTS = (("unet", "resnet18"), ("fpn", "mobilenet_v2"), ("deeplabv3plus", "tu-mobilenetv3_small_050"))
SIZE, ROUNDS = (256, 256), 15


def _best(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """ms of the fastest of interleaved rounds, after two that are not counted."""
    best = dict.fromkeys(calls, float("inf"))
    for turn in range(ROUNDS + 2):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn >= 2:
                best[name] = min(best[name], 1e3 * (time.perf_counter() - began))
    return best


@pytest.mark.parametrize(("architecture", "encoder"), STUDENTS)
def test_exported_against_eager(architecture: str, encoder: str, tmp_path: Path) -> None:
    found = source(architecture, encoder)
    assert found is not None
    form, image = Form(size_hw=SIZE, batch=1), torch.randn(1, 3, *SIZE)
    calls: dict[str, Callable[[], object]] = {"eager PyTorch": lambda: found.network(image).full}
    for name, kind in TARGETS.items():
        (tmp_path / name).mkdir()
        kind.write(found, form, tmp_path / name)
        calls[name] = partial(kind.load(tmp_path / name, 1), image)
    with torch.no_grad(), on_threads(1):
        taken = _best(calls)
    print(f"\n{architecture} with {encoder}, {SIZE[0]}x{SIZE[1]}")
    for name, ms in taken.items():
        print(f"  {name:16s} {ms:8.2f} ms  x {ms / taken['eager PyTorch']:.2f}")
    assert taken["onnx"] <= taken["eager PyTorch"]
