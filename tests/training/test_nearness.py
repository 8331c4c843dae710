"""What positive controls look at: CKA by its definition, agreement, the course of a loss term."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.datasets.base import DataInfo
from harness.taps import Taps
from harness.training.texture import Networks
from tests.support import tiny
from tests.support.nearness import Cka, ends, nearness, of_runs


def maps(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def by_kernels(x: np.ndarray, y: np.ndarray) -> float:
    """CKA as defined: of centred kernel matrices."""
    n = len(x)
    centre = np.eye(n) - 1 / n
    k, m = (centre @ z @ z.T @ centre for z in (x, y))
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def test_cka_is_that_of_the_kernels_whatever_the_batches():
    x, y = maps(0, 5, 3, 4, 4), maps(1, 5, 6, 4, 4)
    y[:, :2] += 2 * x[:, :2]
    cka = Cka()
    cka.add(x[:2], y[:2])
    cka.add(x[2:], y[2:])
    flat_x, flat_y = (m.movedim(1, 3).flatten(0, 2).numpy() for m in (x, y))
    assert cka.value() == pytest.approx(by_kernels(flat_x, flat_y), rel=1e-9)
    assert 0.1 < cka.value() < 0.9


def test_cka_does_not_see_rotations_scales_and_sizes():
    x = maps(0, 4, 3, 4, 4)
    turned = torch.einsum("ij,njhw->nihw", torch.linalg.qr(maps(1, 3, 3))[0], 7 * x + 3)
    for y in (turned, turned.repeat_interleave(2, 2).repeat_interleave(2, 3)):
        cka = Cka()
        cka.add(x, y)
        assert cka.value() == pytest.approx(1)


class Made(torch.nn.Module):
    """A network whose maps are a fixed mixture of its image."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight.float()

    def forward(self, image: Tensor) -> Taps:
        mixed = torch.einsum("ij,njhw->nihw", self.weight, image)
        return Taps({"stage1": mixed, "own": mixed[:, :1]}, mixed, mixed, mixed)


def pair(student: Tensor, teacher: Tensor) -> Networks:
    sees: Any = tiny_info()
    return Networks(None, Made(student), Made(teacher), sees, sees)  # type: ignore[arg-type]


def tiny_info() -> Any:
    return DataInfo("made-up", 3, ("a", "b", "c"), ((0, 0, 0),) * 3, (0.0,) * 3, (1.0,) * 3, "ab", "made up")


def test_a_copy_agrees_everywhere_and_another_network_as_often_as_counted():
    image = maps(0, 6, 3, 4, 4).float()
    weight = maps(1, 3, 3)
    assert nearness(pair(weight, weight), [image]) == pytest.approx({"agreement": 1, "encoder": 1, "decoder": 1})
    other = maps(2, 3, 3)
    same = (Made(weight)(image).full.argmax(1) == Made(other)(image).full.argmax(1)).float().mean()
    found = nearness(pair(other, weight), [image[:4], image[4:]])
    assert found["agreement"] == pytest.approx(float(same)) and found["decoder"] < 0.999


def test_ends_are_means_of_the_first_and_the_last_tenth():
    row = {"losses": [{"terms": [("task", 1.0), ("kd", float(i))]} for i in range(20)]}
    assert ends(row) == {"kd": (0.5, 18.5)}


def test_of_finished_runs(tmp_path):
    """The student without distillation, which has no teacher of its own, is measured against the same one."""
    teacher, none, kd = tiny.plan(tmp_path)
    for run in (teacher, none, kd):
        assert tiny.in_process(run, tmp_path / "tiny") == "ok"
    found = {row["method"]: near for row, near in of_runs(tmp_path / "tiny", [kd.run_id, none.run_id])}
    assert found.keys() == {"kd", "none"} and found["kd"] != found["none"]
    assert all(0 < value <= 1 for near in found.values() for value in near.values())
