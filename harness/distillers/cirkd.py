"""CIRKD: similarities between positions of different images follow the teacher's.

    L = batch * L_b + pixel * L_p + region * L_r  +  kd * L_kd
    L_b = mean over ordered pairs of images (i, j), i = j included, and positions of i of KL(row_T || row_S),
          row = softmax over positions of j of (cosine / tau)
    L_p, L_r = T^2 mean over labelled positions of KL(row_T || row_S),
          row = softmax over entries of a queue of (cosine / tau) / T

The queues hold the teacher's features per class: of single positions (L_p) and of image means (L_r). The student's
features are projected by 1x1 convolution, batch normalisation, ReLU, 1x1 convolution.

Paper: Yang, Zhou, An, Jiang, Xu, Zhang, "Cross-Image Relational Knowledge Distillation for Semantic Segmentation", CVPR
2022, arXiv 2204.06986.
Authors' code: winycg/CIRKD losses/cirkd_mini_batch.py, losses/cirkd_memory.py (kd 1, batch 1, pixel and region 0.1, on
Pascal VOC 0.01; queues of 20000 and 2000 per class, 4096 and 1024 entries compared with). Its version with
train_cirkdv2.py averages 4x4 windows in L_b if both sides of the map have 256 positions or more; that is `auto_pool`.
Deviation: the authors enqueue the image's first pixels instead of the class's own, which are enqueued here unless
`convention` is "cirkd". A batch without labels gives 0 instead of NaN. Different sizes are resized to the teacher's.
Reduction: as written.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.distillers._ops import (
    at_least_float32,
    check_choices,
    check_positive,
    check_weights,
    compared,
    kd_of,
    missing_tap,
    nearest_labels,
    unit,
    widths,
)
from harness.distillers._queue import ClassQueue, choose_first, choose_own, gathered, region_means
from harness.distillers._relation import row_kl
from harness.distillers.base import Distiller
from harness.taps import Pair, View


def unit_rows(x: Tensor) -> Tensor:
    """Positions (N h w, C) of (N, C, h, w), each normalised to length 1."""
    return unit(at_least_float32(x).permute(0, 2, 3, 1).flatten(0, 2))


def minibatch_loss(student: Tensor, teacher: Tensor, tau: float, pool: int = 1) -> Tensor:
    """The mini-batch term on `pool` x `pool` averages of maps (N, C, h, w); widths may differ, sizes must match."""
    maps = (at_least_float32(x) for x in (student, teacher))
    ours, theirs = (unit_rows(F.avg_pool2d(x, pool, ceil_mode=True) if pool > 1 else x) for x in maps)
    return row_kl(ours, ours, theirs, theirs, tau, groups=len(student))


def authors_pool(height: int, width: int) -> int:
    """Side of the windows that the authors' later code averages in a map of this size: 4 from 256 x 256 on, else 1."""
    return 4 if height >= 256 and width >= 256 else 1


def memory_loss(
    anchors: Tensor, teacher: Tensor, entries: Tensor, tau: float, temperature: float, kept: Tensor
) -> Tensor:
    """A memory term: the mean over the anchors that are kept; 0 if none is.

    Args:
        anchors: the student's unit rows (A, C).
        teacher: the teacher's (A, C).
        entries: of the queue (E, C).
        tau: temperature of the similarities.
        temperature: T of the term.
        kept: which anchors count (A,), bool. Those that do not are computed too: to leave them out of the product, the
            processor would have to wait for the device to say how many they are.
    """
    share = kept.to(anchors.dtype) / kept.sum().clamp(min=1)
    return row_kl(anchors, entries, teacher, entries, tau * temperature, share=share) * temperature**2


class CIRKD(Distiller):
    """Relations across images, within the batch and against queues of the teacher's features.

    Args:
        pair: channels of both networks' taps, and the number of classes.
        batch: weight of the mini-batch term; the batch is the micro-batch of one process, as in the authors' code.
        pixel: weight of the term against the queues of positions.
        region: weight of the term against the queues of class means.
        kd: weight of pixel-wise KD at temperature 1; 0 leaves it out.
        pool: the mini-batch term averages windows of pool x pool positions; its cost falls as pool^-4 (the authors'
            option for large maps is 2).
        tau: temperature of the similarities.
        temperature: T of the memory terms.
        pixel_memory: entries per class in the queue of positions. The queues hold K (pixel_memory + region_memory)
            vectors of the teacher's width: 0.86 GB at 19 classes and 512 channels, in every checkpoint too.
        region_memory: entries per class in the queue of class means.
        pixel_contrast: entries, over all classes, that a step compares with.
        region_contrast: the same for class means.
        enqueued: most positions per class and image that a step enqueues.
        tap: feature map to compare.
        convention: how the enqueued positions are chosen, see above.
        auto_pool: the authors' rule for `pool`, see above; `pool` is 1 then.

    Raises:
        ValueError: a value is out of range, or either network lacks the tap.
    """

    paper: ClassVar[str] = "Yang et al., CVPR 2022, arXiv 2204.06986"
    space: ClassVar[Mapping[str, tuple[float, float]]] = {
        "batch": (0.1, 10.0),
        "pixel": (0.01, 1.0),
        "region": (0.01, 1.0),
    }
    weights: ClassVar[tuple[str, ...]] = ("batch", "pixel", "region", "kd")
    response: ClassVar[Mapping[str, str]] = {"weight": "kd"}

    limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        "pool": (1, 1024),
        "pixel_memory": (1, 200_000),
        "region_memory": (1, 200_000),
        "pixel_contrast": (1, 200_000),
        "region_contrast": (1, 200_000),
        "enqueued": (1, 200_000),
    }

    added: ClassVar[tuple[str, ...]] = ("auto_pool",)

    def __init__(
        self,
        pair: Pair,
        *,
        batch: float = 1.0,
        pixel: float = 0.1,
        region: float = 0.1,
        kd: float = 1.0,
        pool: int = 1,
        tau: float = 0.1,
        temperature: float = 1.0,
        pixel_memory: int = 20000,
        region_memory: int = 2000,
        pixel_contrast: int = 4096,
        region_contrast: int = 1024,
        enqueued: int = 16,
        tap: str = "decoder",
        convention: Literal["canonical", "cirkd"] = "canonical",
        auto_pool: bool = False,
    ) -> None:
        super().__init__()
        check_weights("cirkd", batch=batch, pixel=pixel, region=region, kd=kd)
        check_positive("cirkd", tau=tau, temperature=temperature)
        check_choices("cirkd", CIRKD.__init__, convention=convention)
        sizes = {"pool": pool, "pixel_memory": pixel_memory, "region_memory": region_memory, "enqueued": enqueued}
        check_positive("cirkd", **sizes, pixel_contrast=pixel_contrast, region_contrast=region_contrast)
        if enqueued > pixel_memory:
            raise ValueError(f"cirkd: enqueued is at most pixel_memory {pixel_memory}; given {enqueued}")
        if auto_pool and pool != 1:
            raise ValueError(f"cirkd: auto_pool chooses the windows by itself, so that pool is 1; given {pool}")
        self.auto_pool = auto_pool
        ours, theirs = widths(pair, tap)
        self.batch, self.pixel, self.region, self.kd = batch, pixel, region, kd
        self.pool, self.tau, self.temperature, self.tap, self.convention = pool, tau, temperature, tap, convention
        self.enqueued, self.num_classes, self.ignore_index = enqueued, pair.num_classes, pair.ignore_index
        self.contrast = {
            "pixel": min(pixel_memory, pixel_contrast // pair.num_classes + 1),
            "region": min(region_memory, region_contrast // pair.num_classes + 1),
        }
        if pixel:
            self.pixels = ClassQueue(pair.num_classes, pixel_memory, theirs)
        if region:
            self.regions = ClassQueue(pair.num_classes, region_memory, theirs)
        if pixel or region:
            self.projection = nn.Sequential(
                nn.Conv2d(ours, theirs, 1, bias=False),
                nn.BatchNorm2d(theirs),
                nn.ReLU(inplace=True),
                nn.Conv2d(theirs, theirs, 1, bias=False),
            )

    @classmethod
    def skip(cls, pair: Pair, **parameters: Any) -> str | None:
        """Reason if either network lacks the tap, else None."""
        return missing_tap(pair, parameters.get("tap", "decoder"))

    def equal_buffers(self) -> tuple[str, ...]:
        """The queues: equal at the start, and filled with the features of all ranks."""
        return tuple(name for name, _ in self.named_buffers() if name.startswith(("pixels.", "regions.")))

    def forward(self, view: View) -> dict[str, Tensor]:
        """{"batch", "pixel", "region", "kd"}; terms of weight 0 are left out."""
        ours, theirs = compared(view, self.tap)
        terms = {}
        if self.batch:
            pool = authors_pool(*theirs.shape[-2:]) if self.auto_pool else self.pool
            terms["batch"] = self.batch * minibatch_loss(ours, theirs, self.tau, pool)
        if self.pixel or self.region:
            terms |= self._memory(ours, theirs, view)
        return terms | kd_of(view, self.kd)

    def _memory(self, ours: Tensor, theirs: Tensor, view: View) -> dict[str, Tensor]:
        labels = nearest_labels(view.labels, theirs).flatten(1)
        labels = labels.where((labels >= 0) & (labels < self.num_classes) & (labels != self.ignore_index), -1)
        teacher = unit_rows(theirs).view(*labels.shape, -1)
        self._enqueue(teacher, labels, view.generator)
        kept = (labels >= 0).flatten()
        anchors, targets = unit_rows(self.projection(ours)), teacher.flatten(0, 1)
        terms = {}
        for name, weight in (("pixel", self.pixel), ("region", self.region)):
            if weight:
                queue = self.pixels if name == "pixel" else self.regions
                entries = queue.sample(self.contrast[name], view.generator)
                terms[name] = weight * memory_loss(anchors, targets, entries, self.tau, self.temperature, kept)
        return terms

    @torch.no_grad()
    def _enqueue(self, teacher: Tensor, labels: Tensor, generator: torch.Generator) -> None:
        """Enqueue teacher features (N, P, C) of unit length with labels (N, P), -1 where ignored, from all ranks."""
        if self.pixel:
            choose = choose_first if self.convention == "cirkd" else choose_own
            found, counts = choose(labels, self.num_classes, self.enqueued, generator)
            image = torch.arange(len(labels), device=labels.device).view(-1, 1, 1)
            self.pixels.enqueue(*gathered(teacher[image, found], counts))
        if self.region:
            means, present = region_means(teacher.mT, labels, self.num_classes)
            self.regions.enqueue(*gathered(means.unsqueeze(2), present))
