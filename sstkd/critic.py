"""The adversarial term: a critic on score maps, trained together with the student.

    student   L_adv = -mean D(z_S)
    critic    wgan-gp: mean D(z_S) - mean D(z_T) + 10 mean over images of (|grad D(z)| - 1)^2
              hinge:   mean relu(1 + D(z_S)) + mean relu(1 - D(z_T))

with z = a z_T + (1 - a) z_S, a uniform in [0, 1] per image, grad D(z) that of the sum of an image's outputs.

The holistic term of Liu, Chen, Liu, Qin, Luo, Wang, "Structured Knowledge Distillation for Semantic Segmentation" (CVPR
2019, arXiv 1903.04197; irfanICMLL/structure_knowledge_distillation utils/criterion.py, utils/sagan.py), which SSTKD
uses; based on Miyato et al., "Spectral Normalization for GANs" (arXiv 1802.05957), Zhang et al., "Self-Attention GANs"
(arXiv 1805.08318) and Gulrajani et al., "Improved Training of Wasserstein GANs" (arXiv 1704.00028).

V marks defaults verified in SKD's code. A batch without images raises ValueError.
"""

from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sstkd._transfer import sent
from sstkd.quantize import whole

Adversarial = Literal["wgan-gp", "hinge"]
CriticInput = Literal["batchnorm", "tanh"]
_SLOPE = 0.1
_LEAST_SIDE = 64  # four halvings and a 4 x 4 window


class HolisticCritic(nn.Module):
    """Score maps (N, K, H, W) to critic outputs (N, 1, h, w), one per 64 x 64 window with stride 16.

    Batch normalisation of the scores, or their tanh (modes 1 and 2 of the authors' code), four 4x4 convolutions of
    stride 2 with spectral normalisation, self-attention after the third and the fourth, a 4x4 convolution. Maps with a
    side below 64 are resized to it (bilinear). Computed in float32 (float64 for float64 parameters) with autocast off.

    In train mode every call first updates the running statistics and makes one power iteration, as in the authors'
    code. The batch normalisation is never synchronised between processes, because the gradient penalty is
    differentiated twice.

    Args:
        classes: K.
        width: channels of the first convolution; each further one has twice as many (64: verified, V).
        preprocess: what the first convolution sees: the scores after batch normalisation, or their tanh (V).

    Raises:
        ValueError: classes or width no integer or below 1, or an unknown `preprocess`.
    """

    def __init__(self, classes: int, width: int = 64, preprocess: CriticInput = "batchnorm") -> None:
        super().__init__()
        if preprocess not in get_args(CriticInput):
            allowed = ", ".join(map(repr, get_args(CriticInput)))
            raise ValueError(f"the critic's input is {preprocess!r}; allowed: {allowed}")
        if not whole(classes, width) or classes < 1 or width < 1:
            raise ValueError(f"classes is {classes}, width {width}; both must be integers, at least 1")
        self.classes = classes
        self.norm = ScoreNorm(classes) if preprocess == "batchnorm" else nn.Tanh()
        widths = [classes, width, 2 * width, 4 * width, 8 * width]
        self.convolutions = nn.ModuleList(SpectralConv(a, b) for a, b in pairwise(widths))
        self.attention = nn.ModuleList((SelfAttention(widths[3]), SelfAttention(widths[4])))
        self.last = nn.Conv2d(widths[4], 1, 4)

    def forward(self, scores: Tensor) -> Tensor:
        """(N, K, H, W) -> (N, 1, h, w); h = w = 1 for maps of 64 x 64.

        Raises:
            ValueError: the scores are not (N, classes, H, W), or empty.
        """
        if scores.ndim != 4 or scores.shape[1] != self.classes:
            raise ValueError(f"scores must be (N, {self.classes}, H, W), got {tuple(scores.shape)}")
        if not scores.numel():
            raise ValueError(f"the scores are empty: shape {tuple(scores.shape)}; at least one image is needed")
        with torch.autocast(scores.device.type, enabled=False):
            x = scores.to(self.last.weight.dtype)
            sides = tuple(max(side, _LEAST_SIDE) for side in x.shape[-2:])
            if sides != tuple(x.shape[-2:]):
                x = F.interpolate(x, sides, mode="bilinear", align_corners=False)
            x = self.norm(x)
            for i, convolution in enumerate(self.convolutions):
                x = F.leaky_relu(convolution(x), _SLOPE)
                if i >= 2:
                    x = self.attention[i - 2](x)
            out: Tensor = self.last(x)
            return out

    def with_fixed_parameters(self, scores: Tensor) -> Tensor:
        """As `forward`, but without gradients for the critic's parameters; buffers are updated."""
        fixed = {name: parameter.detach() for name, parameter in self.named_parameters()}
        out: Tensor = torch.func.functional_call(self, fixed, (scores,))
        return out


class ScoreNorm(nn.Module):
    """Batch normalisation of (N, C, H, W), by the batch's statistics in train mode and by running ones in eval mode."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised map, of the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)


class SpectralConv(nn.Conv2d):
    """A 4x4 convolution of stride 2 with its weight divided by the largest singular value sigma (spectral norm).

    In train mode every call makes one power iteration: v = W' u / |W' u|, u = W v / |W v|, sigma = u' W v, with u and v
    as constants. torch's own parametrisation updates u first, the authors' code v.
    """

    u: Tensor
    v: Tensor

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, 4, stride=2, padding=1)
        self.register_buffer("u", _unit(torch.randn(width_out)))
        self.register_buffer("v", _unit(torch.randn(width_in * 16)))
        for _ in range(15):  # as in torch, because random vectors would give a wrong sigma in eval mode
            self._iterate(self.weight.flatten(1))

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> None:
        self.v.copy_(_unit(matrix.T @ self.u))
        self.u.copy_(_unit(matrix @ self.v))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width_out, H / 2, W / 2)."""
        matrix = self.weight.flatten(1)
        if self.training:
            self._iterate(matrix)
        # Copies, because a later call overwrites the buffers before this call's backward pass.
        sigma = self.u.clone() @ (matrix @ self.v.clone())
        out: Tensor = self._conv_forward(x, self.weight / sigma, self.bias)
        return out


class SelfAttention(nn.Module):
    """x + gamma * attention, with softmax(query' key) over positions; gamma is initially 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query, self.key = nn.Conv2d(channels, inner, 1), nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same shape."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        weights = (query.mT @ key).softmax(-1)
        out: Tensor = self.gamma * (value @ weights.mT).view_as(x) + x
        return out


def generator_loss(fake: Tensor) -> Tensor:
    """The student's term, -mean D(z_S), for either kind of critic; from critic outputs of any shape.

    Raises:
        ValueError: the tensor is empty.
    """
    _check_judgements(fake)
    return -fake.mean()


def critic_loss(fake: Tensor, real: Tensor, kind: Adversarial = "wgan-gp") -> Tensor:
    """The critic's term without the gradient penalty.

    Args:
        fake: critic outputs for the student's scores, of any shape.
        real: critic outputs for the teacher's scores.
        kind: "wgan-gp" or "hinge" (V).

    Raises:
        ValueError: an unknown kind, or an empty tensor.
    """
    check_kind(kind)
    _check_judgements(fake, real)
    if kind == "hinge":
        return F.relu(1 + fake).mean() + F.relu(1 - real).mean()
    return fake.mean() - real.mean()


def gradient_penalty(critic: nn.Module, fake: Tensor, real: Tensor, share: Tensor, weight: float = 10.0) -> Tensor:
    """weight times the mean over images of (|grad| - 1)^2 at share * real + (1 - share) * fake.

    Args:
        critic: maps scores to critic outputs.
        fake: the student's scores (N, K, H, W); they get no gradient.
        real: the teacher's scores, of the same shape.
        share: uniform in [0, 1], (N, 1, 1, 1).
        weight: weight of the penalty (V).

    Raises:
        ValueError: the scores differ in shape or are empty, or the call is in `torch.inference_mode`.
    """
    _check_gradients()
    if fake.shape != real.shape:
        raise ValueError(f"the student's scores have shape {tuple(fake.shape)}, the teacher's {tuple(real.shape)}")
    if not fake.numel():
        raise ValueError(f"the scores are empty: shape {tuple(fake.shape)}; at least one image is needed")
    with torch.autocast(fake.device.type, enabled=False), torch.enable_grad():
        between = (share * real.detach() + (1 - share) * fake.detach()).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty: Tensor = weight * (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        return penalty


def adversarial_terms(
    critic: HolisticCritic,
    student: Tensor,
    teacher: Tensor,
    generator: torch.Generator,
    kind: Adversarial = "wgan-gp",
    penalty: float = 10.0,
) -> tuple[Tensor, Tensor]:
    """The student's term (gradients only for the student), and the critic's with its penalty (only for the critic).

    Args:
        critic: the critic.
        student: the student's scores (N, K, H, W).
        teacher: the teacher's scores, of the same shape.
        generator: CPU random stream for the penalty's shares.
        kind: kind of the critic's term (V).
        penalty: weight of the gradient penalty (V).

    Raises:
        ValueError: an unknown kind, scores that differ in shape or are empty, or a call in `torch.inference_mode`.
    """
    _check_gradients()  # before the critic's statistics advance
    # In this order the critic's running statistics and power iterations advance: student, then its own three.
    ours = generator_loss(critic.with_fixed_parameters(student))
    real, fake = critic(teacher), critic(student.detach())
    share = sent(torch.rand(student.shape[0], 1, 1, 1, generator=generator), student)
    dtype = torch.promote_types(student.dtype, torch.float32)
    gradient = gradient_penalty(critic, student.to(dtype), teacher.to(dtype), share, penalty)
    return ours, critic_loss(fake, real, kind) + gradient


def check_kind(kind: str) -> None:
    """Raise ValueError unless `kind` is a kind of adversarial term."""
    if kind not in get_args(Adversarial):
        raise ValueError(f"unknown adversarial term {kind!r}; allowed: {', '.join(map(repr, get_args(Adversarial)))}")


def _check_gradients() -> None:
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "the critic's gradient penalty is a gradient, and torch.inference_mode() has none: "
            "use torch.no_grad(), or leave the adversarial term out (w_adv 0)"
        )


def _check_judgements(*judgements: Tensor) -> None:
    for judged in judgements:
        if not judged.numel():
            raise ValueError(f"the judgements are empty: shape {tuple(judged.shape)}; at least one image is needed")


def _unit(x: Tensor) -> Tensor:
    out: Tensor = x / (x.norm() + 1e-12)
    return out
