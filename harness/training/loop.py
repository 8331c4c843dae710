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
from harness.datasets import Data
from harness.errors import Preempted
from harness.experiment.spec import Run
from harness.metrics import miou
from harness.models import TapNet, save_state
from harness.results.paths import weights_path
from harness.taps import Pair
from harness.training import gradients, guards, proportions, resume
from harness.training.average import Average
from harness.training.batches import accumulation_steps
from harness.training.build import build_method, build_network, build_teacher, for_inputs, load_data, teacher_weights
from harness.training.columns import kept, measured, run_facts
from harness.training.cost import PeakMemory, StepClock, held
from harness.training.deterministic import in_fixed_order
from harness.training.evaluate import evaluate
from harness.training.feed import Need, compiled
from harness.training.log import Log, Terms
from harness.training.named import Named
from harness.training.optimizers import Optimizers, optimizer_of
from harness.training.precision import autocast, require_device, set_backend, teacher_layout
from harness.training.progress import Progress
from harness.training.runtime import Runtime
from harness.training.schedule import Rates
from harness.training.step import KDStep
from harness.training.task_loss import TaskLoss
from harness.training.together import Steps, alone


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
    return alone(steps(run, runtime, directory))


def steps(run: Run, runtime: Runtime, directory: Path) -> Steps[RunResult | None]:
    """The run as `train` has it, which asks for the batch of each step and is sent it."""
    runtime.enter()
    began, memory = time.perf_counter(), PeakMemory(runtime.device)
    recipe, device, idle = run.train, runtime.device, 0.0
    require_device(recipe, device.type == "cuda")
    set_backend(recipe)
    raw = load_data(run.data, runtime.share)
    data = for_inputs(raw, recipe.normalize, run.network)
    shown = for_inputs(raw, recipe.normalize, run.teacher).info if run.teacher is not None else data.info
    student = build_network(run, data.info)
    teacher = build_teacher(run, data.info, directory, device, runtime.share) if run.method.needs_teacher else None
    infos = student.info(), (teacher or student).info()
    distiller = build_method(run.method, Pair(*infos, data.info.num_classes, data.info.ignore_index), run.stream_seed)
    facts = run_facts(run, student, distiller, data, device)
    facts["teacher_sha256"] = teacher_weights(run, data.info, directory)[1] if teacher is not None else None
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    for network, lies in ((student, layout), (teacher, teacher_layout(recipe))):
        if network is not None:
            network.to(device=device, memory_format=lies)  # type: ignore[call-overload]
    loss_of = TaskLoss(recipe.loss, data.info.num_classes, data.info.ignore_index)
    seen = compiled(student, recipe.compile)
    module = KDStep(seen, distiller, data.info.ignore_index, recipe.auxiliary_weight, recipe.batch_size, loss_of)
    step = runtime.wrap(module, recipe.sync_batchnorm, module.equal_buffers())
    optimizers = Optimizers(optimizer_of(run), step, distiller, student)
    average = Average(student, recipe.ema)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    count, accumulate = 0 if run.checkpoint else recipe.steps, accumulation_steps(recipe, runtime.workers)
    rates = Rates(recipe, count, optimizers)
    trained = resume.Trained(student, distiller, optimizers, scaler, average)
    first, log, clock = resume.resume(runtime, run, data.info.content_hash, trained)
    runtime.on_progress(Progress(began=first))
    timer = resume.SaveTimer(runtime, runtime.checkpoint_minutes, first, time.monotonic)
    leave = resume.Leave(runtime, first, time.monotonic)
    cast, fixed = autocast(recipe, device), in_fixed_order(recipe)
    finite = guards.FiniteTerms(runtime)
    guards.teacher_untouched(teacher)
    memory_held = held(step)

    for i in range(first, count):
        asked = time.perf_counter()
        fed = yield Need(i, run, runtime, data, teacher, shown, memory_held)
        # Other runs may have had their turns meanwhile; what was made for them too counts for each that needed it.
        tick = time.perf_counter()
        before, by_device = fed.seconds(teacher is not None), fed.by_device
        idle += tick - asked - before
        log.fed(fed, before)
        # Random streams are derived from (seed, name, step, rank), so resuming needs no saved state of them.
        torch.manual_seed(seeds.derive(run.stream_seed, "network noise", i, runtime.rank))
        stream = torch.Generator().manual_seed(seeds.derive(run.stream_seed, "distiller noise", i, runtime.rank))
        rates.set(i)
        with clock:
            valid = runtime.sum(module.loss.counts(fed.label))
            # DDP averages over ranks, and micro-batches are averaged below; the task's sum must undo both.
            valid = valid.where(valid > 0, 1) / (runtime.workers * accumulate)
            sums = Named()
            for number, piece in enumerate(fed.pieces()):
                taught = piece.taught if teacher is not None else None
                with runtime.unsynced(step, last=number == accumulate - 1):
                    with cast, fixed:
                        terms: Terms = step(piece.image, piece.label, taught, valid, i / count, stream)
                    if i == first:
                        guards.connected(terms, run.method.label, teacher is not None)
                    if number == 0 and recipe.gradients_every is not None and i % recipe.gradients_every == 0:
                        log.write_gradients(runtime, i + 1, gradients.norms(terms, student, scaler.get_scale()))
                    own = Named.of(terms)
                    scaler.scale(own.values.sum() / accumulate).backward()  # type: ignore[no-untyped-call]
                sums = sums.with_those(own.each(lambda values: values.detach().float() / accumulate), torch.add)
            if i == first:
                guards.all_used(step)
            if recipe.clip_norm is not None:
                scaler.unscale_(optimizers.main)
                nn.utils.clip_grad_norm_(student.parameters(), recipe.clip_norm)
            optimizers.step(scaler)
            average.update(i)
            finite.watch(sums, i)
        clock.before(fed.ahead if teacher is not None else None, fed.runs > 1)
        guards.unwritten(fed.written(), run.method.label)
        del fed, piece, taught  # not held while the next batch is made
        done = i + 1
        evaluates = done == count or (recipe.eval_every is not None and done % recipe.eval_every == 0)
        saves = evaluates if recipe.checkpoint_every is None else (done == count or done % recipe.checkpoint_every == 0)
        leaves = leave.asked(done) and done < count
        saves = timer.due(done) or saves or leaves
        logs = evaluates or done % max(1, count // 50) == 0
        log.add(sums)
        if logs or saves:
            finite.check()
            guards.finite_weights(student, done, runtime)
        if logs:
            _write_losses(log, runtime, run, done, optimizers.lr)
        log.spent(time.perf_counter() - tick, by_device, clock, waits=logs or saves)
        if evaluates:
            with average.shown():
                _on_dev(student, data, run, runtime, log, done)
        if saves:
            guards.teacher_untouched(teacher)
            resume.save(runtime, run, data.info.content_hash, done, trained, log, clock)
        if leaves:
            runtime.checkpoints.wait()
            raise Preempted(f"{run.who}: after step {done}")
        if logs or saves:
            runtime.on_progress(log.progress(done, count, clock.percentile(50)))
        if evaluates and done < count:
            runtime.on_evaluation({"step": done, "step_ms": clock.percentile(50), **log.so_far()})

    guards.all_contributed({name: float(value) for name, value in log.total.scalars().items()}, count)
    average.keep()
    found = _evaluated(student, data, run, runtime, directory, log, clock)
    if found is None:
        return None
    facts |= found | {"wall_seconds": time.perf_counter() - began - idle}
    facts |= {"peak_memory_mb": memory.mb() if log.together < 2 else None}  # of one among several it is not known
    runtime.checkpoints.wait()
    digest = save_state(student.saved_state(), weights_path(directory, run.run_id)) if run.trial is None else None
    return RunResult(facts, digest)


def _on_dev(student: TapNet, data: Data, run: Run, runtime: Runtime, log: Log, step: int) -> None:
    """A point of the learning curve."""
    began = time.perf_counter()
    confusion = evaluate(student, data, "dev", run, runtime).confusion
    log.curve.append({"step": step, "dev_miou": miou(confusion, run.protocol.absent_policy)})
    log.eval_seconds += time.perf_counter() - began


def _evaluated(
    student: TapNet, data: Data, run: Run, runtime: Runtime, directory: Path, log: Log, clock: StepClock
) -> dict[str, Any] | None:
    """The columns that are known after the last step; None on ranks above 0."""
    began = time.perf_counter()
    splits = ("dev", "val") if run.trial is None else ("dev",)
    counted = {name: evaluate(student, data, name, run, runtime, final=True) for name in splits}
    log.eval_seconds += time.perf_counter() - began
    if runtime.rank != 0:
        return None
    if not log.curve:
        dev_miou = miou(counted["dev"].confusion, run.protocol.absent_policy)
        log.curve.append({"step": 0 if run.checkpoint else run.train.steps, "dev_miou": dev_miou})
    columns = measured(run, log, clock, counted)
    return columns if run.trial is not None else columns | kept(student, data, run, runtime, counted["val"], directory)


def _write_losses(log: Log, runtime: Runtime, run: Run, step: int, lr: float) -> None:
    """An entry of the log; a note with the first, if a term is out of proportion."""
    log.write_losses(runtime, step, lr)
    if len(log.losses) == 1 and (text := proportions.of_log(log.losses)):
        runtime.on_progress(Progress(note=f"pair {run.pair}, {run.method.label}: {text}"))
