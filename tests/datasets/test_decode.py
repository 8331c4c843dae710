"""From bytes to pixels: what is read, what is refused, and how it is counted and made smaller."""

import numpy as np
import pytest
from PIL import Image

from harness.datasets import decode


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
