"""Which method takes which kinds of networks: one step of the training per method and pair.

`python -m tests.conformance.kinds` prints the table of docs/networks.md.
"""

import functools
from typing import Any

import torch

from harness.distillers import METHODS
from harness.experiment.spec import Network
from harness.models import TapNet, build
from harness.taps import Pair
from harness.testing.case import total
from harness.testing.made_up import CLASSES, IGNORE, labels, stream
from harness.training import guards
from harness.training.step import KDStep
from tests.conformance.methods import case

VIT: dict[str, Any] = {"embed_dim": 48, "num_heads": 3}
KINDS = {
    "CNN": Network(architecture="fpn", encoder="tu-mobilenetv3_small_050"),
    "hierarchical": Network(architecture="segformer", encoder="mit_b0"),
    "plain ViT": Network(architecture="vit-linear", encoder="tu-vit_tiny_patch16_224", parameters=VIT),
}
COLUMNS = [(teacher, student) for teacher in KINDS for student in KINDS]


@functools.cache
def network(kind: str) -> TapNet:
    """Built once; a step leaves it as it was."""
    return build(KINDS[kind], CLASSES, seed=5).eval()


def step(method: str, teacher: TapNet, student: TapNet, half: bool = False) -> None:
    """One step forward and backward on images of 64 pixels, and what the training asks of it; gradients are dropped."""
    image = torch.randn(2, 3, 64, 64, generator=stream())
    distiller = case(method).build(Pair(student.info(), teacher.info(), CLASSES, IGNORE))
    trained = KDStep(student, distiller, IGNORE)
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            with torch.no_grad():
                taught = teacher(image).detach()
            terms = trained(image, labels(), taught, torch.tensor(100.0), 0.5, stream())
        guards.connected(terms, method, METHODS[method].needs_teacher)
        assert all(torch.isfinite(value) for value in terms.values())
        total(terms).backward()
        guards.all_used(trained)
        assert all(p.grad is None or p.grad.isfinite().all() for p in trained.parameters())
        assert teacher is student or all(p.grad is None for p in teacher.parameters())
    finally:
        student.zero_grad(set_to_none=True)


def table() -> str:
    """In Markdown: a row per method, a column per pair, reasons below."""
    reasons: list[str] = []
    rows = [
        "| method | " + " | ".join(f"{teacher} → {student}" for teacher, student in COLUMNS) + " |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    for method in METHODS:
        cells = []
        for teacher, student in COLUMNS:
            pair = Pair(network(student).info(), network(teacher).info(), CLASSES, IGNORE)
            reason = case(method).skip(pair)
            if reason is None:
                step(method, network(teacher), network(student))
            elif reason not in reasons:
                reasons.append(reason)
            cells.append("yes" if reason is None else f"{1 + reasons.index(reason)}")
        rows.append(f"| {method} | " + " | ".join(cells) + " |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([*rows, *([""] if notes else []), *notes])


if __name__ == "__main__":
    print(table())
