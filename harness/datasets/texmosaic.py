"""texmosaic: mosaics of real texture photographs, a small-scale benchmark that needs no download; not a street scene.

The eight classes are eight photographs from the scikit-image wheel. Each is cut into three disjoint rectangles, one
each for train, dev and val. A mosaic is a ragged Voronoi partition; every region is filled with a randomly rotated and
scaled piece of one photograph, and its grey levels are replaced by their ranks, so that all grey levels are equally
frequent in every region and a single pixel contains no information on its class. Statistical texture is a difference
between distributions of grey levels; `equalize=False` keeps those of the photographs.
"""

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from harness.datasets.base import Data, DataInfo, Image, Label, intensity_floors

VOID = 255
LIMITS = {
    "size": (32, 1024),
    "train": (1, 1_000_000),
    "dev": (1, 1_000_000),
    "val": (1, 1_000_000),
    "seed": (0, 9223372036854775807),
}
"""Lowest and highest values of parameters; literal, because experiment files are checked without importing this."""
ADDED = ("equalize",)
"""Parameters that came after the first rows; at their defaults they are not part of a run's identity."""
MOST_PIXELS = 2**29
"""Of all mosaics together: 1 GiB in memory."""
SPLITS = ("train", "dev", "val")
Box = tuple[int, int, int, int]
"""top, left, bottom, right in pixels; bottom and right are outside."""


@dataclass(frozen=True)
class Texture:
    """One class: the photograph's file name, its textured rectangle, and the colour of the class."""

    name: str
    file: str
    box: Box
    colour: tuple[int, int, int]


# Okabe and Ito's eight colours, distinguishable with the common colour-vision deficiencies.
TEXTURES = (
    Texture("brick", "brick.png", (0, 0, 512, 512), (213, 94, 0)),
    Texture("grass", "grass.png", (0, 0, 512, 512), (0, 158, 115)),
    Texture("gravel", "gravel.png", (0, 0, 512, 512), (230, 159, 0)),
    Texture("moon", "moon.png", (0, 0, 512, 512), (86, 180, 233)),
    Texture("tissue", "ihc.png", (0, 0, 512, 512), (204, 121, 167)),
    Texture("galaxies", "hubble_deep_field.jpg", (0, 0, 872, 1000), (0, 0, 0)),
    Texture("coins", "coins.png", (0, 0, 303, 384), (240, 228, 66)),
    # The largest axis-parallel square inside the round field of view.
    Texture("retina", "retina.jpg", (280, 280, 1130, 1130), (0, 114, 178)),
)


@dataclass(frozen=True)
class Mosaics:
    """A split in memory: `grey` (N, H, W) uint8 and `labels` (N, H, W) uint8; an image is grey in three channels."""

    grey: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        """Number of mosaics."""
        return len(self.grey)

    def __getitem__(self, index: int) -> tuple[Image, Label]:
        """Mosaic `index`: image (H, W, 3) uint8 and label (H, W) uint8, both fresh copies."""
        return np.repeat(self.grey[index][:, :, None], 3, axis=2), self.labels[index].copy()


@dataclass(frozen=True)
class Recipe:
    """How a mosaic is drawn; the fields are the keyword parameters of `texmosaic`."""

    size: int
    regions: tuple[int, int]
    rotate: float
    zoom: tuple[float, float]
    ragged: float
    noise: float
    void: int
    equalize: bool


def texmosaic(
    root: Path | None = None,
    *,
    size: int = 96,
    train: int = 1000,
    dev: int = 100,
    val: int = 200,
    regions: tuple[int, int] = (3, 6),
    rotate: float = 30.0,
    zoom: tuple[float, float] = (0.85, 1.2),
    ragged: float = 1.0,
    noise: float = 0.0,
    void: int = 1,
    seed: int = 0,
    equalize: bool = True,
) -> Data:
    """Generate the three splits in memory.

    Args:
        root: must be None; the photographs are in the scikit-image package.
        size: height and width of a mosaic in pixels, at least 32.
        train: number of training mosaics.
        dev: number of dev mosaics.
        val: number of val mosaics.
        regions: fewest and most regions of a mosaic.
        rotate: largest rotation of a piece in degrees in either direction, 0..180. Half of the pieces are also
            mirrored, unless `rotate` is 0.
        zoom: range of the factor by which a piece is enlarged, drawn log-uniformly.
        ragged: random displacement of borders; 0 gives smooth borders, 1 up to about 3 % of `size`.
        noise: standard deviation of the Gaussian noise added to a piece before ranking, in units of the piece's own
            standard deviation; it hides fine detail and, if equalised, does not change the distribution of grey levels.
        void: half-width in pixels of the border between regions that is labelled 255; 0 for none.
        seed: a mosaic depends on the seed, the split and its index, not on the number of mosaics.
        equalize: even out the light of a photograph and replace the grey levels of a region by their ranks; otherwise
            a region has the photograph's own grey levels, and the same pieces at the same places.

    Returns:
        Data with (size, size, 3) images; `info` has the single-pixel baselines of dev and val.

    Raises:
        ValueError: a parameter is out of range, or a photograph is missing.
    """
    recipe = Recipe(size, regions, rotate, zoom, ragged, noise, void, equalize)
    counts = {"train": train, "dev": dev, "val": val}
    _check(root, recipe, counts, seed)
    areas = texture_areas(equalize)
    splits = {name: _generate(recipe, areas[name], [seed, k], counts[name]) for k, name in enumerate(SPLITS)}
    digest = hashlib.sha256(b"texmosaic")
    for name in SPLITS:
        digest.update(splits[name].grey.tobytes())
        digest.update(splits[name].labels.tobytes())
    mean, std = float(splits["train"].grey.mean()), float(splits["train"].grey.std())
    floors = intensity_floors(splits["train"], (splits["dev"], splits["val"]), len(TEXTURES), VOID)
    info = DataInfo(
        name="texmosaic",
        num_classes=len(TEXTURES),
        class_names=tuple(t.name for t in TEXTURES),
        palette=tuple(t.colour for t in TEXTURES),
        mean=(mean, mean, mean),
        std=(std, std, std),
        content_hash=digest.hexdigest(),
        note="Mosaics of real texture photographs: a small-scale benchmark, not a street scene.",
        ignore_index=VOID,
        floor_dev_miou=floors[0],
        floor_val_miou=floors[1],
    )
    return Data(info, splits["train"], splits["dev"], splits["val"])


def split_boxes(texture: Texture) -> dict[str, Box]:
    """The three rectangles of a photograph: left 60 % train, the rest dev (upper half) and val (lower half)."""
    top, left, bottom, right = texture.box
    x, y = left + (right - left) * 3 // 5, (top + bottom) // 2
    return {"train": (top, left, bottom, x), "dev": (top, x, y, right), "val": (y, x, bottom, right)}


def read_photograph(texture: Texture) -> NDArray[np.uint8]:
    """The whole photograph in grey, (H, W) uint8.

    Raises:
        ValueError: scikit-image is not installed, or this version of it has no such file.
    """
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ValueError("texmosaic needs the photographs of the scikit-image package: pip install scikit-image")
    path = Path(spec.origin).parent / "data" / texture.file
    if not path.is_file():
        raise ValueError(
            f"texmosaic: {path} is missing; scikit-image {version('scikit-image')} does not ship {texture.file} "
            "(0.26.0 does)"
        )
    with PILImage.open(path) as image:
        return np.asarray(image.convert("L"))


def texture_areas(evenly_lit: bool = True) -> dict[str, list[NDArray[np.float32]]]:
    """The photographs' areas by split, one per class: {"train": [(h, w) float32, ...], ...}.

    Evenly lit (mean about 0, standard deviation about 1), or as the photograph has them (grey levels 0..255).

    All later steps read a single area, so no pixel of one split can get into another.
    """
    areas: dict[str, list[NDArray[np.float32]]] = {name: [] for name in SPLITS}
    for texture in TEXTURES:
        photograph = read_photograph(texture)
        for name, (top, left, bottom, right) in split_boxes(texture).items():
            area = photograph[top:bottom, left:right]
            areas[name].append(_even_light(area) if evenly_lit else area.astype(np.float32))
    return areas


def _even_light(area: NDArray[np.uint8], sigma: float = 16.0) -> NDArray[np.float32]:
    """Subtract the local mean and divide by the local standard deviation, both over about `sigma` pixels."""
    x = area.astype(np.float32)
    x -= cv2.GaussianBlur(x, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    power = cv2.GaussianBlur(x * x, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    # A deviation below one grey level is rounding, which must not be amplified.
    out: NDArray[np.float32] = x / np.sqrt(power + 1.0)
    return out


def _generate(recipe: Recipe, areas: list[NDArray[np.float32]], seed: list[int], count: int) -> Mosaics:
    grey = np.empty((count, recipe.size, recipe.size), np.uint8)
    labels = np.empty_like(grey)
    for i in range(count):
        grey[i], labels[i] = _mosaic(recipe, areas, np.random.default_rng([*seed, i]))
    return Mosaics(grey, labels)


def _mosaic(
    recipe: Recipe, areas: list[NDArray[np.float32]], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One mosaic: grey (H, W) uint8 and label (H, W) uint8."""
    count = int(rng.integers(recipe.regions[0], recipe.regions[1] + 1))
    regions = _partition(recipe, count, rng)
    # Complete permutations first, so that classes are equally frequent and repeat only after all have been used.
    rounds = -(-count // len(areas))
    classes = np.concatenate([rng.permutation(len(areas)) for _ in range(rounds)])[:count].astype(np.uint8)
    grey = np.zeros(regions.shape, np.uint8)
    for k in range(count):
        rows, columns = np.nonzero(regions == k)
        if rows.size == 0:
            continue
        top, left = int(rows.min()), int(columns.min())
        shape = (int(rows.max()) - top + 1, int(columns.max()) - left + 1)
        piece = _piece(areas[classes[k]], shape, recipe, rng)[rows - top, columns - left]
        grey[rows, columns] = _levels(piece, recipe, rng)
    label: NDArray[np.uint8] = classes[regions]
    if recipe.void:
        window = np.ones((2 * recipe.void + 1,) * 2, np.uint8)
        label[cv2.dilate(regions, window) != cv2.erode(regions, window)] = VOID
    return grey, label


def _partition(recipe: Recipe, count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Region index of every pixel, (H, W) uint8: the nearest of `count` sites on a displaced grid.

    Each site has its own size and (stretched, rotated) metric, so regions differ in shape. The displacement has a
    low-frequency part that bends borders and a high-frequency part that frays them; its strength varies by mosaic.
    """
    size = recipe.size
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    y, x = np.meshgrid(axis, axis, indexing="ij")
    slow, fast = 0.08 * rng.uniform(0.2, 1.0), 0.03 * recipe.ragged * rng.uniform(0.0, 1.0)
    fine = max(6, size // 5)
    y, x = (p + slow * _smooth_noise(4, size, rng) + fast * _smooth_noise(fine, size, rng) for p in (y, x))
    site_y, site_x = rng.random((2, count, 1, 1), dtype=np.float32)
    angle = rng.uniform(0, np.pi, (count, 1, 1)).astype(np.float32)
    stretch, reach = np.exp(rng.uniform(-0.4, 0.4, (2, count, 1, 1))).astype(np.float32)
    dy, dx = y - site_y, x - site_x
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    distance = ((along * stretch) ** 2 + (across / stretch) ** 2) * reach
    nearest: NDArray[np.uint8] = np.argmin(distance, axis=0).astype(np.uint8)
    return nearest


def _smooth_noise(cells: int, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Normal noise on a grid of cells x cells, interpolated to (size, size)."""
    grid = rng.standard_normal((cells, cells), dtype=np.float32)
    out: NDArray[np.float32] = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return out


def _piece(
    area: NDArray[np.float32], shape: tuple[int, int], recipe: Recipe, rng: np.random.Generator
) -> NDArray[np.float32]:
    """A rotated and scaled piece, `shape` (h, w), of an area; the area is mirrored if the piece exceeds it."""
    angle = np.deg2rad(rng.uniform(-recipe.rotate, recipe.rotate))
    factor = float(np.exp(rng.uniform(np.log(recipe.zoom[0]), np.log(recipe.zoom[1]))))
    mirror = -1.0 if rng.random() < 0.5 and recipe.rotate > 0 else 1.0
    where = rng.random(2)
    h, w = shape
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / factor
    turn[:, 0] *= mirror
    # Half the extent (x, y) of the piece in the area; its centre keeps this distance from the sides if possible.
    half = np.abs(turn) @ np.array([w, h]) / 2 + 1
    extent = np.array(area.shape[::-1], float)
    half = np.minimum(half, extent / 2)
    centre = half + where * (extent - 2 * half)
    shift = centre - turn @ np.array([(w - 1) / 2, (h - 1) / 2])
    out: NDArray[np.float32] = cv2.warpAffine(
        area,
        np.column_stack([turn, shift]),
        (w, h),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    ).astype(np.float32)
    return out


def _levels(values: NDArray[np.float32], recipe: Recipe, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Grey levels of (n,) values of one region: their ranks, or the values rounded and limited to 0..255.

    Ranks are spread evenly over 0..255; equal values get an arbitrary order.
    """
    n = values.size
    if recipe.noise > 0:
        values = values + recipe.noise * float(values.std()) * rng.standard_normal(n, dtype=np.float32)
    # Random order first: resolving ties in scan order would create a gradient across a flat region. A random phase,
    # otherwise the set of levels that occur would identify small regions of n < 256 pixels. Both are drawn in either
    # case, so that the pieces that follow are the same.
    shuffled, phase = rng.permutation(n), rng.random()
    if not recipe.equalize:
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)
    order = shuffled[np.argsort(values[shuffled], kind="stable")]
    out = np.empty(n, np.uint8)
    out[order] = ((np.arange(n) + phase) * (256.0 / n)).astype(np.uint8)
    return out


def _check(root: Path | None, recipe: Recipe, counts: dict[str, int], seed: int) -> None:
    def need(holds: bool, what: str, given: object, allowed: str) -> None:
        if not holds:
            raise ValueError(f"texmosaic: {what} is {given}; allowed: {allowed}")

    need(root is None, "root", root, "none, because the photographs come with the scikit-image package")
    for name, value in {"size": recipe.size, "seed": seed, **counts}.items():
        lowest, highest = LIMITS[name]
        need(lowest <= value <= highest, name, value, f"{lowest}..{highest}")
    mosaics = sum(counts.values())
    most = MOST_PIXELS // recipe.size**2
    need(mosaics <= most, "train + dev + val", mosaics, f"up to {most} mosaics of {recipe.size} x {recipe.size}")
    low, high = recipe.regions
    need(1 <= low <= high <= 64, "regions", recipe.regions, "1 <= fewest <= most <= 64")
    most = 2**24 // recipe.size**2  # regions are drawn with a map of distances for each
    need(high <= most, "regions", recipe.regions, f"up to {most} at size {recipe.size}")
    need(0 <= recipe.rotate <= 180, "rotate", recipe.rotate, "0..180 degrees")
    small, large = recipe.zoom
    need(0.25 <= small <= large <= 4, "zoom", recipe.zoom, "0.25 <= smallest <= largest <= 4")
    need(0 <= recipe.ragged <= 4, "ragged", recipe.ragged, "0..4")
    need(0 <= recipe.noise <= 4, "noise", recipe.noise, "0..4")
    need(0 <= recipe.void <= recipe.size // 8, "void", recipe.void, f"0..{recipe.size // 8} (size / 8)")
