"""Losses as public code computes them: the same intermediate tensors and loops, written from the formulas.

Each says whose form it is. Maps are (N, C, h, w), labels (N, H, W); factors between conventions are left to the caller.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rows(x: Tensor) -> Tensor:
    """(N, C, h, w) to positions (N h w, C), contiguous."""
    return x.permute(0, 2, 3, 1).contiguous().view(-1, x.shape[1])


# pixel-wise KD


def kd_in_rows(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """winycg/CIRKD losses/kd.py."""
    log_q = F.log_softmax(rows(student) / temperature, 1)
    p = F.softmax(rows(teacher) / temperature, 1)
    return F.kl_div(log_q, p, reduction="batchmean") * temperature**2


def kd_in_place(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """YukangWang/IFVD utils/criterion.py: times the classes, the number of `kd_in_rows` without its T^2."""
    log_q, p = F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1)
    return F.kl_div(log_q, p, reduction="sum") / p.numel()


def kd_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """irfanICMLL/structure_knowledge_distillation utils/criterion.py."""
    p = F.softmax(rows(teacher), 1)
    return (-p * F.log_softmax(rows(student), 1)).sum() / student.shape[2] / student.shape[3]


# features


def fitnet(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """winycg/CIRKD losses/fitnet.py."""
    return ((F.conv2d(student, weight) - teacher) ** 2).mean()


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """HobbitLong/RepDistiller distiller_zoo/FitNet.py."""
    return F.mse_loss(student, teacher)


def attention(x: Tensor) -> Tensor:
    """(N, h w), of length 1."""
    return F.normalize(x.pow(2).mean(1).view(len(x), -1))


def at(student: Tensor, teacher: Tensor) -> Tensor:
    """szagoruyko/attention-transfer utils.py, winycg/CIRKD losses/at.py."""
    return (attention(student) - attention(teacher)).pow(2).mean()


def generation(student: Tensor, teacher: Tensor, generator: nn.Module, dropped: float = 0.75) -> Tensor:
    """yzd-v/MGD seg/mmseg/distillation/losses/mgd.py; in OSVAI/Af-DCD losses/ocmgd.py the same."""
    drawn = torch.rand(len(teacher), 1, *teacher.shape[2:])
    mask = torch.where(drawn > 1 - dropped, 0, 1)
    return F.mse_loss(generator(torch.mul(student, mask)), teacher, reduction="sum") / len(teacher)


# skd


def pairwise(student: Tensor, teacher: Tensor, scale: float = 0.5) -> Tensor:
    """irfanICMLL/structure_knowledge_distillation utils/utils.py, utils/criterion.py."""
    window = [int(side * scale) for side in teacher.shape[2:]]

    def similarity(x: Tensor) -> Tensor:
        x = F.max_pool2d(x, window, window, ceil_mode=True)
        length = ((x**2).sum(1) ** 0.5).unsqueeze(1) + 1e-8
        nodes = (x / length.detach()).flatten(2)
        return torch.einsum("icm,icn->imn", nodes, nodes)

    ours, theirs = similarity(student), similarity(teacher)
    return ((theirs - ours) ** 2 / ours.shape[1] ** 2 / len(student)).sum()


def pairwise_2x2(student: Tensor, teacher: Tensor) -> Tensor:
    """winycg/CIRKD losses/skd.py."""

    def similarity(x: Tensor) -> Tensor:
        nodes = F.normalize(F.max_pool2d(x, 2, 2, ceil_mode=True), dim=1).flatten(2)
        return torch.bmm(nodes.transpose(1, 2), nodes)

    return ((similarity(student) - similarity(teacher)) ** 2).mean()


def ifv(student: Tensor, teacher: Tensor, labels: Tensor, classes: int) -> Tensor:
    """YukangWang/IFVD utils/criterion.py, winycg/CIRKD losses/ifvd.py."""
    nearest = F.interpolate(labels.unsqueeze(1).float(), student.shape[2:], mode="nearest")
    cosines = []
    for x in (student, teacher):
        label = nearest.expand(x.shape)
        centre = x.clone()
        for k in range(classes):
            inside = (label == k).float()
            mean = (inside * x).sum(-1).sum(-1) / (inside.sum(-1).sum(-1) + 1e-6)
            centre = (1 - inside) * centre + inside * mean[..., None, None]
        cosines.append(F.cosine_similarity(x, centre, dim=1))
    return F.mse_loss(*cosines)


# cwd, kt


def cwd_by_log(student: Tensor, teacher: Tensor, tau: float = 4.0) -> Tensor:
    """irfanICMLL/TorchDistiller SemSeg-distill utils/criterion.py, winycg/CIRKD losses/cwd.py, seok-hwa/KT losses/KT.py."""
    n, c = student.shape[:2]
    q = (student / tau).reshape(n, c, -1).softmax(-1)
    p = (teacher / tau).reshape(n, c, -1).softmax(-1)
    return F.kl_div(q.log(), p, reduction="sum") / (n * c) * tau**2


def cwd_by_log_softmax(student: Tensor, teacher: Tensor, tau: float = 4.0) -> Tensor:
    """open-mmlab/mmrazor mmrazor/models/losses/cwd.py."""
    n, c = student.shape[:2]
    ours, theirs = (x.reshape(n * c, -1) / tau for x in (student, teacher))
    p = F.softmax(theirs, 1)
    return torch.sum(p * F.log_softmax(theirs, 1) - p * F.log_softmax(ours, 1)) * tau**2 / (n * c)


def kt(student: Tensor, teacher: Tensor, divergence: str, delta: float = 1.0) -> Tensor:
    """seok-hwa/KT losses/KT.py, all but "kl"."""
    n, c = student.shape[:2]
    dim = -1 if divergence == "l1" else 1
    ours, theirs = (F.normalize(x.reshape(n, c, -1), dim=dim) for x in (student, teacher))
    if divergence == "mse":
        return F.mse_loss(ours, theirs, reduction="sum") / (n * c)
    if divergence == "l1":
        return F.l1_loss(ours, theirs, reduction="sum") / (n * c)
    if abs(theirs - ours).mean() < delta:
        return (delta * (theirs - ours) ** 2).sum() / (n * c)
    return (delta * (abs(theirs - ours) - 0.5 * delta)).sum() / (n * c)


# dsd


def psd(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """winycg/CIRKD losses/dsd.py."""

    def residuals(maps: list[Tensor]) -> list[Tensor]:
        seen = [attention(x) for x in maps]
        return [F.normalize(seen[m] - seen[n]) for n in range(len(seen) - 1) for m in range(n + 1, len(seen))]

    pairs = list(zip(residuals(student), residuals(teacher), strict=True))
    total = torch.tensor(0.0)
    for ours, theirs in pairs:
        total = total + (F.normalize(ours) - F.normalize(theirs)).pow(2).mean()
    return total / len(pairs)


def csd(student: Tensor, teacher: Tensor, tau: float = 4.0) -> Tensor:
    """winycg/CIRKD losses/dsd.py."""

    def similarity(x: Tensor) -> Tensor:
        p = F.softmax(F.avg_pool2d(x, 2, 2, ceil_mode=True).flatten(2) / tau, dim=-1)
        return torch.bmm(p, p.transpose(1, 2))

    return ((similarity(student) - similarity(teacher)) ** 2).mean()


# dist


def dist(student: Tensor, teacher: Tensor) -> Tensor:
    """hunto/DIST_KD segmentation/losses/dist_kd.py; both relations."""

    def relation(x: Tensor, y: Tensor) -> Tensor:
        x, y = x - x.mean(1).unsqueeze(1), y - y.mean(1).unsqueeze(1)
        return 1 - ((x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1) + 1e-8)).mean()

    ours, theirs = (x.transpose(1, 3).reshape(-1, x.shape[1]).softmax(1) for x in (student, teacher))
    return relation(ours, theirs) + relation(ours.transpose(0, 1), theirs.transpose(0, 1))


# freekd


class _HaarLevel(torch.autograd.Function):
    """fbcotter/pytorch_wavelets dwt/lowlevel.py: grouped convolutions along rows, then columns; no input is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        taps = torch.tensor([[0.5, 0.5], [0.5, -0.5]]) * 2**0.5
        ctx.channels = x.shape[1]
        x = F.conv2d(x, taps.view(2, 1, 1, 2).repeat(x.shape[1], 1, 1, 1), stride=(1, 2), groups=x.shape[1])
        x = F.conv2d(x, taps.view(2, 1, 2, 1).repeat(x.shape[1], 1, 1, 1), stride=(2, 1), groups=x.shape[1])
        x = x.reshape(len(x), -1, 4, *x.shape[2:])
        return x[:, :, 0].contiguous(), x[:, :, 1:].contiguous()

    @staticmethod
    def backward(ctx: Any, low: Tensor, bands: Tensor) -> Tensor:
        taps = [torch.tensor([a, b]) for a, b in ((0.5**0.5, 0.5**0.5), (0.5**0.5, -(0.5**0.5)))]

        def joined(x: Tensor, y: Tensor, shape: tuple[int, ...], stride: tuple[int, int]) -> Tensor:
            filters = [t.view(shape).repeat(ctx.channels, 1, 1, 1) for t in taps]
            return sum(
                F.conv_transpose2d(part, filtering, stride=stride, groups=ctx.channels)
                for part, filtering in zip((x, y), filters, strict=True)
            )

        first, second, third = bands.unbind(2)
        left, right = (joined(x, y, (1, 1, 2, 1), (2, 1)) for x, y in ((low, first), (second, third)))
        return joined(left, right, (1, 1, 1, 2), (1, 2))


def freekd(student: Tensor, teacher: Tensor, tokens: Tensor) -> Tensor:
    """Gumpest/FreeKD mmrazor/models/losses/freekd.py; even sides."""

    def bands(x: Tensor) -> list[Tensor]:
        found = []
        for _ in range(3):
            x, details = _HaarLevel.apply(x)
            found.append(details)
        return found

    losses = []
    for row, theirs, ours in zip(tokens[1:], bands(teacher), bands(student), strict=True):
        summed = theirs.sum(2)
        mask = (row.expand(len(summed), -1, -1) @ summed.flatten(2)).sigmoid().view(len(summed), -1, *summed.shape[2:])
        mask = mask.unsqueeze(2).unsqueeze(2)
        losses.append(F.l1_loss(ours.unsqueeze(1) * mask, theirs.unsqueeze(1) * mask))
    return losses[0] + losses[1] + losses[2]
