"""What a batch costs on a GPU besides its arithmetic, seen on the meta device."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.datasets.base import DataInfo
from harness.training.build import converted
from harness.training.normalize import by_channel, normalised_images

INFO = DataInfo("made-up", 2, ("a", "b"), ((0, 0, 0),) * 2, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "ab", "made up")


def test_a_step_sends_no_constants_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A `torch.tensor` on a GPU is a copy that waits for everything before it."""
    device = torch.device("meta")
    image = torch.zeros(2, 4, 4, 3, dtype=torch.uint8, device=device)
    made: list[Any] = []
    real = torch.tensor

    def counting(*values: Any, **options: Any) -> Tensor:
        made.append(values)
        return real(*values, **options)

    by_channel.cache_clear()
    monkeypatch.setattr(torch, "tensor", counting)
    other = replace(INFO, mean=(7.0, 8.0, 9.0), bgr=True)
    counts = []
    for _ in range(3):
        seen = normalised_images(image, INFO, torch.channels_last)
        assert converted(seen, INFO, other).shape == seen.shape == (2, 3, 4, 4)
        counts.append(len(made))
    assert counts == [3, 3, 3]


def test_constants_made_while_evaluating_serve_a_backward_pass() -> None:
    by_channel.cache_clear()
    with torch.inference_mode():
        scale = by_channel((1.0, 2.0), torch.device("cpu"))
    x = torch.ones(1, 2, 1, 1, requires_grad=True)
    (x * scale).sum().backward()
    assert x.grad is not None and x.grad.flatten().tolist() == [1, 2]
