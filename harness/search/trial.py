"""One trial of a search on its worker: it trains in a warm process and reports to Ray Tune at each evaluation.

The worker writes the row, as for any run. If Tune ends a trial early, its report never returns; the search process,
which knows the reason, then writes the row.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.tune

from harness.execution.imports import quick_imports
from harness.execution.nodes import this_node
from harness.execution.sharing import sharer
from harness.execution.workspace import Workspace
from harness.experiment.resources import Resources
from harness.experiment.rules import Key
from harness.experiment.spec import Run
from harness.experiment.studies import Study, trial_run
from harness.results import store
from harness.search.outcome import spent

share_over = functools.lru_cache(maxsize=1)(sharer)  # one function per process: it is part of what data is kept by


@dataclass(frozen=True)
class Context:
    """What all trials have in common.

    Attributes:
        folder: of the search; every worker sees it, unless `resources` name a storage.
        resources: of a trial.
        studies: a trial names its study by the place in this tuple.
        algorithm: that proposes the trials.
        shelf: handle of the `SharedObjects` actor of `node`.
        node: a node's id.
    """

    folder: Path
    resources: Resources
    studies: tuple[Study, ...]
    algorithm: str
    shelf: Any
    node: str


def run_trial(config: Mapping[str, Any], context: Context) -> None:
    """Train one trial and write its row; machine failures are raised, and Tune tries again.

    Args:
        config: under "each" the place of its "study", the "number" of its point, its "values" and its "seed".
        context: of the search.
    """
    with quick_imports():
        import torch

        from harness.training.execute import execute
        from harness.training.runtime import Runtime

    resources, workspace = context.resources, Workspace(context.folder, context.resources)
    place, number, seed = parsed(ray.tune.get_context().get_trial_name())
    run = trial_run(context.studies[place], number, context.algorithm, config["each"]["values"], seed)
    checkpoints = workspace.checkpoints(run.run_id)

    def tell(columns: dict[str, Any]) -> None:
        checkpoints.wait()  # Tune may end or pause the trial in its report
        ray.tune.report({**columns, "dev_miou": columns["curve"][-1]["dev_miou"], "seconds": spent(columns)})

    runtime = Runtime.local(
        checkpoints,
        device=torch.device("cuda" if resources.gpus_per_worker > 0 else "cpu"),
        threads=resources.cpus_per_worker,
        loader_workers=resources.loader_workers,
        gpu_share=min(1.0, resources.gpus_per_worker or 1.0),
        checkpoint_minutes=resources.checkpoints.minutes,
        on_evaluation=tell,
        **({"share": share_over(context.shelf)} if this_node() == context.node else {}),
    )
    if workspace.status(run.run_id) is None:  # else its process died between the row and the report
        workspace.fetch(run)
        execute(run, runtime, workspace.folder, workspace.publish, last_try=False)
    row = store.parse_row(workspace.place.read(f"runs/{run.run_id}.parquet"), run.run_id)
    ray.tune.report(final(row))


def named(each: Mapping[str, Any]) -> str:
    """The name of a trial in Ray Tune: the place of its study, the number of its point and its seed."""
    return f"{each['study']}-{each['number']}-{each['seed']}"


def parsed(name: str) -> tuple[int, int, int]:
    """What `named` made a name of."""
    study, number, seed = (int(part) for part in name.split("-"))
    return study, number, seed


def final(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is reported to Tune about a finished trial: a failed one counts as dev mIoU 0."""
    dev_miou = row["dev_miou"] if row["status"] == "ok" else 0.0
    return {"step": row["steps"], "dev_miou": dev_miou, "seconds": spent(row)}


def _asked_name(key: Key, number: int) -> str:
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()[:12]
    return f"asked/{digest}-{number:05d}.json"


def asked(workspace: Workspace, key: Key, number: int) -> Run | None:
    """A trial that was begun and is not finished, if its point does not follow from its number."""
    try:
        return Run.model_validate_json(workspace.place.read(_asked_name(key, number)))
    except FileNotFoundError:
        return None


def remember(workspace: Workspace, key: Key, run: Run) -> None:
    """Keep a trial's run until the trial is finished."""
    assert run.trial is not None
    workspace.place.write(_asked_name(key, run.trial.number), run.model_dump_json().encode())


def forget(workspace: Workspace, key: Key, number: int) -> None:
    """The trial is finished."""
    workspace.place.remove(_asked_name(key, number))
