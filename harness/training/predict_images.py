"""Writes predictions of a finished run for a folder of images: class maps with a palette, overlays, the classes."""

import io
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage

from harness.borders import one_line, quoted
from harness.datasets import decode
from harness.datasets.folder import CLASSES, class_table
from harness.datasets.tree import Tree
from harness.files import write_atomic
from harness.training.student import Student, student_of

Pixels = NDArray[np.uint8]
MASKS, OVERLAYS = "masks", "overlays"
SHARE = 0.5
"""Of the class's colour in an overlay."""
SHOWN = 20


def write_image_predictions(
    directory: Path,
    row: Mapping[str, Any],
    images: Path,
    to: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Run a trained network on images without labels, of any sizes; returns the number of images.

    Below `to`: masks/NAME.png (class indices, with the classes' colours as palette), overlays/NAME.png, and
    classes.yaml with names and colours; folders below `images` are kept. Images are turned as their EXIF tag says.
    All files are looked at before the first is written.

    Args:
        directory: results folder of an experiment.
        row: the complete row of a finished run in it.
        images: the folder, or one image.
        to: the folder for the results; files of the same names are replaced.
        on_progress: called with the number of images done and the total.

    Raises:
        ValueError: the folder holds no images or something else, two images give one name, `to` lies in `images`; or as
            `harness.load_student`.
    """
    found = image_files(images)
    if to.resolve().is_relative_to(images.resolve()):
        raise ValueError(f"--to {to}: lies in the folder of images, where it would be read the next time; give another")
    if images.resolve().is_relative_to(to.resolve()):
        raise ValueError(
            f"--to {to}: the images lie in it, as in a dataset, whose masks would be replaced; give another"
        )
    student = student_of(directory, row)
    student.to("cuda" if torch.cuda.is_available() else "cpu")
    table = class_table(student.class_names, student.palette)
    _require_own(to, table)
    write_atomic(_made(to / CLASSES), table)
    for done, (name, path) in enumerate(found.items(), start=1):
        pixels = decode.image_pixels(path.read_bytes(), path)
        try:
            classes = class_map(student, pixels)
        except (ValueError, RuntimeError) as error:  # too small for its strides, or too large for the memory
            size = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
            raise ValueError(f"{path}: the network fails on this image of {size}: {one_line(error, 300)}") from None
        write_atomic(_made(to / MASKS / f"{name}.png"), png(classes, student.palette))
        write_atomic(_made(to / OVERLAYS / f"{name}.png"), png(_overlay(pixels, classes, student.palette)))
        on_progress(done, len(found))
    return len(found)


def _require_own(to: Path, table: str) -> None:
    """Raise if a folder holds masks or classes of something else than such a network's predictions."""
    there = (to / CLASSES).is_file() and (to / CLASSES).read_bytes()
    theirs = there != table.encode() if (to / CLASSES).exists() else (to / MASKS).exists()
    if theirs:
        raise ValueError(f"--to {to}: holds masks or a {CLASSES} that are not this network's; give another folder")


def image_files(images: Path) -> dict[str, Path]:
    """The images of a folder and of the folders in it, by name without suffix, `/`-separated; or of one file.

    Hidden files and folders are passed over. What a file is follows from its content.

    Raises:
        ValueError: there are none, a file is no image that a network can be shown, or two have one name; a line each.
    """
    if images.is_file():
        problems = _problems(images)
        if problems:
            raise ValueError("\n".join(problems))
        return {images.stem: images}
    if not images.is_dir():
        raise ValueError(f"{images}: there is no such folder or image; correct --images")
    tree, problems = Tree(images), []
    found: dict[str, Path] = {}
    for name in _names(images, problems):
        try:
            path = tree.file(name)
        except ValueError as error:
            problems.append(str(error))
            continue
        problems += _problems(path)
        stem = str(PurePosixPath(name).with_suffix(""))
        if (other := found.setdefault(stem, path)) != path:
            problems.append(f"{path}: its prediction would have the name of that of {other.name}; rename one of them")
    if problems:
        more = [f"... and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise ValueError("\n".join([*problems[:SHOWN], *more]))
    if not found:
        raise ValueError(f"{images}: holds no images (PNG, JPEG, BMP, TIFF or WebP)")
    return dict(sorted(found.items()))


def _names(images: Path, problems: list[str]) -> list[str]:
    """All files below the folder by name, but hidden ones; links to folders are a problem: they may be endless."""

    def unread(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be listed ({error.strerror})")

    names = []
    for folder, below, files in os.walk(images, onerror=unread):
        below[:] = sorted(name for name in below if not name.startswith("."))
        here = Path(folder)
        links = [name for name in below if (here / name).is_symlink()]
        problems += [f"{here / name}: a link to a folder; give that folder itself" for name in links]
        names += [(here / name).relative_to(images).as_posix() for name in files if not name.startswith(".")]
    return sorted(names)


def _problems(path: Path) -> list[str]:
    """What keeps a file from being shown to a network; its pixels are not decoded."""
    if any("\ud800" <= letter <= "\udfff" for letter in str(path)):
        return [f"{quoted(path, 300)}: its name is not UTF-8; rename it"]
    if not path.exists():
        return [f"{path}: a link to a file that is not there; remove it"]
    if not path.is_file():
        return [f"{path}: not a file (a device, socket or pipe); remove it"]
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return [f"{path}: the file is empty. Fetch it again, or move it elsewhere"]
            # Not closed here: an error may still hold a view of it.
            decode.require_image(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), path)
    except OSError as error:
        return [f"{path}: cannot be read ({error.strerror})"]
    except ValueError as error:
        return [f"{str(error).rstrip('.')}. Or move what is no image elsewhere."]
    return []


@torch.no_grad()
def class_map(student: Student, pixels: Pixels) -> Pixels:
    """(H, W) uint8 class indices of an image (H, W, 3); downscaled and enlarged as `sstkd-bench predict` does."""
    small, _ = decode.shrink(pixels, None, student.short_side)
    image = torch.from_numpy(small.copy()).permute(2, 0, 1)[None].to(student.mean.device)
    classes: Pixels = student(image.float() / 255.0)[0].argmax(0).byte().cpu().numpy()
    if classes.shape != pixels.shape[:2]:
        classes = cv2.resize(classes, pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8)
    return classes


def png(pixels: Pixels, palette: Sequence[Sequence[int]] | None = None) -> bytes:
    """A PNG of (H, W) or (H, W, 3) uint8 pixels; (H, W) with the colours of a palette, by value, if one is given."""
    picture, buffer = PILImage.fromarray(pixels), io.BytesIO()
    if palette is not None:
        picture.putpalette(_colours(palette).tobytes())
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _overlay(pixels: Pixels, classes: Pixels, palette: Sequence[Sequence[int]]) -> Pixels:
    mixed: Pixels = cv2.addWeighted(pixels, 1 - SHARE, _colours(palette)[classes], SHARE, 0).astype(np.uint8)
    return mixed


def _colours(palette: Sequence[Sequence[int]]) -> Pixels:
    """(256, 3) colours by class index."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    return colours


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
