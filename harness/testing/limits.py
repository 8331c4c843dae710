"""Properties of a step at its limits: no labels, one image, odd sizes, flat or peaked maps, half precision."""

import copy

import torch

from harness.taps import Taps
from harness.testing.case import Case, backward, checked, numbers, require
from harness.testing.made_up import IGNORE, MAIN, SIZE, Size, assembled, labels, maps, trainable, view

SIZES: tuple[Size, ...] = ((1, 64, 64), (2, 50, 70), (1, 33, 97), (1, 96, 33))


def no_labels(case: Case) -> None:
    """A batch, or an image of it, without any label gives finite terms and gradients; so does the step after it."""
    for name, images in (("no image has labels", SIZE[0]), ("one image has no labels", 1)):
        for training in (True, False):
            distiller = case.build().train(training)
            label = labels()
            label[:images] = IGNORE
            for where, given in ((name, label), (f"the step after one in which {name}", labels())):
                seen = view(MAIN, label=given)
                backward(distiller, checked(distiller, seen, where), seen.student, where)


def absent_classes(case: Case) -> None:
    """Labels of one class, and scores that leave no doubt of another, give finite terms and gradients."""
    seen = view(MAIN)
    peaked = torch.zeros_like(seen.taught().logits)
    peaked[:, 0] = 200.0
    sure = assembled(seen.taught().stages, seen.taught().decoder, peaked, SIZE)
    student = trainable(assembled(seen.student.stages, seen.student.decoder, 100 * seen.student.logits, SIZE))
    label = torch.ones(SIZE, dtype=torch.long)
    for where, given in (
        ("one class is labelled", view(MAIN, label=label)),
        ("scores leave no doubt", view(MAIN, student=student, teacher=sure, label=label)),
    ):
        distiller = case.build()
        backward(distiller, checked(distiller, given, where), given.student, where)


def sizes(case: Case) -> None:
    """One image, and sides that are no multiple of a stride."""
    for name, pair in case.scenes():
        distiller = case.build(pair)
        for size in SIZES:
            seen, where = view(pair, size), f"image {size}, {name}"
            backward(distiller, checked(distiller, seen, where), seen.student, where)


def progress(case: Case) -> None:
    """The first and the last step of a training."""
    distiller = case.build()
    for share in (0.0, 1.0):
        seen, where = view(MAIN, progress=share), f"progress {share:g}"
        backward(distiller, checked(distiller, seen, where), seen.student, where)


def flat_maps(case: Case) -> None:
    """Maps that are zero or constant, of the teacher, of the student and of both, give finite terms and gradients."""
    for value in (0.0, 1.0):
        for who in ("teacher", "student", "both"):
            student, teacher = maps(MAIN.student), maps(MAIN.teacher, seed=1)
            student = _flat(student, value) if who != "teacher" else student
            teacher = _flat(teacher, value) if who != "student" else teacher
            seen, where = view(MAIN, student=trainable(student), teacher=teacher), f"maps of {who} are {value:g}"
            distiller = case.build()
            backward(distiller, checked(distiller, seen, where), seen.student, where)


def _flat(taps: Taps, value: float) -> Taps:
    stages = {name: torch.full_like(x, value) for name, x in taps.stages.items()}
    return assembled(stages, torch.full_like(taps.decoder, value), torch.full_like(taps.logits, value), SIZE)


def bfloat16(case: Case) -> None:
    """Under autocast, with maps in bfloat16, terms are float32, gradients finite, values within 5 % of float32's."""
    for name, pair in case.scenes():
        whole = view(pair)
        student, teacher = (_cast(x, torch.bfloat16) for x in (whole.student, whole.taught()))
        half = view(pair, student=student, teacher=teacher)
        rounded = view(pair, student=_cast(student, torch.float32), teacher=_cast(teacher, torch.float32))
        distiller = case.build(pair)
        exact = numbers(copy.deepcopy(distiller)(rounded))
        with torch.autocast("cpu", torch.bfloat16):
            found = checked(distiller, half, f"bfloat16 autocast, {name}")
        backward(distiller, found, half.student, f"bfloat16 autocast, {name}")
        for term, value in numbers(found).items():
            require(
                abs(value - exact[term]) <= 0.05 * abs(exact[term]) + 1e-3,
                f"term {term} is {value:.4g} under bfloat16 autocast and {exact[term]:.4g} in float32 ({name}); "
                "bring maps to float32 before softmax, sums and differences",
            )


def _cast(taps: Taps, dtype: torch.dtype) -> Taps:
    stages = {name: x.detach().to(dtype).requires_grad_(x.requires_grad) for name, x in taps.stages.items()}
    decoder, logits = (x.detach().to(dtype).requires_grad_(x.requires_grad) for x in (taps.decoder, taps.logits))
    return assembled(stages, decoder, logits, SIZE)
