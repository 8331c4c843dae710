import numpy as np
import pytest

from harness.datasets.augment import TRIES, augment

MEAN = (127.0, 126.0, 125.0)


def pair(h=20, w=30, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (h, w, 3), dtype=np.uint8), rng.integers(0, 8, (h, w), dtype=np.uint8)


def ramp(h=40, w=60):
    """An image that carries its own label: both are the pixel's coordinates, in blocks of 4 pixels."""
    y, x = np.mgrid[:h, :w]
    label = ((y // 4) * (w // 4) + x // 4).astype(np.uint8)
    return np.repeat(label[:, :, None], 3, axis=2), label


def test_nothing_asked_is_the_identity_and_a_copy():
    image, label = pair()
    a, b = augment(image, label, np.random.default_rng(0), crop_hw=(20, 30), flip=0.0)
    np.testing.assert_array_equal(a, image)
    np.testing.assert_array_equal(b, label)
    assert not np.shares_memory(a, image) and not np.shares_memory(b, label)


def test_flip_mirrors_both():
    image, label = pair()
    a, b = augment(image, label, np.random.default_rng(0), crop_hw=(20, 30), flip=1.0)
    np.testing.assert_array_equal(a, image[:, ::-1])
    np.testing.assert_array_equal(b, label[:, ::-1])


def test_flip_probability():
    image, label = pair(4, 4)
    rng = np.random.default_rng(1)
    hits = sum(
        np.array_equal(augment(image, label, rng, crop_hw=(4, 4), flip=0.25)[1], label[:, ::-1]) for _ in range(2000)
    )
    assert 410 < hits < 590  # 500 +- 4.6 standard deviations


def test_crops_are_windows_of_the_source_and_reach_every_corner():
    image, label = pair(12, 16)
    places = {
        (y, x): label[y : y + 8, x : x + 8].tobytes() + image[y : y + 8, x : x + 8].tobytes()
        for y in range(5)
        for x in range(9)
    }
    rng = np.random.default_rng(2)
    seen = set()
    for _ in range(1000):
        a, b = augment(image, label, rng, crop_hw=(8, 8), flip=0.0)
        seen.add(b.tobytes() + a.tobytes())
    assert seen == set(places.values())


def test_padding_is_the_mean_and_the_ignored_label():
    image, label = pair(6, 5)
    for seed in range(20):
        a, b = augment(
            image, label, np.random.default_rng(seed), crop_hw=(9, 11), flip=0.0, fill=MEAN, ignore_index=200
        )
        assert a.shape == (9, 11, 3) and b.shape == (9, 11)
        outside = b == 200
        assert outside.sum() == 99 - 30
        np.testing.assert_array_equal(a[outside], np.broadcast_to(np.array(MEAN, np.uint8), (69, 3)))
        np.testing.assert_array_equal(b[~outside], label.reshape(-1))
        np.testing.assert_array_equal(a[~outside], image.reshape(-1, 3))


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.5, 2.0])
def test_image_and_label_stay_aligned_under_scale(factor):
    image, label = ramp()
    rng = np.random.default_rng(3)
    inner, total = 0, 0
    for _ in range(20):
        a, b = augment(image, label, rng, crop_hw=(24, 32), scale=(factor, factor), flip=0.5)
        assert set(np.unique(b)) <= set(np.unique(label)) | {255}
        # Where a pixel's neighbours have its label, bilinear interpolation cannot have mixed in another block.
        flat = np.ones_like(b, bool)
        flat[[0, -1]], flat[:, [0, -1]] = False, False
        for axis in (0, 1):
            for shift in (-1, 1):
                flat &= np.roll(b, shift, axis) == b
        flat &= b != 255
        np.testing.assert_array_equal(a[flat], np.repeat(b[flat][:, None], 3, axis=1))
        inner, total = inner + int(flat.sum()), total + b.size
    if factor > 1:
        assert inner > total / 4


@pytest.mark.parametrize("factor", [0.7, 1.5])
def test_label_is_not_shifted_against_the_image(factor):
    """Both hold the pixel's column: interpolated and nearest values then differ by rounding only, which averages out."""
    label = np.broadcast_to(np.arange(120, dtype=np.uint8), (90, 120)).copy()
    image = np.repeat(label[:, :, None], 3, axis=2)
    a, b = augment(image, label, np.random.default_rng(0), crop_hw=(40, 50), scale=(factor, factor), flip=0.0)
    assert abs((a[..., 0].astype(float) - b).mean()) < 0.2
    turned = augment(
        image.transpose(1, 0, 2), label.T, np.random.default_rng(0), crop_hw=(50, 40), scale=(factor, factor), flip=0.0
    )
    assert abs((turned[0][..., 0].astype(float) - turned[1]).mean()) < 0.2


def test_scale_changes_the_size_of_things():
    label = np.zeros((64, 64), np.uint8)
    label[:, ::8] = 1
    image = np.repeat(label[:, :, None], 3, axis=2)

    def stripes(scale):
        _, b = augment(image, label, np.random.default_rng(0), crop_hw=(32, 32), scale=(scale, scale), flip=0.0)
        return int((np.diff(b[16].astype(int)) == 1).sum())

    assert stripes(1.0) in (3, 4)
    assert stripes(2.0) in (1, 2)
    assert stripes(2.0) < stripes(1.0)


def test_jitter_moves_the_image_only_and_by_no_more_than_asked():
    image, label = pair()
    image = image // 2 + 64
    for seed in range(10):
        a, b = augment(
            image,
            label,
            np.random.default_rng(seed),
            crop_hw=(20, 30),
            flip=0.0,
            brightness=0.1,
            contrast=0.2,
            fill=MEAN,
        )
        np.testing.assert_array_equal(b, label)
        limit = 0.1 * 255 + 0.2 * np.abs(image - np.array(MEAN)) + 1
        assert (np.abs(a.astype(float) - image) <= limit).all()
        # One line through (value, new value) per channel, which is what brightness and contrast are.
        slope, offset = np.polyfit(image[..., 0].reshape(-1).astype(float), a[..., 0].reshape(-1).astype(float), 1)
        assert 0.79 <= slope <= 1.21
        np.testing.assert_allclose(a[..., 0], image[..., 0] * slope + offset, atol=1.0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": 0.0},
        {"flip": 1.0},
        {"scale": (0.5, 2.0)},
        {"scale": (2.0, 2.0)},
        {"brightness": 0.3, "contrast": 0.3},
        {"crop_hw": (64, 64)},
        {"saturation": 0.3, "hue": 10.0},
        {"class_cap": 0.2},
        {"scale": (0.5, 2.0), "scale_step": 0.1},
    ],
)
def test_every_call_takes_the_same_draws(options):
    image, label = pair()
    rng, reference = np.random.default_rng(4), np.random.default_rng(4)
    augment(image, label, rng, **{"crop_hw": (16, 16), **options})
    reference.random(6 + 2 + 2 * TRIES)
    assert rng.random() == reference.random()


def test_same_stream_same_pair_and_inputs_untouched():
    image, label = pair(50, 70)
    kept = image.copy(), label.copy()
    options = {"crop_hw": (32, 32), "scale": (0.5, 2.0), "brightness": 0.2, "contrast": 0.2, "fill": MEAN}
    first = augment(image, label, np.random.default_rng(5), **options)
    again = augment(image, label, np.random.default_rng(5), **options)
    other = augment(image, label, np.random.default_rng(6), **options)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert first[0].flags.c_contiguous and first[1].flags.c_contiguous
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(label, kept[1])


@pytest.mark.parametrize("scale", [(0.05, 0.06), (20.0, 30.0)])
def test_extreme_scales_still_give_the_crop(scale):
    image, label = pair()
    a, b = augment(image, label, np.random.default_rng(0), crop_hw=(16, 17), scale=scale)
    assert a.shape == (16, 17, 3) and b.shape == (16, 17)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((20, 30, 3), np.float32)}, r"uint8; given: \(20, 30, 3\) float32"),
        ({"image": np.zeros((20, 30), np.uint8)}, r"\(H, W, 3\)"),
        ({"label": np.zeros((20, 31), np.uint8)}, r"\(20, 31\)"),
        ({"label": np.zeros((20, 30), np.int64)}, r"int64"),
        ({"crop_hw": (0, 4)}, r"crop_hw=\(0, 4\)"),
        ({"scale": (0.0, 1.0)}, r"scale=\(0.0, 1.0\)"),
        ({"scale": (2.0, 1.0)}, r"scale=\(2.0, 1.0\)"),
        ({"flip": 1.5}, r"flip=1.5"),
        ({"brightness": -0.1}, r"brightness=-0.1"),
        ({"contrast": 2.0}, r"contrast=2.0"),
        ({"saturation": 1.1}, r"saturation=1.1"),
        ({"hue": 360.0}, r"hue=360.0: allowed are 0..180"),
        ({"scale_step": -0.1}, r"scale_step=-0.1"),
        ({"class_cap": 0.0}, r"class_cap=0.0"),
    ],
)
def test_bad_input_is_named(change, message):
    image, label = pair()
    arguments = {"image": image, "label": label, "rng": np.random.default_rng(0), "crop_hw": (8, 8), **change}
    with pytest.raises(ValueError, match=message):
        augment(**arguments)


def test_scale_steps_are_equally_likely_and_end_at_the_largest():
    from harness.datasets.augment import _factor

    rng = np.random.default_rng(0)
    drawn = [_factor((0.5, 2.0), 0.1, u) for u in rng.random(16000)]
    values, counts = np.unique(np.round(drawn, 6), return_counts=True)
    np.testing.assert_allclose(values, np.arange(5, 21) / 10)
    assert counts.min() > 850 and counts.max() < 1150  # 1000 +- 5 standard deviations
    assert _factor((0.5, 2.0), 0.1, np.nextafter(1.0, 0.0)) == pytest.approx(2.0)
    assert _factor((0.5, 2.0), 0.0, 0.5) == 1.25


def lopsided():
    """Class 0 everywhere but in the lower right quarter."""
    label = np.zeros((40, 60), np.uint8)
    label[20:, 30:] = 1
    return np.repeat(label[:, :, None], 3, axis=2), label


def test_a_crop_of_one_class_gives_way_to_another():
    image, label = lopsided()
    single = dict.fromkeys((1.0, 0.75), 0)
    for cap in single:
        for seed in range(300):
            _, b = augment(image, label, np.random.default_rng(seed), crop_hw=(16, 16), flip=0.0, class_cap=cap)
            share = np.bincount(b.reshape(-1), minlength=2).max() / b.size
            single[cap] += share > 0.75
    assert single[1.0] > 200
    # Windows below the cap are about a third of all: eleven misses in a row are rare.
    assert single[0.75] < 15


def test_the_cap_does_not_count_ignored_pixels_and_leaves_good_crops_alone():
    image, label = lopsided()
    holes = np.where(label == 0, 255, label).astype(np.uint8)
    holes[:, :2] = 0  # nearly all labelled pixels are of class 1: above any cap, whatever is drawn
    plain = augment(image, holes, np.random.default_rng(0), crop_hw=(40, 60), flip=0.0)
    capped = augment(image, holes, np.random.default_rng(0), crop_hw=(40, 60), flip=0.0, class_cap=0.5)
    np.testing.assert_array_equal(plain[1], capped[1])
    mixed = np.random.default_rng(1).integers(0, 8, (40, 60), dtype=np.uint8)
    for seed in range(20):
        first = augment(image, mixed, np.random.default_rng(seed), crop_hw=(16, 16), class_cap=0.75)
        again = augment(image, mixed, np.random.default_rng(seed), crop_hw=(16, 16))
        np.testing.assert_array_equal(first[1], again[1])


def test_hue_and_saturation_leave_grey_alone_and_turn_colours():
    image, label = pair()
    grey = np.repeat(image[..., :1], 3, axis=2)
    options = {"crop_hw": (20, 30), "flip": 0.0, "saturation": 0.5, "hue": 40.0}
    a, b = augment(grey, label, np.random.default_rng(0), **options)
    np.testing.assert_array_equal(a, grey)
    np.testing.assert_array_equal(b, label)
    red = np.zeros_like(image)
    red[..., 0] = 200
    hues, saturations = [], []
    for seed in range(60):
        a, _ = augment(red, label, np.random.default_rng(seed), **options)
        r, g, b = a[0, 0].astype(float)
        assert max(r, g, b) == pytest.approx(200, abs=1)
        saturations.append((max(r, g, b) - min(r, g, b)) / max(r, g, b))
        hues.append(60 * ((g - b) / (max(r, g, b) - min(r, g, b))))
    assert -42 < min(hues) < -30 and 30 < max(hues) < 42
    assert 0.45 < min(saturations) < 0.6 and max(saturations) == pytest.approx(1)


def test_new_options_do_not_move_the_old_draws():
    image, label = pair(50, 70)
    old = {"crop_hw": (32, 32), "scale": (0.5, 2.0), "brightness": 0.2, "contrast": 0.2, "fill": MEAN}
    a = augment(image, label, np.random.default_rng(5), **old)
    b = augment(image, label, np.random.default_rng(5), **old, hue=20.0, saturation=0.5)
    np.testing.assert_array_equal(a[1], b[1])


def test_read_only_views_are_augmented_like_arrays():
    image, label = pair(50, 70)
    frozen = image.copy(), label.copy()
    for x in frozen:
        x.flags.writeable = False
    options = {"crop_hw": (32, 32), "scale": (0.5, 2.0), "brightness": 0.2, "hue": 9.0, "fill": MEAN, "class_cap": 0.5}
    for seed in range(10):
        for a, b in zip(
            augment(image, label, np.random.default_rng(seed), **options),
            augment(*frozen, np.random.default_rng(seed), **options),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
            assert b.flags.writeable
