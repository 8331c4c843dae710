"""Properties of a distiller's class and of building it."""

import inspect
import re
import sys

import torch

from harness.distillers import Distiller
from harness.experiment import signatures
from harness.testing.case import Case, checked, require, undisturbed
from harness.testing.made_up import SIZE, view
from harness.testing.networks import pairs


def contract(case: Case) -> None:
    """A subclass of Distiller at depth 1, in a file that says what it computes: equation, reduction, paper."""
    kind = case.kind
    require(
        isinstance(kind, type) and issubclass(kind, Distiller),
        f"{kind} is not a subclass of Distiller",
    )
    require(kind.__mro__[1] is Distiller, f"it inherits from {kind.__mro__[1].__name__}; inherit from Distiller alone")
    module = inspect.getdoc(sys.modules[kind.__module__]) or ""
    require(" = " in module, "the file's docstring has no equation; write `L = ...` in plain text")
    require(
        re.search(r"(?i)reduction|mean (over|of)", module),
        "the file's docstring does not say how the loss is reduced; add `Reduction: mean over ...`",
    )
    require(kind.__dict__.get("__doc__"), "the class has no docstring")
    if kind.needs_teacher:
        require(re.search(r"(19|20)\d\d", kind.paper), f"paper is {kind.paper!r}; give authors and year")


def signature(case: Case) -> None:
    """Hyper-parameters are keyword-only and plain, and the experiment file's schema, read from source, has the same."""
    kind = case.kind
    target = f"{kind.__module__}:{kind.__qualname__}"
    try:
        entry = signatures.entry(target)
    except ValueError as error:
        raise AssertionError(f"{error}. A class is found at the top level of a module that can be imported") from error
    pair, *own = inspect.signature(kind).parameters.values()
    require(pair.name == "pair" and pair.kind is pair.POSITIONAL_OR_KEYWORD, "the first argument is `pair`")
    fields = entry.parameters.model_fields
    for p in own:
        require(p.kind is p.KEYWORD_ONLY, f"{p.name} is not keyword-only; write it after `*`")
        require(p.name in fields, f"{p.name} is not seen in the source of __init__; declare it there")
        required = fields[p.name].is_required()
        require(required == (p.default is p.empty), f"{p.name}: its default is not the one in the source")
        require(required or fields[p.name].default == p.default, f"{p.name}: its default is not the one in the source")
    require(len(own) == len(fields), f"the source has {', '.join(fields)}, the class {', '.join(p.name for p in own)}")
    stated = entry.constants.get("needs_teacher", True)
    require(stated == kind.needs_teacher, f"needs_teacher is {kind.needs_teacher}; in the source it is {stated}")


def search_space(case: Case) -> None:
    """Bounds are positive, ordered and hold the default, or the default 0 is off; weights are hyper-parameters."""
    values = case.keywords()
    for name, (low, high) in case.kind.space.items():
        require(name in values, f"space names {name}, which is no hyper-parameter")
        require(0 < low < high < float("inf"), f"space[{name!r}] is ({low}, {high}); 0 < low < high is needed")
        default = inspect.signature(case.kind).parameters[name].default
        inside = default is inspect.Parameter.empty or default == 0 or low <= default <= high
        require(inside, f"space[{name!r}] is ({low}, {high}), without the default {default}")
    _conditions(case)
    if not case.kind.needs_teacher:
        return
    require(case.kind.space, "space is empty; name what may be tuned")
    unknown = [name for name in case.kind.weights if name not in values]
    require(
        case.kind.weights and not unknown,
        f"weights is {case.kind.weights}; name the hyper-parameters that scale terms"
        + (f" ({', '.join(unknown)} is none)" if unknown else ""),
    )


def _conditions(case: Case) -> None:
    """What may be off is searched and can be; what hangs on another hyper-parameter names one; the source says so."""
    kind, values = case.kind, case.keywords()
    for name in kind.optional:
        require(name in kind.space, f"optional names {name}, which is not in space")
        Case(kind, {**case.parameters, name: 0.0}).build()
    for name, other in kind.needs.items():
        require(name in kind.space, f"needs names {name}, which is not in space")
        require(other in values and other != name, f"needs[{name!r}] is {other!r}; name another hyper-parameter")
    constants = signatures.entry(f"{kind.__module__}:{kind.__qualname__}").constants
    for name in ("space", "optional", "needs", "weights", "added", "chosen"):
        said, read = getattr(kind, name), constants.get(name, getattr(Distiller, name))
        require(said == read, f"{name} is {said} in the class and {read} in the source; write it out there")


def refusals(case: Case) -> None:
    """A tuned value that is no number, infinite or negative is a ValueError that says which, and what was given."""
    for name in case.kind.space:
        for wrong in (float("nan"), float("inf"), -1.0):
            try:
                Case(case.kind, {**case.parameters, name: wrong}).build()
            except ValueError as error:
                stated = str(error)
                require(
                    name in stated and str(wrong) in stated,
                    f"{name}={wrong} is refused by {stated!r}; the message says the name and what was given",
                )
            else:
                raise AssertionError(f"{name}={wrong} is accepted; raise ValueError for it")


def every_pair(case: Case) -> None:
    """On each pair of real networks it gives finite terms, or `skip` says why not."""
    for name, pair in pairs().items():
        reason = case.skip(pair)
        if reason is not None:
            continue
        try:
            distiller = case.build(pair)
            with torch.no_grad():
                checked(distiller, view(pair, (1, *SIZE[1:])), name)
        except Exception as error:
            stated = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            raise AssertionError(f"{name}: skip gives no reason, but {stated}. Return the reason from skip") from error


def seed(case: Case) -> None:
    """What it draws at construction follows torch's seed and nothing else."""

    def built(others: int) -> dict[str, torch.Tensor]:
        with undisturbed(others):
            return case.build(seed=4).state_dict()

    first, again = built(1), built(2)
    for name, value in first.items():
        require(torch.equal(value, again[name]), f"{name} differs between builds from one seed; draw from torch alone")
