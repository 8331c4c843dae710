"""What a worker process does: a warm actor executes one run after another, a rank of a group its share of one run.

Both write the row when the run ends. They send progress to the `ProgressActor`, which the launcher reads now and then.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import torch

from harness.execution.loggers import watch
from harness.execution.messages import Group
from harness.execution.nodes import Notice, this_node
from harness.execution.ray_metrics import Gauges
from harness.execution.sharing import sharer
from harness.execution.workspace import Workspace
from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.training.cost import device_use, free_bytes
from harness.training.execute import execute, execute_together
from harness.training.progress import Progress
from harness.training.runtime import Runtime


class Reporter:
    """Sends a run's progress on: to the progress actor, Ray's gauges, and the loggers that the experiment names."""

    def __init__(self, run: Run, resources: Resources, directory: Path, actor: Any, device: torch.device) -> None:
        self._run_id, self._actor, self._device = run.run_id, actor, device
        self._pid, self._node = os.getpid(), this_node()
        self._sinks: tuple[Callable[[Progress], None], ...] = (
            watch(resources.loggers, directory, run, self._add_note),
            Gauges(run),
        )

    def __call__(self, progress: Progress) -> None:
        """Send one report."""
        if progress.step is not None:
            progress = dataclasses.replace(progress, device=device_use(self._device))
        sent = dataclasses.replace(progress, pid=self._pid, node=self._node)
        self._actor.post.remote(self._run_id, sent)
        for sink in self._sinks:
            sink(progress)

    def close(self, status: str) -> None:
        """The run has ended in this process."""
        if status != "lost":  # others that are in step with it may go on for long
            self._actor.post.remote(self._run_id, Progress(ended=status))
        for sink in self._sinks:
            sink(Progress(ended=status))

    def _add_note(self, text: str) -> None:
        self._actor.add_note.remote(text)


class WarmWorker:
    """One process that keeps imports, dataset and teacher in memory and executes runs, one after another or in step."""

    def __init__(self, directory: str, resources: str, progress: Any) -> None:
        self._resources = Resources.model_validate_json(resources)
        self._workspace = Workspace(Path(directory), self._resources)
        self._progress = progress
        self._share: Any = None

    def attach(self, shared: Any) -> None:
        """Share data and teachers with the other workers of this machine."""
        self._share = sharer(shared)

    def run(self, specs: list[str], last_try: bool) -> dict[str, str]:
        """Finish one run, or several that are fed with the same.

        Args:
            specs: the runs, as JSON.
            last_try: of one run by itself: a machine's error is recorded in its row instead of raised.

        Returns:
            "ok" or "failed" by run_id; "waiting" of a run that was not begun, for lack of memory beside the others;
            "yielded" of one whose machine is taken away.
        """
        runs = {run.run_id: run for run in map(Run.model_validate_json, specs)}
        for run in runs.values():
            self._workspace.fetch(run)
        device = torch.device("cuda" if self._resources.gpus_per_worker > 0 else "cpu")
        folder, publish = self._workspace.folder, self._workspace.publish
        reports = {i: Reporter(run, self._resources, folder, self._progress, device) for i, run in runs.items()}
        status = dict.fromkeys(runs, "lost")

        def ended(run_id: str, how: str) -> None:
            status[run_id] = how
            reports[run_id].close("lost" if how in ("waiting", "yielded") else how)

        try:
            if len(runs) == 1:
                ((run_id, run),) = runs.items()
                ended(run_id, execute(run, self._runtime(run_id, device, reports[run_id]), folder, publish, last_try))
            else:
                runtimes = {run_id: self._runtime(run_id, device, reports[run_id]) for run_id in runs}
                execute_together(runs, runtimes, folder, publish, ended, _memory(self._resources, device))
        finally:
            for run_id in [run_id for run_id, how in status.items() if how == "lost"]:
                reports[run_id].close("lost")
        return status

    def _runtime(self, run_id: str, device: torch.device, report: Reporter) -> Runtime:
        return Runtime.local(
            self._workspace.checkpoints(run_id),
            device=device,
            threads=self._resources.cpus_per_worker,
            loader_workers=self._resources.loader_workers,
            on_progress=report,
            checkpoint_minutes=self._resources.checkpoints.minutes,
            leaves=Notice(),
            gpu_share=min(1.0, self._resources.gpus_per_worker or 1.0),
            **({} if self._share is None else {"share": self._share}),
        )


def _memory(resources: Resources, device: torch.device) -> int:
    """Half of a worker's share of what is free: the other half is for a step's own maps."""
    of_machine = (os.cpu_count() or 1) // resources.cpus
    of_machine = min(of_machine, resources.workers * (resources.concurrent or of_machine))
    workers = max(1, of_machine) if device.type == "cpu" else max(1.0, 1 / resources.gpus_per_worker)
    return int(free_bytes(device) / workers / 2)


def run_rank(group: Group, progress: Any, shared: Mapping[str, Any]) -> dict[str, str]:
    """What each rank of a Ray Train worker group does; a failure is raised, to end the other ranks.

    Args:
        group: what the ranks need to know.
        progress: handle of the `ProgressActor`.
        shared: handles of `SharedObjects` actors, by node: data and teacher are read once per machine.

    Returns:
        By run_id "ok", "yielded", or "waiting" of a run that was not begun, for lack of memory beside the others.
    """
    runs = {run.run_id: run for run in map(Run.model_validate_json, group.runs)}
    resources, here = Resources.model_validate_json(group.resources), this_node()
    workspace, leaves = Workspace(Path(group.directory), resources), Notice()
    # One function for all: what a process has loaded is kept by it, too.
    shares = {"share": sharer(shared[here])} if here in shared else {}
    runtimes = {
        run_id: Runtime.ray_worker(
            workspace.checkpoints(run_id),
            threads=resources.cpus_per_worker,
            loader_workers=resources.loader_workers,
            checkpoint_minutes=resources.checkpoints.minutes,
            bucket_mb=resources.bucket_mb,
            leaves=leaves,
            **shares,
        )
        for run_id in runs
    }
    first = next(iter(runtimes.values()))
    ray.get(progress.set_node.remote(next(iter(runs)), first.rank, here))
    reports: dict[str, Reporter] = {}
    for run_id, run in runs.items():
        workspace.fetch(run)
        if first.rank == 0:
            reports[run_id] = Reporter(run, resources, workspace.folder, progress, first.device)
            runtimes[run_id].on_progress = reports[run_id]
    status: dict[str, str] = {}

    def ended(run_id: str, how: str) -> None:
        status[run_id] = how
        if run_id in reports:
            reports[run_id].close("lost" if how in ("waiting", "yielded") else how)

    try:
        if len(runs) == 1:
            ((run_id, run),) = runs.items()
            ended(run_id, execute(run, first, workspace.folder, workspace.publish, last_try=False))
        else:
            # The ranks must agree on how many runs they begin.
            memory = first.minimum(torch.tensor([_memory(resources, first.device)], device=first.device))
            execute_together(runs, runtimes, workspace.folder, workspace.publish, ended, int(memory))
    finally:
        for run_id in reports.keys() - status.keys():
            reports[run_id].close("lost")
    return status
