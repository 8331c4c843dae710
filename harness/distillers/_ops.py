"""Shared by several distillers: reading taps, matching sizes and widths, divergences, vector norms, value checks."""

import functools
from collections.abc import Callable
from math import inf
from typing import Any, TypeVar, cast, get_args, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.taps import NetworkInfo, Pair, TapInfo, Taps, View
from sstkd._transfer import sent

Loss = TypeVar("Loss", bound=Callable[..., Any])


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if autocast made it half precision, which is too coarse for log-softmax and sums; else `x`."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_precision(term: Loss) -> Loss:
    """A loss term outside autocast: of large or nearly equal maps a product in half precision is mostly rounding."""

    @functools.wraps(term)
    def wrapped(*maps: Any, **settings: Any) -> Any:
        with torch.autocast(maps[0].device.type, enabled=False):
            return term(*maps, **settings)

    return cast(Loss, wrapped)


def match_size(x: Tensor, like: Tensor) -> Tensor:
    """`x` (N, C, h, w) resized bilinearly (align_corners=False) to the size of `like`; `x` itself if equal."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def nearest_labels(labels: Tensor, like: Tensor) -> Tensor:
    """Labels (N, H, W) resized to the map `like` by nearest neighbour: row i reads row floor(i H / h), exactly.

    `F.interpolate` uses the same rule, but float32 rounding can select the row before, e.g. from 360 rows to 129.
    """
    rows, columns = (
        torch.arange(like.shape[dim], device=labels.device) * labels.shape[dim] // like.shape[dim] for dim in (-2, -1)
    )
    return labels[:, rows][:, :, columns]


def _over(x: Tensor, temperature: float) -> Tensor:
    return x if temperature == 1 else x / temperature  # dividing by 1 would allocate a map


class _SoftenedKL(torch.autograd.Function):
    """Saves only p_S - p_T for the backward pass; the gradient is (p_S - p_T) / temperature."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
        log_ours, log_theirs = (F.log_softmax(_over(x, temperature), dim) for x in (student, teacher))
        theirs = log_theirs.exp()
        divergence = log_theirs.sub_(log_ours).mul_(theirs).sum(dim)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(log_ours.exp_().sub_(theirs))
            ctx.temperature, ctx.dim = temperature, dim
        return divergence

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return (grad / ctx.temperature).unsqueeze(ctx.dim) * slope, None, None, None


def softened_kl(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    """KL(p_T || p_S) of the softmax over `dim` at a temperature, summed over `dim`; in float32 at least.

    Only the student gets a gradient, and backward can run only once.
    """
    found: Tensor = _SoftenedKL.apply(at_least_float32(student), at_least_float32(teacher), temperature, dim)
    return found


def softened_entropy(scores: Tensor, temperature: float, dim: int) -> Tensor:
    """-sum p log p of the softmax over `dim` at a temperature: the cross-entropy minus the divergence."""
    log_p = F.log_softmax(at_least_float32(scores) / temperature, dim)
    return -(log_p.exp() * log_p).sum(dim)


def kd_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    convention: str = "canonical",
    images: int | None = None,
) -> Tensor:
    """Divergence between the class distributions at each position.

    Args:
        student: logits (N, K, h, w).
        teacher: logits of the same shape.
        temperature: T.
        convention: "canonical": T^2 KL, mean over batch and positions (CIRKD; TorchDistiller "spatial").
            "skd": cross-entropy instead of KL, times N, no T^2 (structure_knowledge_distillation).
            "ifvd": KL / K, no T^2 (IFVD; CWD's comparison). "mmrazor": canonical times h w.
        images: N of "skd", the size of the global batch (`View.images`); default: N of these logits.
    """
    if convention == "skd":
        ours, theirs = (_over(at_least_float32(x), temperature) for x in (student, teacher))
        total = F.cross_entropy(ours, theirs.softmax(1), reduction="sum") / ours[0, 0].numel()
        return total if images is None else total * (images / len(ours))
    divergence = softened_kl(student, teacher, temperature, 1)
    if convention == "ifvd":
        return divergence.mean() / student.shape[1]
    if convention == "mmrazor":
        return divergence.sum() / len(student) * temperature**2
    return divergence.mean() * temperature**2


def cwd_loss(
    student: Tensor, teacher: Tensor, tau: float, convention: str = "canonical", student_channels: int | None = None
) -> Tensor:
    """Divergence between the distributions over positions of each channel.

    Args:
        student: maps (N, C, h, w), already projected to the teacher's width.
        teacher: maps of the same shape.
        tau: temperature.
        convention: "canonical": tau^2 KL, mean over batch and channels (TorchDistiller, mmrazor). "cirkd": divided by
            the student's width instead of C. "mmseg": as cirkd, and cross-entropy instead of KL.
        student_channels: the student's width before the projection; default: C.
    """
    ours, theirs = student.flatten(2), teacher.flatten(2)
    divergence = softened_kl(ours, theirs, tau, 2)
    if convention == "mmseg":
        divergence = divergence + softened_entropy(theirs, tau, 2)
    factor = 1.0
    if convention != "canonical" and student_channels is not None:
        factor = teacher.shape[1] / student_channels
    return divergence.mean() * (tau**2 * factor)


def read_tap(taps: Taps, name: str) -> Tensor:
    """A tap by name: "stem", "stage1", ..., "last" (the deepest stage), "decoder" or "logits"."""
    if name in ("decoder", "logits"):
        found: Tensor = getattr(taps, name)
        return found
    return taps.stages[_stage(list(taps.stages), name)]


def tap_info(network: NetworkInfo, name: str) -> TapInfo:
    """Width and stride of the map that `read_tap` returns.

    Raises:
        ValueError: the network has no such tap.
    """
    if name in ("decoder", "logits"):
        found: TapInfo = getattr(network, name)
        return found
    stage = _stage(list(network.stages), name)
    if stage not in network.stages:
        raise ValueError(f"there is no tap {name}; there are {', '.join(network.stages)}, last, decoder, logits")
    return network.stages[stage]


def _stage(stages: list[str], name: str) -> str:
    return stages[-1] if name == "last" else name


def missing_tap(pair: Pair, *names: str) -> str | None:
    """Which tap is missing in which network; None if both networks have all of them."""
    for role, network in (("student", pair.student), ("teacher", pair.teacher)):
        for name in names:
            try:
                tap_info(network, name)
            except ValueError as error:
                return f"in the {role}, {error}"
    return None


def widths(pair: Pair, name: str) -> tuple[int, int]:
    """Channels of a tap in student and teacher.

    Raises:
        ValueError: either network lacks the tap.
    """
    reason = missing_tap(pair, name)
    if reason is not None:
        raise ValueError(reason)
    return tap_info(pair.student, name).channels, tap_info(pair.teacher, name).channels


def adapter(pair: Pair, name: str, bias: bool = False, always: bool = False) -> nn.Module:
    """A 1x1 convolution from the student's width to the teacher's; identity if they are equal, unless `always`."""
    ours, theirs = widths(pair, name)
    return nn.Conv2d(ours, theirs, 1, bias=bias) if always or ours != theirs else nn.Identity()


def compared(view: View, name: str, adapter: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    """A tap of student and teacher; the student's goes through `adapter` and is resized to the teacher's size."""
    theirs = read_tap(view.taught(), name)
    ours = read_tap(view.student, name)
    return match_size(ours if adapter is None else adapter(ours), theirs), theirs


def check_positive(method: str, **values: float) -> None:
    """Raises ValueError unless every value is finite and above 0."""
    wrong = [f"{name}={value}" for name, value in values.items() if not 0 < value < inf]
    if wrong:
        raise ValueError(f"{method}: {', '.join(values)} must be finite and above 0; given {', '.join(wrong)}")


def check_weights(method: str, **values: float) -> None:
    """Raises ValueError unless every weight is finite and not negative."""
    wrong = [f"{name}={value}" for name, value in values.items() if not 0 <= value < inf]
    if wrong:
        raise ValueError(
            f"{method}: {', '.join(values)} must be finite and not negative (0 leaves a term out); "
            f"given {', '.join(wrong)}"
        )


def check_choices(method: str, init: object, **values: str) -> None:
    """Raises ValueError unless every value is among the Literals in the signature of `init`."""
    declared = get_type_hints(init)
    for name, value in values.items():
        allowed = get_args(declared[name])
        if value not in allowed:
            raise ValueError(f"{method}: {name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")


class _Length(torch.autograd.Function):
    """Saves the map itself; a zero vector has gradient 0, as with `torch.linalg.vector_norm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        found = x.square().sum(1).sqrt_()
        ctx.save_for_backward(x, found)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x, found = ctx.saved_tensors
        slope: Tensor = x * (grad / found).masked_fill_(found == 0, 0).unsqueeze(1)
        return slope


class _Unit(torch.autograd.Function):
    """Saves the result instead of the map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        divisors = x.square().sum(1, keepdim=True).sqrt_().clamp_(min=1e-12)
        made = x / divisors
        ctx.save_for_backward(made, divisors)
        return made

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        made, divisors = ctx.saved_tensors
        # A gradient component along the vector only changes its length.
        along = (grad * made).sum(1, keepdim=True)
        return torch.addcmul(grad, made, along, value=-1).div_(divisors)


def length(x: Tensor) -> Tensor:
    """Norms (N, ...) of the vectors over C of (N, C, ...).

    On a CPU 8 times as fast as `torch.linalg.vector_norm` over a dimension that is not the last; backward allocates
    only the gradient.
    """
    found: Tensor = _Length.apply(x)
    return found


def unit(x: Tensor) -> Tensor:
    """(N, C, ...) with every vector over C normalised to length 1; zero vectors stay zero. As fast as `length`."""
    found: Tensor = _Unit.apply(x)
    return found


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference over all elements, in float32 at least."""
    return F.mse_loss(at_least_float32(student), at_least_float32(teacher))


def attention(x: Tensor, like: Tensor) -> Tensor:
    """Mean of `x`^2 over channels, resized to `like`, as vectors (N, h w) of length 1; a zero map gives zeros."""
    energy = length(at_least_float32(x)).square().unsqueeze(1) / x.shape[1]
    return F.normalize(match_size(energy, like).flatten(1), dim=1)


def kd_of(view: View, weight: float, temperature: float = 1.0, convention: str = "canonical") -> dict[str, Tensor]:
    """{"kd": weight * kd_loss} of the low-resolution logits; empty for weight 0."""
    if not weight:
        return {}
    teacher = view.taught().logits
    student = match_size(view.student.logits, teacher)
    return {"kd": weight * kd_loss(student, teacher, temperature, convention, view.images())}


def squared_error(student: Tensor, teacher: Tensor, convention: str) -> Tensor:
    """Squared differences: mean over all elements ("canonical"), or the sum / N of MGD and Af-DCD."""
    return mse(student, teacher) * (1 if convention == "canonical" else teacher[0].numel())


def random_mask(like: Tensor, dropped: float, generator: torch.Generator) -> Tensor:
    """Mask (N, 1, h, w) of `like`'s type: each position is 0 with probability `dropped`, else 1."""
    drawn = torch.rand(len(like), 1, *like.shape[-2:], generator=generator)
    return sent((drawn <= 1 - dropped).to(like.dtype), like)


def generator_block(channels: int) -> nn.Module:
    """3x3 convolution, ReLU, 3x3 convolution, all with `channels` channels."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 3, padding=1)
    )
