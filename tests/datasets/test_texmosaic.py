import ast
import inspect
import sys
from dataclasses import replace

import numpy as np
import pytest

from harness.datasets import DATASETS
from harness.datasets import texmosaic as load
from harness.datasets.base import (
    DataInfo,
    fit_intensity_table,
    intensity_floors,
    intensity_histogram,
    table_confusion,
)
from harness.datasets.texmosaic import (
    SPLITS,
    TEXTURES,
    VOID,
    Mosaics,
    Recipe,
    _levels,
    read_photograph,
    split_boxes,
    texture_areas,
)
from harness.metrics import miou

SMALL = {"train": 24, "dev": 12, "val": 12}
FEW = {"train": 12, "dev": 1, "val": 1}
K = len(TEXTURES)


@pytest.fixture(scope="module")
def data():
    return load(**SMALL)


def test_shapes_and_labels(data):
    for name in SPLITS:
        split = getattr(data, name)
        assert len(split) == SMALL[name]
        for i in range(len(split)):
            image, label = split[i]
            assert image.shape == (96, 96, 3) and image.dtype == np.uint8
            assert label.shape == (96, 96) and label.dtype == np.uint8
            assert (image == image[:, :, :1]).all()
            assert set(np.unique(label)) <= {*range(K), VOID}
    with pytest.raises(IndexError):
        data.train[len(data.train)]


def test_reading_twice_gives_equal_fresh_arrays(data):
    first, again = data.dev[3], data.dev[3]
    first[0][:], first[1][:] = 0, 0
    assert again[0].any() and again[1].any()
    np.testing.assert_array_equal(again[0], data.dev[3][0])


def test_no_pixel_is_in_two_splits():
    for texture in TEXTURES:
        h, w = read_photograph(texture).shape
        top, left, bottom, right = texture.box
        assert 0 <= top < bottom <= h and 0 <= left < right <= w
        owners = np.zeros((h, w), int)
        for y0, x0, y1, x1 in split_boxes(texture).values():
            assert (y1 - y0) >= 100 and (x1 - x0) >= 100
            owners[y0:y1, x0:x1] += 1
        assert owners.max() == 1
        assert owners[top:bottom, left:right].min() == 1
        assert owners.sum() == (bottom - top) * (right - left)


@pytest.mark.parametrize("spoiled", SPLITS)
def test_a_split_depends_on_its_own_pixels_only(spoiled, monkeypatch, data):
    """Overwrite one split's rectangles in every photograph: that split changes and the other two do not."""
    # The package's attribute of this name is the loader, which hides the module from a plain import.
    module = sys.modules[load.__module__]

    def read(texture):
        out = read_photograph(texture).copy()
        y0, x0, y1, x1 = split_boxes(texture)[spoiled]
        out[y0:y1, x0:x1] = np.random.default_rng(0).integers(0, 256, (y1 - y0, x1 - x0))
        return out

    monkeypatch.setattr(module, "read_photograph", read)
    other = load(**SMALL)
    for name in SPLITS:
        same = np.array_equal(getattr(other, name).grey, getattr(data, name).grey)
        assert same == (name != spoiled)


def test_same_seed_same_data_and_counts_are_prefixes(data):
    again, longer = load(**SMALL), load(**{**SMALL, "train": 30, "dev": 5})
    assert again.info == data.info
    np.testing.assert_array_equal(longer.train.grey[:24], data.train.grey)
    np.testing.assert_array_equal(longer.dev.labels, data.dev.labels[:5])
    assert longer.info.content_hash != data.info.content_hash


def test_splits_and_seeds_differ(data):
    other = load(**SMALL, seed=1)
    assert other.info.content_hash != data.info.content_hash
    assert not np.array_equal(other.train.labels, data.train.labels)
    assert not np.array_equal(data.train.labels[:12], data.dev.labels)
    assert not np.array_equal(data.dev.labels, data.val.labels)


def test_grey_levels_are_uniform_in_every_region():
    # Up to 8 regions have 8 different classes, so the pixels of a class are the pixels of one region.
    plain = load(**FEW, regions=(4, 8), void=0)
    for grey, label in zip(plain.train.grey, plain.train.labels, strict=True):
        for k in np.unique(label):
            values = grey[label == k]
            share = np.cumsum(np.bincount(values, minlength=256)) / values.size
            assert np.abs(share - np.arange(1, 257) / 256).max() <= 1.01 / values.size


def test_without_equalisation_a_region_has_the_photographs_grey_levels():
    """Unrotated pieces of factor 1 at whole pixels are the photograph itself; all have its distribution."""
    plain = load(train=200, dev=1, val=1, size=64, regions=(4, 8), void=0, equalize=False)
    for k, texture in enumerate(TEXTURES):
        y0, x0, y1, x1 = split_boxes(texture)["train"]
        area = read_photograph(texture)[y0:y1, x0:x1].astype(float)
        seen = plain.train.grey[plain.train.labels == k].astype(float)
        # Pieces are near the middle more often than the area is; ranks would have mean 127.5 and deviation 73.9.
        assert abs(seen.mean() - area.mean()) < 0.25 * area.std() + 2, texture.name
        assert 0.75 < seen.std() / area.std() < 1.25, texture.name
    exact = load(train=1, dev=1, val=1, regions=(1, 1), void=0, rotate=0.0, zoom=(1.0, 1.0), equalize=False)
    (k,) = np.unique(exact.train.labels)
    y0, x0, y1, x1 = split_boxes(TEXTURES[k])["train"]
    area = read_photograph(TEXTURES[k])[y0:y1, x0:x1].astype(float)
    found = exact.train.grey[0].astype(float)
    # The piece lies between pixels: bilinear weights make it the mean of four shifted windows, within 1 of rounding.
    windows = np.lib.stride_tricks.sliding_window_view(area, (97, 97))
    sums = np.pad(area, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inner = (sums[96:-1, 96:-1] - sums[1:-96, 96:-1] - sums[96:-1, 1:-96] + sums[1:-96, 1:-96]) / 95**2
    near = np.abs(inner - found[1:, 1:].mean()) < 3
    places = sorted(zip(*np.nonzero(near), strict=True), key=lambda at: _bilinear_misfit(windows[at], found, step=16))
    assert min(_bilinear_misfit(windows[at], found) for at in places[:5]) <= 1.1


def _bilinear_misfit(window, found, step=1):
    """Largest difference of `found` (96, 96), every `step` pixels, to the best bilinear shift of `window` (97, 97)."""
    corners = [window[y : y + 96 : step, x : x + 96 : step].ravel() for y in (0, 1) for x in (0, 1)]
    found = found[::step, ::step]
    weights = np.linalg.lstsq(np.stack(corners, 1), found.ravel(), rcond=None)[0]
    return np.abs(np.stack(corners, 1) @ weights - found.ravel()).max()


def test_equalisation_changes_grey_levels_only():
    given = {"train": 6, "dev": 2, "val": 2, "noise": 0.3}
    ranked, raw = load(**given), load(**given, equalize=False)
    for name in SPLITS:
        ours, theirs = getattr(ranked, name), getattr(raw, name)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        assert not np.array_equal(ours.grey, theirs.grey)
    assert ranked.info.content_hash != raw.info.content_hash
    # The same pieces: what is bright beside its neighbours is so in both.
    detail = [np.diff(x.train.grey.astype(float), axis=2).ravel() for x in (ranked, raw)]
    assert np.corrcoef(*detail)[0, 1] > 0.5
    assert load(**given, equalize=True).info == ranked.info


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_default_is_ranks_from_the_same_draws_as_ever(noise):
    values = np.random.default_rng(0).standard_normal(300, dtype=np.float32).round(1)  # with ties
    recipe = Recipe(96, (3, 6), 30.0, (0.85, 1.2), 1.0, noise, 1, equalize=True)
    found = _levels(values, recipe, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    if noise:
        values = values + noise * float(values.std()) * rng.standard_normal(300, dtype=np.float32)
    shuffled = rng.permutation(300)
    place = np.empty(300)
    place[shuffled[np.argsort(values[shuffled], kind="stable")]] = np.arange(300)
    np.testing.assert_array_equal(found, ((place + rng.random()) * (256.0 / 300)).astype(np.uint8))
    kept = _levels(np.array([-3.0, 0.4, 0.6, 300.0], np.float32), replace(recipe, noise=0.0, equalize=False), rng)
    assert kept.tolist() == [0, 0, 1, 255]


def test_without_equalisation_a_single_pixel_tells_classes():
    raw = load(**SMALL, equalize=False).info
    assert raw.floor_dev_miou > 2 / (2 * K - 1)


def test_grey_levels_are_uniform_per_class(data):
    histogram = intensity_histogram(data.train, K, VOID)
    share = histogram / histogram.sum(0)
    assert (share > 0).all()
    # Without the ranks the photographs differ by tens of percent here.
    assert np.abs(np.cumsum(share, axis=0) - np.arange(1, 257)[:, None] / 256).max() < 0.05


def test_void_is_a_thin_border_between_regions():
    plain, thin, wide = (load(**FEW, void=v) for v in (0, 1, 3))
    shares = [(d.train.labels == VOID).mean() for d in (plain, thin, wide)]
    assert shares[0] == 0
    assert 0.03 < shares[1] < 0.2 < shares[2] < 0.6
    for full, holed in zip(plain.train.labels, thin.train.labels, strict=True):
        np.testing.assert_array_equal(holed[holed != VOID], full[holed != VOID])
        # No two different classes touch across a single pixel edge any more.
        for a, b in ((holed[1:], holed[:-1]), (holed[:, 1:], holed[:, :-1])):
            assert not ((a != b) & (a != VOID) & (b != VOID)).any()
    np.testing.assert_array_equal(plain.train.grey, thin.train.grey)


def test_all_classes_in_every_split(data):
    for name in SPLITS:
        counts = np.bincount(getattr(data, name).labels.ravel(), minlength=256)[:K]
        assert counts.min() > 0.25 * counts.mean()


def test_more_regions_means_more_borders():
    few, many = (load(**FEW, regions=r) for r in ((2, 3), (12, 16)))
    assert (many.train.labels == VOID).mean() > 1.5 * (few.train.labels == VOID).mean()
    alone = load(**FEW, regions=(1, 1))
    assert all(len(np.unique(label)) == 1 for label in alone.train.labels)


def test_ragged_lengthens_borders():
    smooth, ragged = (load(**FEW, ragged=r, void=0).train.labels for r in (0.0, 2.0))

    def border(labels):
        return (labels[:, 1:] != labels[:, :-1]).sum() + (labels[:, :, 1:] != labels[:, :, :-1]).sum()

    assert border(ragged) > 1.1 * border(smooth)


@pytest.mark.parametrize("change", [{"rotate": 0.0}, {"zoom": (1.0, 1.0)}, {"noise": 0.5}, {"ragged": 0.0}])
def test_every_knob_changes_the_images(change, data):
    assert not np.array_equal(load(**FEW, **change).train.grey, data.train.grey[: FEW["train"]])


def test_noise_is_fine_grained():
    """Noise weakens the correlation of neighbouring pixels."""

    def correlation(noise):
        x = load(**FEW, noise=noise, void=0).train.grey.astype(float) - 127.5
        return (x[:, :, 1:] * x[:, :, :-1]).mean() / (x * x).mean()

    assert correlation(1.0) < 0.7 * correlation(0.0)


@pytest.mark.parametrize("size", [32, 33, 200])
def test_any_size(size):
    data = load(size=size, train=2, dev=1, val=1)
    assert data.train[1][0].shape == (size, size, 3) and data.val[0][1].shape == (size, size)


def test_info(data):
    info = data.info
    assert isinstance(info, DataInfo) and info.num_classes == K == len(set(info.palette)) == len(set(info.class_names))
    pixels = np.stack([data.train[i][0] for i in range(len(data.train))]).astype(float)
    np.testing.assert_allclose(info.mean, pixels.mean((0, 1, 2)))
    np.testing.assert_allclose(info.std, pixels.std((0, 1, 2)))
    assert "not a street scene" in info.note and len(info.content_hash) == 64
    with pytest.raises(ValueError, match="palette has 7 entries"):
        replace(info, palette=info.palette[:-1])


def test_floor_is_near_guessing(data):
    # Guessing all classes equally often scores 1 / (2 K - 1); a table that could read classes would be far above.
    floors = [data.info.floor_dev_miou, data.info.floor_val_miou]
    assert floors == intensity_floors(data.train, (data.dev, data.val), K, VOID)
    for floor in floors:
        assert 0.5 / (2 * K - 1) < floor < 1.6 / (2 * K - 1)


def test_floor_is_high_when_intensity_tells_the_class():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (6, 16, 16), dtype=np.uint8)
    told = Mosaics((labels * 64 + rng.integers(0, 64, labels.shape)).astype(np.uint8), labels)
    assert intensity_floors(told, [told], 4) == [1.0]
    half = Mosaics((labels // 2 * 128 + rng.integers(0, 128, labels.shape)).astype(np.uint8), labels)
    assert 0.3 < intensity_floors(half, [half], 4)[0] < 0.5


def test_table_beats_the_likelihood_rule_and_matches_the_pixelwise_count():
    rng = np.random.default_rng(1)
    labels = rng.choice(4, (3, 40, 40), p=[0.6, 0.2, 0.15, 0.05]).astype(np.uint8)
    grey = np.clip(rng.normal(60 * labels, 50), 0, 255).astype(np.uint8)
    labels[:, :3] = VOID
    split = Mosaics(grey, labels)
    histogram = intensity_histogram(split, 4, VOID)
    assert histogram.sum() == (labels != VOID).sum()
    table = fit_intensity_table(histogram)
    likelihood = np.argmax(histogram / histogram.sum(0), axis=1)
    assert miou(table_confusion(table, histogram)) > miou(table_confusion(likelihood, histogram))
    direct = np.zeros((4, 4), int)
    keep = labels != VOID
    np.add.at(direct, (labels[keep], table[grey[keep]]), 1)
    np.testing.assert_array_equal(table_confusion(table, histogram), direct)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": "/data"}, "root is /data"),
        ({"size": 31}, "size is 31; allowed: 32..1024"),
        ({"regions": (5, 4)}, r"regions is \(5, 4\)"),
        ({"regions": (0, 4)}, "regions"),
        ({"rotate": 181.0}, "rotate is 181.0"),
        ({"zoom": (0.0, 1.0)}, "zoom"),
        ({"ragged": -1.0}, "ragged is -1.0"),
        ({"noise": -0.5}, "noise is -0.5"),
        ({"void": 13}, "void is 13"),
        ({"seed": -1}, "seed is -1"),
        ({"dev": 0}, "dev is 0; allowed: 1..1000000"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        load(**change)


def test_missing_photograph_is_named():
    with pytest.raises(ValueError, match=r"scikit-image \d+\.\d+.* does not ship nothing\.png"):
        read_photograph(replace(TEXTURES[0], file="nothing.png"))


def test_areas_are_evenly_lit():
    for areas in texture_areas().values():
        for area in areas:
            blocks = [area[y : y + 48, x : x + 48].mean() for y in range(0, 96, 48) for x in range(0, 96, 48)]
            assert np.abs(blocks).max() < 0.5 * area.std()


def test_loader_parameters_are_plain():
    """The experiment schema is read from the source: plain annotations, literal defaults, keyword-only."""
    for loader in DATASETS.values():
        definition = ast.parse(inspect.getsource(loader)).body[0]
        assert isinstance(definition, ast.FunctionDef)
        assert [a.arg for a in definition.args.args] == ["root"]
        for argument, default in zip(definition.args.kwonlyargs, definition.args.kw_defaults, strict=True):
            assert argument.annotation is not None and default is not None
            ast.literal_eval(default)
