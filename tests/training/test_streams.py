"""What a run draws at random: the same for all methods of a seed, nothing of it for a teacher of that seed."""

from pathlib import Path

import pytest
import torch

from harness.experiment.spec import Run
from harness.training.batches import training_batches
from harness.training.build import build_network, load_data
from harness.training.runtime import Runtime
from tests.support import tiny

Drawn = tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]


def drawn(run: Run, folder: Path) -> Drawn:
    """Images and labels of four steps, and the initial weights."""
    data, runtime = load_data(run.data), Runtime.local(folder, device=torch.device("cpu"))
    batches = list(training_batches(data.train, data.info, run, runtime, 0, 4))
    images, labels = torch.cat([b.image for b in batches]), torch.cat([b.label for b in batches])
    return images, labels, build_network(run, data.info).state_dict()


def same(one: Drawn, other: Drawn) -> tuple[bool, bool]:
    """Whether the samples are the same, and whether the weights of equal shapes are."""
    weights = [
        torch.equal(value, other[2][key])
        for key, value in one[2].items()
        if value.is_floating_point() and value.std() > 0 and other[2][key].shape == value.shape
    ]
    assert weights
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]), any(weights)


@pytest.mark.parametrize(("version", "shared"), [("2.0", False), ("1.1", True)])
def test_a_teacher_shares_no_stream_with_the_students_of_its_seed(tmp_path: Path, version: str, shared: bool) -> None:
    teacher, *students = tiny.plan(tmp_path, protocol={"version": version})
    assert teacher.seed == students[0].seed == 0
    of = [drawn(run, tmp_path) for run in (teacher, *students)]
    assert same(of[1], of[2]) == (True, True)
    assert same(of[0], of[1]) == (shared, shared)
