"""The numbers behind the pictures of textures: subbands, wedges, levels and histograms, of images and of networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from harness import store
from harness.models import SegNet, build, load_into, load_state
from harness.parts import build_teacher, load_data, weights_path
from harness.spec import Run
from harness.taps import Taps
from sstkd import CDM, DTIEM, Contourlet, contourlet, directional_filter_bank, whole_map

Array = NDArray[np.float64]
MAX_SIDE = 512
_PATCH = 5  # side of the patches that stand for features of a bare image


@dataclass(frozen=True)
class Equalisation:
    """What DTIEM does to a map taken as one region; N levels.

    Attributes:
        before: intensities (H, W).
        after: equalised intensities (H, W).
        levels: (N,), in units of the intensity.
        counts: share of each level, (N,).
        denoised: the same after the limit.
        cumulative: of the denoised shares, (N,).
    """

    before: Array
    after: Array
    levels: Array
    counts: Array
    denoised: Array
    cumulative: Array


def read_image(path: Path, multiple: int) -> NDArray[np.uint8]:
    """An image (H, W, 3), reduced to sides of at most 512 and cut to multiples of `multiple`.

    Raises:
        ValueError: there is no such file, it is no image, or it is smaller than `multiple`.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such image")
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from None
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    width, height = (side // multiple * multiple for side in image.size)
    if not width or not height:
        raise ValueError(f"{path}: {image.size[0]} x {image.size[1]} pixels; both sides must be at least {multiple}")
    return np.array(image.crop((0, 0, width, height)))


def grey(image: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) to luminance (1, 1, H, W) in [0, 1], float64 (weights of ITU-R BT.601)."""
    return torch.from_numpy(image / 255.0 @ np.array([0.299, 0.587, 0.114]))[None, None]


def subbands(image: NDArray[np.uint8], levels: Sequence[int], cdm: CDM) -> Contourlet:
    """The contourlet coefficients of the luminance, by the filters and the boundary of `cdm`."""
    plan = cdm.plan
    return contourlet(grey(image), levels, plan.pyramid or "9-7", plan.directional, plan.boundary)


def wedges(k: int, cdm: CDM, side: int = 128) -> Array:
    """Magnitude of each band's equivalent filter over the frequency plane, origin in the middle: (2**k, side, side).

    The filter of a band is the gradient of one of its coefficients with respect to the image.
    """
    x = torch.zeros(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    bands = directional_filter_bank(x, k, cdm.plan.directional, "periodic")
    filters = [torch.autograd.grad(band[0, 0, 0, 0], x, retain_graph=True)[0][0, 0] for band in bands]
    return np.stack([np.fft.fftshift(np.abs(np.fft.fft2(f.numpy()))) for f in filters])


def equalisation(features: Tensor, dtiem: DTIEM) -> Equalisation:
    """DTIEM on features (1, C, H, W) with the whole map as its region."""
    _, _, height, width = features.shape
    positions = whole_map(1, height, width, features.device)
    raw = DTIEM(dtiem.levels, dtiem.iterations, dtiem.relaxation, None, dtiem.min_range)
    with torch.no_grad():
        before, after = raw.quantize(features, positions), dtiem.quantize(features, positions)
        result = dtiem.equalize(features, positions)
        intensity = F.cosine_similarity(features, features.mean((2, 3), keepdim=True))
    return Equalisation(
        intensity[0].double().numpy(),
        result.values.reshape(height, width).double().numpy(),
        after.levels.flatten().double().numpy(),
        before.share.flatten().double().numpy(),
        after.share.flatten().double().numpy(),
        result.cumulative.flatten().double().numpy(),
    )


def patches(image: NDArray[np.uint8]) -> Tensor:
    """Features of a bare image: the 5 x 5 luminances around each pixel, (1, 25, H, W)."""
    x = F.pad(grey(image), [_PATCH // 2] * 4, mode="replicate")
    return F.unfold(x, _PATCH).view(1, _PATCH**2, *image.shape[:2])


@dataclass(frozen=True)
class Networks:
    """A trained student and its teacher, and the normalisation their data has."""

    run: Run
    student: SegNet
    teacher: SegNet
    mean: tuple[float, ...]
    std: tuple[float, ...]


def networks(experiment: Path, run_id: str) -> Networks:
    """The student of a finished run with a teacher, out of an experiment's results folder.

    Raises:
        ValueError: no such run, it did not finish or has no teacher, or weights that are missing or others.
    """
    matches = [name for name in store.finished(experiment) if name.startswith(run_id)]
    if len(matches) != 1:
        raise ValueError(f"{experiment}: {run_id!r} names {len(matches)} runs; name one, see `results list`")
    row = store.read_row(store.run_path(experiment, matches[0]))
    run = Run.model_validate_json(row["spec"])
    if row["status"] != "ok" or run.teacher is None or run.role != "student":
        what = f"{row['status']} {run.role} of {run.method.label}"
        raise ValueError(f"{matches[0]}: {what}; a finished student with a teacher is needed")
    data = load_data(run.data).info
    student = build(run.network.model_copy(update={"encoder_weights": None}), data.num_classes, 0)
    path = weights_path(experiment, matches[0])
    load_into(student, load_state(path, row["weights_sha256"]), str(path))
    teacher = build_teacher(run, data, experiment, torch.device("cpu"))
    return Networks(run, student.eval().requires_grad_(False), teacher, data.mean, data.std)


def low_level(pair: Networks, image: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """The low-level features of student and teacher on an image: stage 1 and 2, resized to stride 8 and joined."""
    x = (torch.from_numpy(image).float() - torch.tensor(pair.mean)) / torch.tensor(pair.std)
    x = x.permute(2, 0, 1)[None].contiguous()
    hw = -(-image.shape[0] // 8), -(-image.shape[1] // 8)

    def joined(taps: Taps) -> Tensor:
        maps = [F.interpolate(taps.stages[name], hw, mode="bilinear") for name in ("stage1", "stage2")]
        return torch.cat(maps, 1)

    return joined(pair.student(x)), joined(pair.teacher(x))


def direction_energy(features: Tensor, cdm: CDM) -> list[Array]:
    """Share of each direction in a level's energy, levels coarse to fine: (2**k,) each."""
    with torch.no_grad():
        stacks = cdm(features)
    out = []
    for k in cdm.levels:
        groups, stacks = stacks[: 2 if k >= 3 else 1], stacks[2 if k >= 3 else 1 :]
        # Stacks of a level differ in the shape of their bands, not in its size.
        energy = torch.cat([group.double().square().mean((0, 1, 3, 4)) for group in groups])
        out.append((energy / energy.sum()).numpy())
    return out
