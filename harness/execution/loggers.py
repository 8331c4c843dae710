"""Optional live loggers. The result is the row; these are for watching, and an error in one never ends a run.

Each is `make(folder, run)`, which returns a function that is called with each report of the run; the last report
(`ended`) closes it. A process makes one after another, and a run that is resumed, here or elsewhere, continues under
the same name. Files are below `folder`; nothing is sent over the network unless the environment names a server.
"""

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.experiment.spec import Run
from harness.files import write_atomic
from harness.training.progress import Progress

Log = Callable[[Progress], None]

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny", "wandb": "wandb"}
"""What to install for each logger."""
MLFLOW_STATUS = {"ok": "FINISHED", "failed": "FAILED"}  # a run that was lost is still running
MLFLOW_BATCH = 100  # parameters per request
NAME_LENGTH = 120  # of folders; a sum of methods with many parameters has a label longer than a file's name may be


def require(names: Iterable[str]) -> None:
    """Check that the loggers' packages are installed, without importing them.

    Raises:
        ValueError: one is not; says how to install it.
    """
    for name in names:
        if find_spec(name) is None:
            raise ValueError(
                f"resources.loggers: {name} is not installed; run: pip install {PACKAGES[name]} "
                "(on every machine that trains)"
            )


def watch(names: Iterable[str], directory: Path, run: Run, warn: Callable[[str], None]) -> Log:
    """All the loggers of a run as one.

    Args:
        names: of LOGGERS.
        directory: results folder of the experiment; each logger has a subfolder.
        run: that reports.
        warn: called once with the message of a logger that fails; it is not used any more.
    """
    logs: dict[str, Log] = {}

    def attempt(name: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # an unreachable server or a full disk must not stop the training
            logs.pop(name, None)
            warn(f"the logger {name} stopped: {type(error).__name__}: {' '.join(str(error).split())[:300]}")

    for name in names:
        log = attempt(name, lambda name=name: LOGGERS[name](directory / name, run))  # type: ignore[misc]
        if log is not None:
            logs[name] = log

    def log_all(progress: Progress) -> None:
        for name, log in list(logs.items()):
            attempt(name, lambda log=log: log(progress))  # type: ignore[misc]

    return log_all


def run_title(run: Run) -> str:
    """The name of a run for people: pair, method and seed, and which teacher where there are several."""
    taught = "" if run.teacher_seed is None else f"-teacher{run.teacher_seed}"
    name = "teacher" if run.role == "teacher" else f"{run.label}{taught}-seed{run.seed}"
    return f"{run.pair}-{name}"


def metrics(progress: Progress) -> dict[str, float]:
    """The numbers of a report: `loss/TERM`, `dev_miou`, `step_ms`."""
    found = {f"loss/{term}": value for term, value in (progress.terms or {}).items()}
    found |= {k: v for k, v in (("dev_miou", progress.dev_miou), ("step_ms", progress.step_ms)) if v is not None}
    return found


def parameters(run: Run) -> dict[str, str | int | float | bool]:
    """The settings of a run, flat: pair, role, seed, method, `method.PARAMETER`, `train.KEY.KEY`."""
    spec = run.model_dump(mode="json", include={"pair", "role", "seed", "train"})
    spec["method"] = {"name": run.method.name, **run.method.parameters}
    flat: dict[str, str | int | float | bool] = {}

    def flatten(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                flatten(f"{prefix}.{key}" if prefix else key, item)
        else:
            flat[prefix] = value if isinstance(value, str | int | float) else str(value)

    flatten("", spec)
    flat["method"] = flat.pop("method.name")
    return flat


def tensorboard(folder: Path, run: Run) -> Log:
    """Scalars, one TensorBoard run per run. View with `tensorboard --logdir RESULTS/EXPERIMENT/tensorboard`.

    Raises:
        ValueError: the package is not installed.
    """
    require(["tensorboard"])
    from torch.utils.tensorboard import SummaryWriter

    title = re.sub(r"[/\\\s]", "_", run_title(run))[:NAME_LENGTH]
    target = str(folder / f"{title}-{run.run_id}")
    writer: Any = None

    def log(progress: Progress) -> None:
        nonlocal writer
        if progress.step is not None:
            if writer is None:  # after resuming, repeated steps replace the earlier ones
                writer = SummaryWriter(target, purge_step=progress.step)
            for name, value in metrics(progress).items():
                writer.add_scalar(name, value, progress.step)
            writer.flush()
        if progress.ended is not None and writer is not None:
            writer.close()

    return log


def mlflow(folder: Path, run: Run) -> Log:
    """An MLflow run per run: at MLFLOW_TRACKING_URI, else in a store of files below `folder`.

    Files, because workers on several machines write at once, which SQLite on shared storage does not support. View with
    `MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri RESULTS/EXPERIMENT/mlflow/store` (package `mlflow`).

    Raises:
        ValueError: the package is not installed.
    """
    require(["mlflow"])
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    client, ours = _mlflow_on_server(uri, run) if uri else _mlflow_in_files(folder, run)
    from mlflow.entities import Metric, Param

    params = [Param(key, str(value)) for key, value in parameters(run).items()]
    for begin in range(0, len(params), MLFLOW_BATCH):
        client.log_batch(ours, params=params[begin : begin + MLFLOW_BATCH])
    client.update_run(ours, status="RUNNING")

    def log(progress: Progress) -> None:
        if progress.step is not None:
            now, step = round(time.time() * 1e3), progress.step
            found = metrics(progress).items()
            client.log_batch(ours, metrics=[Metric(name, value, now, step) for name, value in found])
        if progress.ended in MLFLOW_STATUS:
            client.set_terminated(ours, MLFLOW_STATUS[progress.ended])

    return log


def _mlflow_on_server(uri: str, run: Run) -> tuple[Any, str]:
    """A client, and MLflow's id of the run, which is found by its tag."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = _mlflow_experiment(client, run.experiment)
    found = client.search_runs([experiment], f"tags.run_id = '{run.run_id}'", max_results=1)
    return client, found[0].info.run_id if found else _mlflow_new(client, experiment, run)


def _mlflow_in_files(folder: Path, run: Run) -> tuple[Any, str]:
    """The same in a folder. MLflow's id is kept beside the store, since a search would read the files of every run."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read at the import
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # new MLflow prefers a database
    from mlflow.tracking import MlflowClient

    note = folder / "ids" / run.run_id
    note.parent.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:  # workers start together, and MLflow would create two experiments
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = MlflowClient(tracking_uri=(folder / "store").absolute().as_uri())
        experiment = _mlflow_experiment(client, run.experiment)
    if not note.is_file():
        write_atomic(note, _mlflow_new(client, experiment, run))
    return client, note.read_text()


def _mlflow_new(client: Any, experiment: str, run: Run) -> str:
    tags = {"run_id": run.run_id, "experiment": run.experiment}
    return str(client.create_run(experiment, run_name=run_title(run), tags=tags).info.run_id)


def _mlflow_experiment(client: Any, name: str) -> str:
    """MLflow's id of an experiment, which is created if there is none."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another worker was faster
            if found is None:
                raise
    return str(found.experiment_id)


_OPEN: set[str] = set()
"""Runs that this process logs to W&B now."""


def wandb(folder: Path, run: Run) -> Log:
    """A W&B run per run, of the project named as the experiment, with the run's own id.

    Offline, for a later `wandb sync RESULTS/EXPERIMENT/wandb/wandb/offline-run-*`, unless WANDB_MODE says otherwise
    or WANDB_API_KEY is set.

    Raises:
        ValueError: the package is not installed.
    """
    require(["wandb"])
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
    if mode == "offline":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read at the import; it would go to the network
    import wandb as package

    folder.mkdir(parents=True, exist_ok=True)
    # Neither terminal output nor source code is sent: they may contain private data.
    settings = package.Settings(console="off", disable_git=True, save_code=False, silent=True)
    ours = package.init(
        project=run.experiment,
        id=run.run_id,
        name=run_title(run),
        group=run.pair,
        job_type=run.role,
        config=parameters(run),
        dir=str(folder),
        mode=mode,
        resume=None if mode == "offline" else "allow",  # offline: `wandb sync` joins the files of both processes
        reinit="create_new",  # one W&B run per run, not per process
        settings=settings,
    )
    _OPEN.add(run.run_id)
    # Not W&B's own count, which must not decrease when a run resumes from its last checkpoint.
    ours.define_metric("*", step_metric="step")

    def log(progress: Progress) -> None:
        if progress.step is not None:
            ours.log({"step": progress.step, **metrics(progress)})
        if progress.ended is not None:
            ours.finish(exit_code=1 if progress.ended == "failed" else 0)
            _OPEN.discard(run.run_id)
            if not _OPEN:  # others may be in training in this process
                package.teardown()  # otherwise Ray may end W&B's process with ours while it still writes

    return log


LOGGERS: dict[str, Callable[[Path, Run], Log]] = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}
