"""Checks that two processes that train one model stay equal."""

import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from harness.experiment.recipe import Optimizer
from harness.testing.case import Case, require, total
from harness.testing.made_up import IGNORE, MAIN, net
from harness.testing.steps import STEPS, one_step
from harness.training.optimizers import Optimizers
from harness.training.ranks import Ranks
from harness.training.step import KDStep

WORLD = 2
DEADLINE_SECONDS, SILENCE_SECONDS = 600, 120


def two_ranks(case: Case) -> None:
    """After three steps with DistributedDataParallel parameters and buffers, queues among them, are equal on both.

    Statistics of batches in layers that are not synchronised may differ: the next step takes the first rank's.
    """
    problem = disagreements([case])[0]
    require(problem is None, problem or "")


def disagreements(cases: Sequence[Case]) -> list[str | None]:
    """Differences between the ranks, or a rank's error, by case; None if there are none.

    All cases share two processes, because starting them takes longer than the steps.
    """
    found: list[str | None] = []
    while len(found) < len(cases):  # a case that fails on one rank ends both; the remaining cases start again
        with tempfile.TemporaryDirectory() as folder:
            found += _together(cases[len(found) :], Path(folder))
    return found


def _together(cases: Sequence[Case], folder: Path) -> list[str | None]:
    # By pickle and a plain command, not multiprocessing.spawn, which runs the caller's main module again.
    (folder / "cases.pkl").write_bytes(pickle.dumps(list(cases)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    environment |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    processes, said = [], ""
    try:
        for rank in range(WORLD):
            with (folder / f"said{rank}.txt").open("w") as output:
                code = f"from harness.testing.ranks import work; work({str(folder)!r}, {rank})"
                command = [sys.executable, "-c", code]
                processes.append(subprocess.Popen(command, stdout=output, stderr=output, env=environment))
        for process in processes:
            process.wait(DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        said = f"not done after {DEADLINE_SECONDS} s\n"
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    for rank in range(WORLD):  # the one that did not fail only says that its neighbour is gone
        text = (folder / f"said{rank}.txt").read_text().strip()
        said += f"rank {rank}: {text}\n" if text else ""
    return _compared(folder, len(cases), said.strip() or "neither rank said why")


def _compared(folder: Path, count: int, said: str) -> list[str | None]:
    """By case, up to the first without a result."""
    found: list[str | None] = []
    for number in range(count):
        paths = [folder / f"{number}-{rank}.pt" for rank in range(WORLD)]
        if not all(path.is_file() for path in paths):
            return [*found, f"a step with two ranks failed. {said}"]
        states: list[dict[str, Any]] = [torch.load(path, weights_only=True) for path in paths]
        differ = [name for name, x in states[0].items() if not torch.equal(x, states[1][name])]
        message = f"{', '.join(differ)} differ between two ranks after {STEPS} steps; gather what a queue takes in"
        found.append(message if differ else None)
    return found


def work(folder: str, rank: int) -> None:
    """One rank: train every case in turn and write its final state to a file."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/rendezvous"
    try:
        cases = pickle.loads((Path(folder) / "cases.pkl").read_bytes())
        dist.init_process_group("gloo", meeting, timedelta(seconds=SILENCE_SECONDS), rank=rank, world_size=WORLD)
        for number, case in enumerate(cases):
            state = _train(case, rank)
            path = Path(folder) / f"{number}-{rank}.tmp"
            torch.save(state, path)
            path.rename(path.with_suffix(".pt"))
        dist.barrier()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # not waiting for the other rank, which would wait for this one
    dist.destroy_process_group()


def _train(case: Case, rank: int) -> dict[str, torch.Tensor]:
    student, teacher = net(MAIN.student, 1), net(MAIN.teacher, 2).eval().requires_grad_(False)
    distiller = case.build()
    ranks = Ranks(torch.device("cpu"), rank, WORLD)
    module = KDStep(student, distiller, IGNORE)
    step = ranks.wrap(module, sync_batchnorm=True, equal_buffers=module.equal_buffers())
    optimizers = Optimizers(Optimizer(name="adamw", lr=1e-3), step, distiller)
    for number in range(STEPS):
        total(one_step(step, teacher, number, rank)).backward()  # type: ignore[no-untyped-call]
        optimizers.step(torch.amp.GradScaler("cpu", enabled=False))
    return {name: x for name, x in step.state_dict().items() if name not in _unsynchronised(step)}


def _unsynchronised(step: nn.Module) -> set[str]:
    """Running statistics of layers other than torch's batch normalisation, which `Ranks.wrap` has synchronised."""
    return {
        f"{prefix}.{name}"
        for prefix, module in step.named_modules()
        if not isinstance(module, nn.BatchNorm2d)
        for name, _ in module.named_buffers(recurse=False)
        if name in ("running_mean", "running_var")
    }
