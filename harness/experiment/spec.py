"""What an experiment and a run are: frozen models with strict types.

`experiment.load.load` reads an `Experiment` from YAML; `experiment.plan.plan` makes its list of `Run`s. Whatever
changes the numbers is in a run's identity; paths are not (weights are named by content), nor is where it runs.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from harness.experiment import signatures
from harness.experiment.recipe import (
    Budget,
    Control,
    NonNegative,
    Positive,
    PositiveInt,
    Spec,
    StepTime,
    Train,
    control_label,
    without_defaults_of_added_keys,
)
from harness.experiment.search_settings import Search, Seed, Source, Trial

PROTOCOL_VERSION = "1.1"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class PathMark:
    """Marks a string field as a path: the only place where `${VAR}` is expanded, and it must exist."""

    kind: Literal["file", "folder"]


FilePath = Annotated[str, PathMark("file")]
FolderPath = Annotated[str, PathMark("folder")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""Of a folder or a table's line: letters, digits, `.`, `_`, `-`."""


class Protocol(Spec):
    """Which rules of docs/protocol.md the comparison follows."""

    ruleset: Literal["published", "tuned", "searched"] = "published"
    """`published`: every method with its authors' values, zero tuning trials. `tuned`: the best of as many pre-drawn
    points for every method. `searched`: the best that an algorithm found; exploratory."""
    absent_policy: Literal["skip", "zero"] = "skip"
    """A class absent from both prediction and label is left out of the mean (`skip`) or counts 0 (`zero`)."""


class Dataset(Spec):
    """The data every run of the experiment sees."""

    name: str
    """A name of the DATASETS table."""
    root: FolderPath | None = None
    """Folder of a dataset that is not embedded; `${VAR}` is expanded."""
    parameters: dict[str, Any] = {}
    """The dataset's own parameters, as in its loader's signature."""


class Weights(Spec):
    """A weight file, named by content so that it cannot change unnoticed."""

    path: FilePath
    """A .safetensors file, or a .pt/.pth state dict (loaded with weights_only=True)."""
    sha256: Sha256 | None = None
    """`sha256sum FILE`; what the file has when the experiment is read, when not given."""

    @property
    def digest(self) -> str:
        """The digest, which `harness.experiment.load.load` has filled in."""
        assert self.sha256 is not None
        return self.sha256


class Network(Spec):
    """A segmentation network."""

    architecture: str
    """`pspnet-papers`, `deeplabv3-cirkd`, or one of segmentation-models-pytorch: unet, fpn, deeplabv3plus, ..."""
    encoder: str
    """An encoder of segmentation-models-pytorch, or `tu-NAME` for any timm backbone."""
    parameters: dict[str, Any] = {}
    """More keyword arguments of the architecture, e.g. {encoder_depth: 4}."""
    encoder_weights: Weights | None = None
    """Pretrained encoder weights; random initialisation without them."""


class Teacher(Network):
    """The teacher: trained once per experiment, or given as a checkpoint of the whole network."""

    checkpoint: Weights | None = None
    """Trained weights of the whole network. Without it the teacher is trained as a run of its own."""
    steps: PositiveInt | None = None
    """Training steps of the teacher; train.steps when not given."""
    lr: Positive | None = None
    """Learning rate of the teacher; train.optimizer.lr when not given."""
    seed: Seed = 0


class PairSpec(Spec):
    """One teacher/student pair."""

    name: Name
    teacher: Teacher
    student: Network


class Method(Spec):
    """One distiller with all its hyper-parameters, defaults filled in; or several, whose terms are added up."""

    name: str
    """A name of the METHODS table, `package.module:Class`, or several of them joined by `+`."""
    parameters: dict[str, Any] = {}
    """By name; in a sum by `METHOD.NAME`."""

    @property
    def parts(self) -> tuple["Method", ...]:
        """The distillers of a sum, each with its own parameters; the method itself when it is one."""
        names = self.name.split("+")
        if len(names) == 1:
            return (self,)
        if "none" in names:
            raise ValueError(f"{self.name}: `none` has no terms to add; leave it out of the sum")
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: a sum has each method once; put the weights together")
        own: dict[str, dict[str, Any]] = {name: {} for name in names}
        for key, value in self.parameters.items():
            name, _, parameter = key.rpartition(".")
            if name not in own:
                raise ValueError(f"{key} is no parameter of {self.name}; write it as METHOD.NAME")
            own[name][parameter] = value
        return tuple(Method(name=name, parameters=values) for name, values in own.items())

    @classmethod
    def summed(cls, parts: Sequence["Method"]) -> "Method":
        """The method whose terms are those of all `parts`, by name; the part itself when it is one."""
        if len(parts) == 1:
            return parts[0]
        parts = sorted(parts, key=lambda part: part.name)  # a sum is one method in any order
        parameters = {f"{part.name}.{key}": value for part in parts for key, value in part.parameters.items()}
        return cls(name="+".join(part.name for part in parts), parameters=parameters)

    @property
    def label(self) -> str:
        """Short unique name in tables: the parameters that differ from the defaults follow the name."""
        changed = []
        for part in self.parts:
            fields = method_entry(part.name).parameters.model_fields
            before = f"{part.name}." if part is not self else ""
            changed += [
                f"{before}{k}={_compact(v)}"
                for k, v in part.parameters.items()
                if fields[k].is_required() or _jsonable(fields[k].default) != v
            ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name

    @property
    def caveat(self) -> str | None:
        """What a table must say of the method's values."""
        found = {part.name: method_entry(part.name).constants.get("caveat") for part in self.parts}
        named = [f"{name}: {text}" if len(found) > 1 else text for name, text in found.items() if text]
        return "; ".join(named) or None

    @property
    def needs_teacher(self) -> bool:
        """False when the training loop may skip the teacher."""
        return any(method_entry(part.name).constants.get("needs_teacher", True) for part in self.parts)


class WorkerRange(Spec):
    """Fewest and most workers of one run; they may come and go where these differ. The global batch stays the same."""

    min: PositiveInt
    max: PositiveInt

    @model_validator(mode="after")
    def _ordered(self) -> "WorkerRange":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


def _as_range(value: Any) -> Any:
    """A number of workers is the range from it to itself."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return WorkerRange(min=value, max=value)
    if isinstance(value, (dict, WorkerRange)):
        return value
    raise ValueError("workers are a number of at least 1, or a range: {min: 1, max: 8}")


class Checkpointing(Spec):
    """How a run's resumable checkpoints are kept."""

    minutes: Positive | None = None
    """Also write one after so many minutes; only at the steps of train.checkpoint_every when not given."""
    keep: PositiveInt = 1
    """How many stay; an older one is taken up where the last is damaged."""
    background: bool = False
    """Write while the training goes on; takes the memory of one more copy of what is trained."""


class Resources(Spec):
    """Where the runs run. Never part of a run's identity."""

    workers: Annotated[WorkerRange, BeforeValidator(_as_range, json_schema_input_type=PositiveInt | WorkerRange)] = (
        WorkerRange(min=1, max=1)
    )
    """Processes of one run; more than one trains with DistributedDataParallel through Ray Train. {min, max}: as many as
    there is room for, changing as nodes come and go."""
    cpus_per_worker: PositiveInt = 1
    """CPUs reserved, and threads used, by each worker."""
    gpus_per_worker: NonNegative = 0.0
    loader_workers: Annotated[int, Field(ge=0)] = 0
    """Extra processes per worker that prepare batches; 0 prepares them in the worker itself."""
    loggers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    """Live loggers; they write below the experiment's results folder."""
    concurrent: PositiveInt | None = None
    """Runs at the same time; as many as fit when not given."""
    address: Annotated[str, Field(pattern=r"^(local|auto|[A-Za-z0-9.\-]+:[0-9]+|ray://.+)$")] = "local"
    """`local` starts Ray on this machine; `auto` or host:port joins a running cluster."""
    storage: str | None = None
    """Folder or URI (s3://bucket/prefix, gs://...) below which the workers keep rows, weights and checkpoints; what is
    finished is fetched from there. The results folder itself, which every worker must see, when not given."""
    checkpoints: Checkpointing = Checkpointing()
    max_failures: Annotated[int, Field(ge=0)] = 2
    """How often a run is tried again, on another node if there is one, when its worker dies or its machine fails."""
    bucket_mb: PositiveInt = 25
    """Gradients are summed over workers in pieces of this size, while the backward pass goes on."""

    @model_validator(mode="after")
    def _whole_gpus(self) -> "Resources":
        if self.gpus_per_worker > 1 and not self.gpus_per_worker.is_integer():
            raise ValueError(f"gpus_per_worker is at most 1, or a whole number; given {self.gpus_per_worker:g}")
        return self

    @field_validator("storage")
    @classmethod
    def _whole_address(cls, storage: str | None) -> str | None:
        if storage is not None and not re.match(r"/|[a-z][a-z0-9+]+://", storage):
            raise ValueError(f"a storage is an absolute folder or a URI such as s3://bucket/prefix; given {storage!r}")
        return storage


def _as_method(value: Any) -> Any:
    """`kd`, `{cwd: {tau: 1}}` and the full form are the same thing to a reader; `[kd, sstkd]` is their sum."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, list):
        parts = [Method.model_validate_json(json.dumps(_as_method(item))) for item in value]
        if len(parts) < 2 or any("+" in part.name for part in parts):
            raise ValueError("a sum is a list of two or more methods, each by itself: [kd, {cwd: {tau: 1}}]")
        return Method.summed(parts).model_dump()
    if not isinstance(value, dict) or (len(value) != 1 and "name" not in value):
        raise ValueError("one method is `name` or `{name: {parameter: value}}`, a sum is a list of these")
    if "name" not in value:
        ((name, parameters),) = value.items()
        return {"name": name, "parameters": {} if parameters is None else parameters}
    return value


class Experiment(Spec):
    """A comparison of distillers."""

    name: Name
    """Folder of the results."""
    protocol: Protocol = Protocol()
    data: Dataset
    pairs: Annotated[tuple[PairSpec, ...], Field(min_length=1)]
    train: Train
    budget: Budget = Budget()
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    """One final run per method and seed; methods are compared seed by seed."""
    methods: Annotated[tuple[Annotated[Method, BeforeValidator(_as_method)], ...], Field(min_length=1)]
    search: Search | None = None
    """Before the final runs; for the rulesets `tuned` and `searched`."""
    resources: Resources = Resources()
    overrides: tuple[str, ...] = ()
    """Filled in by --set; not a key of the file."""
    given: tuple[tuple[str, ...], ...] = ()
    """Filled in where there is a search: the parameters that the file gives, for each of `methods`; no key either."""


class Run(Spec):
    """One training run, resolved: nothing in it depends on the experiment's other runs."""

    experiment: str
    role: Literal["student", "teacher"]
    pair: str
    protocol: Protocol
    budget: Budget
    data: Dataset
    network: Network
    """The network this run trains."""
    teacher: Teacher | None
    """The pair's teacher; None when this run trains the teacher itself."""
    teacher_run: str | None
    """run_id of the teacher's own run."""
    checkpoint: Weights | None = None
    """Teacher role only: the given weights; such a run evaluates and does not train."""
    method: Method
    train: Train
    seed: int
    trial: Trial | None = None
    source: Source | None = None
    control: Control | None = None
    """The plain student once more, with another number of steps than it has as a method; equal to what: see Budget."""
    step_time: StepTime | None = None
    """What its number of steps was taken from, where the budget is one of seconds."""
    overrides: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Of its line in tables."""
        return control_label(self.method.label, self.control) if self.control else self.method.label

    def identity(self) -> dict[str, Any]:
        """What makes this run this run, as plain data."""
        spec = self.model_dump(mode="json", exclude={"experiment", "overrides", "pair", "teacher", "step_time"})
        for weights in (spec["network"]["encoder_weights"], spec["checkpoint"]):
            if weights is not None:
                weights.pop("path")
        spec["data"].pop("root")
        spec["train"].pop("checkpoint_every")
        # A run that belongs to no search, or has no budget of seconds, is the one it was before there were any.
        for section, keys in ((spec, ("trial", "source", "control")), (spec["budget"], ("seconds",))):
            for key in keys:
                if section[key] is None:
                    del section[key]
        del spec["budget"]["longer"]  # says that there is another run
        if self.source is not None:
            spec["source"].pop("seconds")
        spec["train"] = without_defaults_of_added_keys(spec["train"])
        return {"protocol_version": PROTOCOL_VERSION, **spec}

    @property
    def run_id(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical identity."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def method_entry(name: str) -> signatures.Entry:
    """The METHODS entry of `name`, or of `package.module:Class`.

    Raises:
        ValueError: there is no such method.
    """
    if ":" in name:
        return signatures.entry(name)
    return _known(name, signatures.table("harness.distillers", "METHODS"), "method")


def dataset_entry(name: str) -> signatures.Entry:
    """The DATASETS entry of `name`.

    Raises:
        ValueError: there is no such dataset.
    """
    return _known(name, signatures.table("harness.datasets", "DATASETS"), "dataset")


def _known(name: str, table: dict[str, signatures.Entry], what: str) -> signatures.Entry:
    if name in table:
        return table[name]
    raise ValueError(f"unknown {what} {name!r}.{nearest(name, table)} Allowed: {', '.join(sorted(table))}")


def nearest(name: str, allowed: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest of `allowed`, or nothing."""
    by_lower = {item.lower(): item for item in allowed}
    near = difflib.get_close_matches(name.lower(), by_lower, n=5, cutoff=0.5)
    near.sort(key=lambda found: sorted(found) != sorted(name.lower()))  # letters in another order come first
    return f" Did you mean {by_lower[near[0]]!r}?" if near else ""


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")).replace('"', "")
