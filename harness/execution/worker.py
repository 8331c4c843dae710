"""What a process of a run does: a warm actor's that takes run after run, or a rank's of a worker group of Ray Train.

Both write the row where the run ends. Their last words go to the `Board`, which the launcher empties now and then.
"""

import gc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import torch

from harness.execution.connection import this_node
from harness.execution.loggers import watch
from harness.execution.messages import Group, Lost, not_on_nodes
from harness.execution.ray_metrics import Gauges
from harness.execution.sharing import sharer
from harness.execution.workspace import Home
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.results import record
from harness.training.cost import device_use
from harness.training.execute import MACHINE, Recorded, execute
from harness.training.runtime import Progress, Runtime


class Telling:
    """Where a run's progress goes: the board, Ray's gauges, and the loggers that were asked for."""

    def __init__(self, run: Run, resources: Resources, folder: Path, board: Any, device: torch.device) -> None:
        self._run_id, self._board, self._device = run.run_id, board, device
        self._own = {"pid": os.getpid(), "node": this_node()}
        self._sinks: tuple[Callable[[Progress], None], ...] = (
            watch(resources.loggers, folder, run, self._complain),
            Gauges(run),
        )

    def __call__(self, progress: Progress) -> None:
        """Pass a word on."""
        if "step" in progress:
            progress = {**progress, "device": device_use(self._device)}
        self._board.post.remote(self._run_id, {**self._own, **progress})
        for sink in self._sinks:
            sink(progress)

    def close(self, status: str) -> None:
        """The run has ended, or goes on elsewhere."""
        for sink in self._sinks:
            sink({"ended": status})

    def _complain(self, text: str) -> None:
        self._board.complain.remote(text)


class Warm:
    """One process that keeps imports, dataset and teacher in memory and takes run after run."""

    def __init__(self, experiment: str, resources: str, board: Any) -> None:
        self._resources = Resources.model_validate_json(resources)
        self._home = Home(Path(experiment), self._resources)
        self._board = board
        self._share: Any = None
        # What is imported stays: each run looks for its predecessors' garbage, and must not walk through all of it.
        gc.collect()
        gc.freeze()

    def attach(self, shelf: Any) -> None:
        """Share what can be shared with the other workers of this machine."""
        self._share = sharer(shelf)

    def run(self, spec: str, last_try: bool) -> str:
        """Bring one run to its row: "ok" or "failed". What a machine did wrong is raised unless it is the last try."""
        run = Run.model_validate_json(spec)
        self._home.fetch(run)
        device = torch.device("cuda" if self._resources.gpus_per_worker > 0 else "cpu")
        telling = Telling(run, self._resources, self._home.folder, self._board, device)
        runtime = Runtime.local(
            self._home.checkpoints(run.run_id),
            device=device,
            threads=self._resources.cpus_per_worker,
            loader_workers=self._resources.loader_workers,
            on_progress=telling,
            checkpoint_minutes=self._resources.checkpoints.minutes,
            **({} if self._share is None else {"share": self._share}),
        )
        said = "lost"
        try:
            said = execute(run, runtime, self._home.folder, self._home.publish, last_try)
        finally:
            telling.close(said)
        return said


def rank_loop(config: dict[str, Any]) -> str:
    """What each rank of a Ray Train worker group does: "ok"; a failure is raised, to end the others."""
    group, board = config["group"], config["board"]
    run, resources = Run.model_validate_json(group.run), Resources.model_validate_json(group.resources)
    home = Home(Path(group.experiment), resources)
    home.fetch(run)
    runtime = Runtime.ray_worker(
        home.checkpoints(run.run_id),
        threads=resources.cpus_per_worker,
        loader_workers=resources.loader_workers,
        checkpoint_minutes=resources.checkpoints.minutes,
        bucket_mb=resources.bucket_mb,
    )
    ray.get(board.sit.remote(run.run_id, runtime.rank, this_node()))
    if runtime.rank != 0:
        return execute(run, runtime, home.folder, home.publish, last_try=False)
    runtime.on_progress = telling = Telling(run, resources, home.folder, board, runtime.device)
    said = "lost"
    try:
        said = execute(run, runtime, home.folder, home.publish, last_try=False)
    finally:
        telling.close(said)
    return said


def run_group(group: Group, board: Any) -> str:
    """One run as a Ray Train worker group: "ok" or "failed".

    Raises:
        Lost: a worker died, or its machine did something wrong.
        OSError: the disk is full.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    run, resources = Run.model_validate_json(group.run), Resources.model_validate_json(group.resources)
    home = Home(Path(group.experiment), resources)
    use_gpu = resources.gpus_per_worker > 0
    share: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if use_gpu:
        share["GPU"] = resources.gpus_per_worker
    name = f"{run.run_id}-{group.attempt}"
    trainer = TorchTrainer(
        rank_loop,
        train_loop_config={"group": group, "board": board},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=use_gpu,
            resources_per_worker=share,
            label_selector=not_on_nodes(group.barred),
        ),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        # Retries are the launcher's: it knows the other nodes, and a run that wrote a failed row is not tried again.
        run_config=RunConfig(
            name=name, storage_path=home.place.below("ray").uri, failure_config=FailureConfig(max_failures=0)
        ),
    )
    try:
        said: str = trainer.fit().return_value
    except TrainingFailedError as error:
        failures = getattr(error, "worker_failures", {})
        return _judged(run, home, failures, str(error), ray.get(board.seats.remote(run.run_id)))
    finally:
        home.place.remove_folder(f"ray/{name}")
    return said


def _judged(run: Run, home: Home, failures: Mapping[int, BaseException], message: str, seats: Mapping[int, str]) -> str:
    """What the failures of ranks mean for the run.

    Raises:
        Lost: it can be tried again.
        OSError: the disk is full.
    """
    causes = {rank: getattr(error, "cause", None) or error for rank, error in failures.items()}
    for cause in causes.values():
        if isinstance(cause, Recorded):
            return "failed"
        if record.is_disk_full(cause):
            raise cause
    for rank, cause in causes.items():
        if not isinstance(cause, MACHINE) and type(cause).__module__ == "builtins":
            record.write_row(run, home.folder, {}, "failed", f"rank {rank}: {record.failure(cause)}")
            home.publish(run.run_id)
            return "failed"
    said = "; ".join(f"rank {rank}: {_last_line(cause)}" for rank, cause in causes.items())
    raise Lost(said or " ".join(message.split()), tuple(seats[rank] for rank in causes if rank in seats))


def _last_line(error: BaseException) -> str:
    """Of an error that may carry its whole traceback."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
