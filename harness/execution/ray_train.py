"""Runs as a worker group of Ray Train. Loads no model code itself, which only the ranks need."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from harness.errors import RunFailed, WorkerLost, machine_failed, text_of
from harness.execution.imports import quick_imports
from harness.execution.messages import Group
from harness.execution.nodes import bundle, selectors
from harness.execution.workspace import Workspace
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.results import failures as kept
from harness.results import record

NO_RETRIES = {
    name: 0
    for name in ("max_failures", "max_preemption_failures")
    if name in {field.name for field in dataclasses.fields(FailureConfig)}
}


def run_group(group: Group, progress: Any, shared: Mapping[str, Any]) -> dict[str, str]:
    """One run, or several in step, as a Ray Train worker group.

    Args:
        group: what the ranks need to know.
        progress: handle of the `ProgressActor`.
        shared: handles of `SharedObjects` actors, by node.

    Returns:
        By run_id "ok", "failed", "yielded", "waiting" (not begun, for lack of memory) or "lost" (another one failed).

    Raises:
        WorkerLost: a worker died, or its machine failed.
        OSError: the disk is full.
    """
    runs = [Run.model_validate_json(each) for each in group.runs]
    resources = Resources.model_validate_json(group.resources)
    workspace = Workspace(Path(group.directory), resources)
    use_gpu = resources.gpus_per_worker > 0
    name = f"{runs[0].run_id}-{group.attempt}"
    trainer = TorchTrainer(
        rank_loop,
        train_loop_config={"group": group, "progress": progress, "shared": dict(shared)},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=use_gpu,
            resources_per_worker=bundle(resources),
            label_selector=selectors(resources, group.barred)[0] or None,
        ),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        # The launcher retries: it knows the other nodes, and does not repeat a run that has a failed row.
        run_config=RunConfig(
            name=name, storage_path=workspace.place.below("ray").uri, failure_config=FailureConfig(**NO_RETRIES)
        ),
    )
    try:
        status: dict[str, str] = trainer.fit().return_value
    except TrainingFailedError as error:
        if type(error).__name__ == "PreemptionError":  # the ranks did not leave in time; it is nobody's fault either
            ended = {run.run_id: workspace.status(run.run_id) for run in runs}
            return {run_id: "ok" if found == "ok" else "yielded" for run_id, found in ended.items()}
        failures = getattr(error, "worker_failures", {})
        return _failed(runs, workspace, failures, str(error), ray.get(progress.nodes.remote(runs[0].run_id)))
    finally:
        workspace.place.remove_folder(f"ray/{name}")
    return status


def rank_loop(config: dict[str, Any]) -> dict[str, str]:
    """What each rank does, as `run_rank`; a failure is raised, to end the other ranks."""
    with quick_imports():
        from harness.execution.worker import run_rank
    return run_rank(config["group"], config["progress"], config["shared"])


def _failed(
    runs: Sequence[Run],
    workspace: Workspace,
    failures: Mapping[int, BaseException],
    message: str,
    nodes: Mapping[int, str],
) -> dict[str, str]:
    """What the failures of ranks mean for the runs.

    Raises:
        WorkerLost: they can be tried again.
        OSError: the disk is full.
    """
    causes = {rank: getattr(error, "cause", None) or error for rank, error in failures.items()}
    for cause in causes.values():
        if isinstance(cause, RunFailed):
            ended = {run.run_id: "ok" if workspace.status(run.run_id) == "ok" else "lost" for run in runs}
            return ended | {cause.run_id: "failed"}
        if record.is_disk_full(cause):
            raise cause
    for rank, cause in causes.items():
        # Raised beside the training, whose own errors end as RunFailed.
        if len(runs) == 1 and not machine_failed(cause) and type(cause).__module__ == "builtins":
            (run,) = runs
            kept.keep_text(workspace.folder, run, "\n".join([text_of(failures[rank]), message]))
            record.write_row(run, workspace.folder, {}, "failed", f"rank {rank}: {record.failure(cause, run)}")
            workspace.publish(run.run_id)
            return {run.run_id: "failed"}
    reason = "; ".join(f"rank {rank}: {_last_line(cause)}" for rank, cause in causes.items())
    raise WorkerLost(reason or " ".join(message.split()), tuple(nodes[rank] for rank in causes if rank in nodes))


def _last_line(error: BaseException) -> str:
    """Of an error's text, which may be a whole traceback."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
