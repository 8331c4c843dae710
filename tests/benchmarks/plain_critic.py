"""The critic of score maps and its losses as public code computes them, with the weights of a given one of ours.

irfanICMLL/structure_knowledge_distillation networks/sagan_models.py, networks/spectral.py, utils/criterion.py; in
irfanICMLL/TorchDistiller and YukangWang/IFVD the same.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sstkd.critic import HolisticCritic


class PlainCritic(nn.Module):
    """Scores (N, K, 64, 64) to judgements (N, 1, 1, 1)."""

    def __init__(self, like: HolisticCritic) -> None:
        super().__init__()
        layers = [*like.convolutions, like.last]
        widths = [layer.weight.shape[1] for layer in layers]
        self.norm = nn.BatchNorm2d(widths[0])
        self.norm.load_state_dict(like.norm.state_dict(), strict=False)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        for ours, theirs in zip(self.convolutions, layers, strict=False):
            ours.load_state_dict({name: x for name, x in theirs.state_dict().items() if name in ("weight", "bias")})
        self.vectors = [(layer.u.clone(), layer.v.clone()) for layer in like.convolutions]
        self.attention = nn.ModuleList()
        for layer in like.attention:
            c = layer.value.weight.shape[0]
            convs = {"query": nn.Conv2d(c, c // 8, 1), "key": nn.Conv2d(c, c // 8, 1), "value": nn.Conv2d(c, c, 1)}
            self.attention.append(nn.ModuleDict(convs))
            self.attention[-1].register_parameter("gamma", nn.Parameter(torch.zeros(1)))
            self.attention[-1].load_state_dict(layer.state_dict())
        self.last = nn.Conv2d(widths[-1], 1, 4)
        self.last.load_state_dict(like.last.state_dict())

    def _spectral(self, i: int) -> Tensor:
        weight = self.convolutions[i].weight
        matrix, (u, v) = weight.view(len(weight), -1), self.vectors[i]
        with torch.no_grad():
            v = torch.mv(matrix.t(), u)
            v = v / (v.norm() + 1e-12)
            u = torch.mv(matrix, v)
            u = u / (u.norm() + 1e-12)
        self.vectors[i] = (u, v)
        return weight / u.dot(matrix.mv(v)).expand_as(weight)

    def _attend(self, i: int, x: Tensor) -> Tensor:
        layer = self.attention[i]
        query, key, value = (layer[name](x).flatten(2) for name in ("query", "key", "value"))
        weights = torch.bmm(query.permute(0, 2, 1), key).softmax(-1)
        return layer.gamma * torch.bmm(value, weights.permute(0, 2, 1)).view(x.shape) + x

    def forward(self, scores: Tensor) -> Tensor:
        x = self.norm(scores)
        for i, layer in enumerate(self.convolutions):
            x = F.leaky_relu(F.conv2d(x, self._spectral(i), layer.bias, 2, 1), 0.1)
            if i >= 2:
                x = self._attend(i - 2, x)
        return self.last(x)

    def terms(self, student: Tensor, teacher: Tensor, generator: torch.Generator, penalty: float = 10.0) -> Tensor:
        """The student's term and the critic's (WGAN-GP), which the authors take backward one after the other."""
        ours = -self(student).mean()
        real, fake = self(teacher), self(student.detach())
        share = torch.rand(len(student), 1, 1, 1, generator=generator).expand_as(student)
        between = (share * teacher + (1 - share) * student.detach()).requires_grad_()
        out = self(between)
        (slope,) = torch.autograd.grad(out, between, torch.ones_like(out), retain_graph=True, create_graph=True)
        length = torch.sqrt(torch.sum(slope.view(len(slope), -1) ** 2, dim=1))
        return ours - real.mean() + fake.mean() + penalty * torch.mean((length - 1) ** 2)
