"""Masked generative distillation: generates the teacher's complete feature from the student's masked feature.

    L = weight * r |G(m * A f_S) - f_T|^2  +  cwd * L_cwd on logits
    m = 0 at a random `dropped` share of the positions, 1 elsewhere

A: a 1x1 convolution to the teacher's width if the widths differ; G: 3x3 convolution, ReLU, 3x3 convolution; r by
`convention`.

Paper: Yang, Li, Shao, Shi, Yuan, Yuan, "Masked Generative Distillation", ECCV 2022, arXiv 2205.01529.
Authors' code: yzd-v/MGD seg/mmseg/distillation/losses/mgd.py (2e-5, dropped 0.75, on the backbone's last stage, with
CWD on logits, 3 at tau 4).
Deviation: different sizes are resized to the teacher's before the mask.
Reduction: sum over channels and positions, mean over batch ("mgd", for which 2e-5 is the published weight), or mean
over elements ("canonical"). Masked and unmasked positions count equally; ignored pixels count.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from harness.distillers._ops import (
    adapter,
    check_choices,
    check_positive,
    check_weights,
    compared,
    cwd_loss,
    generator_block,
    match_size,
    missing_tap,
    random_mask,
    squared_error,
    widths,
)
from harness.distillers.base import Distiller
from harness.taps import Pair, View


class MGD(Distiller):
    """Generation of the teacher's feature from a masked one, and channel-wise KL on logits.

    Args:
        pair: channels of both networks' taps.
        weight: weight of the generation term.
        cwd: weight of channel-wise distillation of the logits; 0 leaves it out.
        tau: temperature of `cwd`.
        dropped: share of the positions that are masked, in [0, 1).
        tap: feature map to compare.
        convention: reduction of the generation term, see above.

    Raises:
        ValueError: a value is out of range, or either network lacks the tap.
    """

    paper: ClassVar[str] = "Yang et al., ECCV 2022, arXiv 2205.01529"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (1e-7, 1e-3), "cwd": (0.3, 30.0)}
    weights: ClassVar[tuple[str, ...]] = ("weight", "cwd")

    def __init__(
        self,
        pair: Pair,
        *,
        weight: float = 2e-5,
        cwd: float = 3.0,
        tau: float = 4.0,
        dropped: float = 0.75,
        tap: str = "last",
        convention: Literal["mgd", "canonical"] = "mgd",
    ) -> None:
        super().__init__()
        check_positive("mgd", weight=weight, tau=tau)
        check_choices("mgd", MGD.__init__, convention=convention)
        check_weights("mgd", cwd=cwd)
        if not 0 <= dropped < 1:
            raise ValueError(f"mgd: dropped is a share in [0, 1); given {dropped}")
        self.weight, self.cwd, self.tau, self.dropped, self.tap = weight, cwd, tau, dropped, tap
        self.convention = convention
        self.adapter = adapter(pair, tap, bias=True)
        self.generator = generator_block(widths(pair, tap)[1])

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason if either network lacks the tap, else None."""
        return missing_tap(pair, parameters.get("tap", "last"))

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"mgd": scalar, "cwd": scalar}."""
        taught = view.taught()
        ours, theirs = compared(view, self.tap, self.adapter)
        made = self.generator(ours * random_mask(theirs, self.dropped, view.generator))
        terms = {"mgd": self.weight * squared_error(made, theirs, self.convention)}
        if self.cwd:
            scores = match_size(view.student.logits, taught.logits)
            terms["cwd"] = self.cwd * cwd_loss(scores, taught.logits, self.tau)
        return terms
