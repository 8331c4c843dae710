"""Synthetic inputs of the checks: small networks, their maps, and views of a step, all from given seeds."""

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.taps import NetworkInfo, Pair, TapInfo, Taps, View

CLASSES, IGNORE = 4, 255
Size = tuple[int, int, int]  # N, H, W
SIZE: Size = (2, 64, 64)


def _network(stages: Mapping[str, tuple[int, int]], decoder: tuple[int, int]) -> NetworkInfo:
    """From (channels, stride) of each tap; scores have the decoder's stride."""
    found = {name: TapInfo(*of) for name, of in stages.items()}
    return NetworkInfo(found, TapInfo(*decoder), TapInfo(CLASSES, decoder[1]))


WIDE = _network(
    {"stem": (16, 2), "stage1": (16, 4), "stage2": (32, 8), "stage3": (32, 16), "stage4": (64, 32)}, (32, 4)
)
NARROW = _network(
    {"stem": (8, 2), "stage1": (8, 4), "stage2": (16, 8), "stage3": (16, 16), "stage4": (32, 32)}, (16, 4)
)
DILATED = _network(
    {"stem": (16, 2), "stage1": (16, 4), "stage2": (32, 8), "stage3": (48, 8), "stage4": (64, 8)}, (32, 8)
)
UPSAMPLED = _network(
    {"stem": (8, 2), "stage1": (8, 4), "stage2": (16, 8), "stage3": (16, 16), "stage4": (32, 32)}, (16, 2)
)
PATCHES = _network({"stage1": (24, 4), "stage2": (40, 8), "stage3": (64, 16), "stage4": (96, 32)}, (32, 4))

MAIN = Pair(NARROW, WIDE, CLASSES, IGNORE)  # the same strides, a narrower student
SAME = Pair(WIDE, WIDE, CLASSES, IGNORE)
SCENES = {
    "a narrower student": MAIN,
    "networks of one kind": SAME,
    "a teacher at stride 8, a student at stride 2": Pair(UPSAMPLED, DILATED, CLASSES, IGNORE),
    "a teacher at stride 2, a student at stride 8": Pair(DILATED, UPSAMPLED, CLASSES, IGNORE),
    "a teacher without stem": Pair(NARROW, PATCHES, CLASSES, IGNORE),
    "a wider student without stem": Pair(PATCHES, NARROW, CLASSES, IGNORE),
}


def stream(seed: int = 0) -> torch.Generator:
    """A new CPU generator."""
    return torch.Generator().manual_seed(seed)


def maps(network: NetworkInfo, size: Size = SIZE, seed: int = 0, positive: bool = False) -> Taps:
    """Independent normal maps of every tap; their absolute values if `positive`. `full` is the scores, resized."""
    generator = stream(seed)

    def draw(tap: TapInfo) -> Tensor:
        x = torch.randn(size[0], tap.channels, *(-(-side // tap.stride) for side in size[1:]), generator=generator)
        return x.abs() if positive else x

    stages = {name: draw(tap) for name, tap in network.stages.items()}
    return assembled(stages, draw(network.decoder), 2 * draw(network.logits), size)


def assembled(stages: Mapping[str, Tensor], decoder: Tensor, logits: Tensor, size: Size) -> Taps:
    """Taps whose `full` is the scores resized to the image."""
    full = F.interpolate(logits, size=size[1:], mode="bilinear", align_corners=False)
    return Taps(stages, decoder, logits, full)


def listed(taps: Taps) -> list[Tensor]:
    """Every map but `full`."""
    return [*taps.stages.values(), taps.decoder, taps.logits]


def trainable(taps: Taps) -> Taps:
    """Copies that collect gradients; `full` follows from the scores."""
    stages = {name: x.detach().clone().requires_grad_(True) for name, x in taps.stages.items()}
    size = (len(taps.full), *taps.full.shape[-2:])
    decoder, logits = (x.detach().clone().requires_grad_(True) for x in (taps.decoder, taps.logits))
    return assembled(stages, decoder, logits, (size[0], size[1], size[2]))


def labels(size: Size = SIZE, seed: int = 0) -> Tensor:
    """Random classes (N, H, W) without label in the top third."""
    found = torch.randint(0, CLASSES, size, generator=stream(seed))
    found[:, : size[1] // 3] = IGNORE
    return found


def view(
    pair: Pair,
    size: Size = SIZE,
    seed: int = 0,
    *,
    student: Taps | None = None,
    teacher: Taps | None = None,
    label: Tensor | None = None,
    progress: float = 0.5,
) -> View:
    """A step of synthetic networks; arguments replace values drawn from `seed`."""
    return View(
        trainable(maps(pair.student, size, 2 * seed)) if student is None else student,
        maps(pair.teacher, size, 2 * seed + 1) if teacher is None else teacher,
        labels(size, seed) if label is None else label,
        progress,
        stream(seed),
    )


class Net(nn.Module):
    """A small network with the taps of `network`; strides must double from stage to stage."""

    def __init__(self, network: NetworkInfo) -> None:
        super().__init__()

        def block(width_in: int, width_out: int, stride: int) -> nn.Module:
            convolution = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(width_out), nn.ReLU())

        self.names = tuple(network.stages)
        widths = [3, *(tap.channels for tap in network.stages.values())]
        self.stages = nn.ModuleList(block(a, b, 2) for a, b in pairwise(widths))
        self.deep = nn.Conv2d(widths[-1], network.decoder.channels, 1)
        self.shallow = nn.Conv2d(network.stages["stage1"].channels, network.decoder.channels, 1)
        self.decoder = block(network.decoder.channels, network.decoder.channels, 1)
        self.head = nn.Conv2d(network.decoder.channels, network.logits.channels, 1)

    def forward(self, image: Tensor) -> Taps:
        """Image (N, 3, H, W) to its taps."""
        found, x = {}, image
        for name, stage in zip(self.names, self.stages, strict=True):
            found[name] = x = stage(x)
        shallow = self.shallow(found["stage1"])
        deep = F.interpolate(self.deep(x), size=shallow.shape[-2:], mode="bilinear", align_corners=False)
        decoded = self.decoder(shallow + deep)
        return assembled(found, decoded, self.head(decoded), (len(image), image.shape[-2], image.shape[-1]))


def net(network: NetworkInfo, seed: int) -> Net:
    """A `Net` with weights from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Net(network)
