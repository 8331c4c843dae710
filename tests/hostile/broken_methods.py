"""A method of one's own that fails in every way; `tests/hostile/test_failures.py` names it in experiment files."""

import builtins
import sys
from typing import Any

import torch

from harness import Distiller, Pair, View


class Mute(Exception):
    """Cannot be printed, nor sent to another process."""

    def __init__(self, lock: object) -> None:
        self.lock = lock

    def __str__(self) -> str:
        raise ZeroDivisionError

    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


def deep(level: int) -> int:
    return deep(level + 1) + 1


def sized(number: int) -> torch.Tensor:
    return torch.zeros(number)


class Broken(Distiller):
    """Fails as `fault` says.

    Args:
        fault: how.
        since: from this progress on.
    """

    def __init__(self, pair: Pair, *, fault: str = "fine", since: float = 0.0) -> None:
        super().__init__()
        if fault.startswith("init "):
            FAULTS[fault.removeprefix("init ")](torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))
        self.fault, self.since = fault, since

    def forward(self, view: View) -> Any:
        student, teacher = view.student.logits, view.teacher.logits
        if view.progress < self.since:
            return {"fine": (student - teacher).square().mean()}
        return FAULTS[self.fault](student, teacher)


def fail(error: BaseException) -> Any:
    raise error


FAULTS: dict[str, Any] = {
    "shape": lambda s, t: {"x": (s - t[:, :, :, :3]).mean()},
    "nan": lambda s, t: {"x": s.mean() * float("nan")},
    "none": lambda s, t: None,
    "list": lambda s, t: [s.mean()],
    "float": lambda s, t: {"x": 1.0},
    "vector": lambda s, t: {"x": s.mean((1, 2, 3))},
    "number as name": lambda s, t: {3: s.mean()},
    "value": lambda s, t: fail(ValueError()),
    "key": lambda s, t: {}["absent"],
    "import": lambda s, t: __import__("nothing_of_this_name"),
    "exit": lambda s, t: sys.exit(0),
    "recursion": lambda s, t: deep(0),
    "memory": lambda s, t: fail(MemoryError()),
    "too large": lambda s, t: {"x": sized(2**45).sum() + s.mean()},
    "mute": lambda s, t: fail(Mute(object())),
    "long": lambda s, t: fail(ValueError("long " * 100_000)),
    "escapes": lambda s, t: fail(ValueError("\x1b[31mred\x07\r\n\x00 <b>|x| $y$")),
    "surrogates": lambda s, t: fail(ValueError("\udcff")),
    "stop": lambda s, t: fail(StopIteration()),
}
if sys.version_info >= (3, 11):
    FAULTS["group"] = lambda s, t: fail(builtins.ExceptionGroup("several", [ValueError("one"), KeyError("two")]))
