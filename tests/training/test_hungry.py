"""Steps that wait for their batches are said before a GPU idles for days."""

import time
from pathlib import Path
from typing import Any

import pytest

from harness.experiment.resources import Resources
from harness.training import batches
from harness.training.estimate import hungry
from tests.support import tiny
from tests.support.commands import call


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch takes 50 ms to make."""
    real = batches._Steps.__getitem__
    monkeypatch.setattr(batches._Steps, "__getitem__", lambda self, step: (time.sleep(0.05), real(self, step))[1])


@pytest.mark.parametrize(
    ("resources", "step", "hungry_for"),
    [
        ({"loader_workers": 2}, 0.01, 5),
        ({"loader_workers": 8}, 0.01, None),
        ({"loader_workers": 2}, 0.2, None),
        ({"gpus_per_worker": 1.0}, 0.01, 5),
        ({}, 0.01, None),  # on a CPU, batches are made beside the steps in any case
    ],
)
def test_too_few_loader_workers_are_said(
    slow: None, tmp_path: Path, resources: dict[str, Any], step: float, hungry_for: int | None
) -> None:
    runs = tiny.plan(tmp_path)
    seconds = {("tiny", "teacher", "none"): 1.0, ("tiny", "student", "none"): step, ("tiny", "student", "kd"): 9.0}
    said = hungry(runs, Resources.model_validate(resources), seconds)
    assert len(said) == (hungry_for is not None)
    if hungry_for is not None:
        given = resources.get("loader_workers", 0)
        assert f"the fastest step takes 10 ms: {given} loader workers cannot feed it" in said[0]
        number = int(said[0].partition("resources.loader_workers ")[2].split()[0])
        assert hungry_for <= number <= hungry_for + 4 and "pair tiny: one process makes a batch in" in said[0]


def test_check_says_so(slow: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.training import estimate

    monkeypatch.setattr(estimate, "_time", lambda run, resources: 0.001)
    text = call("check", tiny.write(tmp_path, resources={"loader_workers": 1})).stdout
    assert "note: pair tiny: one process makes a batch in" in text
    assert "cannot feed" not in call("check", tiny.write(tmp_path)).stdout
