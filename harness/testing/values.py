"""Properties of the terms of one step."""

import copy

import torch
from torch import Tensor, nn

from harness.distillers import Distiller
from harness.taps import Pair, Taps, View
from harness.testing.case import (
    Case,
    apart,
    backward,
    checked,
    numbers,
    own_terms,
    require,
    total,
    undisturbed,
)
from harness.testing.made_up import (
    CLASSES,
    IGNORE,
    MAIN,
    SAME,
    SIZE,
    assembled,
    labels,
    listed,
    maps,
    stream,
    trainable,
    view,
)


def terms(case: Case) -> None:
    """Named, finite, scalar terms of float32 at least, on pairs of all kinds, in train and in eval mode."""
    for name, pair in case.scenes():
        distiller = case.build(pair)
        for training in (True, False):
            checked(distiller.train(training), view(pair), f"{name}, {'train' if training else 'eval'} mode")


def gradients(case: Case) -> None:
    """Some map of the student gets a gradient, all gradients are finite, and every term has one."""
    for name, pair in case.scenes():
        distiller, seen = case.build(pair), view(pair)
        found = checked(distiller, seen, name)
        backward(distiller, found, seen.student, name)
        reached = [x for x in listed(seen.student) if x.grad is not None and bool(x.grad.any())]
        require(reached or not found, f"no map of the student gets a gradient ({name}); do not detach the student's")


def read_only(case: Case) -> None:
    """The step does not change the maps of either network or the labels."""
    for name, pair in case.scenes():
        distiller = case.build(pair)
        student, teacher, label = maps(pair.student), maps(pair.teacher, seed=1), labels()
        before = copy.deepcopy((student, teacher, label))
        with torch.no_grad():
            distiller(view(pair, student=student, teacher=teacher, label=label))
        for who, ours, theirs in (("student", student, before[0]), ("teacher", teacher, before[1])):
            same = all(torch.equal(a, b) for a, b in zip(_every(ours), _every(theirs), strict=True))
            require(same, f"the {who}'s maps were written to ({name}); leave out the operation in place")
        require(torch.equal(label, before[2]), f"the labels were written to ({name})")


def _every(taps: Taps) -> list[Tensor]:
    return [*listed(taps), taps.full]


def minimum(case: Case) -> None:
    """A student that equals the teacher has each term's minimum: no gradient there, no smaller value around it.

    Modules of the distiller's own that can be the identity are (square convolutions and linear maps); the maps are
    positive, as after a ReLU. Terms of what is trained apart are left out.
    """
    reason = case.skip(SAME)
    require(reason is None, f"it does not apply to networks of one kind: {reason}. Waive `minimum`, with the reason")
    teacher = maps(SAME.teacher, positive=True)
    distiller = case.build(SAME).eval()
    _be_identity(distiller)
    student = trainable(teacher)
    equal = checked(distiller, view(SAME, student=student, teacher=teacher), "student equals teacher")
    compared = {name for name in equal.keys() - own_terms(distiller, equal) if not case.waives("minimum", name)}
    require(compared or not equal, "no term is left to check; state that the whole property is waived")
    for name in sorted(compared):
        rises = []
        for amount in (0.01, 0.1, 1.0):
            other = _moved(teacher, amount)
            fresh = case.build(SAME).eval()  # as it was: a queue has been written to
            _be_identity(fresh)
            value = fresh(view(SAME, student=other, teacher=teacher))[name]
            slope = _slope(value, other)
            rises.append((float(value.detach()) - float(equal[name].detach()), slope))
        hint = "say why in `waived` if it is not meant to be smallest there"
        highest = max(rise for rise, _ in rises)
        require(
            min(rise for rise, _ in rises) > -1e-3 * highest,
            f"term {name} is smaller for another student than for one that equals the teacher; {hint}",
        )
        least = 1e-5 * abs(float(equal[name].detach()))
        require(highest > least, f"term {name} is the same for any student; compare student and teacher")
        here = _slope(equal[name], student)
        require(
            here <= 1e-3 * max(slope for _, slope in rises),
            f"term {name} pushes a student that equals the teacher away: gradient {here:.3g}; {hint}",
        )


def _slope(value: Tensor, student: Taps) -> float:
    """Largest element of a term's gradient in the student's maps."""
    found = torch.autograd.grad(value, listed(student), retain_graph=True, allow_unused=True)
    return max((float(g.abs().max()) for g in found if g is not None), default=0.0)


def _moved(taps: Taps, amount: float) -> Taps:
    generator = stream(11)

    def move(x: Tensor) -> Tensor:
        return (x + amount * torch.randn(x.shape, generator=generator)).requires_grad_(True)

    stages = {name: move(x) for name, x in taps.stages.items()}
    return assembled(stages, move(taps.decoder), move(taps.logits), SIZE)


@torch.no_grad()
def _be_identity(distiller: Distiller) -> None:
    own = apart(distiller)
    for module in distiller.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear) or id(module.weight) in own:
            continue
        if isinstance(module, nn.Linear):
            if module.in_features == module.out_features:
                nn.init.eye_(module.weight)
        elif module.in_channels == module.out_channels and module.groups == 1:
            nn.init.dirac_(module.weight)
        if module.bias is not None:
            module.bias.zero_()


def ignored_pixels(case: Case) -> None:
    """Terms that use labels depend neither on unlabelled pixels nor on the value of `ignore_index`.

    In eval mode: in train mode statistics of the batch may hold every pixel. The networks have equal strides, and the
    ignored part is as high as the coarsest tap's cell.
    """
    label = _half_labelled()
    known = numbers(_evaluated(case, MAIN, label))
    student, teacher = (
        _overwritten(maps(network, seed=seed), maps(network, seed=9))
        for network, seed in ((MAIN.student, 0), (MAIN.teacher, 1))
    )
    found = numbers(_evaluated(case, MAIN, label, student, teacher))
    for name in sorted(with_labels(case)):
        if case.waives("ignored-pixels", name):
            continue
        require(
            abs(found[name] - known[name]) <= 1e-5 * abs(known[name]),
            f"term {name} uses labels and is {found[name]:.7g} instead of {known[name]:.7g} when the maps change where "
            "there is no label; leave those pixels out",
        )
    for mark in (-1, CLASSES, 10_000):
        pair = Pair(MAIN.student, MAIN.teacher, CLASSES, mark)
        marked = numbers(_evaluated(case, pair, torch.where(label == IGNORE, mark, label)))
        require(marked == known, f"with ignore_index {mark} the terms are {marked}, not {known}; compare with pair's")


def with_labels(case: Case) -> set[str]:
    """Terms that change when classes are exchanged, or when fewer pixels have labels."""
    label = _half_labelled()
    exchanged, fewer = torch.where(label == IGNORE, label, (label + 1) % CLASSES), label.clone()
    fewer[:, :48] = IGNORE
    known, *others = (numbers(_evaluated(case, MAIN, given)) for given in (label, exchanged, fewer))
    return {name for name, value in known.items() if any(other[name] != value for other in others)}


def _half_labelled() -> Tensor:
    label = torch.randint(0, CLASSES, SIZE, generator=stream(1))
    label[:, :32] = IGNORE
    return label


def _evaluated(
    case: Case, pair: Pair, label: Tensor, student: Taps | None = None, teacher: Taps | None = None
) -> dict[str, Tensor]:
    distiller = case.build(pair).eval()
    with torch.no_grad():
        found: dict[str, Tensor] = distiller(view(pair, label=label, student=student, teacher=teacher))
        return found


def _overwritten(taps: Taps, other: Taps) -> Taps:
    """Upper half from `other`."""

    def mixed(ours: Tensor, theirs: Tensor) -> Tensor:
        half = ours.shape[-2] // 2
        return torch.cat([theirs[..., :half, :], ours[..., half:, :]], -2)

    stages = {name: mixed(x, other.stages[name]) for name, x in taps.stages.items()}
    full = mixed(taps.full, other.full)
    return Taps(stages, mixed(taps.decoder, other.decoder), mixed(taps.logits, other.logits), full)


def one_stream(case: Case) -> None:
    """It draws only from `view.generator`, on the CPU, and reproducibly."""
    for training in (True, False):
        first, again = (_under(case, number, training) for number in (1, 2))
        require(
            first == again,
            f"the terms are {first}, and then {again} from the same view.generator; another stream is read",
        )


def _under(case: Case, number: int, training: bool) -> dict[str, float]:
    distiller, seen = case.build().train(training), view(MAIN)
    with undisturbed(number):
        found = distiller(seen)
        if found:
            total(found).backward()  # type: ignore[no-untyped-call]
    return numbers(found)


def weighted(case: Case) -> None:
    """Terms are linear in their weights: doubling a weight doubles its terms and does not change the others."""
    values = case.keywords()
    on = {name: values[name] or 1.0 for name in case.kind.weights if name in values}
    if not case.kind.needs_teacher:
        return

    def given(**changed: float) -> dict[str, float]:
        built = Case(case.kind, {**case.parameters, **on, **changed}).build().eval()
        found = built(view(MAIN))
        return {name: value for name, value in numbers(found).items() if name not in own_terms(built, found)}

    once, doubled = given(), set()
    for weight in on:
        twice = given(**{weight: 2 * on[weight]})
        require(twice.keys() == once.keys(), f"{weight}={2 * on[weight]} gives other terms than {weight}={on[weight]}")
        for name, value in twice.items():
            ratio = 2.0 if abs(value - 2 * once[name]) < abs(value - once[name]) else 1.0
            require(
                abs(value - ratio * once[name]) <= 1e-5 * abs(once[name]) + 1e-12,
                f"doubling {weight} takes term {name} from {once[name]:.7g} to {value:.7g}; a weight is a factor",
            )
            doubled |= {name} if ratio == 2.0 else set()
    require(doubled == once.keys(), f"no weight scales {', '.join(sorted(once.keys() - doubled))}; see `weights`")


def needs_teacher(case: Case) -> None:
    """Without the teacher's maps, a method that needs them raises the right error, and one that does not works."""
    distiller, seen = case.build(), view(MAIN)
    alone = View(seen.student, None, seen.labels, seen.progress, seen.generator)
    if not case.kind.needs_teacher:
        checked(distiller, alone, "no teacher")
        return
    try:
        distiller(alone)
    except ValueError as error:
        require("needs_teacher" in str(error), f"without a teacher it says {error}; read the maps by view.taught()")
    except Exception as error:
        raise AssertionError(f"without a teacher: {type(error).__name__}; read the maps by view.taught()") from error
    else:
        raise AssertionError("it works without the teacher; say needs_teacher = False in the class")
