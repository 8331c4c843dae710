"""The three terms of SSTKD that need no critic. Each returns an unweighted scalar.

Terms from Ji et al., "Structural and Statistical Texture Knowledge Distillation for Semantic Segmentation" (CVPR 2022,
arXiv 2305.03944). The reductions behind the paper's weights are not known. The texture terms offer two:

    coefficients   mean over everything that is compared (this project's choice, D)
    positions      mean over images, regions and positions, sum over what stands at a position: channels and subbands,
                   the dimensions of a graph's vectors, levels of a distribution (recalled as the paper's, R)

Certainty of each default: V2 verified in a secondary source, R recalled and unconfirmed, D this project's decision.

A batch without images raises ValueError in every term and module; images without regions (M = 0) give a loss of 0.
"""

from collections.abc import Sequence
from math import inf
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from sstkd.dtiem import Equalized

Reduction = Literal["coefficients", "positions"]


def check_reduction(reduction: str) -> None:
    """Raise ValueError unless `reduction` is one of the texture terms' reductions."""
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction is {reduction!r}; allowed: {', '.join(map(repr, get_args(Reduction)))}")


def structural_loss(
    bands: Sequence[Tensor], target: Sequence[Tensor] | None = None, reduction: Reduction = "coefficients"
) -> Tensor:
    """Squared difference of subband coefficients: their mean, or the mean over positions summed over the bands.

        coefficients   sum over stacks, images, channels, directions, positions of (student - teacher)^2 / their number
        positions      sum over stacks, channels, directions of the mean over images and positions of the same

    "coefficients" is one mean, not a mean of means: stacks are weighted by their number of coefficients. "positions" is
    one mean per channel and subband, over the subband's own positions, so that every subband has the same weight.

    Args:
        bands: the student's stacks of subbands from the CDM, (N, C, D, h, w) each.
        target: the teacher's stacks. None: `bands` are those of student - teacher; equal because the CDM is linear, and
            needs one transform instead of two.
        reduction: see above ("coefficients" D, "positions" R).

    Raises:
        ValueError: there are no stacks or coefficients, the two sides differ in number or shapes, or an unknown
            reduction.
    """
    check_reduction(reduction)
    if not bands:
        raise ValueError("there are no subbands to compare")
    if target is None:
        differences = list(bands)
    else:
        ours, theirs = [tuple(b.shape) for b in bands], [tuple(b.shape) for b in target]
        if ours != theirs:
            raise ValueError(f"student subbands have shapes {ours}, teacher subbands {theirs}")
        differences = [b - t for b, t in zip(bands, target, strict=True)]
    if not any(d.numel() for d in differences):
        raise ValueError(
            f"the subbands are empty: {[tuple(d.shape) for d in differences]}; at least one image is needed"
        )
    if reduction == "positions":
        terms = [d.square().sum() / (d.shape[0] * d.shape[-2] * d.shape[-1]) for d in differences if d.numel()]
        return torch.stack(terms).sum()
    total = torch.stack([d.square().sum() for d in differences]).sum()
    return total / sum(d.numel() for d in differences)


def statistical_loss(
    student: Tensor | Equalized,
    teacher: Tensor | Equalized,
    congruence: float = 0.0,
    reduction: Reduction = "coefficients",
) -> Tensor:
    """Mean over images, regions and positions of the squared difference of the two enhanced maps.

        L_sta = mean (student - teacher)^2 + congruence L_con

    An equalised intensity is one number per position, so both reductions give the same; a graph's vectors are averaged
    over their D dimensions ("coefficients") or summed ("positions").

    Args:
        student: equalised intensities (N, M, P), a graph's vectors (N, M, P, D), or the result of `DTIEM.equalize`.
        teacher: the same of the teacher.
        congruence: weight of `congruence_loss`, finite and not negative (the term V2, its weight decided, D).
        reduction: "coefficients" (D) or "positions" (R).

    Returns:
        A scalar. Without regions (M = 0) it is 0, with a gradient of 0.

    Raises:
        ValueError: the shapes differ, there is no image, an unknown reduction, or congruence is negative or infinite,
            or needs the distributions and was given tensors.
    """
    check_reduction(reduction)
    if not 0 <= congruence < inf:
        raise ValueError(f"congruence is {congruence}; it must be finite and not negative")
    ours, theirs = (x.values if isinstance(x, Equalized) else x for x in (student, teacher))
    loss = _mean_square(ours, theirs)
    if reduction == "positions" and ours.ndim == 4:
        loss = loss * ours.shape[-1]
    if not congruence:
        return loss
    if not isinstance(student, Equalized) or not isinstance(teacher, Equalized):
        raise ValueError(f"congruence {congruence} compares distributions: give the results of DTIEM.equalize")
    return loss + congruence * congruence_loss(student.cumulative, teacher.cumulative, reduction)


def congruence_loss(student: Tensor, teacher: Tensor, reduction: Reduction = "coefficients") -> Tensor:
    """Mean over images, regions and levels of the squared difference of cumulative distributions, (N, M, N_l) each.

        L_con = mean (F_S - F_T)^2,  F_n = C_0 + ... + C_n after denoising

    A region's levels span its own range, so this compares the shapes of two histograms, not their positions. The
    journal version of the paper (arXiv 2503.08043) names a "quantization congruence loss" (V2) with an unknown formula;
    this one is this project's (decided, D). With the reduction "positions" levels are summed.

    Returns:
        A scalar. Without regions (M = 0) it is 0, with a gradient of 0.

    Raises:
        ValueError: the shapes differ, there is no image, or an unknown reduction.
    """
    check_reduction(reduction)
    loss = _mean_square(student, teacher)
    return loss * student.shape[-1] if reduction == "positions" else loss


def _mean_square(student: Tensor, teacher: Tensor) -> Tensor:
    if student.shape != teacher.shape:
        raise ValueError(f"student has shape {tuple(student.shape)}, teacher {tuple(teacher.shape)}")
    if student.ndim and not student.shape[0]:
        raise ValueError(f"the batch is empty: shape {tuple(student.shape)}; at least one image is needed")
    return (student - teacher).square().sum() / max(student.numel(), 1)


def response_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over images and pixels of KL(teacher || student), times temperature^2.

        L_re = T^2 / (N H W) sum over pixels, classes of  p_T (log p_T - log p_S),  p = softmax(logits / T)

    The factor T^2 keeps gradients comparable between temperatures (Hinton, Vinyals, Dean, arXiv 1503.02531). Computed
    in float32 or wider; every pixel counts, labelled or not.

    Args:
        student: class scores (N, K, H, W).
        teacher: class scores of the same shape.
        temperature: positive and finite (recalled, R).

    Raises:
        ValueError: the shapes differ, there is no score, or the temperature is not positive or not finite.
    """
    if student.shape != teacher.shape or student.ndim != 4:
        raise ValueError(f"scores must be (N, K, H, W) alike, got {tuple(student.shape)} and {tuple(teacher.shape)}")
    if not student.numel():
        raise ValueError(f"the scores are empty: shape {tuple(student.shape)}; at least one image is needed")
    if not 0 < temperature < inf:
        raise ValueError(f"temperature is {temperature}; it must be positive and finite")
    dtype = torch.promote_types(student.dtype, torch.float32)
    with torch.autocast(student.device.type, enabled=False):
        log_student = F.log_softmax(student.to(dtype) / temperature, dim=1)
        log_teacher = F.log_softmax(teacher.to(dtype) / temperature, dim=1)
        pixels = student.numel() // student.shape[1]
        divergence = (log_teacher.exp() * (log_teacher - log_student)).sum()
        return divergence * (temperature**2 / pixels)
