"""Estimates what a run will cost, from a few real steps of each method on this machine."""

import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.datasets import SOURCES
from harness.datasets.texmosaic import TEXTURES
from harness.distillers import Distiller
from harness.experiment.recipe import Train
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.models import TapNet, build
from harness.taps import Pair, View
from harness.training.batches import share_of_batch, training_batches
from harness.training.build import build_method, for_inputs, load_data
from harness.training.cost import device_name
from harness.training.deterministic import in_fixed_order
from harness.training.feed import compiled
from harness.training.precision import autocast, set_backend, teach, teacher_layout
from harness.training.runtime import Runtime

WARM_UP, TIMED = 1, 3
IMAGES_TIMED = 2
"""The fewest with which batch normalisation of a pooled map works."""


def step_seconds(runs: Sequence[Run], resources: Resources) -> dict[tuple[str, str, str], float]:
    """Median seconds of a training step on one worker, by (pair, role, method label).

    The teacher has random weights: time does not depend on them. Building every method also checks that it applies to
    its pair.

    Raises:
        ValueError: a network cannot be built or a method does not apply.
    """
    torch.set_num_threads(resources.cpus_per_worker)
    seen: dict[tuple[str, str, str], float] = {}
    for run in runs:
        key = run.pair, run.role, run.method.label
        if key not in seen:
            try:
                seen[key] = 0.0 if run.checkpoint is not None else _time(run, resources)
            except ValueError as error:
                raise ValueError(f"pair {run.pair}, {run.method.label} ({run.role}): {error}") from None
    return seen


def hungry(runs: Sequence[Run], resources: Resources, seconds: Mapping[tuple[str, str, str], float]) -> list[str]:
    """What to say of pairs whose batches are made more slowly than their fastest run uses them up, a line each.

    Args:
        runs: of an experiment.
        resources: with loader workers, or a GPU that the process which makes batches keeps waiting.
        seconds: of a step, as `step_seconds` gives them.
    """
    if not resources.loader_workers and not resources.gpus_per_worker:
        return []
    found = {}
    for run in runs:
        key = run.pair, run.role, run.method.label
        if run.role != "student" or key not in seconds or run.pair in found:
            continue
        step = min(each for (pair, role, _), each in seconds.items() if (pair, role) == (run.pair, "student"))
        data = load_data(run.data)
        making = []
        for number in range(WARM_UP + TIMED):
            began = time.perf_counter()
            share_of_batch(data.train, data.info, run, resources.workers, number)
            making.append(time.perf_counter() - began)
        batch = statistics.median(making[WARM_UP:])
        found[run.pair] = ""
        if batch / max(1, resources.loader_workers) > step:
            found[run.pair] = (
                f"pair {run.pair}: one process makes a batch in {1e3 * batch:.0f} ms, and the fastest step takes "
                f"{1e3 * step:.0f} ms: {resources.loader_workers} loader workers cannot feed it. Give "
                f"resources.loader_workers {math.ceil(batch / step)} or more, or read a prepared cache (data prepare)"
            )
    return [text for text in found.values() if text]


def calibrated(runs: Sequence[Run], resources: Resources) -> tuple[dict[tuple[str, str, str], float], str]:
    """Seconds per step of each method at the recipe's crop and batch, without the data.

    After one warm-up step, a step of `IMAGES_TIMED` random images is timed and scaled to the batch: on a CPU a whole
    batch of a large network takes minutes.

    Args:
        runs: of an experiment with a crop.
        resources: `gpus_per_worker` and `cpus_per_worker` name the device.

    Returns:
        By (pair, role, method label); and the device's name.

    Raises:
        ValueError: a network cannot be built, a method does not apply, or there is no crop.
    """
    torch.set_num_threads(resources.cpus_per_worker)
    device = torch.device("cuda" if resources.gpus_per_worker > 0 and torch.cuda.is_available() else "cpu")
    found: dict[tuple[str, str, str], float] = {}
    for run in runs:
        key = run.pair, run.role, run.method.label
        if key in found:
            continue
        if run.train.augment.crop_hw is None:
            raise ValueError("train.augment.crop_hw: an estimate without data needs the crop size")
        classes = classes_of(run.data.name)
        image = torch.randn(IMAGES_TIMED, 3, *run.train.augment.crop_hw, device=device)
        label = torch.randint(classes, (IMAGES_TIMED, *run.train.augment.crop_hw), device=device)
        student, teacher, distiller = _built(run, classes, device)
        seconds, _ = step_seconds_of(student, teacher, distiller, [(image, label)] * 2, 255, run.train)
        found[key] = seconds * run.train.batch_size / IMAGES_TIMED
    return found, device_name(device)


def classes_of(dataset: str) -> int:
    """Number of classes of a dataset, without reading it.

    Raises:
        ValueError: it depends on the files or on parameters, or there is no such dataset.
    """
    known = {name: len(source(None).class_names) for name, source in SOURCES.items()} | {"texmosaic": len(TEXTURES)}
    if not known.get(dataset):
        names = ", ".join(name for name, count in known.items() if count)
        raise ValueError(f"{dataset}: its classes are not known without reading it; costs without data: {names}")
    return known[dataset]


def _time(run: Run, resources: Resources) -> float:
    data = for_inputs(load_data(run.data), run.train.normalize, run.network)
    device = torch.device("cuda" if resources.gpus_per_worker > 0 and torch.cuda.is_available() else "cpu")
    runtime = Runtime.local(device=device, threads=resources.cpus_per_worker)
    student, teacher, distiller = _built(run, data.info.num_classes, device, data.info.ignore_index)
    batches = training_batches(data.train, data.info, run, runtime, 0, WARM_UP + TIMED)
    return step_seconds_of(student, teacher, distiller, batches, data.info.ignore_index, run.train)[0]


def _built(
    run: Run, classes: int, device: torch.device, ignore_index: int = 255
) -> tuple[TapNet, TapNet | None, Distiller]:
    """Student, teacher if the method needs one, and method, with random weights: time does not depend on them."""
    student = build(run.network.model_copy(update={"encoder_weights": None}), classes, run.seed).to(device)
    teacher: TapNet | None = None
    if run.method.needs_teacher and run.teacher is not None:
        spec = run.teacher.model_copy(update={"encoder_weights": None})
        teacher = build(spec, classes, 0).eval().requires_grad_(False).to(device)
    pair = Pair(student.info(), (teacher or student).info(), classes, ignore_index)
    return student, teacher, build_method(run.method, pair, run.seed).to(device)


def step_seconds_of(
    student: TapNet,
    teacher: TapNet | None,
    distiller: Distiller,
    batches: Iterable[tuple[Tensor, Tensor]],
    ignore_index: int,
    recipe: Train,
) -> tuple[float, tuple[str, ...]]:
    """Median seconds of a training step without the optimizer, after the first ones, and the names of the terms.

    Args:
        student: trained, on its device.
        teacher: on the same device; None where the method needs none.
        distiller: on the same device.
        batches: images (N, 3, H, W) and labels (N, H, W).
        ignore_index: label of ignored pixels.
        recipe: its precision, memory layout and compilation are used.
    """
    set_backend(recipe)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    cast, fixed = autocast(recipe, next(student.parameters()).device), in_fixed_order(recipe)
    seen = compiled(student.to(memory_format=layout), recipe.compile)
    if teacher is not None:
        teacher.to(memory_format=teacher_layout(recipe))
    stream, times, terms = torch.Generator().manual_seed(0), [], {}
    for image, label in batches:
        began = time.perf_counter()
        image = image.contiguous(memory_format=layout)
        taught = None if teacher is None else teach(teacher, image, recipe)
        with cast, fixed:
            taps = seen(image)
            loss = F.cross_entropy(taps.full, label, ignore_index=ignore_index)
            terms = distiller(View(taps, taught, label, 0.0, stream))
        torch.stack([loss, *terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        if image.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[WARM_UP:] or times), tuple(terms)
