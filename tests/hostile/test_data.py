"""Malformed folders, lists, images and label maps, each given to `data check`."""

import io
import shutil
import struct

import numpy as np
import pytest
from PIL import Image

import harness.training.gate  # noqa: F401  before the commands are forked
from tests.support import hostile, tiny, trees

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
CLASSES = "classes: [{name: a, value: 0}, {name: b, value: 1}]\n"
H, W = 16, 24


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good folder of five pairs, copied for every case."""
    root = tmp_path_factory.mktemp("good")
    for split, count in (("train", 3), ("val", 2)):
        for n in range(count):
            trees.save(root / f"images/{split}/{n}.png", RNG.integers(0, 256, (H, W, 3), dtype=np.uint8))
            trees.save(root / f"masks/{split}/{n}.png", RNG.integers(0, 2, (H, W), dtype=np.uint8))
    (root / "classes.yaml").write_text(CLASSES)
    return root


@pytest.fixture
def here(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "case/here")
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "case/here/.cache"))
    return tmp_path / "case/here"


def checked(here, *arguments):
    return hostile.run(["data", "check", "folder", "--root", ".", *arguments], here)


def encoded(pixels, form, **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def declaring(content, height, width, where, form):
    """The same file, which says to be of another size."""
    changed = bytearray(content)
    struct.pack_into(form, changed, where, *((width, height) if form != ">HH" else (height, width)))
    return bytes(changed)


def turned(turn, form="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = turn
    return encoded(RGB, form, exif=exif)


RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
RGBA = RNG.integers(0, 256, (H, W, 4), dtype=np.uint8)
GREY = RNG.integers(0, 2, (H, W), dtype=np.uint8)
DEEP = RNG.integers(0, 4096, (H, W), dtype=np.uint16)
FLOAT = RNG.random((H, W)).astype(np.float32)
PNG, JPEG, TIFF, BMP, WEBP = (encoded(RGB, form) for form in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"))
PAGES = encoded(RGB, "TIFF", save_all=True, append_images=[Image.fromarray(RGB)] * 2)
FRAMES = encoded(RGB, "PNG", save_all=True, append_images=[Image.fromarray(255 - RGB)])
WEBP_FRAMES = encoded(RGB, "WEBP", save_all=True, append_images=[Image.fromarray(255 - RGB)])
SOF = JPEG.index(b"\xff\xc0") + 5
NOT_IMAGES = {
    "empty": b"",
    "zeros": bytes(5000),
    "text": b"hello",
    "html": b"<!DOCTYPE html><html></html>",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "gif": encoded(GREY, "GIF"),
    "ppm": encoded(RGB, "PPM"),
    "ico": encoded(RGB, "ICO"),
    "pdf": b"%PDF-1.4\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "zip": b"PK\x03\x04" + bytes(100),
    "npy": b"\x93NUMPY\x01\x00" + bytes(100),
    "magic of png": b"\x89PNG\r\n\x1a\n",
    "magic of jpeg": b"\xff\xd8\xff",
    "magic of tiff": b"II*\0",
    "magic of bmp": b"BM",
    "magic of webp": b"RIFF\0\0\0\0WEBP",
    "magic of riff": b"RIFF\0\0\0\0WAVE",
    "tiff into nowhere": b"II*\0\xff\xff\xff\xff",
    "tiff of itself": b"II*\0\x04\0\0\0" + bytes(30),
    "jpeg of markers": b"\xff\xd8" + b"\xff" * 100_000,
    "jpeg of empty segments": b"\xff\xd8" + b"\xff\xe0\0\0" * 20,
    "no width": declaring(PNG, H, 0, 16, ">II"),
    "no height": declaring(PNG, 0, W, 16, ">II"),
    "16-bit png": encoded(DEEP, "PNG"),
    "16-bit tiff": encoded(DEEP, "TIFF"),
    "32-bit tiff": encoded(DEEP.astype(np.int32), "TIFF"),
    "float tiff": encoded(FLOAT, "TIFF"),
    "two pages": PAGES,
    "two frames": FRAMES,
    "webp frames": WEBP_FRAMES,
    "rgba png": encoded(RGBA, "PNG"),
    "rgba tiff": encoded(RGBA, "TIFF"),
    "rgba webp": encoded(RGBA, "WEBP"),
    "grey and alpha": encoded(RGBA[..., :2], "PNG"),
    "cmyk tiff": encoded(np.asarray(Image.fromarray(RGB)), "TIFF") if False else b"",
    "30,000 x 30,000 png": declaring(PNG, 30_000, 30_000, 16, ">II"),
    "2**31 png": declaring(PNG, 2**31 - 1, 2**31 - 1, 16, ">II"),
    "65,535 x 65,535 jpeg": declaring(JPEG, 65_535, 65_535, SOF, ">HH"),
    "30,000 x 30,000 bmp": declaring(BMP, 30_000, 30_000, 18, "<ii"),
    "lossy": JPEG,
    "other sides": encoded(RGB[:8], "PNG"),
    "turned": turned(6),
    "turned png": turned(8, "PNG"),
    "turned tiff": turned(3, "TIFF"),
    "turned webp": turned(5, "WEBP"),
}
for _form, _whole in {"png": PNG, "jpeg": JPEG, "tiff": TIFF, "bmp": BMP, "webp": WEBP}.items():
    for _share in (0.02, 0.2, 0.5, 0.9):
        NOT_IMAGES[f"{_form} cut at {_share}"] = _whole[: int(len(_whole) * _share)]
del NOT_IMAGES["cmyk tiff"], NOT_IMAGES["bmp cut at 0.9"], NOT_IMAGES["bmp cut at 0.5"], NOT_IMAGES["bmp cut at 0.2"]
FINE_AS_IMAGES = ("lossy",)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("name", [name for name in NOT_IMAGES if name not in FINE_AS_IMAGES])
def test_an_image(here, name, suffix):
    (here / "images/train/1.png").unlink()
    (here / f"images/train/1{suffix}").write_bytes(NOT_IMAGES[name])
    assert hostile.complaints(checked(here), [f"images/train/1{suffix}", "1 problem"]) == []


NOT_MAPS = {
    "rgb": PNG,
    "webp": WEBP,
    "value 2": encoded(GREY + 1, "PNG"),
    "one bit": encoded(GREY.astype(bool), "PNG"),
    "one bit tiff": encoded(GREY.astype(bool), "TIFF"),
    "lossy grey": encoded(GREY, "JPEG"),
    "lossy tiff": encoded(RGB, "TIFF", compression="jpeg"),
    "lossy grey tiff": encoded(GREY, "TIFF", compression="jpeg"),
    "turned half": turned(3, "PNG"),
    **{name: content for name, content in NOT_IMAGES.items() if "turned" not in name and "bmp cut" not in name},
}


@pytest.mark.parametrize("name", NOT_MAPS)
def test_a_label_map(here, name):
    (here / "masks/val/1.png").write_bytes(NOT_MAPS[name])
    assert hostile.complaints(checked(here), ["masks/val/1.png" if name != "other" else "", "1 problem"]) == []


def folder_as_file(here):
    shutil.rmtree(here / "masks/val")
    (here / "masks/val").write_text("")


def flat(here, train, val):
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            for path in (here / kind / split).iterdir():
                path.rename(here / kind / f"{split}{path.name}")
            (here / kind / split).rmdir()
    (here / "train.txt").write_text(train)
    (here / "val.txt").write_text(val)


GOOD = ("train0\ntrain1\ntrain2\n", "val0\nval1\n")


def all_ignored(here, split):
    for path in (here / f"masks/{split}").iterdir():
        trees.save(path, np.full((H, W), 255, np.uint8))


def one_pair(here):
    for n in (1, 2):
        (here / f"images/train/{n}.png").unlink()
        (here / f"masks/train/{n}.png").unlink()


FOLDERS = {
    "no images": (lambda here: shutil.rmtree(here / "images"), "images"),
    "no masks": (lambda here: shutil.rmtree(here / "masks"), "masks"),
    "no val": (lambda here: [shutil.rmtree(here / f"{kind}/val") for kind in ("images", "masks")], "images/val"),
    "an empty split": (
        lambda here: [p.unlink() for k in ("images", "masks") for p in (here / k / "val").iterdir()],
        "val",
    ),
    "a folder as file": (folder_as_file, "masks/val"),
    "an image as folder": (
        lambda here: (here / "images/val/0.png").unlink() or (here / "images/val/0.png").mkdir(),
        "0.png",
    ),
    "no classes": (lambda here: (here / "classes.yaml").unlink(), "classes.yaml"),
    "classes as folder": (
        lambda here: (here / "classes.yaml").unlink() or (here / "classes.yaml").mkdir(),
        "classes.yaml",
    ),
    "no mask": (lambda here: (here / "masks/val/0.png").unlink(), "masks/val/0.png"),
    "no image": (lambda here: (here / "images/val/0.png").unlink(), "masks/val/0.png"),
    "a name twice": (lambda here: shutil.copy(here / "images/val/0.png", here / "images/val/0.jpg"), "0.jpg"),
    "a dead link": (
        lambda here: (here / "images/val/0.png").unlink() or (here / "images/val/0.png").symlink_to("x"),
        "0.png",
    ),
    "a link to itself": (lambda here: (here / "images/val/9.png").symlink_to("9.png"), "."),
    "a link out": (lambda here: (here / "images/val/9.png").symlink_to("/etc/passwd"), "9.png"),
    "a folder out": (
        lambda here: shutil.rmtree(here / "masks/val") or (here / "masks/val").symlink_to("/etc"),
        "masks/val",
    ),
    "train all ignored": (lambda here: all_ignored(here, "train"), "train has no labelled pixel"),
    "val all ignored": (lambda here: all_ignored(here, "val"), "val has no labelled pixel"),
    "one pair": (one_pair, "1 training"),
    "an escape": (lambda here: (here / "images/val/\x1b[31m.png").write_bytes(PNG), "images/val"),
    "a name that is not text": (
        lambda here: open(bytes(here / "images/val") + b"/\xff.png", "w").close(),
        "images/val",
    ),
    "a manifest": (lambda here: (here / "manifest.json").write_text("{}"), "manifest.json"),
    "an empty train.txt": (lambda here: flat(here, "", GOOD[1]), "0 training"),
    "an empty val.txt": (lambda here: flat(here, GOOD[0], ""), "0 val"),
    "one line": (lambda here: flat(here, "train0", GOOD[1]), "1 training"),
    "lines of others": (lambda here: flat(here, "a\n" * 1 + GOOD[0], GOOD[1]), "train.txt"),
    "a list of 100,000 names": (
        lambda here: flat(here, "".join(f"n{i}\n" for i in range(100_000)), GOOD[1]),
        "train.txt",
    ),
    "a list of 100,000 paths": (
        lambda here: flat(here, "".join(f"../{i}\n" for i in range(100_000)), GOOD[1]),
        "train.txt",
    ),
    "a long line": (lambda here: flat(here, "x" * 1_000_000, GOOD[1]), "train.txt"),
    "an escape in a list": (lambda here: flat(here, "\x1b[31m\n" + GOOD[0], GOOD[1]), "train.txt"),
    "NUL in a list": (lambda here: flat(here, "a\0b\n" + GOOD[0], GOOD[1]), "train.txt"),
    "twice in a list": (lambda here: flat(here, "train0\n" + GOOD[0], GOOD[1]), "train.txt"),
    "in both lists": (lambda here: flat(here, GOOD[0], "train0\n" + GOOD[1]), "train0"),
    "no val.txt": (lambda here: flat(here, *GOOD) or (here / "val.txt").unlink(), "val.txt"),
    "a list that is not text": (
        lambda here: flat(here, *GOOD) or (here / "val.txt").write_bytes(b"\xff\xfe"),
        "val.txt",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder(here, name):
    change, word = FOLDERS[name]
    change(here)
    codes = (0, 1, 2) if name == "a link to itself" else (1, 2)
    assert hostile.complaints(checked(here), [word], codes) == []


UNFIT = ("train all ignored", "val all ignored", "one pair", "an empty train.txt", "an empty val.txt", "one line")


@pytest.mark.parametrize("name", UNFIT)
def test_check_refuses_the_folder_as_data_check_does(here, name):
    change, word = FOLDERS[name]
    change(here)
    tiny.write(here, data={"name": "folder", "root": str(here)})
    assert hostile.complaints(hostile.run(["check", "tiny.yaml", "--no-measure"], here), [word]) == []


@pytest.mark.parametrize("labelled", range(3))
def test_a_dev_split_without_a_labelled_pixel_is_refused(here, labelled):
    """One pair of three has labels: either dev, which is cut from train, or what is left of train has none."""
    for n in {0, 1, 2} - {labelled}:
        trees.save(here / f"masks/train/{n}.png", np.full((H, W), 255, np.uint8))
    tiny.write(here, data={"name": "folder", "root": str(here)})
    ended = hostile.run(["check", "tiny.yaml", "--no-measure"], here)
    assert hostile.complaints(ended, ["has no labelled pixel in its"]) == []


PARAMETERS = [
    "val_fraction=0",
    "val_fraction=2",
    "dev_fraction=1",
    "short_side=0",
    "dev_seed=-1",
    "val_seed=1e9",
    "x=1",
]
PARAMETERS += [
    "dev_seed=" + "9" * 40,
    "short_side=" + "9" * 5000,
    "dev_fraction=.nan",
    "val_seed=null",
    "short_side=[1]",
]


@pytest.mark.parametrize("setting", PARAMETERS)
def test_a_parameter(here, setting):
    ended = checked(here, "--set", setting)
    assert hostile.complaints(ended, [setting.partition("=")[0]]) == []


def test_what_is_not_used_is_counted(here):
    for name in ("images/loose.png", "images/test/a.png", "images/train/deep/b.png", "masks/loose.png"):
        trees.save(here / name, RGB)
    (here / "train.txt").write_text("0\n")
    ended = checked(here)
    words = [
        "images: 1 files are not used (images/loose.png)",
        "images/test: 1 images for prediction",
        "images/train/deep: 1 files",
    ]
    assert hostile.complaints(ended, [*words, "masks: 1 files", "train.txt: not used", "no problems found"], (0,)) == []
    flat(here, GOOD[0], "val0\n")
    assert hostile.complaints(checked(here), ["images: 2 files are in neither list"], (0,)) == []


def test_turned_images_are_counted(here):
    (here / "images/train/1.png").write_bytes(turned(3, "PNG"))
    assert hostile.complaints(checked(here), ["train has 1 images with an orientation tag"], (0,)) == []
