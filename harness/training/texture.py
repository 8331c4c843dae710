"""Data for the texture figures: subbands, wedges, levels and histograms of images and of networks."""

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from harness.datasets import DataInfo
from harness.experiment.spec import Run
from harness.models import TapNet, build, load_into, load_state
from harness.results import store
from harness.results.paths import weights_path
from harness.taps import Taps
from harness.training.build import build_teacher, converted, for_inputs, load_data
from sstkd import CDM, DTIEM, Contourlet, contourlet, whole_map

Array = NDArray[np.float64]
MAX_SIDE = 512
_PATCH = 5  # side of the patches used as features of an image
_SIXTEEN_BITS = 65535


@dataclass(frozen=True)
class Equalisation:
    """Steps of DTIEM on a map as one region; N levels.

    Attributes:
        before: intensities (H, W).
        after: equalised intensities (H, W).
        levels: (N,), in units of the intensity.
        counts: share of each level, (N,).
        denoised: shares after the clip limit, (N,).
        cumulative: cumulative sum of the denoised shares, (N,).
    """

    before: Array
    after: Array
    levels: Array
    counts: Array
    denoised: Array
    cumulative: Array


def read_image(path: Path, multiple: int) -> NDArray[np.uint8]:
    """An upright image (H, W, 3), downscaled to sides of at most 512 and cropped to multiples of `multiple`.

    Raises:
        ValueError: the file is missing or not an image, or the image is too large or has a side below `multiple`.
    """
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give an image file")
    if not path.is_file():
        raise ValueError(f"{path}: there is no such image")
    image = _decoded(path)
    given = f"{path}: {image.width} x {image.height} pixels"
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    width, height = (side // multiple * multiple for side in image.size)
    if not width or not height:
        raise ValueError(
            f"{given}, {image.width} x {image.height} when no side is more than {MAX_SIDE}; both sides must be at "
            f"least {multiple} then: crop the image, or take fewer levels or directions"
        )
    return np.array(image.crop((0, 0, width, height)))


def _decoded(path: Path) -> Image.Image:
    """The upright image in RGB."""
    try:
        with warnings.catch_warnings():
            # Pillow warns at half of its error limit.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                upright = ImageOps.exif_transpose(file)
                return (_eight_bits(upright) if upright.mode[0] in "IF" else upright).convert("RGB")
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(
            f"{path}: the image is too large, more than {most:,} pixels; reduce it, {MAX_SIDE} a side are shown"
        ) from None
    except Exception as error:  # decoders raise many kinds of errors on corrupt files
        raise ValueError(f"{path}: cannot be read as an image ({error})") from None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale a 16-bit grey image to its range; `convert` would clip values above 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > _SIXTEEN_BITS:
        raise ValueError(f"mode {image.mode}, values from {values.min()} to {values.max()}; 8 or 16 bits are needed")
    return Image.fromarray((values.astype(np.float64) * (255 / _SIXTEEN_BITS)).round().astype(np.uint8))


def grey(image: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) to luminance (1, 1, H, W) in [0, 1], float64 (weights of ITU-R BT.601)."""
    return torch.from_numpy(image / 255.0 @ np.array([0.299, 0.587, 0.114]))[None, None]


def subbands(image: NDArray[np.uint8], levels: Sequence[int], cdm: CDM) -> Contourlet:
    """The contourlet coefficients of the luminance, by the filters and the boundary of `cdm`."""
    plan = cdm.plan
    return contourlet(grey(image), levels, plan.pyramid or "9-7", plan.directional, plan.boundary)


def described(cdm: CDM) -> str:
    """The transform in one line."""
    plan = cdm.plan
    return f"pyramid {plan.pyramid}, directional filters {plan.directional}, boundary {plan.boundary}"


def wedges(cdm: CDM, side: int = 128) -> list[Array]:
    """Magnitude of each band's filter over the image's frequency plane, origin in the middle, levels coarse to fine.

    The filter of a band, pyramid included, is the gradient of its middle coefficient with respect to the image.

    Returns:
        Per level (2**k, s, s), with s the least multiple of what the transform needs that is at least `side`.
    """
    plan = cdm.plan
    side = -(-side // plan.multiple) * plan.multiple
    x = torch.zeros(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    found = contourlet(x, cdm.levels, plan.pyramid or "9-7", plan.directional, plan.boundary)

    def response(band: Tensor) -> Array:
        middle = band[0, 0, band.shape[2] // 2, band.shape[3] // 2]
        (taps,) = torch.autograd.grad(middle, x, retain_graph=True)
        return np.fft.fftshift(np.abs(np.fft.fft2(taps[0, 0].numpy())))

    return [np.stack([response(band) for band in bands]) for bands in found.bands]


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


def edges(image: NDArray[np.uint8]) -> Tensor:
    """Features of an image like those of a first layer, (1, 100, H, W) float32: the positive differences between each
    pixel and its right, left, lower and upper neighbour, over the surrounding 5 x 5 pixels."""
    x = grey(image).float()
    padded = F.pad(x, [1] * 4, mode="replicate")
    neighbours = padded[..., 1:-1, 2:], padded[..., 1:-1, :-2], padded[..., 2:, 1:-1], padded[..., :-2, 1:-1]
    rises = torch.cat([(x - other).relu() for other in neighbours], 1)
    around = F.unfold(F.pad(rises, [_PATCH // 2] * 4, mode="replicate"), _PATCH)
    return around.view(1, -1, *image.shape[:2])


@dataclass(frozen=True)
class Networks:
    """A trained student and its teacher, each with its input normalisation."""

    run: Run
    student: TapNet
    teacher: TapNet
    student_sees: DataInfo
    teacher_sees: DataInfo


def networks(directory: Path, run_id: str) -> Networks:
    """The student of a finished run and its teacher, from an experiment's results folder.

    Raises:
        ValueError: no such run, it did not finish or has no teacher, or weights are missing or have another checksum.
    """
    row = store.read_run(directory, store.find_run(directory, run_id))
    run = store.run_of(directory, row)
    if row["status"] != "ok" or run.teacher is None or run.role != "student":
        what = f"{row['status']} {run.role} of {run.method.label}"
        raise ValueError(f"{row['run_id']}: {what}; choose a finished student that has a teacher")
    data = load_data(run.data)
    sees, taught = (for_inputs(data, run.train.normalize, n).info for n in (run.network, run.teacher))
    student = build(run.network.model_copy(update={"encoder_weights": None}), sees.num_classes, 0)
    path = weights_path(directory, row["run_id"])
    load_into(student, load_state(path, row["weights_sha256"]), str(path))
    teacher = build_teacher(run, sees, directory, torch.device("cpu"))
    return Networks(run, student.eval().requires_grad_(False), teacher, sees, taught)


@dataclass(frozen=True)
class Reading:
    """Features of two networks to compare, and the transforms for the comparison."""

    stages: tuple[str, ...]
    stride: int
    cdm: CDM
    dtiem: DTIEM
    source: str


def reading(run: Run, cdm: CDM, dtiem: DTIEM) -> Reading:
    """The run's own options if its method is SSTKD; else SSTKD's default taps with the given transforms."""
    for part in run.method.parts:
        if part.name == "sstkd":
            p = part.parameters
            own = CDM(p["levels"], p["pyramid"], p["directional"], p["boundary"], p["band_weights"])
            equaliser = DTIEM(
                p["quantization_levels"],
                p["quantization_iterations"],
                p["quantization_relaxation"],
                p["clip_limit"],
                p["quantization_min_range"],
            )
            return Reading(tuple(p["stages"]), p["stride"], own, equaliser, "options of the run")
    return Reading(("stage1", "stage2"), 8, cdm, dtiem, "options of the command")


def low_level(pair: Networks, image: NDArray[np.uint8], read: Reading) -> tuple[Tensor, Tensor]:
    """The low-level features of student and teacher on an image: stages, resized to the stride and concatenated.

    The student's are taken before the adapter, which is not part of the student's weights.

    Raises:
        ValueError: a network lacks one of the stages.
    """
    sees = pair.student_sees
    x = (torch.from_numpy(image).float() - torch.tensor(sees.mean)) / torch.tensor(sees.std)
    x = (x.flip(2) if sees.bgr else x).permute(2, 0, 1)[None].contiguous()
    hw = -(-image.shape[0] // read.stride), -(-image.shape[1] // read.stride)

    def joined(role: str, taps: Taps) -> Tensor:
        missing = [name for name in read.stages if name not in taps.stages]
        if missing:
            raise ValueError(f"the {role} has no tap {', '.join(missing)}; it has {', '.join(taps.stages)}")
        return torch.cat([F.interpolate(taps.stages[name], hw, mode="bilinear") for name in read.stages], 1)

    with torch.no_grad():
        taught = pair.teacher(converted(x, sees, pair.teacher_sees))
        return joined("student", pair.student(x)), joined("teacher", taught)


def direction_energy(features: Tensor, cdm: CDM) -> list[Array]:
    """Share of each direction in a level's energy, levels coarse to fine: (2**k,) each."""
    with torch.no_grad():
        stacks = cdm(features)
    out = []
    for k in cdm.levels:
        groups, stacks = stacks[: 2 if k >= 3 else 1], stacks[2 if k >= 3 else 1 :]
        # The stacks of a level have bands of different shapes but equal size.
        energy = torch.cat([group.double().square().mean((0, 1, 3, 4)) for group in groups])
        out.append((energy / energy.sum()).numpy())
    return out


def check_folder(to: Path) -> None:
    """Check the folder before drawing.

    Raises:
        ValueError: the path or one of its parents is not a folder.
    """
    blocked = next((path for path in (to, *to.parents) if path.exists()), to)
    if blocked.exists() and not blocked.is_dir():
        raise ValueError(f"--to {to}: {blocked} is a file; give a folder for the pictures")


def save(pictures: Mapping[str, NDArray[np.uint8]], to: Path) -> list[Path]:
    """Write each picture (H, W, 3) to NAME.png in 256 colours (a third of the size); returns the paths.

    Raises:
        ValueError: the folder cannot be created or written.
    """
    paths = []
    try:
        to.mkdir(parents=True, exist_ok=True)
        for name, pixels in pictures.items():
            content = io.BytesIO()
            few = Image.fromarray(pixels).quantize(256, kmeans=1, dither=Image.Dither.NONE)
            few.save(content, "png", optimize=True)
            paths.append(to / f"{name}.png")
            paths[-1].write_bytes(content.getvalue())
    except OSError as error:
        raise ValueError(
            f"--to {to}: cannot be written ({error.filename or to}: {error.strerror}); give another folder"
        ) from None
    return paths
