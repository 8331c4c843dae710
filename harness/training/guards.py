"""Checks against silent errors in a comparison: NaN losses, weights or scores, unused terms, a changing teacher."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from harness.training.named import Named
from harness.training.ranks import Ranks


class FiniteTerms:
    """Checks that loss terms are finite. On CUDA the values stay on the device until `check`, to avoid a sync."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._bad_since = Named()

    def watch(self, terms: Named, step: int) -> None:
        """Record the first step at which each term is not finite; on a CPU raise at once."""
        now = terms.each(lambda values: torch.where(torch.isfinite(values), torch.inf, float(step)))
        self._bad_since = self._bad_since.with_those(now, torch.minimum, missing=torch.inf)
        if self._ranks.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise if a term is not finite on any rank.

        Raises:
            FloatingPointError: names the first terms that are not finite, and the step.
        """
        since = self._bad_since.scalars()
        names = sorted(since)
        if not names:
            return
        first = self._ranks.minimum(torch.stack([since[name] for name in names]))
        step = float(first.min())
        if step == float("inf"):
            return
        culprits = ", ".join(name for name, at in zip(names, first.tolist(), strict=True) if at == step)
        raise FloatingPointError(
            f"loss term {culprits} is not finite at step {int(step)}. Lower train.optimizer.lr, set train.clip_norm, "
            "or use precision bf16/fp32."
        )


class FiniteScores:
    """Checks that a network's class scores are finite. On CUDA the values stay on the device until `check`.

    Args:
        ranks: all ranks evaluate, and all call `check`.
        what: what is scored, for the message.
    """

    def __init__(self, ranks: Ranks, what: str) -> None:
        self._ranks, self._what = ranks, what
        self._fine = torch.ones(1, device=ranks.device)

    def watch(self, scores: Tensor) -> None:
        """Look at the scores of one batch."""
        if scores.numel():
            low, high = scores.detach().aminmax()  # both are NaN if a score is
            self._fine = torch.minimum(self._fine, (low.isfinite() & high.isfinite()).float())

    def check(self) -> None:
        """Raise if a score was not finite on any rank.

        Raises:
            FloatingPointError: a score was not finite.
        """
        if not float(self._ranks.minimum(self._fine)):
            raise FloatingPointError(
                f"the network's scores on {self._what} are not finite, so no figure of it means anything: its weights "
                "have diverged. Lower train.optimizer.lr, set train.clip_norm, or give other weights"
            )


def finite_weights(student: nn.Module, step: int, ranks: Ranks) -> None:
    """Check that all weights and statistics are finite, on every rank.

    Raises:
        FloatingPointError: names the first tensors that are not, and the step.
    """
    state = {name: value for name, value in student.state_dict().items() if value.is_floating_point()}
    fine = torch.stack([value.isfinite().all().float() for value in state.values()]).to(ranks.device)
    bad = [name for name, ok in zip(state, ranks.minimum(fine).tolist(), strict=True) if not ok]
    if bad:
        raise FloatingPointError(
            f"{len(bad)} of {len(state)} tensors of the network are not finite after step {step} "
            f"(first: {', '.join(bad[:3])}). Lower train.optimizer.lr, set train.clip_norm, or use precision bf16/fp32."
        )


def connected(terms: Mapping[str, Tensor], method: str, distils: bool) -> None:
    """At the first step, check that the distiller returns scalar terms and that each has a gradient.

    Raises:
        ValueError: no terms, a term that is not a scalar, or one without a gradient.
    """
    if distils and len(terms) == 1:
        raise ValueError(
            f"method {method}: returns no loss terms, since every weight is 0. Use `none` for the baseline."
        )
    for name, value in terms.items():
        if value.ndim != 0:
            raise ValueError(f"method {method}: term {name} has shape {tuple(value.shape)}; a term is a scalar")
        if not value.requires_grad:
            raise ValueError(f"method {method}: term {name} has no gradient: no trainable parameter affects it")


def unwritten(written: bool, method: str) -> None:
    """Check that a step has not changed what it was given.

    Raises:
        ValueError: it has.
    """
    if written:
        raise ValueError(
            f"method {method}, its network or the task loss writes into the images, labels or teacher's taps it is "
            "given, which other runs get too. Let it work on a copy: x = x - mean, not x -= mean"
        )


def all_used(step: nn.Module) -> None:
    """After the first backward pass, check that every trainable parameter has a gradient.

    Raises:
        ValueError: names the parameters without one.
    """
    idle = [name for name, p in step.named_parameters() if p.requires_grad and p.grad is None]
    if idle:
        raise ValueError(
            f"{len(idle)} trainable parameters get no gradient (first: {', '.join(idle[:3])}). "
            "Their module does not affect the loss: remove it or use its output."
        )


def all_contributed(total: Mapping[str, float], steps: int) -> None:
    """At the end, check that no term was 0 in every step.

    Args:
        total: sum of each term's absolute value over all steps.
        steps: number of steps.

    Raises:
        ValueError: names the terms that were always 0.
    """
    silent = [name for name, value in total.items() if value == 0.0]
    if steps and silent:
        raise ValueError(
            f"loss term {', '.join(silent)} was 0 in all {steps} steps: it is configured but never contributes. "
            "Set its weight to 0 or change its parameters."
        )


def teacher_untouched(teacher: nn.Module | None) -> None:
    """Check that the teacher is in eval mode and frozen.

    Raises:
        ValueError: names the first module in train mode, or the first parameter that requires a gradient.
    """
    if teacher is None:
        return
    for name, module in teacher.named_modules():
        if module.training:
            raise ValueError(f"the teacher's module {name or '(root)'} is in train mode: its statistics would drift")
    for name, parameter in teacher.named_parameters():
        if parameter.requires_grad:
            raise ValueError(f"the teacher's parameter {name} requires a gradient: the teacher is fixed")
