"""Loss terms that are out of proportion to the task loss at the start: their weights are meant for another setting."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness import seeds
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.results import paths, store
from harness.taps import Pair
from harness.training.batches import training_batches
from harness.training.build import build_method, build_network, build_teacher, converted, for_inputs, load_data
from harness.training.runtime import Runtime
from harness.training.step import KDStep
from harness.training.task_loss import TaskLoss

LARGE = 20.0
"""Times the task loss at the first step from which a term is said to be out of proportion."""


def large(terms: Mapping[str, float]) -> str:
    """Which terms are more than `LARGE` times the task loss; empty if none is.

    Args:
        terms: values by name, with "task".
    """
    task = abs(float(terms["task"]))
    names = [name for name, value in sorted(terms.items()) if name != "task" and abs(float(value)) > LARGE * task]
    if not names:
        return ""
    verb, its = ("is", "its weight is") if len(names) == 1 else ("are", "their weights are")
    return f"{', '.join(names)} {verb} over {LARGE:g} times the task loss at first; {its} meant for another setting"


def notes(runs: Iterable[Run], resources: Resources, directory: Path) -> list[str]:
    """What `large` finds for each method on each pair whose teacher is finished and here, a line each.

    Args:
        runs: of an experiment; the first seed of a method is looked at.
        resources: `cpus_per_worker` threads are used.
        directory: the experiment's results folder.
    """
    torch.set_num_threads(resources.cpus_per_worker)
    found: dict[tuple[str, str], str] = {}
    for run in runs:
        key = run.pair, run.method.label
        if key in found or run.role == "teacher" or not run.method.needs_teacher or run.teacher_run is None:
            continue
        row, weights = (of(directory, run.teacher_run) for of in (paths.run_path, paths.weights_path))
        # Rows may have been fetched or committed without the weights.
        if row.is_file() and weights.is_file() and store.read_row(row)["status"] == "ok":
            found[key] = large(first_step(run, resources, directory))
    return [f"pair {pair}, {label}: {text}" for (pair, label), text in found.items() if text]


def first_step(run: Run, resources: Resources, directory: Path) -> dict[str, float]:
    """The loss terms of a run's first step, on a CPU in fp32.

    Raises:
        ValueError: the teacher's weights are missing, or the method does not apply.
    """
    raw = load_data(run.data)
    data = for_inputs(raw, run.train.normalize, run.network)
    info, device = data.info, torch.device("cpu")
    student, teacher = build_network(run, info), build_teacher(run, info, directory, device)
    pair = Pair(student.info(), teacher.info(), info.num_classes, info.ignore_index)
    loss = TaskLoss(run.train.loss, info.num_classes, info.ignore_index)
    step = KDStep(student, build_method(run.method, pair, run.stream_seed), info.ignore_index, loss=loss)
    runtime = Runtime.local(device=device, threads=resources.cpus_per_worker)
    batch = next(iter(training_batches(data.train, info, run, runtime, 0, 1)))
    assert run.teacher is not None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(run.stream_seed, "network noise", 0, 0))
        taught = teacher(converted(batch.image, info, for_inputs(raw, run.train.normalize, run.teacher).info))
        stream = torch.Generator().manual_seed(seeds.derive(run.stream_seed, "distiller noise", 0, 0))
        terms = step(batch.image, batch.label, taught, loss.counts(batch.label).clamp(min=1), 0.0, stream)
    return {name: float(value) for name, value in terms.items()}


def of_log(losses: Sequence[Mapping[str, Any]]) -> str:
    """What `large` finds in the first entry of a run's log; empty without one."""
    return large(losses[0]["terms"]) if losses else ""
