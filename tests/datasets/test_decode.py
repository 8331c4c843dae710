"""From bytes to pixels: what is read, what is refused, and how it is counted and made smaller."""

import io

import numpy as np
import pytest
from PIL import Image

from harness.datasets import DATASETS, decode
from tests.support import trees


def test_shrinking_halves_exactly():
    image = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3) // 2
    label = np.arange(96, dtype=np.uint8).reshape(8, 12)
    small, classes = decode.shrink(image, label, 4)
    mean = image.reshape(4, 2, 6, 2, 3).mean((1, 3))
    assert np.abs(small - mean).max() <= 0.5
    assert classes.shape == (4, 6)
    assert all(classes[y, x] in label[2 * y : 2 * y + 2, 2 * x : 2 * x + 2] for y in range(4) for x in range(6))
    assert decode.shrink(image, label, 8)[0] is image


def test_a_flipped_bit_of_a_palette_mask_is_found(tmp_path):
    """Pillow alone reads such a file without looking at its checksums."""
    values = np.random.default_rng(0).integers(0, 21, (40, 60), dtype=np.uint8)
    picture = Image.fromarray(values)
    picture.putpalette(list(range(63)))
    picture.save(tmp_path / "mask.png")
    content = (tmp_path / "mask.png").read_bytes()
    np.testing.assert_array_equal(decode.label_values(content, "mask.png"), values)
    start = content.index(b"IDAT") + 4
    for k in range(start, start + 200, 3):
        flipped = bytearray(content)
        flipped[k] ^= 4
        with pytest.raises(ValueError, match=r"mask.png: not a readable label map"):
            decode.label_values(bytes(flipped), "mask.png")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_masks_of_fewer_bits_are_refused(tmp_path, bits):
    """Readers disagree on whether their values are scaled up to 255."""
    import cv2

    values = np.arange(64, dtype=np.uint8).reshape(8, 8) % 2**bits
    done, packed = cv2.imencode(".png", values * (255 // (2**bits - 1)))
    assert done
    header = bytearray(packed.tobytes())
    assert decode.label_values(bytes(header), "x.png").max() == 255
    if bits == 1:
        Image.fromarray(values.astype(bool)).save(tmp_path / "x.png")
        header = bytearray((tmp_path / "x.png").read_bytes())
    else:
        header = bytearray(small_png(values, bits))
    with pytest.raises(ValueError, match=f"with {bits} bits|mode is 1, with 1 bits"):
        decode.label_values(bytes(header), "x.png")


def small_png(values, bits):
    """A grey PNG of 2 or 4 bits per pixel, written by hand."""
    import struct
    import zlib

    per = 8 // bits
    rows = b"".join(
        b"\0"
        + bytes(
            sum(int(v) << (8 - bits * (i + 1)) for i, v in enumerate(row[k : k + per])) for k in range(0, len(row), per)
        )
        for row in values
    )

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_images_of_16_bits_are_refused(tmp_path):
    import cv2

    done, packed = cv2.imencode(".png", np.full((4, 4, 3), 4095, np.uint16))
    assert done
    with pytest.raises(ValueError, match="8 bits per channel, this one 16"):
        decode.image_pixels(packed.tobytes(), "x.png")


def encoded(pixels, form, **options):
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


GREY = np.arange(96, dtype=np.uint8).reshape(8, 12)
RGB, RGBA = np.stack([GREY] * 3, 2), np.stack([GREY] * 4, 2)
DEEP, REAL = GREY.astype(np.uint16) * 16, GREY.astype(np.float32)
PALETTE = Image.fromarray(GREY).convert("P")
NONE_DROPPED = "one or three channels, this one {}; none is dropped.*convert..RGB"
WRONG_IMAGES = {
    "16-bit TIFF": (encoded(DEEP, "TIFF"), "this one 16. Choose the range and save 8 bits: numpy.clip"),
    "16-bit PNG": (encoded(DEEP, "PNG"), "this one 16. Choose the range and save 8 bits: numpy.clip"),
    "float TIFF": (encoded(REAL, "TIFF"), r"this one 32 bits \(float\). Choose the range"),
    "RGBA PNG": (encoded(RGBA, "PNG"), NONE_DROPPED.format(4)),
    "RGBA TIFF": (encoded(RGBA, "TIFF"), NONE_DROPPED.format(4)),
    "four bands": (encoded(Image.fromarray(RGB).convert("CMYK"), "TIFF"), NONE_DROPPED.format(4)),
    "grey and alpha": (encoded(RGBA[..., :2], "PNG"), NONE_DROPPED.format(2)),
    "RGBA WebP": (encoded(RGBA, "WEBP", lossless=True), NONE_DROPPED.format(4)),
    "a transparent colour": (encoded(RGB, "PNG", transparency=(1, 2, 3)), "some of its pixels are transparent"),
    "a transparent grey": (encoded(GREY, "PNG", transparency=7), "some of its pixels are transparent"),
    "a transparent palette": (encoded(PALETTE, "PNG", transparency=3), "some of its pixels are transparent"),
    "two pages": (
        encoded(RGB, "TIFF", save_all=True, append_images=[Image.fromarray(RGB)]),
        "several pages or frames.*Save each as a file of its own",
    ),
    "CIELab": (encoded(Image.fromarray(RGB).convert("LAB"), "TIFF"), "its colours are CIELab"),
}


@pytest.mark.parametrize("name", WRONG_IMAGES)
def test_nothing_of_an_image_is_dropped_or_scaled_silently(name):
    content, words = WRONG_IMAGES[name]
    with pytest.raises(ValueError, match=f"^x.jpg: .*{words}"):
        decode.image_pixels(content, "x.jpg")


def test_a_label_maps_palette_may_have_transparent_colours():
    np.testing.assert_array_equal(decode.label_values(encoded(PALETTE, "PNG", transparency=3), "x.png"), PALETTE)


def test_a_lossy_label_map_is_called_so_whatever_its_name():
    for content in (encoded(GREY, "JPEG"), encoded(GREY, "TIFF", compression="jpeg")):
        with pytest.raises(ValueError, match=r"x\.png: .*lossy compression, which changes the values\. Save it as PNG"):
            decode.label_values(content, "x.png")


def test_a_turned_image_of_other_sides_than_its_label_map_names_the_tag(tmp_path):
    root = trees.write_folder(tmp_path / "own")
    exif = Image.Exif()
    exif[0x0112] = 6
    tagged = " once it is turned as its orientation tag 6 says, its label map .*Save the image upright"
    for turned, says in ((True, tagged), (False, ", its label map")):
        path = root / "images/train/train-1.png"
        pixels = np.asarray(Image.open(path).convert("RGB"))
        Image.fromarray(pixels if turned else pixels[:-2]).save(path, **({"exif": exif} if turned else {}))
        with pytest.raises(ValueError, match=f"train-1.png: .* pixels{says}"):
            DATASETS["folder"](root)


def test_values_are_counted_as_numpy_counts_them():
    values = np.random.default_rng(0).integers(0, 256, (301, 203), dtype=np.uint8)
    np.testing.assert_array_equal(decode.value_counts(values), np.bincount(values.reshape(-1), minlength=256))
    window = values[10:90, 7:100]
    np.testing.assert_array_equal(decode.value_counts(window), np.bincount(window.reshape(-1), minlength=256))
    large = np.zeros((4096, 4097), np.uint8)  # more than float32 counts exactly
    assert decode.value_counts(large)[0] == large.size


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x"])
def test_the_format_is_that_of_the_bytes(tmp_path, suffix, name):
    pixels = np.repeat(np.arange(77, dtype=np.uint8).reshape(7, 11, 1), 3, 2)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", quality=100)
    found = decode.image_pixels((tmp_path / f"a{suffix}").read_bytes(), name)
    assert found.shape == (7, 11, 3) and np.abs(found.astype(int) - pixels).max() < 8
    Image.fromarray(pixels[..., 0]).save(tmp_path / f"b{suffix}", quality=100)
    content = (tmp_path / f"b{suffix}").read_bytes()
    if suffix in (".jpg", ".webp"):
        with pytest.raises(ValueError, match=f"^{name}: a label map has one channel of 8 bits.*Save"):
            decode.label_values(content, name)
    else:
        np.testing.assert_array_equal(decode.label_values(content, name), pixels[..., 0])


def test_turning_is_what_pillow_does():
    from PIL import ImageOps

    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    for turn in range(1, 9):
        picture = Image.fromarray(pixels)
        picture.getexif()[0x0112] = turn
        np.testing.assert_array_equal(decode.turned(pixels, turn), np.asarray(ImageOps.exif_transpose(picture)))
