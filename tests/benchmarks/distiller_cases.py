"""Every distillation loss as a case: ours through its distiller, the public forms of it, what the gradient is for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.distillers import METHODS, Distiller
from harness.distillers.af_dcd import omni_contrast
from harness.taps import NetworkInfo, Pair, TapInfo, Taps, View
from tests.benchmarks import plain_distillers as plain
from tests.benchmarks import plain_relations
from tests.benchmarks.plain_critic import PlainCritic

Loss = Callable[[], Tensor]
NOISE = 1.1


@dataclass(frozen=True)
class Case:
    """One term at one size.

    Attributes:
        method: whose.
        term: which.
        size: of the student's map.
        ours: the weighted term.
        plain: its public forms; none where there is no public code.
        leaves: what both are differentiated for.
        parameters: what ours alone is differentiated for, and what the plain form alone.
        check: form that is compared with ours in place of `plain`, where those draw at random.
        least: how many times faster than the plain form ours has to be.
        most: how many times the plain form's memory ours may need.
    """

    method: str
    term: str
    size: str
    ours: Loss
    plain: tuple[Loss, ...]
    leaves: tuple[Tensor, ...]
    parameters: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] = ((), ())
    check: tuple[Loss, ...] = ()
    least: float = 1 / NOISE
    most: float = 1.01


class Scene:
    """Taps of a student and a teacher: logits (2, K, h, w), two features (2, C, h, w), labels (2, 512, 512)."""

    def __init__(self, classes: int, channels: int, side: int = 64) -> None:
        stream = torch.Generator().manual_seed(0)
        info = TapInfo(channels, 512 // side)
        known = NetworkInfo({"stage1": info, "stage2": info}, info, TapInfo(classes, 512 // side))
        self.pair, self.classes = Pair(known, known, classes), classes

        def both(width: int) -> tuple[Tensor, Tensor]:
            made = torch.randn(2, 2, width, side, side, generator=stream)
            return made[0].clone().requires_grad_(), made[1].clone()

        self.logits, self.features, self.early = both(classes), both(channels), both(channels)
        # Blocks of one class, about as many in an image as scenes have; one is ignored.
        blocks = torch.randint(classes, (2, 4, 4), generator=stream)
        blocks[:, 0, 0] = 255
        self.labels = blocks.repeat_interleave(128, 1).repeat_interleave(128, 2)

    def view(self) -> View:
        """What a distiller is shown, with a fresh random stream."""
        student, teacher = (
            Taps(
                {"stage1": self.early[i], "stage2": self.features[i]}, self.features[i], self.logits[i], self.logits[i]
            )
            for i in (0, 1)
        )
        return View(student, teacher, self.labels, 0.0, torch.Generator().manual_seed(0))

    def build(self, method: str, **parameters: Any) -> tuple[Distiller, Loss]:
        """The distiller, and the sum of its terms."""
        torch.manual_seed(0)
        distiller = METHODS[method](self.pair, **parameters)

        def ours() -> Tensor:
            first, *others = distiller(self.view()).values()
            return sum(others, start=first)

        return distiller, ours

    def case(self, method: str, term: str, maps: str, *forms: Callable[..., Tensor], **parameters: Any) -> Case:
        """A term of "logits" or "features" alone."""
        student, teacher = getattr(self, maps)
        losses = tuple(partial(form, student, teacher) for form in forms)
        return Case(method, term, size(student), self.build(method, **parameters)[1], losses, (student,))


def size(x: Tensor) -> str:
    return "x".join(map(str, x.shape))


def on_logits(scene: Scene) -> Iterator[Case]:
    def kd_by_classes(student: Tensor, teacher: Tensor) -> Tensor:
        return plain.kd_in_place(student, teacher) * scene.classes

    kd, cwd = (kd_by_classes, plain.kd_in_rows), (plain.cwd_by_log, plain.cwd_by_log_softmax)
    yield scene.case("kd", "kd", "logits", *kd)
    yield scene.case("sstkd", "response", "logits", *kd, w_re=1.0, w_str=0.0, w_sta=0.0, w_adv=0.0)
    yield scene.case("skd", "pixel", "logits", plain.kd_cross_entropy, pixel=1.0, pairwise=0.0, holistic=0.0)
    for method, term, off in (("cwd", "logits", {}), ("kt", "kl", {"feature": 0.0, "kd": 0.0})):
        # More but smaller operations: a tenth of a millisecond that only small maps notice, for less than half the memory.
        yield replace(scene.case(method, term, "logits", *cwd, logits=1.0, **off), least=0.8)
    yield scene.case("dsd", "csd", "logits", plain.csd, pixel=0.0, category=1.0, kd=0.0)
    yield scene.case("dist", "inter + intra", "logits", plain.dist)
    distiller, ours = scene.build("skd", pixel=0.0, pairwise=0.0, holistic=1.0)
    critic = PlainCritic(distiller.adversary.critic)
    theirs = lambda: critic.terms(*scene.logits, torch.Generator().manual_seed(0))  # noqa: E731
    parameters = tuple(distiller.parameters()), tuple(critic.parameters())
    yield Case("skd", "holistic + critic", size(scene.logits[0]), ours, (theirs,), scene.logits[:1], parameters)


def on_features(scene: Scene) -> Iterator[Case]:
    student, teacher = scene.features
    distiller, ours = scene.build("fitnet", weight=1.0, kd=0.0)
    weight = distiller.adapter.weight
    theirs = partial(plain.fitnet, student, teacher, weight)
    yield Case("fitnet", "fitnet", size(student), ours, (theirs,), (student, weight))
    yield scene.case("at", "at", "features", plain.at, weight=1.0, kd=0.0)
    yield scene.case("feature-kd", "feature", "features", plain.feature_mse)
    pair = {"pixel": 0.0, "pairwise": 1.0, "holistic": 0.0}
    yield scene.case("skd", "pair-wise", "features", plain.pairwise, **pair)
    yield scene.case("skd", "pair-wise of 2x2", "features", plain.pairwise_2x2, convention="cirkd", **pair)
    cwd = plain.cwd_by_log, plain.cwd_by_log_softmax
    yield scene.case("cwd", "feature", "features", *cwd, logits=0.0, feature=1.0)
    for divergence in ("mse", "l1", "huber"):
        form = partial(plain.kt, divergence=divergence)
        yield scene.case("kt", divergence, "features", form, logits=0.0, kd=0.0, divergence=divergence)
    ours = scene.build("dsd", pixel=1.0, category=0.0, kd=0.0, taps=("stage1", "decoder", "logits"))[1]
    maps = tuple(zip(scene.early, scene.features, scene.logits, strict=True))
    yield Case("dsd", "psd of 2 and logits", size(student), ours, (partial(plain.psd, *maps),), maps[0])
    for groups in (4, 16):
        ours = partial(omni_contrast, student, teacher, groups, 4, (4, 4), 0.07)
        theirs = partial(plain_relations.omni_contrast, student, teacher, groups)
        yield Case("af-dcd", f"contrast, {groups} groups", size(student), ours, (theirs,), (student,))
    distiller, ours = scene.build("freekd")
    theirs = partial(plain.freekd, student, teacher, distiller.tokens)
    yield Case("freekd", "freekd", size(student), ours, (theirs,), (student,))


def generation(scene: Scene, method: str, **parameters: Any) -> Iterator[Case]:
    """Of a teacher's feature from a masked one: mgd and af-dcd."""
    distiller, ours = scene.build(method, **parameters)

    def theirs() -> Tensor:
        torch.manual_seed(0)
        return plain.generation(*scene.features, distiller.generator)

    student = scene.features[0]
    yield Case(method, "generation", size(student), ours, (theirs,), (student, *distiller.generator.parameters()))


def variation(scene: Scene) -> Iterator[Case]:
    student, teacher = scene.features
    ours = scene.build("ifvd", weight=1.0, kd=0.0, adversarial=0.0)[1]
    theirs = partial(plain.ifv, student, teacher, scene.labels, scene.classes)
    yield Case("ifvd", f"ifv, {scene.classes} classes", size(student), ours, (theirs,), (student,), least=8.0)


def cross_image(scene: Scene) -> Iterator[Case]:
    form = plain_relations.minibatch
    yield scene.case("cirkd", "mini-batch", "features", form, batch=1.0, pixel=0.0, region=0.0, kd=0.0)


def memory(scene: Scene) -> Iterator[Case]:
    """The queues hold what a step compares with, so that it compares with all they hold, in whatever order."""
    student, teacher = scene.features
    contrast = 4096 // scene.classes + 1, 1024 // scene.classes + 1
    sizes = {"pixel_memory": contrast[0], "region_memory": contrast[1]}
    distiller, ours = scene.build("cirkd", batch=0.0, pixel=1.0, region=1.0, kd=0.0, **sizes)
    queues = distiller.pixels, distiller.regions
    theirs = plain_relations.Memory(*(queue.entries for queue in queues), enqueued=16)

    def terms(update: bool) -> Tensor:
        return theirs.terms(distiller.projection(student), teacher, scene.labels, contrast, update)

    def with_our_queues() -> Tensor:
        theirs.load(*queues)
        return terms(False)

    # Labels at the map's size and unit vectors, made beforehand as each takes them.
    small = scene.labels[:, ::8, ::8].contiguous()
    unit, without = F.normalize(teacher, dim=1), small.where(small != 255, -1).flatten(1)
    vectors = unit.flatten(2).mT.contiguous()

    def update_ours() -> Tensor:
        distiller._enqueue(vectors, without, torch.Generator().manual_seed(0))
        return distiller.regions.entries

    def update_theirs() -> Tensor:
        theirs.enqueue(unit, small)
        return theirs.queues[1]

    name, leaves = f", {scene.classes} classes", (student, *distiller.projection.parameters())
    # As many slots for every class, there or not, so that the device is never waited for.
    slots = {"most": float("inf")}
    yield Case("cirkd", "queue update" + name, size(student), update_ours, (update_theirs,), (), **slots)
    forms = {"plain": (partial(terms, True),), "check": (with_our_queues,)}
    yield Case("cirkd", "memory" + name, size(student), ours, leaves=leaves, **forms)


def texture(scene: Scene) -> Iterator[Case]:
    """Without public code; the response is among the logits' cases, and the critic is that of skd."""
    off = {"w_re": 0.0, "w_str": 0.0, "w_sta": 0.0, "w_adv": 0.0}
    for name, weight in (("structural", "w_str"), ("statistical", "w_sta")):
        distiller, ours = scene.build("sstkd", **off | {weight: 1.0})
        leaves = (scene.early[0], scene.features[0], *distiller.adapter.parameters())
        yield Case("sstkd", name, f"{size(scene.features[0])} twice", ours, (), leaves)


def cases() -> Iterator[Case]:
    """All of them, each scene made when it is asked for."""
    for classes in (19, 150):
        yield from on_logits(Scene(classes, 8))
    yield from on_features(Scene(19, 512))
    yield from generation(Scene(19, 128), "mgd", weight=1.0, cwd=0.0)
    yield from generation(Scene(19, 128), "af-dcd", feature=1.0, contrast=0.0)
    yield from variation(Scene(19, 512))
    yield from variation(Scene(150, 64))
    yield from cross_image(Scene(19, 128))
    yield from memory(Scene(19, 128))
    yield from memory(Scene(150, 128))
    yield from texture(Scene(19, 256))
