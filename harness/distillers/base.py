"""The contract of a distiller: one class, one forward, named terms.

A distiller is built from a `Pair` and keyword-only hyper-parameters; the experiment file's schema, the docs and the
search space are read from that signature, so a hyper-parameter is declared once. It never sees or weighs the task loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from harness.taps import Pair, View


@dataclass(frozen=True)
class OwnOptimizer:
    """Adam for parameters that the recipe's optimizer does not train, such as a critic's.

    Attributes:
        parameters: parameters that get gradients only from terms of their own.
        lr: initial learning rate; it follows the recipe's schedule.
        betas: Adam's betas.
    """

    parameters: tuple[nn.Parameter, ...]
    lr: float
    betas: tuple[float, float]


class Distiller(nn.Module):
    """Base of every distiller.

    Attributes:
        paper: citation, one line.
        space: search space {hyper-parameter: (low, high)}, log-uniform.
        optional: hyper-parameters of `space` that a search may also set to 0, which removes their term.
        needs: {hyper-parameter of `space`: another one}; the first has no effect if the other is 0.
        weights: hyper-parameters that scale terms; doubling all of them doubles every term.
        response: where one of the terms is plain distillation on class scores: by hyper-parameter of `kd` the
            one of this method that gives it; one of these is among `weights`. The other weights are those of the
            method's own terms.
        response_values: values of this method's hyper-parameters that are called otherwise there.
        added: hyper-parameters that came after the first rows: at their defaults they are not part of a run's identity,
            so that earlier run_ids stay.
        chosen: {hyper-parameter: dataset} where this project chose the default by results on a dataset; the fairness
            report of a table on that dataset says so.
        caveat: what a table must state about the default values, e.g. that they are unverified; empty if nothing.
        needs_teacher: if False, the training loop skips the teacher's forward pass.

    Example:
        >>> from harness import Distiller, Pair, View
        >>> class SquaredLogits(Distiller):
        ...     def __init__(self, pair: Pair, *, weight: float = 1.0) -> None:
        ...         super().__init__()
        ...         self.weight = weight
        ...
        ...     def forward(self, view: View):
        ...         return {"logits": self.weight * (view.student.full - view.taught().full).square().mean()}
    """

    paper: ClassVar[str] = ""
    space: ClassVar[Mapping[str, tuple[float, float]]] = {}
    optional: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[Mapping[str, str]] = {}
    weights: ClassVar[tuple[str, ...]] = ("weight",)
    response: ClassVar[Mapping[str, str]] = {}
    response_values: ClassVar[Mapping[str, str]] = {}
    added: ClassVar[tuple[str, ...]] = ()
    chosen: ClassVar[Mapping[str, str]] = {}
    caveat: ClassVar[str] = ""
    needs_teacher: ClassVar[bool] = True

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason why the method does not apply to `pair` with these hyper-parameters; None if it applies."""
        return None

    def own_optimizers(self) -> tuple[OwnOptimizer, ...]:
        """Parameters with an optimizer of their own, trained in the same step as the student."""
        return ()

    def equal_buffers(self) -> tuple[str, ...]:
        """Names of buffers that stay equal on all ranks without a broadcast at each step."""
        return ()

    def forward(self, view: View) -> dict[str, Tensor]:
        """Named scalar terms, already weighted; their sum is added to the task loss."""
        raise TypeError(f"{type(self).__name__} has no forward(view) -> dict of named terms")
