"""What each method trains beside the student: parameters and MACs of its convolutions, by formula."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from harness.distillers._ops import tap_info
from harness.taps import Pair

DEFAULT_CRITIC = 64


@dataclass(frozen=True)
class Extra:
    """Trainable parameters, and MACs of one step's forward passes."""

    parameters: int = 0
    macs: int = 0

    def __add__(self, other: "Extra") -> "Extra":
        return Extra(self.parameters + other.parameters, self.macs + other.macs)

    def __mul__(self, times: int) -> "Extra":
        """The same layer called several times."""
        return Extra(self.parameters, self.macs * times)


@dataclass(frozen=True)
class Step:
    """What the formulas read: widths, and positions (N h w) of each tap, on images of N x side x side."""

    pair: Pair
    images: int
    side: int
    critic_width: int = DEFAULT_CRITIC

    def widths(self, tap: str) -> tuple[int, int]:
        return tap_info(self.pair.student, tap).channels, tap_info(self.pair.teacher, tap).channels

    def positions(self, tap: str, stride: int | None = None) -> tuple[int, int]:
        strides = tap_info(self.pair.student, tap).stride, tap_info(self.pair.teacher, tap).stride
        ours, theirs = (self.images * (self.side // (stride or each)) ** 2 for each in strides)
        return ours, theirs


def convolution(width_in: int, width_out: int, positions: int, kernel: int = 1, bias: bool = False) -> Extra:
    weights = width_in * width_out * kernel**2
    return Extra(weights + bias * width_out, weights * positions)


def adapter(step: Step, tap: str, bias: bool = False, always: bool = False) -> Extra:
    """C_S C_T, on the student's own map; nothing where the widths are equal."""
    ours, theirs = step.widths(tap)
    return convolution(ours, theirs, step.positions(tap)[0], bias=bias) if always or ours != theirs else Extra()


def generator(step: Step, tap: str) -> Extra:
    """2 (9 C_T^2 + C_T), on the teacher's map."""
    width, positions = step.widths(tap)[1], step.positions(tap)[1]
    return convolution(width, width, positions, 3, True) + convolution(width, width, positions, 3, True)


def projection(step: Step, tap: str) -> Extra:
    """C_S C_T + 2 C_T + C_T^2, on the teacher's map."""
    (ours, theirs), positions = step.widths(tap), step.positions(tap)[1]
    return convolution(ours, theirs, positions) + Extra(2 * theirs) + convolution(theirs, theirs, positions)


def critic(step: Step) -> Extra:
    """Four 4x4 convolutions of stride 2, attention of C / 8 after the last two, a 4x4 convolution to one number.

    On maps of side 64 (smaller ones are resized); judged are the student's scores twice, the teacher's, and a mixture.
    """
    width, side = step.critic_width, max(64, step.side // step.pair.teacher.logits.stride)
    widths = [step.pair.num_classes, width, 2 * width, 4 * width, 8 * width]
    total = Extra(2 * widths[0])
    for level, (a, b) in enumerate(pairwise(widths)):
        side //= 2
        positions = step.images * side**2
        total += convolution(a, b, positions, 4, True)
        if level >= 2:
            total += Extra(1)
            for out in (b // 8, b // 8, b):
                total += convolution(b, out, positions, bias=True)
    return (total + convolution(widths[4], 1, step.images * (side - 3) ** 2, 4, True)) * 4


def texture_adapter(step: Step) -> Extra:
    """C_S C_T + 2 C_T with the widths of stage1 and stage2 added, on the grid of stride 8."""
    ours, theirs = (sum(pair) for pair in zip(step.widths("stage1"), step.widths("stage2"), strict=True))
    return convolution(ours, theirs, step.positions("stage1", stride=8)[0]) + Extra(2 * theirs)


FORMULAS: dict[str, Callable[[Step], Extra]] = {
    "none": lambda step: Extra(),
    "kd": lambda step: Extra(),
    "fitnet": lambda step: adapter(step, "decoder", always=True),
    "at": lambda step: Extra(),
    "feature-kd": lambda step: adapter(step, "decoder"),
    "skd": critic,
    "ifvd": critic,
    "cwd": lambda step: Extra(),
    "dsd": lambda step: Extra(),
    "cirkd": lambda step: projection(step, "decoder"),
    "dist": lambda step: Extra(),
    "mgd": lambda step: adapter(step, "last", bias=True) + generator(step, "last"),
    "af-dcd": lambda step: adapter(step, "decoder", bias=True) + generator(step, "decoder"),
    "freekd": lambda step: adapter(step, "decoder"),
    "kt": lambda step: adapter(step, "decoder"),
    "sstkd": lambda step: texture_adapter(step) + critic(step),
}
