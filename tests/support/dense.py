"""Equations of distillers written out in float64, and random small scenes on which a distiller must agree with them.

References are loops over images, positions, channels and classes; they import nothing that they are references of.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.distillers import Distiller
from harness.taps import NetworkInfo, Pair, TapInfo, Taps, View

# A crowded machine draws slowly; that says nothing about a loss.
EXAMPLES = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
WEIGHTS = st.sampled_from([0.0, 0.7, 2.0])
POSITIVE = st.sampled_from([0.7, 2.0])
TEMPERATURES = st.sampled_from([0.5, 1.0, 4.0])
_TAPS = ("stage1", "stage2", "decoder", "logits")


@dataclass(frozen=True)
class Scene:
    """One step of a pair of networks: shapes (C, h, w) by tap, and the seed of everything in them.

    `flat` names whose maps are 0 ("student", "teacher"), or that a share of the positions is ("holes"). There losses
    have corners, where a gradient is only asked to be finite.
    """

    batch: int
    classes: int
    student: Mapping[str, tuple[int, int, int]]
    teacher: Mapping[str, tuple[int, int, int]]
    label_hw: tuple[int, int]
    ignored: float
    ignore_index: int
    scale: float
    flat: str
    seed: int

    @property
    def pair(self) -> Pair:
        """What a distiller is built from."""

        def network(shapes: Mapping[str, tuple[int, int, int]]) -> NetworkInfo:
            known = {name: TapInfo(shape[0], 4) for name, shape in shapes.items()}
            return NetworkInfo({name: known[name] for name in _TAPS[:2]}, known["decoder"], known["logits"])

        return Pair(network(self.student), network(self.teacher), self.classes, self.ignore_index)

    @cached_property
    def _stream(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def _maps(self, shapes: Mapping[str, tuple[int, int, int]], who: str) -> dict[str, Tensor]:
        made = {name: self.scale * self.random(self.batch, *shape) for name, shape in shapes.items()}
        for x in made.values():
            if self.flat == who:
                x.zero_()
            elif self.flat == "holes":
                x *= torch.rand(x[:, :1].shape, generator=self._stream) < 0.5
        return made

    def random(self, *shape: int) -> Tensor:
        """The next normal numbers of the scene's stream."""
        return torch.randn(shape, dtype=torch.float64, generator=self._stream)

    @cached_property
    def ours(self) -> dict[str, Tensor]:
        """The student's maps by tap; leaves."""
        return {name: x.requires_grad_() for name, x in self._maps(self.student, "student").items()}

    @cached_property
    def theirs(self) -> dict[str, Tensor]:
        """The teacher's maps by tap."""
        return self._maps(self.teacher, "teacher")

    @cached_property
    def labels(self) -> Tensor:
        """Classes, the ignored label and one that is no class."""
        drawn = torch.randint(0, self.classes + 1, (self.batch, *self.label_hw), generator=self._stream)
        away = torch.rand(drawn.shape, generator=self._stream) < self.ignored
        return drawn.masked_fill(away, self.ignore_index)

    @cached_property
    def view(self) -> View:
        """What a distiller is shown."""

        def taps(maps: dict[str, Tensor]) -> Taps:
            return Taps({name: maps[name] for name in _TAPS[:2]}, maps["decoder"], maps["logits"], maps["logits"])

        return View(taps(self.ours), taps(self.theirs), self.labels, 0.5, torch.Generator().manual_seed(self.seed))

    def build(self, kind: type[Distiller], **parameters: Any) -> Distiller:
        """A distiller in float64; its random start comes from the scene's seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return kind(self.pair, **parameters).double()

    def shown(self, **taps: tuple[Tensor, Tensor]) -> View:
        """The view with "decoder" or "logits" of student and teacher in place of the scene's."""
        student, teacher = (
            replace(given, **{name: maps[i] for name, maps in taps.items()})
            for i, given in enumerate((self.view.student, self.view.taught()))
        )
        return replace(self.view, student=student, teacher=teacher)

    def cast(self, dtype: torch.dtype) -> View:
        """The view with maps of another type."""

        def taps(given: Taps) -> Taps:
            decoder, logits = given.decoder.to(dtype), given.logits.to(dtype)
            return Taps({name: x.to(dtype) for name, x in given.stages.items()}, decoder, logits, logits)

        return replace(self.view, student=taps(self.view.student), teacher=taps(self.view.taught()))

    def matched(self, tap: str) -> Tensor:
        """The student's map at the size of the teacher's."""
        return resized(self.ours[tap], self.theirs[tap].shape[-2:])

    def classes_at(self, size: Iterable[int]) -> Tensor:
        """Nearest labels (N, h, w), -1 where ignored."""
        h, w = size
        found = torch.full((self.batch, h, w), -1)
        for i, y, x in product(range(self.batch), range(h), range(w)):
            label = int(self.labels[i, y * self.label_hw[0] // h, x * self.label_hw[1] // w])
            if label != self.ignore_index and label < self.classes:
                found[i, y, x] = label
        return found

    def agree(self, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *own: Tensor) -> None:
        """Both have the same terms, values, and gradients for the student's maps and `own` parameters."""
        assert list(found) == list(expected)
        for name, reference in expected.items():
            agree(found[name], reference, [*self.ours.values(), *own], gradients=not self.flat)


@st.composite
def scenes(draw: st.DrawFn, least: int = 1, most: int = 5, width: int = 4, flat: bool = True) -> Scene:
    """Sides from `least` to `most`, channels up to `width`; sizes and widths of the two alike in half of the scenes."""
    classes = draw(st.integers(1, 4))
    side = st.integers(least, most)

    def network() -> dict[str, tuple[int, int, int]]:
        shapes = {name: (draw(st.integers(1, width)), draw(side), draw(side)) for name in _TAPS}
        return shapes | {"logits": (classes, *shapes["logits"][1:])}

    student, teacher = network(), network()
    if draw(st.booleans()):
        student = {name: (shape[0], *teacher[name][1:]) for name, shape in student.items()}
    if draw(st.booleans()):
        student = {name: (teacher[name][0], *shape[1:]) for name, shape in student.items()}
    return Scene(
        batch=draw(st.integers(1, 3)),
        classes=classes,
        student=student,
        teacher=teacher,
        label_hw=(draw(st.integers(1, 9)), draw(st.integers(1, 9))),
        ignored=draw(st.sampled_from([0.0, 0.3, 1.0])),
        ignore_index=draw(st.sampled_from([255, 255, 0, -1])),
        scale=draw(st.sampled_from([0.3, 1.0, 4.0])),
        flat=draw(st.sampled_from(["", "", "", "", "student", "teacher", "holes"])) if flat else "",
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def plain(classes: int = 3, flat: str = "", hw: tuple[int, int] = (3, 4), **changes: Any) -> Scene:
    """A scene without a surprise: two images, all maps of one size, features of four channels, all pixels labelled."""
    shapes = {name: (classes if name == "logits" else 4, *hw) for name in _TAPS}
    known: dict[str, Any] = {
        "batch": 2,
        "label_hw": (6, 8),
        "ignored": 0.0,
        "ignore_index": 255,
        "scale": 1.0,
        "seed": 0,
    }
    return Scene(classes=classes, student=shapes, teacher=shapes, flat=flat, **(known | changes))


def agree(
    found: Tensor, expected: Tensor, leaves: Iterable[Tensor], gradients: bool = True, value: float = 1e-9
) -> None:
    """Scalars alike to 1e-9, their gradients to 1e-8 of the largest element; without `gradients` those are finite."""
    assert found.ndim == 0 and found.dtype == torch.float64
    a, b = float(found.detach()), float(expected.detach())
    assert abs(a - b) <= value * abs(b) + 1e-12, (a, b)
    leaves = list(leaves)
    got = torch.autograd.grad(found, leaves, allow_unused=True, retain_graph=True)
    want = torch.autograd.grad(expected, leaves, allow_unused=True, retain_graph=True)
    for leaf, g, e in zip(leaves, got, want, strict=True):
        g, e = (torch.zeros_like(leaf) if x is None else x for x in (g, e))
        assert g.isfinite().all()
        if gradients:
            # The floor is for what is constant: a class alone, a channel alone, a map of one position.
            assert (g - e).abs().max() <= 1e-8 * e.abs().max() + 1e-12, (g, e)


def places(x: Tensor) -> Iterator[tuple[int, int, int]]:
    """(image, row, column) of every position of (N, C, h, w)."""
    return product(range(x.shape[0]), range(x.shape[2]), range(x.shape[3]))


def resized(x: Tensor, size: Iterable[int]) -> Tensor:
    """(N, C, h, w) by linear interpolation between the centres of its cells, one matrix per side."""
    matrices = []
    for before, after in zip(x.shape[-2:], size, strict=True):
        matrix = torch.zeros(after, before, dtype=torch.float64)
        for i in range(after):
            at = min(max((i + 0.5) * before / after - 0.5, 0.0), before - 1.0)
            matrix[i, int(at)] += 1 - (at - int(at))
            matrix[i, min(int(at) + 1, before - 1)] += at - int(at)
        matrices.append(matrix)
    return matrices[0] @ x @ matrices[1].T


def log_softmax(vector: Tensor) -> Tensor:
    """Of all elements."""
    shifted = vector - vector.max().detach()
    return shifted - shifted.exp().sum().log()


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) of two vectors."""
    log_p, log_q = log_softmax(teacher), log_softmax(student)
    return (log_p.exp() * (log_p - log_q)).sum()


def cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """Of two vectors of scores."""
    return -(log_softmax(teacher).exp() * log_softmax(student)).sum()


def unit(vector: Tensor) -> Tensor:
    """At length 1; zeros stay zeros."""
    length = vector.square().sum().sqrt() if vector.detach().any() else vector.sum() * 0
    return vector / length.clamp(min=1e-12)


def mean(numbers: Iterable[Tensor]) -> Tensor:
    """Of scalars."""
    return torch.stack(list(numbers)).mean()


def kd(student: Tensor, teacher: Tensor, temperature: float = 1.0, convention: str = "canonical") -> Tensor:
    """Pixel-wise KD of logits of one size."""
    n, classes, h, w = teacher.shape
    compare = cross_entropy if convention == "skd" else divergence
    total = torch.stack(
        [compare(teacher[i, :, y, x] / temperature, student[i, :, y, x] / temperature) for i, y, x in places(teacher)]
    ).sum()
    return {
        "canonical": temperature**2 * total / (n * h * w),
        "skd": total / (h * w),
        "ifvd": total / (n * h * w * classes),
        "mmrazor": temperature**2 * total / n,
    }[convention]


def kd_of(scene: Scene, weight: float, temperature: float = 1.0, convention: str = "canonical") -> dict[str, Tensor]:
    """The `kd` term that stands beside others; absent at weight 0."""
    if not weight:
        return {}
    return {"kd": weight * kd(scene.matched("logits"), scene.theirs["logits"], temperature, convention)}


def cwd(student: Tensor, teacher: Tensor, tau: float, compare: Any = divergence, own: int | None = None) -> Tensor:
    """Channel-wise distillation of maps of one shape, divided by N and `own` channels (the maps' when not given)."""
    n, channels = teacher.shape[:2]
    total = torch.stack(
        [
            compare(teacher[i, c].flatten() / tau, student[i, c].flatten() / tau)
            for i, c in product(range(n), range(channels))
        ]
    ).sum()
    return tau**2 * total / (n * (own or channels))


def adapted(scene: Scene, tap: str, distiller: Distiller, bias: bool, always: bool = False) -> Tensor:
    """The student's map through the distiller's 1x1 convolution; itself where widths are alike, unless `always`."""
    parameters = {n.removeprefix("adapter."): p for n, p in distiller.named_parameters() if n.startswith("adapter.")}
    if not always and scene.student[tap][0] == scene.teacher[tap][0]:
        assert not parameters
        return scene.ours[tap]
    assert parameters.keys() == ({"weight", "bias"} if bias else {"weight"})
    return convolved(scene.ours[tap], parameters["weight"], parameters.get("bias"))


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(N, C, h, w) convolved with (D, C, k, k), continued by zeros to keep its size."""
    n, _, h, w = x.shape
    reach = weight.shape[-1] // 2
    out = x.new_zeros(n, len(weight), h, w)
    if bias is not None:
        out = out + bias[:, None, None]
    wide = x.new_zeros(n, x.shape[1], h + 2 * reach, w + 2 * reach)
    wide[:, :, reach : reach + h, reach : reach + w] = x
    for dy, dx in product(range(weight.shape[2]), range(weight.shape[3])):
        out = out + torch.einsum("dc,nchw->ndhw", weight[:, :, dy, dx], wide[:, :, dy : dy + h, dx : dx + w])
    return out


def where_written(
    pointer: list[int], size: int, counts: list[list[int]]
) -> tuple[dict[tuple[int, int], tuple[int, int]], list[int]]:
    """What stands where in queues after counts[image][class] entries: {(class, place): (image, entry)}, and the pointers."""
    written: dict[tuple[int, int], tuple[int, int]] = {}
    pointer = list(pointer)
    for image, of_classes in enumerate(counts):
        for k, count in enumerate(of_classes):
            fits = pointer[k] + count < size
            start = pointer[k] if fits else size - count
            for f in range(count):
                written[k, start + f] = (image, f)
            pointer[k] = pointer[k] + count if fits else 0
    return written, pointer


def region_means(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Means (N, K, C) of length 1 of features (N, C, P) by class, and which classes are there (N, K)."""
    n, channels, positions = features.shape
    means = torch.zeros(n, classes, channels, dtype=torch.float64)
    present = torch.zeros(n, classes, dtype=torch.long)
    for i, k in product(range(n), range(classes)):
        members = [features[i, :, p] for p in range(positions) if labels[i, p] == k]
        if members:
            means[i, k], present[i, k] = unit(sum(members) / len(members)), 1
    return means, present
