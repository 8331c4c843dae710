"""Pixel-wise knowledge distillation: the student's class distribution follows the teacher's at every position.

    L = weight * T^2 / (N h w) * sum_positions sum_classes p_T log(p_T / p_S),   p = softmax(logits / T)

Paper: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531; per pixel as in
Liu et al., "Structured Knowledge Distillation", CVPR 2019, arXiv 1903.04197.
Authors' code: winycg/CIRKD losses/kd.py has this reduction (weight 1, T 1). `convention` selects the reduction of other
repositories, so that their weights can be used as published: SKD 10, IFVD and CWD 10.
Deviation: none. The logits are taken before the head's up-sampling; different sizes are resized to the teacher's.
Reduction: sum over classes, mean over batch and positions; ignored pixels count, as in the authors' code.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor

from harness.distillers._ops import check_choices, check_positive, kd_of
from harness.distillers.base import Distiller
from harness.taps import Pair, View


class KD(Distiller):
    """Pixel-wise KL divergence on logits.

    Args:
        pair: not used.
        weight: weight of the term.
        temperature: T.
        convention: the source of the reduction, see `kd_loss`; "skd" is defined for T = 1.

    Raises:
        ValueError: a value is out of range.
    """

    paper: ClassVar[str] = "Hinton et al., 2015, arXiv 1503.02531"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.1, 10.0), "temperature": (1.0, 8.0)}

    def __init__(
        self,
        pair: Pair,
        *,
        weight: float = 1.0,
        temperature: float = 1.0,
        convention: Literal["canonical", "skd", "ifvd", "mmrazor"] = "canonical",
    ) -> None:
        super().__init__()
        check_positive("kd", weight=weight, temperature=temperature)
        check_choices("kd", KD.__init__, convention=convention)
        if convention == "skd" and temperature != 1:
            raise ValueError(f"kd: convention skd is defined for temperature 1; given {temperature}")
        self.weight, self.temperature, self.convention = weight, temperature, convention

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"kd": scalar}."""
        return kd_of(view, self.weight, self.temperature, self.convention)
