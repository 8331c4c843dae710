"""Where runs execute: workers, devices, checkpoints. Nothing here changes a result."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from harness.experiment.recipe import Count, Positive, Spec
from harness.experiment.storage_uri import require_storage

_NAME = r"[a-zA-Z0-9]([a-zA-Z0-9_.\-]{0,61}[a-zA-Z0-9])?"
_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])?"
Labels = Annotated[
    dict[
        Annotated[str, Field(pattern=rf"^({_LABEL}(\.{_LABEL})*/)?{_NAME}$")],
        Annotated[str, Field(pattern=rf"^!?({_NAME}|in\({_NAME}(, ?{_NAME})*\))$")],
    ],
    Field(max_length=16),
]
"""Ray's label selectors, by key."""


class Checkpointing(Spec):
    """How a run's resumable checkpoints are kept."""

    minutes: Positive | None = None
    """Also write a checkpoint every so many minutes; only at the steps of train.checkpoint_every when not given."""
    keep: Annotated[int, Field(gt=0, le=1000)] = 1
    """How many are kept; if the latest is corrupt, the run resumes from an older one."""
    background: bool = False
    """Write while training continues; needs memory for a copy of everything that is trained."""


class Resources(Spec):
    """Where the runs run. Never part of a run's identity."""

    workers: Count = 1
    """Processes of one run; more than one trains with DistributedDataParallel through Ray Train."""
    cpus_per_worker: Count = 1
    """CPUs reserved, and threads used, by each worker."""
    gpus_per_worker: Annotated[float, Field(ge=0, le=64)] = 0.0
    """GPUs reserved by each worker; 0 trains on CPUs, a share below 1 puts several runs on one GPU."""
    loader_workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Extra processes per worker that read data to train and evaluate, each with a CPU reserved; 0: the worker itself
    reads it."""
    loggers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    """Live loggers; they write below the experiment's results folder."""
    concurrent: Count | None = None
    """Runs at the same time; as many as fit when not given."""
    together: Literal["auto"] | Count = 1
    """Most runs that a worker trains in step where they see the same batches and teacher; both are then made once for
    all of them. `auto`: as many as keep all workers busy and fit into memory. A worker group does so too."""
    autoscale: bool = False
    """The cluster adds nodes while runs wait, for up to `concurrent` runs at a time, and takes back those that idle."""
    node_minutes: Positive = 15.0
    """With autoscale: how long no node may come before the command ends with an error."""
    labels: Labels = Field(default_factory=dict)
    """Of the nodes that workers run on, as Ray's label selectors: {ray.io/accelerator-type: H100}, or a value such as
    "in(H100, H200)" or "!spot"."""
    fallback: Annotated[tuple[Labels, ...], Field(max_length=16)] = ()
    """Other labels, in order, for workers that find no node with those of `labels`; {} for any node."""
    address: Annotated[str, Field(pattern=r"^(local|auto|[A-Za-z0-9.\-]+:[0-9]+|ray://.+)$", max_length=500)] = "local"
    """`local` starts Ray on this machine; `auto` or host:port joins a running cluster."""
    storage: Annotated[str, Field(max_length=2000)] | None = None
    """Folder or URI (s3://bucket/prefix, gs://...) for the workers' rows, weights and checkpoints; finished rows are
    fetched from there. When not given, the results folder, which every worker must see."""
    checkpoints: Checkpointing = Checkpointing()
    max_failures: Annotated[int, Field(ge=0, le=1000)] = 2
    """How often a run is retried, on another node if there is one, when its worker dies or its machine fails."""
    bucket_mb: Count = 25
    """Size of the pieces in which gradients are summed over workers during the backward pass."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> "Resources":
        if self.gpus_per_worker > 1 and not self.gpus_per_worker.is_integer():
            raise ValueError(f"gpus_per_worker is at most 1, or a whole number; given {self.gpus_per_worker:g}")
        if self.workers > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"gpus_per_worker: {self.gpus_per_worker:g} puts several workers of one run on one GPU, which NCCL "
                "refuses; give a whole number, or workers: 1"
            )
        return self

    @model_validator(mode="after")
    def _scales(self) -> "Resources":
        if self.autoscale and self.concurrent is None:
            raise ValueError("autoscale needs concurrent: nodes are asked for until so many runs have one")
        return self

    @model_validator(mode="after")
    def _falls_back(self) -> "Resources":
        if self.fallback and not self.labels:
            raise ValueError("fallback is for labels, of which there are none")
        if self.fallback and self.workers > 1:
            raise ValueError("fallback: the workers of one run are on nodes of one kind; write in(...) in labels")
        return self

    @property
    def cpus(self) -> int:
        """CPUs that are reserved for a worker and its loader workers."""
        return self.cpus_per_worker + self.loader_workers

    @property
    def of_timing(self) -> "Resources":
        """The same for runs that time steps: each has whole GPUs, and no loggers, since the curves are of no use."""
        return self.model_copy(update={"gpus_per_worker": float(math.ceil(self.gpus_per_worker)), "loggers": ()})

    @field_validator("workers", mode="before")
    @classmethod
    def _one_number(cls, workers: Any) -> Any:
        if isinstance(workers, dict):
            raise ValueError("a range of workers is no longer supported; write one number, for example workers: 4")
        return workers

    @field_validator("storage")
    @classmethod
    def _whole_address(cls, storage: str | None) -> str | None:
        return None if storage is None else require_storage(storage)
