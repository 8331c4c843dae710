"""The types that every distiller uses: the maps of a network, and the input of a distiller.

Feature maps are named by stage, not by stride, because strides are not unique (a DeepLabV3 has three stages at 8).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Taps:
    """Feature maps of one forward pass.

    Attributes:
        stages: encoder features by name, shallow to deep ("stem", "stage1", ...), each (N, C_k, H_k, W_k).
        decoder: the map before the classifier, (N, C, h, w).
        logits: class scores before the head's up-sampling, (N, K, h, w).
        full: class scores at the size of the input image, (N, K, H, W).
        aux: class scores of the auxiliary head, (N, K, h, w); None in eval mode and for networks without one.
    """

    stages: Mapping[str, Tensor]
    decoder: Tensor
    logits: Tensor
    full: Tensor
    aux: Tensor | None = None

    def detach(self) -> "Taps":
        """The same maps, detached from the autograd graph."""
        return self._each(Tensor.detach)

    def float(self) -> "Taps":
        """The same maps in float32."""
        return self._each(Tensor.float)

    def _each(self, of_map: Callable[[Tensor], Tensor]) -> "Taps":
        stages = {name: of_map(x) for name, x in self.stages.items()}
        aux = None if self.aux is None else of_map(self.aux)
        return Taps(stages, of_map(self.decoder), of_map(self.logits), of_map(self.full), aux)


@dataclass(frozen=True)
class TapInfo:
    """Width and stride of one tap, measured by a dry run. `stride` is input height / map height."""

    channels: int
    stride: int


@dataclass(frozen=True)
class NetworkInfo:
    """TapInfo of every tap of one network."""

    stages: Mapping[str, TapInfo]
    decoder: TapInfo
    logits: TapInfo


@dataclass(frozen=True)
class Pair:
    """What a distiller is built from: both networks' taps, the number of classes and the ignored label."""

    student: NetworkInfo
    teacher: NetworkInfo
    num_classes: int
    ignore_index: int = 255


@dataclass(frozen=True)
class View:
    """Input of a distiller in one step.

    Attributes:
        student: the student's taps, with gradient.
        teacher: the teacher's taps, detached; None for a method with `needs_teacher = False`.
        labels: class indices at image size, (N, H, W) int64; `Pair.ignore_index` where unlabelled.
        progress: completed share of the training, in [0, 1].
        generator: the distiller's own random stream for this step, on the CPU.
        global_images: number of images of the global batch, if `labels` are only a micro-batch of one worker; else
            None.
    """

    student: Taps
    teacher: Taps | None
    labels: Tensor
    progress: float
    generator: torch.Generator
    global_images: int | None = None

    def images(self) -> int:
        """Number of images of the global batch. A term that sums over images uses it, so that its weight does not
        depend on the number of workers and accumulation steps."""
        return len(self.labels) if self.global_images is None else self.global_images

    def taught(self) -> Taps:
        """The teacher's taps, for a method that needs them.

        Raises:
            ValueError: the method declared `needs_teacher = False`, so the teacher was not run.
        """
        if self.teacher is None:
            raise ValueError("this step has no teacher taps: the method's class says needs_teacher = False")
        return self.teacher
