"""The module that DistributedDataParallel wraps: a student, its distiller, and the sum of their losses."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.distillers import Distiller
from harness.taps import Taps, View
from harness.training.log import Terms
from harness.training.task_loss import TaskLoss


class KDStep(nn.Module):
    """Student and distiller as one module, the only one that is wrapped for several workers."""

    def __init__(
        self,
        student: nn.Module,
        distiller: Distiller,
        ignore_index: int,
        auxiliary_weight: float = 0.4,
        global_images: int | None = None,
        loss: TaskLoss | None = None,
    ) -> None:
        super().__init__()
        self.global_images = global_images
        self.loss = loss or TaskLoss(None, None, ignore_index)
        self.student = student
        self.distiller = distiller
        self.auxiliary_weight = auxiliary_weight
        head = getattr(student, "auxiliary", None)
        if head is not None and not auxiliary_weight:
            head.requires_grad_(False)  # then it is not run: no idle parameters, no term that is always 0

    def forward(
        self,
        image: Tensor,
        label: Tensor,
        teacher: Taps | None,
        valid: Tensor,
        progress: float,
        stream: torch.Generator,
    ) -> Terms:
        """Named scalar terms of one micro-batch.

        `task` is the task loss, for cross-entropy summed over this micro-batch and divided by `valid`, so that ranks
        and accumulation steps with fewer labelled pixels do not weigh more (`TaskLoss.counts`); `auxiliary`, the
        weighted one of the auxiliary head's scores at the labels' size, likewise. Distiller terms are means over the
        micro-batch.
        """
        taps: Taps = self.student(image)
        own = {"task": self.loss(taps.full, label, valid)}
        if taps.aux is not None:
            scores = F.interpolate(taps.aux.float(), label.shape[-2:], mode="bilinear", align_corners=True)
            own["auxiliary"] = self.loss(scores, label, valid, self.auxiliary_weight)
        terms: Terms = self.distiller(View(taps, teacher, label, progress, stream, self.global_images))
        if self.distiller.needs_teacher and not terms:
            raise ValueError(
                "the method returns no loss terms, since every weight is 0. "
                "Use `none` for the student without distillation (baseline)."
            )
        for name in ("task", "auxiliary"):
            if name in terms:
                raise ValueError(f"a distiller's term is called {name!r}, which is a supervised loss; rename it")
        return {**own, **terms}

    def equal_buffers(self) -> list[str]:
        """Names of the distiller's buffers that need not be sent to other workers."""
        return [f"distiller.{name}" for name in self.distiller.equal_buffers()]
