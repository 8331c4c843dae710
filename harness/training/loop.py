"""One run from its first step to its result. It has no branch on the method and no Ray; read it top to bottom.

`train` is the same function in a plain process, in a warm Ray actor and in the ranks of a Ray Train worker group.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness import seeds
from harness.experiment.spec import Run
from harness.metrics import miou
from harness.models import TapNet, save_state
from harness.results.paths import weights_path
from harness.taps import Pair
from harness.training import gradients, guards, proportions, resume
from harness.training.average import Average
from harness.training.batches import accumulation_steps, training_batches
from harness.training.build import (
    build_method,
    build_network,
    build_teacher,
    converted,
    for_inputs,
    load_data,
    teacher_weights,
)
from harness.training.columns import kept, measured, run_facts
from harness.training.cost import PeakMemory
from harness.training.evaluate import evaluate
from harness.training.log import Log, Terms
from harness.training.optimizers import Optimizers, optimizer_of
from harness.training.progress import Progress
from harness.training.runtime import Runtime
from harness.training.schedule import Rates
from harness.training.step import KDStep
from harness.training.task_loss import TaskLoss

PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class RunResult:
    """The result of a finished run: measured columns of its row, in the units of `harness.results.schema`."""

    columns: dict[str, Any]
    weights_sha256: str | None


def train(run: Run, runtime: Runtime, directory: Path) -> RunResult | None:
    """Train (or, for a given teacher checkpoint, only evaluate) one network; ranks above 0 return None.

    Args:
        run: what to train.
        runtime: where.
        directory: results folder of the experiment; the teacher's weights are read from it, the run's written to it.

    Raises:
        ValueError: teacher, method, data or sizes do not fit together; says how to fix it.
        FloatingPointError: a loss term, a weight or a class score is not finite; names it.

    Example:
        >>> import tempfile, harness
        >>> short = ["train.steps=2", "train.eval_every=2", "pairs.0.teacher.steps=2"]
        >>> short += ["data.parameters.train=16", "data.parameters.dev=4", "data.parameters.val=4"]
        >>> experiment = harness.load("experiments/quickstart.yaml", short)
        >>> bench = harness.Bench(experiment, tempfile.mkdtemp())
        >>> teacher = bench.pending()[0]
        >>> result = harness.train(teacher, harness.Runtime.local(), bench.directory)
        >>> 0 < result.columns["val_miou"] < 1
        True
    """
    runtime.enter()
    began, memory = time.perf_counter(), PeakMemory(runtime.device)
    recipe, device = run.train, runtime.device
    if recipe.precision == "fp16" and device.type != "cuda":
        raise ValueError("train.precision: fp16 needs a GPU; use fp32 or bf16 on a CPU")
    data = for_inputs(load_data(run.data, runtime.share), recipe.normalize, run.network)
    student = build_network(run, data.info)
    teacher = build_teacher(run, data.info, directory, device, runtime.share) if run.method.needs_teacher else None
    infos = student.info(), (teacher or student).info()
    distiller = build_method(run.method, Pair(*infos, data.info.num_classes, data.info.ignore_index), run.stream_seed)
    facts = run_facts(run, student, distiller, data, device)
    facts["teacher_sha256"] = teacher_weights(run, data.info, directory)[1] if teacher is not None else None
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    for network in (student, teacher):
        if network is not None:
            network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    loss_of = TaskLoss(recipe.loss, data.info.num_classes, data.info.ignore_index)
    seen = _compiled(student, recipe.compile)
    module = KDStep(seen, distiller, data.info.ignore_index, recipe.auxiliary_weight, recipe.batch_size, loss_of)
    step = runtime.wrap(module, recipe.sync_batchnorm, module.equal_buffers())
    teacher_module = _compiled(teacher, recipe.compile) if teacher is not None else None
    teacher_info = for_inputs(data, recipe.normalize, run.teacher).info if run.teacher else data.info
    optimizers = Optimizers(optimizer_of(run), step, distiller, student)
    average = Average(student, recipe.ema)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    steps, accumulate = 0 if run.checkpoint else recipe.steps, accumulation_steps(recipe, runtime.workers)
    rates = Rates(recipe, steps, optimizers)
    trained = resume.Trained(student, distiller, optimizers, scaler, average)
    first, log, clock = resume.resume(runtime, run, data.info.content_hash, trained)
    runtime.on_progress(Progress(began=first))
    timer = resume.SaveTimer(runtime, runtime.checkpoint_minutes, first, time.monotonic)
    autocast = torch.autocast(device.type, PRECISION.get(recipe.precision), enabled=recipe.precision in PRECISION)
    finite = guards.FiniteTerms(runtime)
    guards.teacher_untouched(teacher)
    tick = waited = time.perf_counter()

    for i, batch in enumerate(training_batches(data.train, data.info, run, runtime, first, steps), start=first):
        log.data_ms.append((time.perf_counter() - waited) * 1e3)
        # Random streams are derived from (seed, name, step, rank), so resuming needs no saved state of them.
        torch.manual_seed(seeds.derive(run.stream_seed, "network noise", i, runtime.rank))
        stream = torch.Generator().manual_seed(seeds.derive(run.stream_seed, "distiller noise", i, runtime.rank))
        rates.set(i)
        with clock:
            valid = runtime.sum(module.loss.counts(batch.label))
            # DDP averages over ranks, and micro-batches are averaged below; the task's sum must undo both.
            valid = valid.where(valid > 0, 1) / (runtime.workers * accumulate)
            sums: Terms = {}
            for piece, (image, label) in enumerate(
                zip(batch.image.chunk(accumulate), batch.label.chunk(accumulate), strict=True)
            ):
                with runtime.unsynced(step, last=piece == accumulate - 1):
                    with autocast:
                        with torch.no_grad():
                            shown = converted(image, data.info, teacher_info)
                            taught = teacher_module(shown).detach() if teacher_module is not None else None
                        terms: Terms = step(image, label, taught, valid, i / steps, stream)
                    if i == first:
                        guards.connected(terms, run.method.label, teacher is not None)
                    if piece == 0 and recipe.gradients_every is not None and i % recipe.gradients_every == 0:
                        log.write_gradients(runtime, i + 1, gradients.norms(terms, student, scaler.get_scale()))
                    scaler.scale(torch.stack(list(terms.values())).sum() / accumulate).backward()  # type: ignore[no-untyped-call]
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0) + value.detach().float() / accumulate
            if i == first:
                guards.all_used(step)
            if recipe.clip_norm is not None:
                scaler.unscale_(optimizers.main)
                nn.utils.clip_grad_norm_(student.parameters(), recipe.clip_norm)
            optimizers.step(scaler)
            average.update(i)
            finite.watch(sums, i)
        done = i + 1
        evaluates = done == steps or (recipe.eval_every is not None and done % recipe.eval_every == 0)
        saves = evaluates if recipe.checkpoint_every is None else (done == steps or done % recipe.checkpoint_every == 0)
        saves = timer.due(done) or saves
        logs = evaluates or done % max(1, steps // 50) == 0
        log.add(sums)
        if logs or saves:
            finite.check()
            guards.finite_weights(student, done, runtime)
        if logs:
            _write_losses(log, runtime, run, done, optimizers.lr)
        log.train_seconds += time.perf_counter() - tick
        tick = time.perf_counter()
        if evaluates:
            with average.shown():
                confusion = evaluate(student, data, "dev", run, runtime).confusion
            log.curve.append({"step": done, "dev_miou": miou(confusion, run.protocol.absent_policy)})
            log.eval_seconds += time.perf_counter() - tick
        if saves:
            guards.teacher_untouched(teacher)
            resume.save(runtime, run, data.info.content_hash, done, trained, log, clock)
        if logs or saves:
            runtime.on_progress(log.progress(done, steps, clock.percentile(50)))
        if evaluates and done < steps:
            runtime.on_evaluation({"step": done, "step_ms": clock.percentile(50), **log.so_far()})
        tick = waited = time.perf_counter()

    guards.all_contributed({name: float(value) for name, value in log.total.items()}, steps)
    average.keep()
    splits = ("dev", "val") if run.trial is None else ("dev",)
    counted = {name: evaluate(student, data, name, run, runtime, final=True) for name in splits}
    log.eval_seconds += time.perf_counter() - tick
    if runtime.rank != 0:
        return None
    if not log.curve:
        log.curve.append({"step": steps, "dev_miou": miou(counted["dev"].confusion, run.protocol.absent_policy)})
    facts |= measured(run, log, clock, counted)
    if run.trial is None:
        facts |= kept(student, data, run, runtime, counted["val"], directory)
    facts |= {"wall_seconds": time.perf_counter() - began, "peak_memory_mb": memory.mb()}
    runtime.checkpoints.wait()
    digest = save_state(student.saved_state(), weights_path(directory, run.run_id)) if run.trial is None else None
    return RunResult(facts, digest)


def _write_losses(log: Log, runtime: Runtime, run: Run, step: int, lr: float) -> None:
    """An entry of the log; a note with the first, if a term is out of proportion."""
    log.write_losses(runtime, step, lr)
    if len(log.losses) == 1 and (text := proportions.of_log(log.losses)):
        runtime.on_progress(Progress(note=f"pair {run.pair}, {run.method.label}: {text}"))


def _compiled(network: TapNet, wanted: bool) -> nn.Module:
    return torch.compile(network) if wanted else network  # type: ignore[return-value]
