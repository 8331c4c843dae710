"""What an experiment and a run are: frozen models with strict types.

`experiment.load.load` reads an `Experiment` from YAML; `experiment.plan.plan` makes its list of `Run`s. Whatever
changes the numbers is part of a run's identity; paths (weights are identified by content) and resources are not.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator

from harness import seeds
from harness.borders import quoted
from harness.experiment.budget import Budget, Control, StepTime, control_label
from harness.experiment.method import Method, as_method
from harness.experiment.recipe import (
    NO_NUMBER,
    Positive,
    Spec,
    Steps,
    Text,
    Train,
    without_defaults_of_added_keys,
)
from harness.experiment.resources import Resources
from harness.experiment.search_settings import TIMING, Search, Seed, Source, Trial
from harness.experiment.weights import FolderPath, Weights, as_weights, identity, of_networks

Version = Literal["1.1", "2.0"]
VERSIONS: tuple[Version, ...] = get_args(Version)
PROTOCOL_VERSION: Version = "2.0"
MOST_OF_A_NETWORK = 4096
"""Channels, sides and rates of a network; a convolution between so many channels has 600 MB of weights."""

Share = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""Name of a folder or of a table's line: letters, digits, `.`, `_`, `-`."""


class Protocol(Spec):
    """Which rules of docs/protocol.md the comparison follows."""

    version: Annotated[Version, BeforeValidator(lambda given: str(given) if isinstance(given, float) else given)] = (
        PROTOCOL_VERSION
    )
    """An earlier one finds and continues runs of that version. Until 1.1 a teacher and a student of the same seed drew
    the same order and crops."""
    ruleset: Literal["published", "tuned", "searched"] = "published"
    """`published`: every method with its authors' values, zero tuning trials. `tuned`: the best of the published point
    and as many pre-drawn ones for every method, by the mean over the search seeds. `searched`: the best that
    an algorithm found; exploratory."""
    absent_policy: Literal["skip", "zero"] = "skip"
    """A class absent from both prediction and label is left out of the mean (`skip`) or counts 0 (`zero`)."""


class Dataset(Spec):
    """The data every run of the experiment sees."""

    name: Text
    """A name of the DATASETS table, or a class or function of your own: `package.module:Name`."""
    root: FolderPath | None = None
    """Folder of a dataset that is not embedded; `${VAR}` is expanded."""
    parameters: dict[str, Any] = {}
    """The dataset's own parameters, as in its loader's signature."""


def _plain_values(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers and texts in nested lists and mappings, each with its place."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _plain_values(item, f"{at}.{key}" if at else str(key))
    else:
        yield at, value


class NetworkInput(Spec):
    """How a network wants its images. Overrides `train.normalize`."""

    mean: tuple[Share, Share, Share] = (0.485, 0.456, 0.406)
    """Of the values in 0 to 1, in RGB order; ImageNet's when not given."""
    std: tuple[Deviation, Deviation, Deviation] = (0.229, 0.224, 0.225)
    """Standard deviation; ImageNet's when not given."""
    multiple: Annotated[int, Field(ge=1, le=512)] = 32
    """The image is padded to a multiple of it, and the maps are cropped back."""
    bgr: bool = False
    """The network takes blue, green, red."""


class Network(Spec):
    """A segmentation network."""

    architecture: Text
    """One of docs/networks.md (unet, fpn, deeplabv3plus, ...), or a class or function of your own:
    `package.module:Name`, called with `num_classes` and the parameters."""
    encoder: Text | None = None
    """An encoder of segmentation-models-pytorch, or `tu-NAME` for any timm backbone; none for a network of your own."""
    parameters: dict[str, Any] = {}
    """More keyword arguments of the architecture, e.g. {encoder_depth: 4}."""
    taps: dict[str, Text] | None = None
    """For a network of your own: the path of the module that gives each tap (stem, stage1 to stage9, decoder,
    logits), as in `named_modules()`. Not needed if its forward returns `harness.Taps`."""
    input: NetworkInput | None = None
    """How a network of your own wants its images."""
    encoder_weights: Weights | None = None
    """Pretrained weights of the encoder: `imagenet` or another name that its library gives them, {package: NAME},
    {path: FILE}, or hf:ORGANISATION/NAME@REVISION; random initialisation without them."""

    @field_validator("encoder_weights", mode="before")
    @classmethod
    def _published(cls, given: Any) -> Any:
        return as_weights(given)

    @field_validator("parameters")
    @classmethod
    def _bounded(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        for at, value in _plain_values(parameters):
            if isinstance(value, int | float) and abs(value) > MOST_OF_A_NETWORK:
                raise ValueError(
                    f"{at} is {quoted(value)}; a number in a network's parameters is at most {MOST_OF_A_NETWORK}"
                )
        return parameters


class Teacher(Network):
    """The teacher: trained once per experiment and seed, or given as a checkpoint of the whole network."""

    checkpoint: Weights | None = None
    """Trained weights of the whole network: {path: FILE or FOLDER}, or hf:ORGANISATION/NAME@REVISION. Without it the
    teacher is trained as a run of its own."""
    steps: Steps | None = None
    """Training steps of the teacher; train.steps when not given."""
    lr: Positive | None = None
    """Learning rate of the teacher; train.optimizer.lr when not given."""
    seed: Seed = 0
    """Of the teacher's own training."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=100)] | None = None
    """In place of `seed`: a teacher is trained with each, and each teaches every method with every student seed."""

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds of all teachers of the pair."""
        return self.seeds or (self.seed,)

    @field_validator("checkpoint", mode="before")
    @classmethod
    def _whole(cls, given: Any) -> Any:
        given = as_weights(given, tags=False)
        if isinstance(given, dict) and given.get("tag") is not None:
            raise ValueError("a tag names weights of an encoder; a checkpoint is of the whole network")
        return given


class PairSpec(Spec):
    """One teacher/student pair."""

    name: Name
    """What the pair is called in tables."""
    teacher: Teacher
    student: Network


class Experiment(Spec):
    """A comparison of distillers."""

    name: Name
    """Folder of the results."""
    protocol: Protocol = Protocol()
    data: Dataset
    pairs: Annotated[tuple[PairSpec, ...], Field(min_length=1, max_length=1000)]
    train: Train
    budget: Budget = Budget()
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=10_000)]
    """One final run per method and seed; methods are compared seed by seed."""
    methods: Annotated[tuple[Annotated[Method, BeforeValidator(as_method)], ...], Field(min_length=1, max_length=1000)]
    """The distillers that are compared, by name or {name: {parameter: value}}; a list of several is their sum."""
    controls: bool = True
    """Also run the controls: `kd`; of a method with a plain distillation among its terms that one by itself, at the
    method's own weight; with `budget.unit: steps` the baseline for as long as the slowest method (`budget.longer`).
    Without them the report says what cannot be told."""
    search: Search | None = None
    """Before the final runs; for the rulesets `tuned` and `searched`."""
    resources: Resources = Resources()
    overrides: tuple[str, ...] = ()
    """Filled in by --set; not a key of the file."""
    given: tuple[tuple[str, ...], ...] = ()
    """Filled in if there is a search: the parameters that the file gives for each method; not a key of the file."""


def unfound(experiment: Experiment) -> bool:
    """Whether there are published weights whose files have not been looked for."""
    networks = [network for pair in experiment.pairs for network in (pair.teacher, pair.student)]
    return any((weights.tag or weights.hub) and not weights.known for weights in of_networks(networks))


def found_or_named(find: Callable[[], Experiment], given: Experiment) -> Experiment:
    """What `find` gives; the experiment as given where a file is not here and its digest says what its runs are called.

    Raises:
        ValueError: of `find`, where the digest of published weights is not known.
    """
    try:
        return find()
    except ValueError:
        networks = [network for pair in given.pairs for network in (pair.teacher, pair.student)]
        if any(weights.sha256 is None for weights in of_networks(networks)):
            raise
        return given


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
    """The pair's teacher, of several the one with this `seed`; None when this run trains the teacher itself."""
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
    """Marks the additional student without distillation, with another number of steps; see Budget."""
    step_time: StepTime | None = None
    """The step time that its number of steps follows from, if the budget is in seconds."""
    overrides: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Label of its line in tables."""
        return control_label(self.method.label, self.control) if self.control else self.method.label

    @property
    def stream_seed(self) -> int:
        """What its random streams come from: a teacher draws no initial weights, order and crops of a student."""
        apart = self.role == "teacher" and self.protocol.version != "1.1"
        return seeds.derive(self.seed, "teacher") if apart else self.seed

    @property
    def teacher_seed(self) -> int | None:
        """Which teacher this run learns from: its seed; None if the pair has one teacher, or the method needs none."""
        several = self.teacher is not None and len(self.teacher.all_seeds) > 1 and self.method.needs_teacher
        return self.teacher.seed if several and self.teacher is not None else None

    @property
    def who(self) -> str:
        """For people, beside the seed: "kd", or "kd teacher 1" of several teachers; "teacher", "teacher 1"."""
        if self.role == "teacher":
            return f"teacher {self.seed}" if self.seed else "teacher"
        return self.label if self.teacher_seed is None else f"{self.label} teacher {self.teacher_seed}"

    @property
    def named(self) -> dict[str, Any]:
        """For programs: run_id, pair, method, seed and role; where there are several teachers `teacher_seed` too."""
        found = {"run_id": self.run_id, "pair": self.pair, "method": self.label, "seed": self.seed, "role": self.role}
        return found if self.teacher_seed is None else found | {"teacher_seed": self.teacher_seed}

    def identity(self) -> dict[str, Any]:
        """Everything that identifies the run, as plain data."""
        spec = self.model_dump(mode="json", exclude={"experiment", "overrides", "pair", "teacher", "step_time"})
        for section, key in ((spec["network"], "encoder_weights"), (spec, "checkpoint")):
            if section[key] is not None:
                section[key] = identity(section[key])
        for key in ("taps", "input"):
            if spec["network"][key] is None:
                del spec["network"][key]
        spec["data"].pop("root")
        if self.data.name == "folder":
            for key in ("layout", "unlabelled"):
                if spec["data"]["parameters"].get(key, "") is None:
                    del spec["data"]["parameters"][key]
        for key in NO_NUMBER:
            spec["train"].pop(key)
        # Keys added later are left out when unset, so that earlier run_ids stay.
        for section, keys in ((spec, ("trial", "source", "control")), (spec["budget"], ("seconds",))):
            for key in keys:
                if section[key] is None:
                    del section[key]
        del spec["budget"]["longer"]  # says that there is another run
        if self.trial is not None and self.trial.algorithm == TIMING:
            del spec["trial"]["method"]  # a label leaves out what is at its default: others may be so one day
        version = spec["protocol"].pop("version")
        if self.source is not None:
            spec["source"].pop("seconds")
        spec["train"] = without_defaults_of_added_keys(spec["train"])
        return {"protocol_version": version, **spec}

    @property
    def run_id(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical identity."""
        # Runs of an experiment differ in little but the seed; thousands of them share the other objects.
        shared = (self.network, self.checkpoint, self.method, self.train, self.data, self.trial, self.source)
        key = (*map(id, shared), self.protocol, self.budget, self.role, self.teacher_run, self.control, self.step_time)
        found = _CANONICAL.get(key)
        if found is None:
            identity = self.identity() | {"seed": _SEED}
            text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
            before, _, after = text.partition(f'"{_SEED}"')
            if len(_CANONICAL) >= _KEPT:
                _CANONICAL.clear()
            found = _CANONICAL[key] = before, after, shared
        return hashlib.sha256(f"{found[0]}{self.seed}{found[1]}".encode()).hexdigest()[:16]


_SEED, _KEPT = "seed:3f6c2b", 1024
_CANONICAL: dict[Any, tuple[str, str, tuple[Any, ...]]] = {}
"""Canonical identities before and after the seed; the objects are kept, so that an id is not used again."""
