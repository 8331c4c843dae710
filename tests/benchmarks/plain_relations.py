"""Losses on relations as public code computes them, see plain_distillers.py: cirkd with its queues, af-dcd."""

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.distillers._queue import ClassQueue
from tests.benchmarks.plain_distillers import rows

# cirkd


def divergence_of_rows(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(student, 1), F.softmax(teacher, 1), reduction="batchmean")


def minibatch(student: Tensor, teacher: Tensor, tau: float = 0.1) -> Tensor:
    """winycg/CIRKD losses/cirkd_mini_batch.py."""
    ours, theirs = (F.normalize(x, dim=1).flatten(2).transpose(1, 2) for x in (student, teacher))
    total = torch.tensor(0.0)
    for i in range(len(ours)):
        for j in range(len(ours)):
            s, t = (torch.mm(x[i], x[j].transpose(0, 1)) / tau for x in (ours, theirs))
            total = total + divergence_of_rows(s, t)
    return total / len(ours) ** 2


class Memory:
    """winycg/CIRKD losses/cirkd_memory.py, its queues and terms; what it enqueues is the class's own, see there."""

    def __init__(self, pixels: Tensor, regions: Tensor, enqueued: int) -> None:
        self.queues, self.enqueued = (pixels.clone(), regions.clone()), enqueued
        self.pointers = [torch.zeros(len(pixels), dtype=torch.long) for _ in range(2)]

    def load(self, *queues: ClassQueue) -> None:
        """What ours hold."""
        self.queues = tuple(queue.entries.clone() for queue in queues)
        self.pointers = [queue.pointer.clone() for queue in queues]

    @torch.no_grad()
    def enqueue(self, teacher: Tensor, labels: Tensor) -> None:
        """Unit maps and labels of their size."""
        for keys, label in zip(teacher, labels, strict=True):
            keys, label = keys.contiguous().view(len(keys), -1), label.contiguous().view(-1)
            for k in torch.unique(label):
                if k == 255:
                    continue
                index = (label == k).nonzero().squeeze(1)
                mean = F.normalize(keys[:, index].mean(1), dim=0)
                self._write(1, int(k), mean.unsqueeze(0))
                chosen = index[torch.randperm(len(index))[: self.enqueued]]
                self._write(0, int(k), F.normalize(keys[:, chosen].T, dim=1))

    def _write(self, which: int, k: int, found: Tensor) -> None:
        queue, pointers = self.queues[which], self.pointers[which]
        at, size = int(pointers[k]), queue.shape[1]
        if at + len(found) >= size:
            queue[k, -len(found) :] = found
            pointers[k] = 0
        else:
            queue[k, at : at + len(found)] = found
            pointers[k] += len(found)

    def entries(self, which: int, contrast: int) -> Tensor:
        """So many of each class, copied class by class."""
        queue = self.queues[which]
        index = torch.randperm(queue.shape[1])[:contrast]
        found = torch.zeros(len(queue) * len(index), queue.shape[2])
        for k in range(len(queue)):
            found[k * len(index) : (k + 1) * len(index)] = queue[k, index, :]
        return found

    def terms(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        contrast: tuple[int, int],
        update: bool,
        tau: float = 0.1,
    ) -> Tensor:
        """Pixel and region term, from the projected student."""
        ours, theirs = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
        small = F.interpolate(labels.unsqueeze(1).float(), ours.shape[2:], mode="nearest").squeeze(1).long()
        kept = small.view(-1) != 255
        s, t = rows(ours)[kept, :], rows(theirs)[kept, :]
        if update:
            self.enqueue(theirs.clone(), small.clone())
        losses = []
        for which in (0, 1):
            found = self.entries(which, contrast[which])
            losses.append(divergence_of_rows(torch.mm(s, found.T) / tau, torch.mm(t, found.T).div(tau).detach()))
        return losses[0] + losses[1]


# af-dcd


def omni_contrast(
    student: Tensor, teacher: Tensor, groups: int, pool: int = 4, side: int = 4, tau: float = 0.07
) -> Tensor:
    """OSVAI/Af-DCD losses/ocmgd.py."""
    student, teacher = F.max_pool2d(student, pool), F.max_pool2d(teacher, pool)
    n, c, h, w = student.shape
    places = side * side

    def vectors(x: Tensor) -> Tensor:
        x = x.contiguous().view(n, c, h // side, side, w // side, side).permute(0, 2, 4, 1, 3, 5)
        x = torch.stack(x.split(c // groups, dim=3), dim=3).contiguous()
        x = x.view(n, h * w // places, groups, c // groups, places).permute(0, 1, 4, 2, 3)
        return x.contiguous().view(-1, places * groups, c // groups)

    scores = -torch.cdist(vectors(student), vectors(teacher), p=1)
    own = torch.eye(places * groups, dtype=torch.bool).repeat(len(scores), 1, 1)
    group = torch.cat([torch.arange(groups) for _ in range(places)])
    others = ~(group.unsqueeze(0) == group.unsqueeze(1)).repeat(len(scores), 1, 1)
    positive = scores[own].view(n * h * w * groups, -1)
    negative = scores[others].view(n * h * w * groups, -1)
    scores = torch.cat([positive, negative], dim=1) / tau
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long), reduction="sum") / (h * w) / n
