"""The one gate: what `check` and `run` apply to runs before anything is trained, rule by rule.

`RULES` are applied to every distinct combination of networks, method, recipe and data once: 20,000 runs cost what their
combinations cost. The last rule makes a real training step, forward and backward, in train mode, on a CPU and with
random images: as many as matter (one, or two where a step has more) and no larger than matters. Where such a small
step fails, one of the recipe's own size decides, so that no run is refused that would have worked.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from harness.datasets import Data, DataInfo
from harness.datasets.base import faults
from harness.distillers import Distiller
from harness.experiment.recipe import SCHEDULES
from harness.experiment.resources import Resources
from harness.experiment.spec import Network, Run
from harness.models import TapNet, build, load_into, load_state
from harness.results import failures, paths, store
from harness.taps import Pair
from harness.training import guards
from harness.training.batches import accumulation_steps, require_one_size
from harness.training.build import build_method, for_inputs, load_data, load_given
from harness.training.loss_rule import require_losses_work
from harness.training.optimizers import encoder_of
from harness.training.precision import HALF, autocast, require_device, teach
from harness.training.schedule import require_torch_takes
from harness.training.step import KDStep
from harness.training.task_loss import TaskLoss

ENOUGH_SIDE, ENOUGH_IMAGES = 128, 2
"""A step with more images and larger sides fails for the same reasons as one with these."""
MOST_PIXELS = 16 * 512 * 1024
"""Of a step of the recipe's own size: a larger one is not tried on this machine."""
MOST_SAID = 600
"""Characters of an error of a method's own code."""
KEPT = 4
"""Networks in memory at the same time: a pair's, with and without pretrained weights of the teacher's encoder."""
CLASSES = 19
"""Of a dataset that is not on this machine."""


@dataclass
class Facts:
    """What the rules know beside the runs.

    Attributes:
        resources: where the runs are executed.
        directory: the experiment's results folder, with the teachers that it has trained.
        here: the runs are executed on this machine, so that what it lacks they lack.
    """

    resources: Resources
    directory: Path
    here: bool = True
    _networks: dict[str, TapNet] = field(default_factory=dict)

    def network(self, network: Network, classes: int) -> TapNet:
        """The network with its encoder's weights, on the CPU; the last few are kept."""
        key = f"{classes} {network.model_dump_json(include=set(Network.model_fields))}"
        if key not in self._networks:
            if len(self._networks) >= KEPT:
                self._networks.pop(next(iter(self._networks)))
            self._networks[key] = build(network, classes, 0)
        return self._networks[key]

    def info(self, run: Run) -> DataInfo | None:
        """The data's description; None where it is only on the machines that execute the runs."""
        return load_data(run.data).info if self.here or run.data.root is None else None

    def classes(self, run: Run) -> int:
        """Number of classes, or a usual one."""
        info = self.info(run)
        return CLASSES if info is None else info.num_classes


def require(runs: Sequence[Run], resources: Resources, directory: Path) -> None:
    """Apply all rules to runs that are to be executed.

    Args:
        runs: which; those with rows need nothing any more.
        resources: where they are executed. If elsewhere, only what this machine can know is looked at.
        directory: the experiment's results folder.

    Raises:
        ValueError: what would make runs fail, a line each: pair and method, the key, and what to do.
    """
    facts = Facts(resources, directory, here=resources.address == "local")
    if found := list(problems(runs, facts)):
        raise ValueError("\n".join(found))


def problems(runs: Sequence[Run], facts: Facts) -> Iterator[str]:
    """What would make runs fail, a line each. A rule is applied to a combination where those before it have passed."""
    said: set[tuple[str, str]] = set()
    for run, rules in [*((run, RULES) for run in _distinct(runs)), *((run, RULES_OF_EACH) for run in _taught(runs))]:
        for rule in rules:
            try:
                rule(run, facts)
            except ValueError as error:
                who = "the teacher" if run.role == "teacher" else f"method {run.method.label}"
                before = f"pair {run.pair}, {who}: " if rule is method else f"pair {run.pair}: "
                shared = rule in (recipe, machine, data, loss)
                key = "" if shared else run.pair, str(error)
                if key not in said:
                    said.add(key)
                    yield str(error) if shared else f"{before}{error}"
                break


def recipe(run: Run, facts: Facts) -> None:
    """The recipe against the resources.

    Raises:
        ValueError: the batch does not divide, the precision needs a GPU, or torch refuses the optimizer or schedule.
    """
    accumulation_steps(run.train, facts.resources.workers)
    require_torch_takes(run.train)
    require_device(run.train, facts.resources.gpus_per_worker > 0, ", or give resources.gpus_per_worker")


def machine(run: Run, facts: Facts) -> None:
    """This machine against the resources.

    Raises:
        ValueError: it has too few GPUs.
    """
    wanted = facts.resources.gpus_per_worker
    if facts.here and wanted and torch.cuda.device_count() < wanted:
        raise ValueError(
            f"resources.gpus_per_worker: {wanted:g}, but this machine has {torch.cuda.device_count()} GPUs that torch "
            "can use. Set it to 0 to train on CPUs, or name a cluster with GPUs as resources.address"
        )


def data(run: Run, facts: Facts) -> None:
    """The data: present, readable, with enough in every split.

    Raises:
        ValueError: what is wrong with it.
    """
    if facts.info(run) is None:
        return
    found = load_data(run.data)  # in files: judged by its loader, as `data check` does
    if wrong := faults(found, f"data: {found.info.name}"):
        raise ValueError("\n".join(wrong))
    require_one_size(found.train, found.info, run.train)


def networks(run: Run, facts: Facts) -> None:
    """The networks, with the encoder weights that will be loaded.

    Raises:
        ValueError: they cannot be built, or the weights are missing, others, or do not fit.
    """
    facts.network(run.network, facts.classes(run))
    if run.teacher is not None:
        facts.network(_plain(run.teacher), facts.classes(run))


def given_weights(run: Run, facts: Facts) -> None:
    """A given checkpoint of the teacher.

    Raises:
        ValueError: it is missing, another file, damaged, or does not fit the network.
    """
    checkpoint = run.checkpoint if run.teacher is None else run.teacher.checkpoint
    info = facts.info(run)
    if checkpoint is None or info is None:
        return
    spec = run.network if run.teacher is None else _plain(run.teacher)
    seen = for_inputs(Data(info, (), (), ()), run.train.normalize, spec).info
    try:
        load_given(facts.network(spec, facts.classes(run)), spec, checkpoint, seen)
    except ValueError as error:
        raise ValueError(f"teacher.checkpoint: {error}") from None


def trained_teacher(run: Run, facts: Facts) -> None:
    """The weights of a teacher that an earlier run has trained.

    Raises:
        ValueError: they are damaged, or of another network.
    """
    if run.teacher_run is None or not run.method.needs_teacher or run.teacher is None:
        return
    row, weights = (
        paths.run_path(facts.directory, run.teacher_run),
        paths.weights_path(facts.directory, run.teacher_run),
    )
    if not row.is_file() or not weights.is_file():  # trained first, or fetched from a storage
        return
    found = store.read_row(row)
    if found["status"] != "ok" or found["weights_sha256"] is None:
        return
    try:
        state = load_state(weights, found["weights_sha256"])
        if facts.info(run) is not None:
            load_into(facts.network(_plain(run.teacher), facts.classes(run)), state, str(weights))
    except ValueError as error:
        raise ValueError(f"{error} Restore the teacher's file, or delete {row} to train the teacher again.") from None


def loss(run: Run, facts: Facts) -> None:
    """A task loss of the user's own.

    Raises:
        ValueError: as `require_losses_work`.
    """
    if run.checkpoint is not None or not any(":" in name for name in run.train.loss_names):
        return
    info = facts.info(run)
    ignored = 255 if info is None else info.ignore_index
    unlabelled = run.train.augment.scale[0] < 1  # what a crop of a smaller image holds beside it
    if info is not None and not unlabelled:
        unlabelled = bool((load_data(run.data).train[0][1] == ignored).any())
    require_losses_work(run, facts.classes(run), ignored, unlabelled)


def method(run: Run, facts: Facts) -> None:
    """One training step.

    Raises:
        ValueError: the method does not apply to the pair, or the step fails.
    """
    if run.checkpoint is not None:
        return
    try:
        steps = _Step(run, facts)
    except (Exception, SystemExit) as error:  # of the method's own code
        if isinstance(error, ValueError) and not failures.ends_in_users_code(error, run):
            raise
        text = failures.message(error)[:MOST_SAID]
        raise ValueError(f"it cannot be built: {text}. Correct it or its parameters") from None
    images, (height, width) = steps.images, steps.size
    few = min(images, ENOUGH_IMAGES)
    smaller = _enough((height, width))
    try:
        steps.make(few, smaller)
    except (Exception, SystemExit) as error:  # of the method's code, or of a library: the run would fail too
        if (few, smaller) != (images, (height, width)) and images * height * width <= MOST_PIXELS:
            try:
                steps.make(images, (height, width))
            except (Exception, SystemExit) as whole:
                raise ValueError(steps.explained(whole)) from None
            return
        raise ValueError(steps.explained(error)) from None


Rule = Callable[[Run, Facts], None]
RULES: tuple[Rule, ...] = (recipe, machine, data, networks, given_weights, trained_teacher, loss, method)
"""In this order: what is cheap, and what others rest on, comes first."""
RULES_OF_EACH: tuple[Rule, ...] = (trained_teacher,)
"""Those of every teacher's weights, also where they differ in the seed only."""


class _Step:
    """A training step of a run."""

    def __init__(self, run: Run, facts: Facts) -> None:
        info = facts.info(run)
        classes, self.ignored = facts.classes(run), 255 if info is None else info.ignore_index
        self.run, self.classes, self.workers = run, classes, facts.resources.workers
        pieces = run.train.accumulate * (1 if run.train.sync_batchnorm else self.workers)
        self.images = run.train.batch_size // pieces  # over which batches are normalised
        self.size = run.train.augment.crop_hw or (ENOUGH_SIDE, ENOUGH_SIDE)
        if run.train.augment.crop_hw is None and info is not None:
            height, width = load_data(run.data).train[0][1].shape
            self.size = height, width
        self.student = facts.network(run.network, classes)
        self.teacher: TapNet | None = None
        if run.teacher is not None and run.method.needs_teacher:
            # A pair of equal networks has one: the teacher's state is not needed once its maps are there.
            self.teacher = facts.network(_plain(run.teacher), classes)
        pair = Pair(self.student.info(), (self.teacher or self.student).info(), classes, self.ignored)
        self.distiller: Distiller = build_method(run.method, pair, run.stream_seed)
        if run.train.optimizer.encoder_lr_factor != 1:
            encoder_of(self.student)
        terms = run.train.loss or ()
        if info is None:  # of how many classes is not known
            terms = tuple(term.model_copy(update={"class_weights": None}) for term in terms)
        self.loss = TaskLoss(terms, classes, self.ignored)

    def make(self, images: int, size: tuple[int, ...]) -> None:
        """One step, forward and backward, of so many images."""
        stream = torch.Generator().manual_seed(0)
        image = torch.randn(images, 3, *size, generator=stream)
        label = torch.randint(self.classes, (images, *size), generator=stream)
        recipe, student = self.run.train, self.student.train()
        step = KDStep(student, self.distiller, self.ignored, recipe.auxiliary_weight, recipe.batch_size, self.loss)
        if recipe.precision in HALF:
            recipe = recipe.model_copy(update={"precision": "bf16"})  # the one that a CPU has
        with torch.random.fork_rng(devices=[]), autocast(recipe, image.device):
            taught = None if self.teacher is None else teach(self.teacher.eval(), image, recipe)
            self.student.train()
            terms = step(image, label, taught, self.loss.counts(label), 0.0, stream)
        guards.connected(terms, self.run.method.label, self.teacher is not None)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        guards.all_used(step)
        step.zero_grad(set_to_none=True)

    def explained(self, error: BaseException) -> str:
        """Why a step failed, by key and with the remedy."""
        recipe, size = self.run.train, "x".join(map(str, self.size))
        step = f"a training step of {self.images} images of {size}"
        for name, network in (("student", self.student), ("teacher", self.teacher)):
            if network is None or self._passes(network, name == "student", self.images, self.size):
                continue
            spec = self.run.network if name == "student" else (self.run.teacher or self.run.network)
            if name == "student" and self.images == 1 and self._passes(network, True, 2, self.size):
                return (
                    f"train.batch_size: {recipe.batch_size} over accumulate {recipe.accumulate} x {self.workers} "
                    f"workers is one image at a time, and {spec.architecture} normalises a map of one value per image. "
                    f"Give a batch_size of at least {2 * recipe.batch_size}, or fewer pieces (train.accumulate, "
                    "resources.workers)"
                )
            key = "train.augment.crop_hw" if recipe.augment.crop_hw is not None else "data (images without a crop)"
            return (
                f"{key}: {size} is too small for the {name} {spec.architecture} with encoder {spec.encoder}; give at "
                f"least {ENOUGH_SIDE}x{ENOUGH_SIDE}, or another architecture"
            )
        if isinstance(error, ValueError) and not failures.ends_in_users_code(error, self.run):
            return str(error)
        text = failures.message(error)[:MOST_SAID]
        return f"{step} fails in the method: {text}. Correct the method or its parameters"

    @staticmethod
    def _passes(network: nn.Module, training: bool, images: int, size: tuple[int, ...]) -> bool:
        try:
            with torch.no_grad():
                network.train(training)(torch.zeros(min(images, ENOUGH_IMAGES), 3, *_enough(size)))
        except Exception:  # only whether it fails is asked here; `explained` says what that means
            return False
        return True


def _plain(teacher: Network) -> Network:
    """A teacher as its students load it: without its encoder's pretrained weights."""
    return teacher.model_copy(update={"encoder_weights": None})


def _taught(runs: Sequence[Run]) -> list[Run]:
    """A run of each teacher: those that differ in their seed only are one combination, with weights of their own."""
    return list({run.teacher_run: run for run in reversed(runs) if run.method.needs_teacher}.values())


def _enough(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(side if side <= ENOUGH_SIDE else ENOUGH_SIDE + side % 32 for side in size)


def _distinct(runs: Sequence[Run]) -> list[Run]:
    """The first run of each combination of what the rules look at, those of a pair one after the other."""
    known: dict[tuple[int, ...], Run] = {}
    for run in runs:
        shared = (run.network, run.teacher, run.checkpoint, run.method, run.train, run.data)
        known.setdefault((*map(id, shared), hash(run.teacher_run)), run)
    found: dict[str, Run] = {}
    for run in known.values():
        # Neither the number of steps nor the learning rate changes whether a step can be made; a schedule of torch may
        # end before a control's.
        steps = 1 if run.train.schedule.name in SCHEDULES else run.train.steps
        train = run.train.model_copy(update={"steps": steps, "optimizer": None, "schedule": None})
        teacher = run.teacher and run.teacher.model_copy(update={"seed": 0})  # another seed is another start, no more
        parts = (run.network, teacher, run.checkpoint, run.method, train, run.data, run.pair)
        found.setdefault(" ".join(repr(part) for part in parts), run)
    pairs = list(dict.fromkeys(run.pair for run in found.values()))
    return sorted(found.values(), key=lambda run: pairs.index(run.pair))
