"""What one trial of a search does on its worker: train in a warm process, and tell Ray Tune at each evaluation.

The row is written where the trial ends, as for any run. A trial that Tune ends early never comes back from its report;
the row that says so is written by the search, which knows why.
"""

import functools
import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.tune
import torch

from harness.execution.connection import this_node
from harness.execution.sharing import sharer
from harness.execution.workspace import Workspace
from harness.experiment.resources import Resources
from harness.experiment.rules import Key
from harness.experiment.search_settings import Change
from harness.experiment.space import values_in
from harness.experiment.spec import Run
from harness.experiment.studies import Study, trial_run
from harness.results import store
from harness.search.outcome import spent
from harness.training.checkpoints import Checkpoints
from harness.training.execute import execute
from harness.training.runtime import Runtime

WORST_MS = 1e9  # step time of a trial that failed, for algorithms that weigh it
CHANGING = "pbt"  # the algorithm under which a trial may go on with another one's weights

share_over = functools.lru_cache(maxsize=1)(sharer)  # one function per process: it is part of what data is kept by


@dataclass(frozen=True)
class Context:
    """What all trials have in common.

    Attributes:
        folder: of the search; every worker sees it, unless `resources` name a storage.
        resources: of a trial.
        studies: trials name theirs by its place here.
        algorithm: who proposes the trials.
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
    """Train one trial to its row; what a machine did wrong is raised, and Tune tries again.

    Args:
        config: under "each" the place of its "study", its "number" and its "values".
        context: of the search.
    """
    resources, home = context.resources, Workspace(context.folder, context.resources)
    place, number = (int(part) for part in ray.tune.get_context().get_trial_name().split("-"))
    study = context.studies[place]
    if context.algorithm == CHANGING:
        run = _taken_up(study, number, config["each"]["values"], home)
    else:
        run = trial_run(study, number, context.algorithm, config["each"]["values"])
    checkpoints = home.checkpoints(run.run_id)

    def tell(progress: Mapping[str, Any]) -> None:
        checkpoints.wait()
        _report(progress, run, checkpoints if context.algorithm == CHANGING else None)

    runtime = Runtime.local(
        checkpoints,
        device=torch.device("cuda" if resources.gpus_per_worker > 0 else "cpu"),
        threads=resources.cpus_per_worker,
        loader_workers=resources.loader_workers,
        checkpoint_minutes=resources.checkpoints.minutes,
        on_evaluation=tell,
        **({"share": share_over(context.shelf)} if this_node() == context.node else {}),
    )
    if home.status(run.run_id) is None:  # else its process died between the row and the report
        home.fetch(run)
        execute(run, runtime, home.folder, home.publish, last_try=False)
    row = store.parse_row(home.place.read(f"runs/{run.run_id}.parquet"), run.run_id)
    ray.tune.report(final(row))


def final(row: Mapping[str, Any]) -> dict[str, Any]:
    """What Tune is told of a trial with a row: one that failed is the worst there is."""
    if row["status"] != "ok":
        return {"step": row["steps"], "dev_miou": 0.0, "step_ms": WORST_MS, "seconds": spent(row)}
    step_ms = row["step_ms"] or 1e3 * row["train_seconds"] / row["steps"]
    return {"step": row["steps"], "dev_miou": row["dev_miou"], "step_ms": step_ms, "seconds": spent(row)}


def _report(progress: Mapping[str, Any], run: Run, checkpoints: Checkpoints | None) -> None:
    """Tell Tune of an evaluation, with the state at this step where another trial may take it up."""
    told = {**progress, "dev_miou": progress["curve"][-1]["dev_miou"], "seconds": spent(progress)}
    if checkpoints is None:
        ray.tune.report(told)
        return
    with tempfile.TemporaryDirectory() as name:
        Checkpoints(Path(name)).save(progress["step"], checkpoints.read(progress["step"]))
        (Path(name) / "run.json").write_text(run.model_dump_json())
        ray.tune.report(told, checkpoint=ray.tune.Checkpoint.from_directory(name))


def _taken_up(study: Study, number: int, values: Mapping[str, float], home: Workspace) -> Run:
    """The run of a member of a population, which goes on as it was, or from the state of another member."""
    before = asked(home, study.key, number)
    run = before or trial_run(study, number, CHANGING, values)
    given = ray.tune.get_checkpoint()
    if given is not None:
        with given.as_directory() as name:
            source = Run.model_validate_json((Path(name) / "run.json").read_text())
            assert source.trial is not None
            if source.trial.number != number:
                run = _adopted(study, number, values, source, Checkpoints(Path(name)), home)
    remember(home, study.key, run)
    if before is not None and before.run_id != run.run_id:
        home.checkpoints(before.run_id).drop()
    return run


def _adopted(
    study: Study, number: int, values: Mapping[str, float], source: Run, state: Checkpoints, home: Workspace
) -> Run:
    """A run that goes on from another trial's state with a new point; its checkpoint is put in place."""
    assert source.trial is not None
    step = state.steps()[0]
    past = values_in(study.space, source.method.parameters, source.train.optimizer.lr)
    change = Change(step=step, trial=source.trial.number, values=past)
    run = trial_run(study, number, CHANGING, values, (*source.trial.changes, change))
    own = home.checkpoints(run.run_id)
    if step not in own.steps():
        own.save(step, {**state.read(step), "run_id": run.run_id})
        own.wait()
    return run


def _asked_name(key: Key, number: int) -> str:
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()[:12]
    return f"asked/{digest}-{number:05d}.json"


def asked(home: Workspace, key: Key, number: int) -> Run | None:
    """A trial that was begun and has no row, if what it is does not follow from its number alone."""
    try:
        return Run.model_validate_json(home.place.read(_asked_name(key, number)))
    except FileNotFoundError:
        return None


def remember(home: Workspace, key: Key, run: Run) -> None:
    """Keep what a trial is until it has a row."""
    assert run.trial is not None
    home.place.write(_asked_name(key, run.trial.number), run.model_dump_json().encode())


def forget(home: Workspace, key: Key, number: int) -> None:
    """The trial has its row."""
    home.place.remove(_asked_name(key, number))
