"""How strongly each loss term pulls on the student: the norm of its gradient, logged now and then.

A term's value says little about its effect: a term of 10 may have a smaller gradient than one of 0.1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.training.log import Terms


def norms(terms: Terms, student: nn.Module, scale: float = 1.0) -> Terms:
    """Norm of the gradient of each term with respect to the student's trained parameters.

    The graph is kept and no `.grad` is written, so that the training step that follows has the same bits.

    Args:
        terms: scalars of one micro-batch, as they are added up. Those that do not depend on the student, such as the
            loss of a critic, are left out.
        student: the network that the terms train.
        scale: each term is multiplied by it for the backward pass and its gradient divided, as a gradient scaler does.

    Returns:
        0-d float tensors by term.
    """
    parameters = [each for each in student.parameters() if each.requires_grad]
    found = {name: _gradient(value * scale, parameters) for name, value in terms.items() if value.requires_grad}
    return {name: torch.linalg.vector_norm(torch.stack(each)) / scale for name, each in found.items() if each}


def _gradient(term: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """The norm of each parameter's gradient; none where no parameter has one."""
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return [torch.linalg.vector_norm(each.float()) for each in gradients if each is not None]
