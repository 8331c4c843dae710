"""The text of a first experiment file, from a few answers; a starting point that is meant to be edited."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.borders import label, quoted
from harness.experiment import signatures
from harness.experiment.meanings import nearest
from harness.experiment.network_rules import ARCHITECTURES
from harness.experiment.weights import HUB

METHODS = "none,kd,cwd,sstkd"
DATA, TEACHER, STUDENT = "texmosaic", "unet:tu-resnet18d", "unet:tu-resnet10t"
"""Answers that work anywhere, in minutes on a CPU."""
BUILT_IN = ("texmosaic", "landcover")
"""Datasets that need no folder."""
IMAGES_OF = {"cityscapes": "leftImg8bit", "voc": "JPEGImages"}
"""Layouts of a folder of one's own, by where its images are; without one they are in `images`."""
MOST_GPUS = 100_000
SIDE = 32
"""Crops are multiples of it."""
NETWORK = "ARCHITECTURE:ENCODER (deeplabv3:tu-resnet101) or package.module:Name"


@dataclass(frozen=True)
class Answers:
    """What an experiment file is made from, as a user writes it.

    Attributes:
        data: a folder of images and masks, the name of a built-in dataset, or NAME:FOLDER for one of the others.
        teacher: ARCHITECTURE:ENCODER, or package.module:Name; with trained weights, @FILE or @hf:ORGANISATION/NAME
            after it. Or the keys of the teacher as they are in an experiment file.
        student: ARCHITECTURE:ENCODER, or package.module:Name.
        methods: separated by commas; "none" and "kd" are added where they are missing.
        gpus: GPUs of this machine that are used; runs are trained on one each, at the same time.
        normalize: how images were normalised when a given teacher was trained; None: as the recipe's default.
    """

    data: str
    teacher: str | Mapping[str, Any]
    student: str
    methods: str = METHODS
    gpus: int = 0
    normalize: str | None = None


def starter(answers: Answers, name: str, size_hw: tuple[int, int] | None = None) -> str:
    """The commented text of an experiment file.

    Args:
        answers: as given.
        name: of the experiment; letters that are not allowed in it are replaced.
        size_hw: height and width of the data's images, for the crop; None: not known.

    Raises:
        ValueError: an answer has a form that is not allowed; which names exist is left to `experiment.load.load`.
    """
    data, teacher = data_of(answers.data), _teacher(answers.teacher)
    student, methods = _network("--student", answers.student), _methods(answers.methods)
    require_answer("gpus", answers.gpus)
    on_gpu = answers.gpus > 0
    steps, most = (20_000, 512) if on_gpu else (1_000, 128)
    crop = [_crop(side, most) for side in size_hw or ((512, 512) if data["name"] not in BUILT_IN else (64, 64))]
    own_taps = "".join(
        f"    # {role} is of your own: name its taps, unless its forward gives harness.Taps (docs/networks.md)\n"
        for role, network in (("teacher", teacher), ("student", student))
        if ":" in network["architecture"]
    )
    given = "checkpoint" in teacher
    trained = "its weights are given: it is only evaluated" if given else "trained once, before the students"
    return f"""\
# yaml-language-server: $schema=experiment.schema.json
# A starting point, made by `sstkd-bench init`: edit it, then `sstkd-bench check` it and `sstkd-bench run` it.
# All keys: docs/experiments.md. The schema of the first line, for editors: sstkd-bench schema -o experiment.schema.json
name: {_text(label(name))}  # the results are in results/NAME
data: {_text(data)}
pairs:
  - name: teacher-to-student
{own_taps}    teacher: {_text(teacher)}  # {trained}
    student: {_text(student)}
    # Without encoder_weights, networks start from random weights; {{..., encoder_weights: imagenet}}: docs/weights.md
train:  # the same for every method; a changed recipe makes other runs
  steps: {steps}  # of the students; the teacher's: teacher.steps
  batch_size: {16 if on_gpu else 8}  # over all workers
  optimizer: {{name: adamw, lr: 0.001, weight_decay: 0.01}}
  schedule: {{name: poly, power: 0.9, warmup_steps: {steps // 20}}}
{_normalized(answers.normalize)}  augment: {{crop_hw: {crop}, scale: [0.5, 2.0], flip: true}}
  eval_every: {steps // 10}  # on dev, which is held out from train; val is evaluated once at the end
seeds: [0, 1, 2, 3, 4]  # methods are compared seed by seed; fewer than 5 mark nothing
methods: {_text(methods)}  # sstkd-bench methods lists them; {{kd: {{temperature: 2.0}}}} sets a parameter
controls: true  # also runs what tells where a gain comes from; `sstkd-bench check` lists it
# Where it runs does not change a run. Several workers divide the batch of one run among them.
resources: {{workers: 1, cpus_per_worker: 1, gpus_per_worker: {int(on_gpu)}{_concurrent(answers.gpus)}}}
"""


def _normalized(how: str | None) -> str:
    return f"  normalize: {how}  # as the teacher was trained\n" if how else ""


def _concurrent(gpus: int) -> str:
    return f", concurrent: {gpus}" if gpus else ""


def _crop(side: int, most: int) -> int:
    return max(SIDE, min(side, most) // SIDE * SIDE)


class _Written(yaml.SafeDumper):
    """Quotes every text that YAML 1.2, by which files are read, may take for a number; PyYAML writes for YAML 1.1."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        node = super().represent_str(data)
        if re.match(r"[-+.]?\d", data):
            node.style = "'"
        return node


_Written.add_representer(str, _Written.represent_str)


def _text(value: Any) -> str:
    """A value as YAML on one line."""
    written: str = yaml.dump(
        value, Dumper=_Written, default_flow_style=True, sort_keys=False, allow_unicode=True, width=100_000
    )
    return written.removesuffix("...\n").strip()


def data_of(given: str) -> dict[str, Any]:
    """The section `data` of an answer.

    Raises:
        ValueError: no such folder and no dataset of this name.
    """
    known = signatures.table("harness.datasets", "DATASETS")
    name, _, root = given.partition(":")
    if given in BUILT_IN:
        return {"name": given}
    if name in BUILT_IN and root:
        raise ValueError(f"--data {quoted(given)}: {name} needs no folder; write {name}")
    if name in known and root:
        return _folder(root) if name == "folder" else {"name": name, "root": root}
    if name in known and name not in BUILT_IN:
        raise ValueError(f"--data {given}: its folder is missing; write {given}:FOLDER")
    if (given.strip() and Path(given).is_dir()) or "${" in given:
        return _folder(given)
    if root and re.fullmatch(r"[\w.]+:\w+", given) and not (nearest(name, known) and not _importable(name)):
        return {"name": given}
    raise ValueError(
        f"--data {quoted(given)!r}: no such folder, and no dataset of this name.{nearest(name, known)} Give a folder "
        f"with images, masks and classes.yaml, or {', '.join(BUILT_IN)}, or NAME:FOLDER for one of {', '.join(known)}"
    )


def _teacher(given: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(given, str):
        return dict(given)
    network, at, weights = given.partition("@")
    if at:
        return {
            **_network("--teacher", network),
            "checkpoint": weights if weights.startswith(HUB) else {"path": weights},
        }
    if Path(given).is_file():
        raise ValueError(
            f"--teacher {given}: which network is it of? Write it before the file, with @: unet:tu-resnet18d@{given}"
        )
    return _network("--teacher", given)


def _folder(root: str) -> dict[str, Any]:
    """The section of a folder of the user's own, in the layout that its folders say."""
    for layout, images in IMAGES_OF.items():
        if (Path(root) / images).is_dir() and not (Path(root) / "images").is_dir():
            return {"name": "folder", "root": root, "parameters": {"layout": layout}}
    return {"name": "folder", "root": root}


def _importable(module: str) -> bool:
    """Whether there is such a module; it is not imported."""
    try:
        signatures.source_file(module)
    except ValueError:
        return False
    return True


def _network(flag: str, given: str) -> dict[str, Any]:
    """A library's network by architecture and encoder, or one of the user's own."""
    architecture, colon, encoder = given.partition(":")
    if flag == "--student" and "@" in given:
        raise ValueError(f"{flag} {quoted(given)!r}: a student is trained; only a teacher has weights after an @")
    if architecture in ARCHITECTURES:
        if not encoder:
            raise ValueError(
                f"{flag} {quoted(given)}: its encoder is missing; write {architecture}:tu-resnet18 or another encoder"
            )
        return {"architecture": architecture, "encoder": encoder}
    like_one = nearest(architecture, ARCHITECTURES) and not _importable(architecture)  # a slip, or UNet
    if colon and re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", given) and not encoder.startswith("tu_") and not like_one:
        return {"architecture": given}
    raise ValueError(
        f"{flag} {quoted(given)!r}: unknown architecture.{nearest(architecture, ARCHITECTURES)} Give {NETWORK}; "
        f"architectures: {', '.join(ARCHITECTURES)}"
    )


def require_answer(name: str, given: Any) -> None:
    """Check one answer by itself, as it is given.

    Args:
        name: of the answer, as in `Answers`.
        given: the answer.

    Raises:
        ValueError: it has a form that is not allowed.
    """
    if name == "gpus" and not 0 <= given <= MOST_GPUS:
        raise ValueError(f"--gpus {given}: allowed are 0 to {MOST_GPUS:,}; 0 trains on CPUs")
    if name == "student":
        _network("--student", given)
    if name == "methods":
        _methods(given)
    if name == "data":
        data_of(given)
    if name == "teacher" and not (isinstance(given, str) and Path(given).is_file()):  # weights say of what they are
        _teacher(given)


def _methods(given: str) -> list[str]:
    """The methods in order, each once; the controls first."""
    names = [name.strip() for name in given.split(",")]
    if not all(names):
        raise ValueError(f"--methods {quoted(given)!r}: names separated by commas are needed, e.g. {METHODS}")
    return list(dict.fromkeys(["none", "kd", *names]))
