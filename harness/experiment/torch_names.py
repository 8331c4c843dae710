"""Optimizers and schedules by torch's own names, with their keyword arguments, read without importing it."""

import ast
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from harness.borders import quoted
from harness.experiment.meanings import nearest
from harness.experiment.signatures import source_file

OPTIMIZERS, SCHEDULES = "torch.optim", "torch.optim.lr_scheduler"
LARGEST = 1e30
"""Of a number among keyword arguments."""
MOST_ITEMS = 10_000
"""Of a list among keyword arguments, such as milestones."""
NOT_HERE = {
    "Optimizer": "is the base of the others",
    "LBFGS": "asks for the loss several times in a step",
    "SparseAdam": "takes sparse gradients only",
    "LRScheduler": "is the base of the others",
    "LambdaLR": "takes a function, which is not plain data",
    "MultiplicativeLR": "takes a function, which is not plain data",
    "SequentialLR": "takes other schedules, which are not plain data",
    "ChainedScheduler": "takes other schedules, which are not plain data",
    "ReduceLROnPlateau": "looks at the dev score, so that methods would not have the same schedule",
}
"""Classes of torch that a recipe cannot name, and why."""
OURS = {
    OPTIMIZERS: ("params", "lr", "maximize", "differentiable", "capturable"),
    SCHEDULES: ("optimizer", "last_epoch", "verbose", "scale_fn"),
}
"""Arguments that are not given in a file's keywords: what is trained, and what is a key of its own."""
FROM_STEPS = {"CosineAnnealingLR": "T_max", "PolynomialLR": "total_iters", "OneCycleLR": "total_steps"}
"""Arguments of schedules that are the run's number of steps after the warm-up unless a file gives them."""
FROM_LR = {"OneCycleLR": "max_lr", "CyclicLR": "base_lr"}
"""Arguments of schedules that are the learning rate of the optimizer, which a search and a teacher may change."""
COUNTS = ("step_size", "T_max", "step_size_up", "step_size_down")
"""Arguments of schedules that torch takes at 0 and below, where they mean nothing."""


class Keywords(NamedTuple):
    """Names of the keyword arguments that a file may give, of those that it must, and the annotations of all."""

    allowed: tuple[str, ...]
    needed: tuple[str, ...]
    kinds: Mapping[str, ast.expr | None]


@functools.cache
def known(module: str) -> dict[str, Keywords]:
    """The classes of `torch.optim` or `torch.optim.lr_scheduler` that a recipe may name.

    Raises:
        ValueError: torch is not installed.
    """
    found = {}
    for name, node in _classes(module).items():
        init = next((x for x in node.body if isinstance(x, ast.FunctionDef) and x.name == "__init__"), None)
        if name.startswith("_") or name in NOT_HERE or init is None:
            continue
        plain = [a.arg for a in init.args.args[1:]]
        without_default = plain[: len(plain) - len(init.args.defaults)]
        own = (*OURS[module], FROM_LR.get(name, ""))
        allowed = [a for a in (*plain, *(a.arg for a in init.args.kwonlyargs)) if a not in own]
        needed = [a for a in without_default if a in allowed and a != FROM_STEPS.get(name)]
        kinds = {a.arg: a.annotation for a in (*init.args.args, *init.args.kwonlyargs)}
        found[name] = Keywords(tuple(allowed), tuple(needed), kinds)
    return found


def _classes(module: str) -> dict[str, ast.ClassDef]:
    """Classes by name: those of a file, or those that a package's `__init__` has from its own files."""
    path = source_file(module)
    tree = ast.parse(path.read_bytes())
    found = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if path.name == "__init__.py":
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{module}."):
                there = _classes(str(node.module))
                found |= {alias.name: there[alias.name] for alias in node.names if alias.name in there}
    if module == SCHEDULES:
        bases = {name: {b.id for b in node.bases if isinstance(b, ast.Name)} for name, node in found.items()}
        found = {name: node for name, node in found.items() if bases[name] & {"LRScheduler", "_LRScheduler"}}
    return found


def problem(module: str, own: tuple[str, ...], name: str, keywords: Mapping[str, Any]) -> str | None:
    """What is wrong with an optimizer or schedule of torch; None if nothing is.

    Args:
        module: `OPTIMIZERS` or `SCHEDULES`.
        own: names of this project beside torch's.
        name: of the class.
        keywords: its keyword arguments.
    """
    if name in NOT_HERE:
        return f"{name} {NOT_HERE[name]}. Allowed: {', '.join((*own, *known(module)))}"
    if name not in known(module):
        names = (*own, *known(module))
        return f"unknown name '{quoted(name)}'.{nearest(name, names)} Allowed: {', '.join(names)}"
    allowed, needed, kinds = known(module)[name]
    for key, value in keywords.items():
        if key == FROM_LR.get(name):
            return f"{key} of {name} is train.optimizer.lr; delete it here"
        if key not in allowed:
            return f"{name} has no '{quoted(str(key))}'.{nearest(str(key), allowed)} Allowed: {', '.join(allowed)}"
        if not _plain(value):
            return f"{key} is {quoted(repr(value))}; allowed: a number up to {LARGEST:g}, true, false, text, or a list"
        kind = kinds[key]
        if kind is not None and not _is_a(kind, value):
            return f"{key} of {name} is {quoted(repr(value))}; torch's is {ast.unparse(kind)}"
        if key in COUNTS and isinstance(value, int) and value < 1:
            return f"{key} of {name} is {value}; it counts steps, at least 1"
    missing = [key for key in needed if key not in keywords]
    return f"{name} needs {', '.join(missing)}" if missing else None


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= MOST_ITEMS and all(_plain(item) and not isinstance(item, list | tuple) for item in value)
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int | float):
        return abs(value) <= LARGEST and math.isfinite(value)
    return isinstance(value, str) and len(value) <= 100


def _is_a(kind: ast.expr, value: Any) -> bool:
    """Whether a plain value is of the kind that an annotation of torch says; of a kind that is not known here, it is.

    torch itself looks at few of them: a text among milestones is never met, and `fused: "no"` is true.
    """
    match kind:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _is_a(left, value) or _is_a(right, value)
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id="Tensor"):
            return False
        case ast.Name(id=("int" | "float" | "bool" | "str") as name):
            return type(value) in {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}[name]
        case ast.Subscript(value=ast.Name(id=outer), slice=inner):
            parts = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
            if outer == "Literal":
                return value in [part.value for part in parts if isinstance(part, ast.Constant)]
            if outer in ("Optional", "Union"):
                return (outer == "Optional" and value is None) or any(_is_a(part, value) for part in parts)
            if outer not in ("tuple", "Tuple", "list", "List", "Iterable", "Sequence"):
                return True
            if not isinstance(value, list | tuple):
                return False
            if outer in ("tuple", "Tuple") and not isinstance(parts[-1], ast.Constant):
                return len(value) == len(parts) and all(map(_is_a, parts, value))
            return all(_is_a(parts[0], item) for item in value)
    return True
