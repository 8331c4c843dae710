"""`train.teacher_fast`: the teacher's pass in bfloat16, everything after it in float32."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.distillers import METHODS
from harness.experiment.recipe import Train
from harness.results import store
from harness.taps import Taps, View
from harness.testing.made_up import MAIN, SIZE, labels, net
from harness.training.build import build_teacher, load_data
from harness.training.normalize import normalised_images
from harness.training.precision import teach, teacher_layout
from tests.support import tiny

LARGEST, MEAN = 0.14, 0.0065
"""Differences of a class probability to float32's, of the teacher below: twice what was measured."""


def recipe(precision: str = "fp32", fast: bool = True, **options: Any) -> Train:
    return Train(steps=1, batch_size=2, precision=precision, teacher_fast=fast, **options)


class Watched(nn.Module):
    """A teacher that notes in which type its scores were computed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.seen = net(MAIN.teacher, 1).eval(), set[torch.dtype]()

    def forward(self, image: Tensor) -> Taps:
        taps: Taps = self.inner(image)
        self.seen.add(taps.logits.dtype)
        return taps


@pytest.mark.parametrize(
    ("precision", "fast", "inside", "outside"),
    [
        ("fp32", False, torch.float32, torch.float32),
        ("fp32", True, torch.bfloat16, torch.float32),
        ("tf32", True, torch.bfloat16, torch.float32),
        ("bf16", False, torch.bfloat16, torch.bfloat16),
        ("bf16", True, torch.bfloat16, torch.bfloat16),
    ],
)
def test_only_the_pass_itself_is_in_half_precision(precision, fast, inside, outside):
    teacher = Watched()
    taps = teach(teacher, torch.randn(SIZE[0], 3, *SIZE[1:]), recipe(precision, fast))
    assert teacher.seen == {inside}
    assert {x.dtype for x in (*taps.stages.values(), taps.decoder, taps.logits)} == {outside}
    assert not taps.full.requires_grad and not torch.is_autocast_enabled("cpu")


def test_its_weights_are_channels_last():
    assert teacher_layout(recipe()) == teacher_layout(recipe(fast=False, channels_last=True)) == torch.channels_last
    assert teacher_layout(recipe(fast=False)) == torch.contiguous_format


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if kind.needs_teacher])
def test_every_method_takes_its_maps(name):
    torch.manual_seed(0)
    distiller, image = METHODS[name](MAIN), torch.randn(SIZE[0], 3, *SIZE[1:])
    student, teacher = net(MAIN.student, 0), net(MAIN.teacher, 1).eval()
    found = []
    for fast in (False, True):
        taught = teach(teacher, image, recipe(fast=fast))
        terms = distiller(View(student(image), taught, labels(), 0.5, torch.Generator().manual_seed(0)))
        found.append({key: value.item() for key, value in terms.items()})
        assert all(value.dtype == torch.float32 for value in terms.values())
    assert found[1] == pytest.approx(found[0], rel=0.1, abs=0.02)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    teacher = tiny.plan(folder, "pairs.0.teacher.steps=40")[0]
    assert tiny.in_process(teacher, folder) == "ok"
    return folder


def test_a_trained_teachers_probabilities_are_near_float32s(trained: Path):
    run = next(run for run in tiny.plan(trained, "pairs.0.teacher.steps=40") if run.method.name == "kd")
    data = load_data(run.data)
    teacher = build_teacher(run, data.info, trained, torch.device("cpu"))
    image = normalised_images(
        torch.stack([torch.from_numpy(x.copy()) for x, _ in data.val]), data.info, torch.channels_last
    )
    slow, fast = (teach(teacher, image, recipe(fast=fast)).full.softmax(1) for fast in (False, True))
    assert slow.max(1).values.mean() > 0.3  # it has learned something
    difference = (slow - fast).abs()
    print(f"largest {difference.max():.4f}, mean {difference.mean():.5f}")
    assert 0 < difference.max() < LARGEST and difference.mean() < MEAN


def test_a_student_without_a_teacher_is_the_same_and_a_taught_one_nearly(trained: Path):
    rows = []
    for fast in ("false", "true"):
        runs = tiny.plan(trained, "pairs.0.teacher.steps=40", f"train.teacher_fast={fast}")
        for run in runs:
            assert tiny.in_process(run, trained) == "ok"
        rows.append({run.method.name: store.read_run(trained, run.run_id) for run in runs if run.role == "student"})
    assert rows[0]["none"]["weights_sha256"] == rows[1]["none"]["weights_sha256"]
    assert rows[0]["kd"]["weights_sha256"] != rows[1]["kd"]["weights_sha256"]
    terms = [dict(row["kd"]["losses"][-1]["terms"])["kd"] for row in rows]
    assert terms[1] == pytest.approx(terms[0], rel=0.05)
