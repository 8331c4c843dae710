"""One run from its first step to its result. No branch on the method, no Ray: the loop is read top to bottom.

`train` is the same function in a plain process, in a warm Ray actor and in the ranks of a Ray Train worker group.
"""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from harness import seeds
from harness.datasets import Data
from harness.distillers import Distiller
from harness.experiment.spec import Run
from harness.metrics import miou
from harness.models import SegNet, save_state, state_sha256
from harness.results.per_image import per_image_path, write_per_image
from harness.results.record import weights_path
from harness.taps import Pair, Taps, View
from harness.training import guards, resume
from harness.training.build import (
    build_method,
    build_network,
    build_teacher,
    converted,
    for_inputs,
    load_data,
    network_cost,
    teacher_weights,
)
from harness.training.cost import PeakMemory, StepClock, device_name, latency_ms, parameters
from harness.training.evaluate import Counted, evaluate, predict
from harness.training.optimizers import Optimizers, lr_factor
from harness.training.resume import Log, Terms
from harness.training.runtime import Runtime

SAMPLE_IMAGES = 4
PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


class GiveWay(Exception):
    """The run has stopped at a checkpoint because it was asked to; it goes on from there with other workers."""


@dataclass
class RunResult:
    """What a finished run knows: measured columns of its row, in the units that `harness.results.store` names."""

    columns: dict[str, Any]
    weights_sha256: str | None


class KDStep(nn.Module):
    """Student and distiller as one module, the only one that is wrapped for several workers."""

    def __init__(
        self,
        student: nn.Module,
        distiller: Distiller,
        ignore_index: int,
        auxiliary_weight: float = 0.4,
        global_images: int | None = None,
    ) -> None:
        super().__init__()
        self.global_images = global_images
        self.student = student
        self.distiller = distiller
        self.ignore_index = ignore_index
        self.auxiliary_weight = auxiliary_weight
        head = getattr(student, "auxiliary", None)
        if head is not None and not auxiliary_weight:
            head.requires_grad_(False)  # then it is not run: no idle parameters, no term that is always 0

    def forward(
        self,
        image: Tensor,
        label: Tensor,
        teacher: Taps | None,
        valid: Tensor,
        progress: float,
        stream: torch.Generator,
    ) -> Terms:
        """Named scalar terms of one micro-batch.

        `task` is the cross-entropy summed over this micro-batch and divided by `valid`, so that ranks and accumulation
        steps with fewer labelled pixels do not weigh more; `auxiliary`, the weighted one of the auxiliary head's scores
        at the labels' size, likewise. Distiller terms are means over the micro-batch.
        """
        taps: Taps = self.student(image)
        own = {"task": self._cross_entropy(taps.full, label) / valid}
        if taps.aux is not None:
            scores = F.interpolate(taps.aux.float(), label.shape[-2:], mode="bilinear", align_corners=True)
            own["auxiliary"] = self.auxiliary_weight * self._cross_entropy(scores, label) / valid
        terms: Terms = self.distiller(View(taps, teacher, label, progress, stream, self.global_images))
        if self.distiller.needs_teacher and not terms:
            raise ValueError("the method gives no loss terms; every weight is 0. Use `none` for the plain student.")
        for name in ("task", "auxiliary"):
            if name in terms:
                raise ValueError(f"a distiller's term is called {name!r}, a supervised loss; give it another name")
        return {**own, **terms}

    def equal_buffers(self) -> list[str]:
        """Names of the distiller's buffers that need not be sent to other workers."""
        return [f"distiller.{name}" for name in self.distiller.equal_buffers()]

    def _cross_entropy(self, scores: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(scores.float(), label, ignore_index=self.ignore_index, reduction="sum")


def train(run: Run, runtime: Runtime, experiment: Path) -> RunResult | None:
    """Train (or, for a given teacher checkpoint, only evaluate) one network; ranks above 0 return None.

    Args:
        run: what to train.
        runtime: where.
        experiment: the experiment's results folder; the teacher's weights are read from it, the run's written to it.

    Raises:
        ValueError: something in the run does not fit (teacher, method, data, sizes), with the remedy.
        FloatingPointError: a loss term is not finite; names it.
        GiveWay: the runtime wanted the run to stop at a checkpoint.
    """
    runtime.enter()
    began, memory = time.perf_counter(), PeakMemory(runtime.device)
    recipe, device = run.train, runtime.device
    if recipe.precision == "fp16" and device.type != "cuda":
        raise ValueError("train.precision: fp16 needs a GPU; use fp32 or bf16 on a CPU")
    data = for_inputs(load_data(run.data, runtime.share), recipe.normalize, run.network.encoder)
    student = build_network(run, data.info)
    teacher = build_teacher(run, data.info, experiment, device, runtime.share) if run.method.needs_teacher else None
    infos = student.info(), (teacher or student).info()
    distiller = build_method(run.method, Pair(*infos, data.info.num_classes, data.info.ignore_index), run.seed)
    facts = _facts(run, student, distiller, data, device)
    facts["teacher_sha256"] = teacher_weights(run, experiment)[1] if teacher is not None else None
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    for network in (student, teacher):
        if network is not None:
            network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    module = KDStep(
        _compiled(student, recipe.compile),
        distiller,
        data.info.ignore_index,
        recipe.auxiliary_weight,
        recipe.batch_size,
    )
    step = runtime.wrap(module, recipe.sync_batchnorm, module.equal_buffers())
    seen_by_teacher = _compiled(teacher, recipe.compile) if teacher is not None else None
    wanted_by_teacher = for_inputs(data, recipe.normalize, run.teacher.encoder).info if run.teacher else data.info
    optimizers = Optimizers(recipe.optimizer, step, distiller)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    steps = 0 if run.checkpoint is not None else recipe.steps
    accumulate = runtime.accumulate(recipe)
    trained = resume.Trained(student, distiller, optimizers, scaler)
    first, log, clock = resume.resume(runtime, run, data.info.content_hash, trained)
    runtime.on_progress({"began": first})
    timer = resume.SaveTimer(runtime, runtime.checkpoint_minutes, first, time.monotonic)
    autocast = torch.autocast(device.type, PRECISION.get(recipe.precision), enabled=recipe.precision in PRECISION)
    watcher = guards.Guard(runtime)
    guards.teacher_untouched(teacher)
    tick = waited = time.perf_counter()

    for i, batch in enumerate(runtime.batches(data.train, data.info, run, first, steps), start=first):
        log.data_ms.append((time.perf_counter() - waited) * 1e3)
        # Every stream starts anew from (seed, name, step, rank): nothing has to be remembered to resume.
        torch.manual_seed(seeds.derive(run.seed, "network noise", i, runtime.rank))
        stream = torch.Generator().manual_seed(seeds.derive(run.seed, "distiller noise", i, runtime.rank))
        factor = lr_factor(recipe.schedule, i, steps)
        optimizers.schedule(factor)
        with clock:
            valid = runtime.sum((batch.label != data.info.ignore_index).sum().float()).clamp(min=1)
            # DDP averages over ranks and the micro-batches are averaged below; the task's sum must undo both.
            valid = valid / (runtime.workers * accumulate)
            sums: Terms = {}
            for piece, (image, label) in enumerate(
                zip(batch.image.chunk(accumulate), batch.label.chunk(accumulate), strict=True)
            ):
                with runtime.unsynced(step, last=piece == accumulate - 1):
                    with autocast:
                        with torch.no_grad():
                            shown = converted(image, data.info, wanted_by_teacher)
                            taught = seen_by_teacher(shown).detach() if seen_by_teacher is not None else None
                        terms: Terms = step(image, label, taught, valid, i / steps, stream)
                    if i == first:
                        guards.connected(terms, run.method.label, teacher is not None)
                    loss = torch.stack(list(terms.values())).sum() / accumulate
                    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0) + value.detach().float() / accumulate
            if i == first:
                guards.all_used(step)
            if recipe.clip_norm is not None:
                scaler.unscale_(optimizers.main)
                nn.utils.clip_grad_norm_(student.parameters(), recipe.clip_norm)
            optimizers.step(scaler)
            watcher.watch(sums, i)
        done = i + 1
        evaluates = done == steps or (recipe.eval_every is not None and done % recipe.eval_every == 0)
        saves = evaluates if recipe.checkpoint_every is None else (done == steps or done % recipe.checkpoint_every == 0)
        saves = timer.due(done) or saves
        logs = evaluates or done % max(1, steps // 50) == 0
        log.add(sums)
        if logs or saves:
            watcher.check()
        if logs:
            log.write_losses(runtime, done, recipe.optimizer.lr * factor)
        log.train_seconds += time.perf_counter() - tick
        tick = time.perf_counter()
        if evaluates:
            confusion = evaluate(student, data, "dev", run, runtime).confusion
            log.curve.append({"step": done, "dev_miou": miou(confusion, run.protocol.absent_policy)})
            log.eval_seconds += time.perf_counter() - tick
        if saves:
            guards.teacher_untouched(teacher)
            resume.save(runtime, run, data.info.content_hash, done, trained, log, clock)
            if done < steps and runtime.agreed([runtime.give_way()])[0]:
                runtime.checkpoints.wait()
                raise GiveWay(f"stopped at step {done}")
        if logs or saves:
            runtime.on_progress({"step": done, "steps": steps, **log.now(), "step_ms": clock.percentile(50)})
        if evaluates and done < steps:
            runtime.on_evaluation({"step": done, "step_ms": clock.percentile(50), **log.so_far()})
        tick = waited = time.perf_counter()

    guards.all_contributed({name: float(value) for name, value in log.total.items()}, steps)
    splits = ("dev", "val") if run.trial is None else ("dev",)
    counted = {name: evaluate(student, data, name, run, runtime, final=True) for name in splits}
    log.eval_seconds += time.perf_counter() - tick
    if runtime.rank != 0:
        return None
    if not log.curve:
        log.curve.append({"step": steps, "dev_miou": miou(counted["dev"].confusion, run.protocol.absent_policy)})
    facts |= _measured(run, log, clock, counted, elastic=runtime.most_workers > 0)
    if run.trial is None:
        facts |= _kept(student, data, run, runtime, counted["val"], experiment)
    facts |= {"wall_seconds": time.perf_counter() - began, "peak_memory_mb": memory.mb()}
    runtime.checkpoints.wait()
    digest = save_state(student.state_dict(), weights_path(experiment, run.run_id)) if run.trial is None else None
    return RunResult(facts, digest)


def _compiled(network: SegNet, wanted: bool) -> nn.Module:
    return torch.compile(network) if wanted else network  # type: ignore[return-value]


def _facts(run: Run, student: SegNet, distiller: Distiller, data: Data, device: torch.device) -> dict[str, Any]:
    """Columns that are known before the first step."""
    info = data.info
    height, width = run.train.augment.crop_hw or data.train[0][0].shape[:2]
    return {
        "student_init_sha256": state_sha256(student.state_dict()),
        "data_hash": info.content_hash,
        "num_classes": info.num_classes,
        "class_names": list(info.class_names),
        "palette": [list(colour) for colour in info.palette],
        "ignore_index": info.ignore_index,
        "floor_dev_miou": info.floor_dev_miou,
        "floor_val_miou": info.floor_val_miou,
        "taps": [*student.info().stages, "decoder", "logits"],
        "student_parameters": parameters(student),
        "extra_parameters": parameters(distiller),
        "student_macs": network_cost(run.network, info.num_classes, height, width)[1],
        "device": device_name(device),
    }


def _measured(run: Run, log: Log, clock: StepClock, counted: Mapping[str, Counted], elastic: bool) -> dict[str, Any]:
    """Columns that are known after the last step."""
    best = max(log.curve, key=lambda point: point["dev_miou"])
    columns: dict[str, Any] = {}
    for name, counts in counted.items():
        columns[f"{name}_confusion"] = counts.confusion.ravel().tolist()
        columns[f"{name}_miou"] = miou(counts.confusion, run.protocol.absent_policy)
        if counts.boundary is not None:
            columns[f"{name}_boundary_confusion"] = counts.boundary.ravel().tolist()
    return columns | {
        "best_dev_miou": best["dev_miou"],
        "best_dev_step": int(best["step"]),
        "curve": log.curve,
        "losses": log.losses,
        "step_ms": clock.percentile(50),
        "step_ms_p90": clock.percentile(90),
        "data_ms": float(np.median(log.data_ms)) if log.data_ms else None,
        "train_seconds": log.train_seconds,
        "eval_seconds": log.eval_seconds,
        "resumed": log.resumed,
        "worker_history": log.workers if elastic or len(log.workers) > 1 else None,
    }


def _kept(student: SegNet, data: Data, run: Run, runtime: Runtime, val: Counted, experiment: Path) -> dict[str, Any]:
    """What somebody may want to know later: predictions, the matrices of single val images, the network's latency."""
    whole = run.role == "teacher" and data.info.shareable
    return _images(run, data, val, experiment) | {
        "samples": _samples(student, data, run, runtime, whole),
        "student_latency_ms": _latency(student, data, run, runtime),
    }


def _latency(student: SegNet, data: Data, run: Run, runtime: Runtime) -> float | None:
    """Milliseconds to predict one dev image as it is evaluated, with one scale and no flip."""
    if not len(data.dev):
        return None
    (batch,) = runtime.evaluation(data.dev, data.info, 1, [0])
    how = run.train.evaluation.model_copy(update={"scales": (1.0,), "flip": False})
    return latency_ms(lambda: predict(student, batch.image, how), batch.image.device)


def _images(run: Run, data: Data, val: Counted, experiment: Path) -> dict[str, Any]:
    """The matrices of single val images into their file, if the run keeps them; the column that names its content."""
    if val.images is None:
        return {}
    path, images, info = per_image_path(experiment, run.run_id), len(data.val), data.info
    digest = write_per_image(path, val.images, images, run.run_id, info.num_classes, info.content_hash)
    return {"per_image_sha256": digest}


def _samples(student: SegNet, data: Data, run: Run, runtime: Runtime, with_images: bool) -> list[dict[str, Any]]:
    """Predictions on the first dev images as PNG; images and labels too where they are wanted (once per teacher)."""
    samples = []
    for index in range(min(SAMPLE_IMAGES, len(data.dev))):
        image, label = data.dev[index]
        (batch,) = runtime.evaluation(data.dev, data.info, 1, [index])
        prediction = predict(student, batch.image, run.train.evaluation)[0].byte().cpu().numpy()
        samples.append(
            {
                "index": index,
                "image": _png(image) if with_images else None,
                "label": _png(label) if with_images else None,
                "prediction": _png(prediction),
            }
        )
    return samples


def _png(array: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
