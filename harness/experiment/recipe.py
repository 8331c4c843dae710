"""The recipe of an experiment: how every run of it is trained and evaluated. Frozen models with strict types."""

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from harness.borders import quoted
from harness.experiment import torch_names
from harness.experiment.meanings import nearest

# Every number has bounds, so that none can take a machine's memory or never end.
MOST_PIXELS = 2**26
"""Of one image: 8192 x 8192. It takes 200 MB as bytes, 800 MB as numbers."""
MOST_BATCH_PIXELS = 2**28
MOST_SIDE = 8192
Count = Annotated[int, Field(gt=0, le=4096)]
"""Of samples or processes."""
Side = Annotated[int, Field(gt=0, le=MOST_SIDE)]
"""In pixels."""
Steps = Annotated[int, Field(gt=0, le=10**9)]
NonNegative = Annotated[float, Field(ge=0, le=1e30)]
Positive = Annotated[float, Field(gt=0, le=1e30)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Text = Annotated[str, Field(max_length=200)]
"""A name, or the beginning of one."""


class Spec(BaseModel):
    """Base of every section: immutable, strict types, unknown keys are errors."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _torchs(data: Any, module: str, own: tuple[str, ...], keys: tuple[str, ...], unset: tuple[str, ...]) -> Any:
    """Move the keyword arguments of a class of torch into `parameters`; what has one of our names stays as it is.

    Args:
        data: the section as it is given.
        module: torch's, where its name is looked up.
        own: our names.
        keys: of the section, which are no keyword arguments.
        unset: keys that only our names have.
    """
    if not isinstance(data, dict) or not isinstance(name := data.get("name", own[0]), str):
        return data
    if name in own:
        if data.get("parameters") is not None:
            raise ValueError(f"parameters are for the names of torch; {name} has {', '.join(unset)}")
        return _with_tuples(data)
    given = data.get("parameters") or {}
    if not isinstance(given, dict):
        raise ValueError(f"parameters are keyword arguments of {name}, a mapping; write them beside name")
    given = dict(given)
    given |= {
        key: value
        for key, value in data.items()
        if key not in (*keys, "parameters") and not (key in unset and value is None)
    }
    if (wrong := torch_names.problem(module, own, name, given)) is not None:
        raise ValueError(wrong)
    return {key: data[key] for key in keys if key in data} | dict.fromkeys(unset) | {"parameters": given}


def _with_tuples(data: dict[str, Any]) -> dict[str, Any]:
    """A validator that sees plain data hands it on as Python's, in which a strict tuple is no list."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


class Optimizer(Spec):
    """Optimiser of every run: `sgd` or `adamw`, or a class of torch.optim with its own keyword arguments."""

    name: Text = "sgd"
    """`sgd`, `adamw`, or a class of torch.optim (AdamW, NAdam, RMSprop, ...), whose keyword arguments stand beside it
    and have torch's defaults."""
    lr: Positive = 0.01
    """Learning rate before the schedule's factor."""
    weight_decay: NonNegative | None = 5e-4
    """Of all parameters that are trained."""
    momentum: Fraction | None = 0.9
    """SGD's momentum."""
    betas: tuple[Fraction, Fraction] | None = (0.9, 0.999)
    """AdamW's decay rates."""
    encoder_lr_factor: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """The encoder learns with this times lr."""
    parameters: dict[str, Any] | None = None
    """Keyword arguments of torch's class; filled in from those beside its name."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        unset = ("weight_decay", "momentum", "betas")
        found = _torchs(data, torch_names.OPTIMIZERS, OPTIMIZERS, ("name", "lr", "encoder_lr_factor"), unset)
        if isinstance(found, dict) and found.get("parameters") is not None and "lr" not in found:
            raise ValueError(f"{found['name']} needs lr")
        return found

    @model_validator(mode="after")
    def _whole(self) -> "Optimizer":
        for key in ("weight_decay", "momentum", "betas"):
            if self.parameters is None and getattr(self, key) is None:
                raise ValueError(f"{key} of {self.name} is a number; leave it out for the default")
        return self


class Schedule(Spec):
    """Learning-rate schedule, a factor on the optimiser's lr; a step of it is a training step."""

    name: Text = "poly"
    """`poly`, `cosine`, `constant`, or a class of torch.optim.lr_scheduler (StepLR, OneCycleLR, ...), whose keyword
    arguments stand beside it."""
    power: Positive | None = 0.9
    """Exponent of poly: (1 - step / steps) ** power."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Linear from lr / warmup_steps to lr over the first steps."""
    parameters: dict[str, Any] | None = None
    """Keyword arguments of torch's class; filled in from those beside its name."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        # `power` is a keyword argument of torch's too.
        return _torchs(data, torch_names.SCHEDULES, SCHEDULES, ("name", "warmup_steps"), ("power",))

    @model_validator(mode="after")
    def _whole(self) -> "Schedule":
        if self.parameters is None and self.power is None:
            raise ValueError(f"power of {self.name} is a number; leave it out for the default")
        return self


OPTIMIZERS, SCHEDULES = ("sgd", "adamw"), ("poly", "cosine", "constant")
"""Our names; all others are torch's."""
LOSSES: dict[str, dict[str, Any]] = {
    "cross-entropy": {"class_weights": None, "label_smoothing": 0.0},
    "ohem": {"class_weights": None, "threshold": 0.7, "min_kept": None},
    "dice": {"smooth": 0.0},
    "focal": {"gamma": 2.0, "alpha": None},
}
"""Task losses, and the defaults of their options."""


def _gamma(gamma: float) -> float:
    if 0 < gamma < 1:
        raise ValueError("below 1 the gradient at a certain pixel is infinite. Allowed: 0, or at least 1")
    return gamma


class LossTerm(Spec):
    """A loss between the student's class scores and the labels, or one term of a sum of such losses."""

    name: Text = "cross-entropy"
    """cross-entropy, ohem (cross-entropy of the hardest pixels), dice, focal, or a function of your own:
    `package.module:function`, called with (scores, labels, ignore_index)."""
    weight: Positive = 1.0
    """Factor of the term in a sum."""
    class_weights: Annotated[tuple[NonNegative, ...], Field(min_length=1, max_length=255)] | None = None
    """Of cross-entropy and ohem: one per class, in the order of the classes."""
    label_smoothing: Fraction | None = None
    """Of cross-entropy: this share of a label is spread over all classes."""
    threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of ohem: pixels whose class has a lower probability are kept."""
    min_kept: Annotated[int, Field(gt=0, le=MOST_PIXELS)] | None = None
    """Of ohem: at least so many pixels of an image are kept, the hardest ones."""
    smooth: NonNegative | None = None
    """Of dice: added to numerator and denominator."""
    gamma: Annotated[float, Field(ge=0, le=100), AfterValidator(_gamma)] | None = None
    """Of focal: exponent of the modulating factor, 0 or at least 1."""
    alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of focal: weight of the class against all others; equal without it."""
    parameters: dict[str, Any] | None = None
    """Keyword arguments of your own function."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(name := data.get("name", "cross-entropy"), str):
            return data
        if ":" not in name and name not in LOSSES:
            allowed = f"{', '.join(LOSSES)}, or a function of your own: package.module:function"
            raise ValueError(f"unknown loss '{quoted(name)}'.{nearest(name, LOSSES)} Allowed: {allowed}")
        own: dict[str, Any] = {"parameters": {}} if ":" in name else LOSSES[name]
        for key, value in data.items():
            if key in cls.model_fields and key not in ("name", "weight", *own) and value is not None:
                raise ValueError(f"{key} is not an option of {quoted(name)}. Allowed: {', '.join(('weight', *own))}")
        return _with_tuples(data | {key: value for key, value in own.items() if data.get(key) is None})

    @model_validator(mode="after")
    def _sound(self) -> "LossTerm":
        if self.name == "ohem" and self.min_kept is None:
            raise ValueError("ohem needs min_kept: at least so many pixels of an image are kept")
        if self.class_weights is not None and not any(self.class_weights):
            raise ValueError("class_weights are all 0; at least one class must count")
        return self


def _as_losses(value: Any) -> Any:
    """The list of a sum's terms of `dice`, `{name: dice, weight: 0.5}` or a list of these."""
    if value is None:
        return None
    items = value if isinstance(value, list | tuple) else [value]
    return tuple({"name": item} if isinstance(item, str) else item for item in items)


def _without_default(losses: "tuple[LossTerm, ...] | None") -> "tuple[LossTerm, ...] | None":
    """None for the plain cross-entropy, however it is written: it is the same run."""
    return None if losses == (LossTerm(),) else losses


class Evaluation(Spec):
    """How a network is run over dev and val; labels always at their own resolution."""

    window_hw: tuple[Side, Side] | None = None
    """Height and width of the sliding window; the whole image at once when not given."""
    stride_hw: tuple[Side, Side] | None = None
    """Steps of the sliding window, at most its size; two thirds of it when not given."""
    scales: Annotated[tuple[Annotated[float, Field(ge=0.02, le=4)], ...], Field(min_length=1, max_length=16)] = (1.0,)
    """The image is also shown at these scales; the class probabilities are averaged."""
    flip: bool = False
    """Also show the image mirrored left-right, at every scale."""
    boundary: Annotated[int, Field(gt=0, le=1000)] | None = None
    """Also count the pixels within this distance of a class boundary by themselves (trimap)."""
    per_image: bool = False
    """Keep the confusion matrix of every val image in a file beside the row."""

    @model_validator(mode="after")
    def _fits(self) -> "Evaluation":
        if self.stride_hw is not None:
            if self.window_hw is None:
                raise ValueError(f"stride_hw {list(self.stride_hw)} needs window_hw, the window that is moved")
            if self.stride_hw[0] > self.window_hw[0] or self.stride_hw[1] > self.window_hw[1]:
                raise ValueError(f"stride_hw {list(self.stride_hw)} leaves gaps between windows {list(self.window_hw)}")
        return self


class Augment(Spec):
    """Random changes of a training sample, drawn from a stream of their own."""

    crop_hw: tuple[Side, Side] | None = None
    """Height and width of the random crop; the whole image when not given."""
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    """Range of the random scale, drawn uniformly."""
    flip: bool = True
    """Mirror left-right with probability 1/2."""
    jitter: Fraction = 0.0
    """Brightness and contrast change by a factor within 1 +- jitter."""
    saturation: Fraction = 0.0
    """Saturation changes by a factor within 1 +- saturation."""
    hue: Annotated[float, Field(ge=0, le=180)] = 0.0
    """The hue turns by up to so many degrees either way."""
    scale_step: NonNegative = 0.0
    """Scales are low, low + step, ..., each equally likely; any number of the range at 0."""
    class_cap: Annotated[float, Field(gt=0, le=1)] = 1.0
    """A crop in which one class has a larger share of the labelled pixels is drawn again, up to ten times."""

    @model_validator(mode="after")
    def _ordered(self) -> "Augment":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale is (low, high) with low <= high; given {list(self.scale)}")
        if self.scale[0] < 0.02 or self.scale[1] > 50:
            raise ValueError(f"scale lies between 0.02 and 50; given {list(self.scale)}")
        height, width = self.crop_hw or (1, 1)
        if height * width / self.scale[0] ** 2 > MOST_PIXELS:
            raise ValueError(
                f"crop_hw {height} x {width} at scale {self.scale[0]:g} is cut from {height / self.scale[0]:.0f} x "
                f"{width / self.scale[0]:.0f} pixels; allowed are {MOST_PIXELS:,}. Give a smaller crop"
            )
        return self


class Train(Spec):
    """The recipe, the same for every method of the experiment."""

    steps: Steps
    """Training steps of a run."""
    batch_size: Count
    """Global batch, over all workers and accumulation steps."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    loss: Annotated[
        Annotated[tuple[LossTerm, ...], Field(min_length=1, max_length=8)] | None,
        BeforeValidator(_as_losses),
        AfterValidator(_without_default),
    ] = None
    """The task loss of every method, and of the teacher; cross-entropy when not given. A list is a weighted sum."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Evaluate and save the exponential moving average of the weights with this decay, e.g. 0.999."""
    auxiliary_weight: NonNegative = 0.4
    """Weight of the auxiliary head's task loss in networks that have such a head; at 0 the head is not trained."""
    augment: Augment = Augment()
    normalize: Literal["dataset", "encoder", "bgr-mean"] = "dataset"
    """Mean and deviation taken off an image: the dataset's (ImageNet's for photographs in files), those that each
    network's encoder was pretrained with, or the papers' (BGR order, Caffe's mean, no deviation)."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Autocast type of the forward passes, with float32 for everything else; `tf32`: float32, rounded to TensorFloat-32
    in convolutions and matrix products. `tf32` and `fp16`, which adds a gradient scaler, need a GPU."""
    clip_norm: Positive | None = None
    """Largest norm of the student's gradient."""
    accumulate: Count = 1
    """Split each global batch into this many forward/backward passes."""
    channels_last: bool = False
    """Networks and images in the memory layout channels_last."""
    compile: bool = False
    """torch.compile the student step and the teacher."""
    deterministic: bool = False
    """Only operations whose order of additions is fixed, so that a run has the same bits each time on one kind of GPU;
    slower. One without such a form fails the run, by its name. On a CPU runs have the same bits anyway."""
    teacher_fast: bool = False
    """The teacher's forward pass in bfloat16 (autocast; with `precision: fp16` in that) and channels_last; the
    student's in `precision`."""
    sync_batchnorm: bool = True
    """With several workers: batch statistics over the global batch."""
    eval_every: Steps | None = None
    """Evaluate on dev every so many steps; at the last step only when not given."""
    eval_batch_size: Count = 16
    """Images of a forward pass over dev and val."""
    evaluation: Evaluation = Evaluation()
    gradients_every: Steps | None = None
    """Log the norm of each loss term's gradient every so many steps; each term then has its own backward pass."""
    checkpoint_every: Steps | None = None
    """Write a resumable checkpoint every so many steps; with each evaluation when not given."""

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the task losses."""
        return tuple(term.name for term in self.loss or (LossTerm(),))

    @model_validator(mode="after")
    def _divisible(self) -> "Train":
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")
        if self.compile and self.gradients_every is not None:
            raise ValueError("gradients_every: a compiled step has one backward pass only; set compile: false")
        if self.compile and self.deterministic:
            raise ValueError("deterministic: the order of a compiled step's additions is not fixed; set compile: false")
        height, width = self.augment.crop_hw or (1, 1)
        if self.batch_size * height * width > MOST_BATCH_PIXELS:
            raise ValueError(
                f"batch_size {self.batch_size} of crop_hw {height} x {width} are {self.batch_size * height * width:,} "
                f"pixels; allowed are {MOST_BATCH_PIXELS:,}"
            )
        return self


NO_NUMBER = ("checkpoint_every", "gradients_every")
"""Keys of the recipe that change no number of a run, and are no part of its identity."""

ADDED: tuple[tuple[tuple[str, ...], type[Spec], tuple[str, ...]], ...] = (
    (("augment",), Augment, ("saturation", "hue", "scale_step", "class_cap")),
    (("optimizer",), Optimizer, ("encoder_lr_factor", "parameters")),
    (("schedule",), Schedule, ("parameters",)),
    ((), Train, ("normalize", "evaluation", "loss", "ema", "gradients_every", "deterministic", "teacher_fast")),
)
"""Keys added after the first release, by section; at their defaults they are not part of a run's identity."""


def without_defaults_of_added_keys(train: dict[str, Any]) -> dict[str, Any]:
    """The recipe as plain data, without the `ADDED` keys that are at their defaults; older rows lack them anyway."""
    train = json.loads(json.dumps(train))
    for path, model, keys in ADDED:
        section: Any = train
        for name in path:
            section = section.get(name)
        if not isinstance(section, dict):  # of a row that no run wrote
            continue
        defaults = {key: model.model_fields[key].get_default() for key in keys}
        for key, value in defaults.items():
            plain = value.model_dump(mode="json") if isinstance(value, Spec) else value
            if key in section and section[key] == plain:
                del section[key]
    losses = train.get("loss")
    for term in losses if isinstance(losses, list) else ():  # options of other losses, and those of later versions
        if not isinstance(term, dict):
            continue
        for key in [key for key, value in term.items() if value is None]:
            del term[key]
    return train
