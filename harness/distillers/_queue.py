"""Queues of features per class, filled without a loop over positions or classes and without a device sync."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from sstkd._transfer import sent


class ClassQueue(nn.Module):
    """Ring buffer of `size` unit vectors per class, initially random.

    As in winycg/CIRKD losses/cirkd_memory.py, entries that would cross the end are written to the last slots, and
    writing then restarts at slot 0.
    """

    entries: Tensor
    pointer: Tensor

    def __init__(self, classes: int, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("entries", F.normalize(torch.randn(classes, size, width), dim=2))
        self.register_buffer("pointer", torch.zeros(classes, dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, features: Tensor, counts: Tensor) -> None:
        """Write the first `counts` (N, K) of the F features (N, K, F, C) of each image and class.

        Raises:
            ValueError: F exceeds the queue's size.
        """
        _, size, width = self.entries.shape
        most = features.shape[2]
        if most > size:
            raise ValueError(f"{most} entries per class and image are given; the queue holds {size}")
        slots = torch.arange(most, device=features.device)
        flat = self.entries.view(-1, width)
        first = torch.arange(len(self.pointer), device=features.device) * size
        for image, count in zip(features, counts, strict=True):
            full = self.pointer + count >= size
            start = (size - count).where(full, self.pointer)
            meant = slots < count.unsqueeze(1)
            # Unused slots rewrite the present value of a place of their class that no other slot writes.
            places = (start.unsqueeze(1) + slots) % size + first.unsqueeze(1)
            flat[places] = torch.where(meant.unsqueeze(2), image.to(flat.dtype), flat[places])
            self.pointer.copy_((self.pointer + count).where(~full, 0))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` entries of each class from random places, the same places for all classes: (K count, C)."""
        places = torch.randperm(self.entries.shape[1], generator=generator)[:count]
        return self.take(sent(places, self.entries))

    def take(self, places: Tensor) -> Tensor:
        """The entries of every class at `places`: (K places, C)."""
        return self.entries[:, places].flatten(0, 1)


def choose_own(labels: Tensor, classes: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Up to `most` random positions of each class in each image.

    Args:
        labels: (N, P), -1 where ignored.
        classes: K.
        most: F.
        generator: CPU random stream.

    Returns:
        Positions (N, K, F) and how many of them are valid (N, K).
    """
    keys = sent(torch.rand(labels.shape, generator=generator, dtype=torch.float64), labels)
    order = (labels + keys).argsort(1)  # by class, at random within it; ignored positions first
    counts = _counts(labels, classes)
    starts = counts.cumsum(1)[:, :-1]  # a class begins where the one before ends
    slots = torch.arange(most, device=labels.device)
    places = (starts.unsqueeze(2) + slots).clamp(max=labels.shape[1] - 1)
    return order.gather(1, places.flatten(1)).view_as(places), counts[:, 1:].clamp(max=most)


def choose_first(labels: Tensor, classes: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As winycg/CIRKD losses/cirkd_memory.py: for a class with n positions, random ones of the image's first n.

    These positions need not belong to the class. Arguments and result as in `choose_own`.
    """
    counts = _counts(labels, classes)[:, 1:]
    keys = sent(torch.rand(*counts.shape, labels.shape[1], generator=generator), labels)
    allowed = torch.arange(labels.shape[1], device=labels.device) < counts.unsqueeze(2)
    found = keys.masked_fill(~allowed, -1.0).topk(min(most, labels.shape[1]), dim=2).indices
    return F.pad(found, (0, most - found.shape[2])), counts.clamp(max=most)


def region_means(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Normalised means (N, K, C) of features (N, C, P) per image and class, and which classes are present (N, K).

    Features that are a transposed view of (N, P, C) are not copied.
    """
    images, width, positions = features.shape
    counts = _counts(labels, classes)
    # Sorted by image and class, each mean is over consecutive positions. This avoids a one-hot tensor of N P K numbers.
    first = torch.arange(images, device=labels.device).unsqueeze(1) * positions
    index = (labels.argsort(1) + first).flatten()
    runs = counts.flatten().cumsum(0) - counts.flatten()
    sums = F.embedding_bag(index, features.mT.flatten(0, 1), runs, mode="sum").view(images, -1, width)
    means = sums[:, 1:] / counts[:, 1:].clamp(min=1).unsqueeze(2)
    return F.normalize(means, dim=2), (counts[:, 1:] > 0).long()


def _counts(labels: Tensor, classes: int) -> Tensor:
    """(N, 1 + K) numbers of positions with the label -1, 0, ..., K - 1."""
    found = torch.zeros(len(labels), 1 + classes, dtype=torch.long, device=labels.device)
    return found.scatter_add_(1, labels + 1, torch.ones_like(labels))


def gathered(features: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Features and counts of all ranks, in rank order, so that every rank fills its queue equally."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features, counts
    parts = []
    for x in (features.contiguous(), counts.contiguous()):
        every = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(every, x)
        parts.append(torch.cat(every))
    return parts[0], parts[1]
