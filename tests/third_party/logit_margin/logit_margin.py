"""L = weight * mean over pixels of (m_S - m_T)^2, m the margin between the scores of the two best classes."""

from math import inf
from typing import ClassVar

from torch import Tensor

from harness.distillers import Distiller
from harness.taps import Pair, View


class LogitMargin(Distiller):
    """The student is as sure of its best class as the teacher is."""

    paper: ClassVar[str] = "an example, 2026"
    space: ClassVar[dict[str, tuple[float, float]]] = {"weight": (0.01, 1.0)}

    def __init__(self, pair: Pair, *, weight: float = 0.1) -> None:
        super().__init__()
        if not 0 < weight < inf:
            raise ValueError(f"weight is finite and above 0; given weight={weight}")
        self.weight = weight

    def forward(self, view: View) -> dict[str, Tensor]:
        ours, theirs = (taps.full.float().topk(2, dim=1).values for taps in (view.student, view.taught()))
        return {"margin": self.weight * (ours.diff(dim=1) - theirs.diff(dim=1)).square().mean()}
