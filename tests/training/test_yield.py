"""A run whose machine is taken away writes its checkpoint, yields, and goes on elsewhere with the same bits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.cuda._utils import _get_device_index

from harness.experiment.spec import Run
from harness.results import paths, store
from harness.training.checkpoints import Checkpoints
from harness.training.execute import execute, execute_together
from harness.training.progress import Progress
from harness.training.resume import Leave
from harness.training.runtime import Runtime
from tests.support import tiny

SAME = "status", "val_confusion", "curve", "losses", "weights_sha256"


class Notice:
    """Comes after so many questions, and stays."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def runtime(folder: Path, run: Run, leaves: Callable[[], bool], background: bool = False, **options: Any) -> Runtime:
    checkpoints = Checkpoints(paths.checkpoint_directory(folder, run.run_id), background=background)
    return Runtime.local(checkpoints, device=torch.device("cpu"), leaves=leaves, **options)


def test_a_process_with_a_part_of_a_gpu_has_that_part_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, int | None]] = []

    def fraction(share: float, device: int | None) -> None:
        assert device is None or _get_device_index(torch.device("cuda", device)) == device  # as torch takes it
        asked.append((share, device))

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fraction)
    device = torch.device("cuda")
    Runtime.local(device=device, gpu_share=0.25).enter()
    Runtime.local(device=torch.device("cuda:1")).enter()
    Runtime.local(device=torch.device("cpu"), gpu_share=0.25).enter()
    assert asked == [(0.25, None), (1.0, 1)]


def never() -> bool:
    return False


@pytest.mark.parametrize("background", [False, True])
def test_a_run_yields_after_its_step_and_loses_none(tmp_path: Path, background: bool) -> None:
    run, folders = tiny.plan(tmp_path, "train.checkpoint_every=6")[0], [tmp_path / "whole", tmp_path / "cut"]
    assert execute(run, runtime(folders[0], run, never), folders[0]) == "ok"
    first = runtime(folders[1], run, Notice(1), background)
    assert execute(run, first, folders[1], last_try=True) == "yielded"
    assert not paths.run_path(folders[1], run.run_id).exists() and not (folders[1] / "failures").exists()
    again: list[Progress] = []
    assert execute(run, runtime(folders[1], run, never, on_progress=again.append), folders[1]) == "ok"
    assert next(report.began for report in again if report.began is not None) == 2
    whole, cut = (store.read_run(folder, run.run_id) for folder in folders)
    assert {key: whole[key] for key in SAME} == {key: cut[key] for key in SAME}


def test_one_that_is_at_its_last_step_ends(tmp_path: Path) -> None:
    run = tiny.plan(tmp_path)[0]
    assert execute(run, runtime(tmp_path, run, Notice(2)), tmp_path) == "ok"  # a teacher of three steps


def test_runs_in_step_yield_together(tmp_path: Path) -> None:
    teacher, *runs = tiny.plan(tmp_path, methods=["none", "kd", "cwd"])
    assert tiny.in_process(teacher, tmp_path) == "ok"
    notice, ended = Notice(4), dict[str, str]()  # it comes when the second of three has had its second step
    leaves: dict[str, Callable[[], bool]] = {run.run_id: notice for run in runs}
    execute_together(
        {run.run_id: run for run in runs},
        {run.run_id: runtime(tmp_path, run, leaves[run.run_id]) for run in runs},
        tmp_path,
        lambda run_id: None,
        ended.__setitem__,
    )
    assert ended == {run.run_id: "yielded" for run in runs}
    steps = {}
    for run in runs:
        again: list[Progress] = []
        assert execute(run, runtime(tmp_path, run, never, on_progress=again.append), tmp_path) == "ok"
        steps[run.method.name] = next(report.began for report in again if report.began is not None)
    assert steps == {"none": 3, "kd": 2, "cwd": 2}


def test_ranks_with_slow_steps_agree_at_each() -> None:
    """A notice gives a machine a minute or two."""

    class Two(Runtime):
        def agreed(self, values: Any) -> list[float]:
            return list(values)

        def sum(self, values: torch.Tensor) -> torch.Tensor:
            return values

    now = 0.0
    leave, found = Leave(Two(torch.device("cpu"), workers=2, leaves=lambda: now > 60), 0, lambda: now), []
    for step in range(1, 6):
        now += 30.0
        found.append(leave.asked(step))
    assert found == [False, False, True, True, True]


def test_ranks_agree_and_any_of_them_is_enough() -> None:
    """Only the rank on the node that is taken away knows; all of them must save the same step."""

    class Two(Runtime):
        def agreed(self, values: Any) -> list[float]:
            return list(values)

        def sum(self, values: torch.Tensor) -> torch.Tensor:
            asked.append(values.item())
            return values + others

    asked: list[float] = []
    now, others = 0.0, 0.0
    leave = Leave(Two(torch.device("cpu"), workers=2), 0, lambda: now)
    found = []
    for step in range(1, 31):
        now += 1.0
        others = float(step >= 15)
        found.append(leave.asked(step))
    assert 1 <= len(asked) <= 5, "they wait for each other, so not at each step"
    assert not any(found[:14]) and any(found[14:]) and set(asked) == {0.0}
