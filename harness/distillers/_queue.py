"""Queues of features per class, filled without a loop over positions or classes and without waiting for the device."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class ClassQueue(nn.Module):
    """`size` unit vectors per class, overwritten in turn; random ones at the start.

    Entries that do not fit before the end go to the last places, and writing starts again at the first, as in
    winycg/CIRKD losses/cirkd_memory.py.
    """

    entries: Tensor
    pointer: Tensor

    def __init__(self, classes: int, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("entries", F.normalize(torch.randn(classes, size, width), dim=2))
        self.register_buffer("pointer", torch.zeros(classes, dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, features: Tensor, counts: Tensor) -> None:
        """Write features (N, K, F, C) of which the first counts (N, K) of each image and class are meant."""
        _, size, width = self.entries.shape
        most = features.shape[2]
        slots = torch.arange(most, device=features.device)
        flat = self.entries.view(-1, width)
        first = torch.arange(len(self.pointer), device=features.device) * size
        for image, count in zip(features, counts, strict=True):
            full = self.pointer + count >= size
            start = (size - count).where(full, self.pointer)
            meant = slots < count.unsqueeze(1)
            # Slots that are not meant rewrite what already stands in a place of their class that no other slot takes.
            places = (start.unsqueeze(1) + slots) % size + first.unsqueeze(1)
            flat[places] = torch.where(meant.unsqueeze(2), image.to(flat.dtype), flat[places])
            self.pointer.copy_((self.pointer + count).where(~full, 0))

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` entries of each class at random places, the same for all classes: (K count, C)."""
        places = torch.randperm(self.entries.shape[1], generator=generator)[:count]
        return self.take(places.to(self.entries.device))

    def take(self, places: Tensor) -> Tensor:
        """The entries of every class at `places`: (K places, C)."""
        return self.entries[:, places].flatten(0, 1)


def choose_own(labels: Tensor, classes: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Up to `most` random positions of each class in each image.

    Args:
        labels: (N, P), -1 where ignored.
        classes: K.
        most: F.
        generator: CPU stream.

    Returns:
        positions (N, K, F) and how many of them are meant (N, K).
    """
    keys = torch.rand(labels.shape, generator=generator, dtype=torch.float64).to(labels.device)
    order = (labels + keys).argsort(1)  # by class, at random within it; ignored positions first
    counts = _members(labels, classes, keys.dtype).sum(1).long()
    ends = counts.cumsum(1) + (labels < 0).sum(1, keepdim=True)
    slots = torch.arange(most, device=labels.device)
    places = ((ends - counts).unsqueeze(2) + slots).clamp(max=labels.shape[1] - 1)
    return order.gather(1, places.flatten(1)).view_as(places), counts.clamp(max=most)


def choose_first(labels: Tensor, classes: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As `choose_own`, but of a class with n positions random ones among the image's first n, whatever they show.

    What winycg/CIRKD losses/cirkd_memory.py does.
    """
    counts = _members(labels, classes, torch.float32).sum(1).long()
    keys = torch.rand(*counts.shape, labels.shape[1], generator=generator).to(labels.device)
    allowed = torch.arange(labels.shape[1], device=labels.device) < counts.unsqueeze(2)
    found = keys.masked_fill(~allowed, -1.0).topk(min(most, labels.shape[1]), dim=2).indices
    return F.pad(found, (0, most - found.shape[2])), counts.clamp(max=most)


def region_means(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Normalised means (N, K, C) of features (N, C, P) per image and class, and which classes are there (N, K)."""
    members = _members(labels, classes, features.dtype)
    count = members.sum(1)
    means = (features @ members).mT / count.clamp(min=1).unsqueeze(2)
    return F.normalize(means, dim=2), (count > 0).long()


def _members(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """(N, P, K) ones where the label is the class."""
    table = torch.zeros(*labels.shape, classes, dtype=dtype, device=labels.device)
    return table.scatter_(2, labels.clamp(min=0).unsqueeze(2), (labels >= 0).unsqueeze(2).to(dtype))


def gathered(features: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Both of all processes, in the order of their ranks, so that every process fills its queue alike."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features, counts
    parts = []
    for x in (features.contiguous(), counts.contiguous()):
        every = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(every, x)
        parts.append(torch.cat(every))
    return parts[0], parts[1]
