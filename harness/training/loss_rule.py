"""A rule of the gate: a task loss of the user's own, tried on random scores before a run depends on it."""

import torch

from harness.experiment.spec import Run
from harness.results import failures
from harness.training.task_loss import TaskLoss

IMAGES, SIDE = 2, 128
MOST_SAID = 600
"""Characters of an error of the loss's own code."""


def require_losses_work(run: Run, classes: int, ignore_index: int, unlabelled: bool) -> None:
    """Call each loss of the user's own, forward and backward.

    Args:
        run: whose recipe may have such losses.
        classes: K.
        ignore_index: the label that never counts.
        unlabelled: whether pixels without a label are to be expected.

    Raises:
        ValueError: one cannot be imported, fails, changes what it is given, or gives no finite number that depends on
            the scores; names it.
    """
    height, width = run.train.augment.crop_hw or (SIDE, SIDE)
    size = min(height, SIDE), min(width, SIDE)
    for term in run.train.loss or ():
        if ":" not in term.name:
            continue
        stream = torch.Generator().manual_seed(0)
        scores = torch.randn(IMAGES, classes, *size, generator=stream).requires_grad_()
        label = torch.randint(classes, (IMAGES, *size), generator=stream)
        if unlabelled:
            label[:, : 1 + size[0] // 8] = ignore_index
        loss = TaskLoss((term,), classes, ignore_index)
        try:
            with torch.random.fork_rng(devices=[]):
                value = loss(scores, label, loss.counts(label))
                (slope,) = torch.autograd.grad(value, scores)
        except (Exception, SystemExit) as error:  # of the loss's own code
            if isinstance(error, ValueError) and not failures.ends_in_users_code(error, run):
                raise
            hint = f"; pixels without a label have {ignore_index}" if unlabelled else ""
            text = failures.message(error)[:MOST_SAID]
            raise ValueError(f"train.loss: {term.name} fails on random scores and labels: {text}{hint}") from None
        if not (value.isfinite() and slope.isfinite().all()):
            what = f"gives {float(value.detach()):g}" if not value.isfinite() else "has a gradient that is not finite"
            hint = f", some of them {ignore_index}, which have no label" if unlabelled else ""
            raise ValueError(f"train.loss: {term.name} {what} on random scores and labels{hint}; correct it")
