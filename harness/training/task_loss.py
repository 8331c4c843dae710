"""The task loss of a recipe, `train.loss`: between the student's class scores and the labels, without the teacher.

Shapes: scores (N, K, H, W) float32, labels (N, H, W) int64 with the ignore index where there is no class.

- `cross-entropy`: torch's, with class weights and label smoothing: the sum over labelled pixels, divided by the sum
  of the weights of their classes.
- `ohem`, online hard example mining (Shrivastava, Gupta, Girshick, CVPR 2016, for regions; for pixels as in HRNet and
  MMSegmentation): of an image those labelled pixels are kept whose class has a probability below `threshold`, and the
  `min_kept` pixels of lowest probability (all that are equal to the last of these; all pixels where an image has
  fewer). The loss is the weighted mean of the cross-entropy over the kept pixels of an image, averaged over the images
  that have a label. Deviation: the two repositories keep pixels of a whole batch, so that the result depends on how a
  batch is divided among workers.
- `dice`, `focal`: segmentation-models-pytorch's DiceLoss and FocalLoss (multi-class). Dice is of all images that a
  worker sees in one pass together, as there; focal is summed over one-against-all problems, as there.
- `package.module:function`: called with (scores, labels, ignore_index) and its parameters on what a worker sees in one
  pass; gives a scalar.

A sum over pixels or images is divided by their number in the whole batch, so that neither workers nor accumulation
change it. Dice and functions of one's own are averaged over passes.
"""

import functools
import importlib
import inspect
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss
from torch import Tensor

from harness.experiment import recipe
from harness.experiment.method import loss_entry
from harness.experiment.signatures import keywords

Summed = Callable[[Tensor, Tensor], Tensor]
"""(scores, labels) to a sum over pixels or images, or to a mean where `_by_pass`."""


class TaskLoss:
    """The weighted sum of a recipe's losses.

    Args:
        terms: `train.loss`; None for the plain cross-entropy.
        num_classes: K; None if it is not known yet.
        ignore_index: the label that never counts.

    Raises:
        ValueError: the number of class weights is not K, or a function cannot be imported.
    """

    def __init__(self, terms: Sequence[recipe.LossTerm] | None, num_classes: int | None, ignore_index: int) -> None:
        self._terms = tuple(terms or (recipe.LossTerm(),))
        self._ignore = ignore_index
        for term in self._terms:
            weights = term.class_weights
            if weights is not None and num_classes is not None and len(weights) != num_classes:
                raise ValueError(
                    f"train.loss: class_weights of {term.name} has {len(weights)} numbers; the data has {num_classes} "
                    "classes. Give one for each, in their order"
                )
        self._each = [self._made(term) for term in self._terms]

    def counts(self, label: Tensor) -> Tensor:
        """What each term's sum over these labels is divided by: (T,) float32; 0 without a labelled pixel.

        It is added over micro-batches and workers. Terms that are averaged over passes have 1, which is not used.
        """
        return torch.stack([self._count(term, label) for term in self._terms])

    def __call__(self, scores: Tensor, label: Tensor, counts: Tensor, weight: float = 1.0) -> Tensor:
        """The loss of one pass, a scalar.

        Args:
            scores: (N, K, H, W).
            label: (N, H, W).
            counts: (T,) of the whole batch, none of them 0; or a scalar for all terms.
            weight: multiplies the loss.

        Raises:
            ValueError: a function of one's own gives no scalar that depends on the scores, or changes what it is given.
        """
        scores = scores.float()
        counts = counts.reshape(-1).expand(len(self._terms))
        total: Tensor | None = None
        for number, (term, loss) in enumerate(zip(self._terms, self._each, strict=True)):
            value = loss(scores, label)
            if weight * term.weight != 1:
                value = weight * term.weight * value
            if not _by_pass(term):
                value = value / counts[number]
            total = value if total is None else total + value
        assert total is not None
        return total

    def _count(self, term: recipe.LossTerm, label: Tensor) -> Tensor:
        labelled = label != self._ignore
        if _by_pass(term):
            return torch.ones((), device=label.device)
        if term.name == "ohem":
            return labelled.flatten(1).any(1).sum().float()
        if term.class_weights is None:
            return labelled.sum().float()
        return _of_labels(_weights(term.class_weights, label.device), label, labelled).sum()

    def _made(self, term: recipe.LossTerm) -> Summed:
        if ":" in term.name:
            return _own(term, self._ignore)
        if term.name == "dice":
            dice: Summed = DiceLoss(mode="multiclass", ignore_index=self._ignore, smooth=term.smooth or 0.0)
            return dice
        if term.name == "focal":
            options = {"gamma": term.gamma, "alpha": term.alpha, "reduction": "sum"}
            focal: Summed = FocalLoss(mode="multiclass", ignore_index=self._ignore, **options)
            return focal
        if term.name == "ohem":
            return functools.partial(ohem, ignore_index=self._ignore, term=term)
        return functools.partial(cross_entropy, ignore_index=self._ignore, term=term)


def cross_entropy(scores: Tensor, label: Tensor, ignore_index: int, term: recipe.LossTerm) -> Tensor:
    """The sum over labelled pixels, a scalar."""
    weights = None if term.class_weights is None else _weights(term.class_weights, scores.device)
    smoothing = term.label_smoothing or 0.0
    return F.cross_entropy(
        scores, label, weights, ignore_index=ignore_index, reduction="sum", label_smoothing=smoothing
    )


def ohem(scores: Tensor, label: Tensor, ignore_index: int, term: recipe.LossTerm) -> Tensor:
    """The sum over images of the mean over the kept pixels of each, a scalar."""
    assert term.threshold is not None and term.min_kept is not None
    loss = F.cross_entropy(scores, label, ignore_index=ignore_index, reduction="none").flatten(1)  # -log probability
    labelled = (label != ignore_index).flatten(1)
    with torch.no_grad():
        hard = loss.masked_fill(~labelled, -torch.inf)
        last = hard.topk(min(term.min_kept, hard.shape[1]), dim=1).values[:, -1:]
        limit = -math.log(term.threshold)
        kept = labelled & ((hard > limit) | (hard >= last))
        share = kept.float()
        if term.class_weights is not None:
            share = share * _of_labels(
                _weights(term.class_weights, scores.device), label, label != ignore_index
            ).flatten(1)
        share = share / share.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (loss * share).sum()


def _own(term: recipe.LossTerm, ignore_index: int) -> Summed:
    """A function from outside the project.

    Raises:
        ValueError: it cannot be imported, or takes other arguments.
    """
    module, _, name = term.name.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"train.loss: {term.name} cannot be imported: {error}") from None
    options = keywords(loss_entry(term.name), term.parameters or {})
    try:
        inspect.signature(function).bind(None, None, ignore_index, **options)
    except TypeError as error:
        raise ValueError(
            f"train.loss: {term.name} is called with (scores, labels, ignore_index) and its parameters: {error}"
        ) from None

    def loss(scores: Tensor, label: Tensor) -> Tensor:
        if not (label != ignore_index).any():  # a mean over no pixel is no number
            return (scores * 0).sum()
        before = scores._version, label._version
        value = function(scores, label, ignore_index, **options)
        if (scores._version, label._version) != before:  # the method sees them next
            raise ValueError(
                f"train.loss: {term.name} changes the scores or the labels that it is given; change a copy: "
                "labels = labels.clone()"
            )
        if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
            given = (
                f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else repr(value)[:100]
            )
            raise ValueError(f"train.loss: {term.name} gives {given}; a loss is one number, a scalar tensor")
        if scores.requires_grad and not value.requires_grad:
            raise ValueError(f"train.loss: {term.name} does not depend on the scores: it trains nothing")
        return value

    return loss


def _by_pass(term: recipe.LossTerm) -> bool:
    """Whether a term is averaged over passes, because no sum over pixels or images gives it."""
    return term.name == "dice" or ":" in term.name


def _of_labels(weights: Tensor, label: Tensor, labelled: Tensor) -> Tensor:
    """The weight of each pixel's class (N, H, W); 0 where there is no label."""
    return weights[label.where(labelled, 0)] * labelled


@functools.lru_cache(maxsize=64)
def _weights(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)
