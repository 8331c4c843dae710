"""Properties of several training steps."""

import copy
import io
import pickle

import torch
from torch import Tensor

from harness.distillers import Distiller
from harness.experiment.recipe import Optimizer
from harness.taps import Pair
from harness.testing.case import Case, Terms, apart, numbers, own_terms, reaches, require, total
from harness.testing.made_up import IGNORE, MAIN, Net, labels, net, stream, view
from harness.training import guards
from harness.training.optimizers import Optimizers
from harness.training.step import KDStep

STEPS = 3


def whole_step(case: Case) -> None:
    """In training steps the student changes, the teacher does not, and every trained parameter gets a gradient."""
    student, teacher = net(MAIN.student, 1), net(MAIN.teacher, 2).eval().requires_grad_(False)
    before = copy.deepcopy(teacher.state_dict())
    distiller = case.build()
    step = KDStep(student, distiller, IGNORE)
    optimizers = Optimizers(Optimizer(name="adamw", lr=1e-3), step, distiller)
    for number in range(STEPS):
        found = one_step(step, teacher, number)
        if number == 0:
            guards.connected(found, case.label, case.kind.needs_teacher)
            _student_moves(student, {name: value for name, value in found.items() if name != "task"})
        total(found).backward()  # type: ignore[no-untyped-call]
        if number == 0:
            guards.all_used(step)
            _not_idle(distiller)
        optimizers.step(torch.amp.GradScaler("cpu", enabled=False))
        values = numbers(found)
        require(all(abs(v) < float("inf") for v in values.values()), f"the terms of step {number} are {values}")
    guards.teacher_untouched(teacher)
    changed = [name for name, value in teacher.state_dict().items() if not torch.equal(value, before[name])]
    require(not changed, f"the teacher's {', '.join(changed)} changed")


def one_step(step: torch.nn.Module, teacher: Net, number: int, rank: int = 0) -> Terms:
    """Terms of the step `number` on random images, as `harness.training.loop.train` computes them."""
    generator = stream(100 * number + rank)
    image, label = torch.randn(2, 3, 64, 64, generator=generator), labels(seed=100 * number + rank)
    with torch.no_grad():
        taught = teacher(image).detach()
    terms: Terms = step(image, label, taught, (label != IGNORE).sum().float(), number / STEPS, generator)
    return terms


def _student_moves(student: Net, terms: Terms) -> None:
    if not terms:
        return
    found = torch.autograd.grad(total(terms), list(student.parameters()), retain_graph=True, allow_unused=True)
    moved = any(gradient is not None and bool(gradient.any()) for gradient in found)
    require(moved, "the terms, without the task's, move no parameter of the student")


def _not_idle(distiller: Distiller) -> None:
    own = apart(distiller)
    for name, p in distiller.named_parameters():
        # What is trained apart may begin where a gradient is 0, such as the attention of a critic.
        if p.requires_grad and id(p) not in own:
            require(bool(p.grad.any()) if p.grad is not None else False, f"parameter {name} has the gradient 0")


def trained_apart(case: Case) -> None:
    """Parameters with their own optimizer get gradients only from their own terms, which train nothing else."""
    distiller, seen = case.build(), view(MAIN)
    optimizers = distiller.own_optimizers()
    parameters = [p for own in optimizers for p in own.parameters]
    known = {id(p) for p in distiller.parameters() if p.requires_grad}
    require(
        len({id(p) for p in parameters} & known) == len(parameters),
        "own_optimizers: each parameter is a trainable one of the distiller's, and in one optimizer",
    )
    require(
        all(own.parameters and 0 < own.lr < float("inf") for own in optimizers), "own_optimizers: empty, or lr <= 0"
    )
    found = distiller(seen)
    own = own_terms(distiller, found)
    others: list[Tensor] = [p for p in distiller.parameters() if p.requires_grad and id(p) not in apart(distiller)]
    student = [*seen.student.stages.values(), seen.student.decoder, seen.student.logits]
    for name in own:
        require(
            not reaches(found[name], student + others),
            f"term {name} trains what is trained apart and also the student or an adapter; detach one of the two",
        )
    for each in optimizers:
        require(
            any(reaches(found[name], each.parameters) for name in own),
            f"no term trains {len(each.parameters)} parameters that have an optimizer of their own",
        )


def resumed(case: Case) -> None:
    """After a state_dict through torch.save, it continues exactly as without interruption, queues included."""
    for training in (True, False):
        first, second = case.build(), case.build(seed=1)
        _steps(first, MAIN, 0, STEPS)
        buffer = io.BytesIO()
        torch.save(first.state_dict(), buffer)
        buffer.seek(0)
        second.load_state_dict(torch.load(buffer, weights_only=True))
        _same(first.train(training), second.train(training), "resumed from its state_dict; keep its state in buffers")


def copies(case: Case) -> None:
    """After some steps, deep copies and pickled copies give the same values and share no parameters."""
    first = case.build()
    _steps(first, MAIN, 0, STEPS)
    for how, other in (("copied", copy.deepcopy(first)), ("pickled", pickle.loads(pickle.dumps(first)))):
        known = {id(p) for p in other.parameters()}
        require(apart(other) <= known, f"{how}: own_optimizers holds parameters of the original; build it when called")
        _same(copy.deepcopy(first), other, how)


def _same(first: Distiller, second: Distiller, how: str) -> None:
    ours, theirs = (_steps(x, MAIN, STEPS, 2) for x in (first, second))
    require(ours == theirs, f"{how}: the next steps' terms are {theirs} instead of {ours}")
    state = second.state_dict()
    differ = [name for name, value in first.state_dict().items() if not torch.equal(value, state[name])]
    require(not differ, f"{how}: {', '.join(differ)} differ two steps later")


def _steps(distiller: Distiller, pair: Pair, start: int, count: int) -> list[dict[str, float]]:
    """Terms of some steps, after each of which every parameter moves a little against its gradient."""
    found = []
    for number in range(start, start + count):
        distiller.zero_grad(set_to_none=True)
        terms = distiller(view(pair, seed=number))
        found.append(numbers(terms))
        if terms:
            total(terms).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for p in distiller.parameters():
                if p.grad is not None:
                    p.sub_(p.grad.sign(), alpha=1e-3)
    return found
