"""No distillation: the supervised student, the control of every comparison.

    L = 0

Adds nothing to the task loss. Reduction: none.
"""

from typing import ClassVar

from torch import Tensor

from harness.distillers.base import Distiller
from harness.taps import Pair, View


class NoDistillation(Distiller):
    """The student without distillation (baseline)."""

    needs_teacher: ClassVar[bool] = False

    def __init__(self, pair: Pair) -> None:
        super().__init__()

    def forward(self, view: View) -> dict[str, Tensor]:
        """No terms."""
        return {}
