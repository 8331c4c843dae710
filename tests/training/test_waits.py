"""No method makes the processor wait for a GPU within a step: nothing is read back, no shape depends on values.

A step runs on torch's meta device, which like a GPU has its own memory: a copy to it must not block, and what cannot be
known without waiting (`item`, a boolean index) is called there, too. `tests/gpu/prove.py` shows the same on a GPU.
"""

import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.distillers import METHODS, Distiller
from harness.experiment.recipe import LossTerm
from harness.taps import Pair, View
from harness.testing.made_up import MAIN, SIZE, labels, net
from harness.training.guards import FiniteTerms
from harness.training.log import Log
from harness.training.named import Named
from harness.training.runtime import Runtime
from harness.training.step import KDStep
from harness.training.task_loss import TaskLoss

READS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim"),
    *("_linalg_eigh", "_linalg_svd", "_linalg_solve_ex", "linalg_cholesky_ex", "linalg_inv_ex", "linalg_lu_factor_ex"),
}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
OPTIONS: dict[str, dict[str, Any]] = {
    "sstkd": {"w_adv": 0.01},
    "sstkd, uncertain regions": {"region_importance": "uncertainty"},
    "sstkd, toolbox": {"boundary": "toolbox"},
    "cirkd, as the authors": {"convention": "cirkd"},
    "skd, tanh": {"critic_input": "tanh"},
    "kt, huber": {"divergence": "huber"},
}


class Waits(TorchDispatchMode):
    """The places where the processor would wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        if name in READS and args[0].device.type == "meta":
            self._note(name)
            if name == "_local_scalar_dense":
                return 1.0
        if name in INDEXED and any(x is not None and x.dtype == torch.bool for x in args[1]):
            self._note("boolean index")
            return args[0] if name != "index" else args[0].flatten(0, args[1][0].ndim - 1)  # as if all were true
        if name in INDEXED and any(x is not None and x.device != args[0].device for x in args[1]):
            self._note("index from another device")
        out = func(*args, **(kwargs or {}))
        if name in ("_to_copy", "copy_"):
            source, target = (args[0], out) if name == "_to_copy" else (args[1], args[0])
            blocks = not (kwargs or {}).get("non_blocking", args[2] if len(args) > 2 else False)
            if source.device != target.device and (blocks or source.device.type == "meta"):
                self._note(f"copy from {source.device} to {target.device}")
        return out

    def _note(self, what: str) -> None:
        own = [f for f in traceback.extract_stack() if any(part in f.filename for part in ("/harness/", "/sstkd/"))]
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "here"
        self.found.append(f"{what} at {where}")


@pytest.fixture(autouse=True)
def _meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has no autocast; terms that need it off need nothing here."""
    autocast = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *a, **k: nullcontext() if kind == "meta" else autocast(kind, *a, **k)
    )


def made_anew(seen: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of Python's numbers on a device is copied there, blocking; no dispatcher sees it."""
    for name in ("tensor", "as_tensor"):
        make = getattr(torch, name)

        def noted(*args: Any, make: Any = make, **kwargs: Any) -> Tensor:
            out: Tensor = make(*args, **kwargs)
            if out.device.type == "meta":
                seen._note("made from numbers")
            return out

        monkeypatch.setattr(torch, name, noted)


def waits(make: Callable[[Pair], Distiller], loss: LossTerm | None = None) -> list[str]:
    """Those of a step after the first."""
    student, teacher = net(MAIN.student, 1).to("meta"), net(MAIN.teacher, 2).to("meta").eval().requires_grad_(False)
    task = TaskLoss(None if loss is None else (loss,), MAIN.num_classes, 255)
    module = KDStep(student, distiller := make(MAIN), 255, loss=task).to("meta")
    image, label = torch.empty(SIZE[0], 3, *SIZE[1:], device="meta"), labels().to("meta")
    finite, stream = FiniteTerms(Runtime.local(device=torch.device("meta"))), torch.Generator().manual_seed(0)
    found, log = list[str](), Log()
    for i in range(2):
        with torch.no_grad():
            taught = teacher(image) if distiller.needs_teacher else None
        with Waits() as seen, pytest.MonkeyPatch.context() as patch:
            made_anew(seen, patch)
            valid = module.loss.counts(label)
            terms = module(image, label, taught, valid.where(valid > 0, 1), 0.5, stream)
            named = Named.of(terms)
            named.values.sum().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            finite.watch(named.each(Tensor.detach), i)
            log.add(named.each(Tensor.detach))
        found = seen.found
    return found


@pytest.mark.parametrize("name", [*METHODS, *(name for name in OPTIONS if name not in METHODS)])
def test_a_step_waits_for_nothing(name: str) -> None:
    assert waits(lambda pair: METHODS[name.partition(",")[0]](pair, **OPTIONS.get(name, {}))) == []


@pytest.mark.parametrize(
    "loss",
    [{"class_weights": [1.0] * MAIN.num_classes}, {"name": "ohem", "min_kept": 9}, {"name": "dice"}, {"name": "focal"}],
    ids=str,
)
def test_no_task_loss_waits(loss: dict[str, Any]) -> None:
    """But smp's focal loss, which picks the labelled pixels by a mask."""
    found = waits(METHODS["none"], LossTerm(**loss))
    assert (found != []) == (loss.get("name") == "focal"), found


class Reads(Distiller):
    """What this test is there to find."""

    def forward(self, view: View) -> dict[str, Tensor]:
        scores, mask = view.student.full, torch.ones(view.labels.shape, dtype=torch.bool)
        scores = scores * mask.to(scores.device).unsqueeze(1)
        if scores.mean().item() > 0:
            scores = scores[(scores > 0)] * torch.tensor(2.0, device=scores.device)
        return {"term": scores.mean()}


def test_what_waits_is_found_with_its_line() -> None:
    found = dict.fromkeys(line.partition(" at ")[0] for line in waits(lambda pair: Reads()))
    assert list(found) == ["copy from cpu to meta", "_local_scalar_dense", "boolean index", "made from numbers"]
