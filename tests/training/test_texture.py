"""`sstkd-bench show texture`: the numbers behind the pictures, and the command."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from harness.cli.app import app
from harness.report.plots import texture as textureplots
from harness.results.paths import checkpoint_directory
from harness.training import texture
from harness.training.execute import execute
from harness.training.runtime import Runtime
from sstkd import CDM, DTIEM
from sstkd.contourlet import Boundary
from sstkd.filters import DIRECTIONAL, PyramidName
from tests.support import tiny

RUN = CliRunner()


def photograph(path: Path, height: int = 40, width: int = 56) -> Path:
    """Stripes that fall to the right, and noise."""
    y, x = np.indices((height, width))
    stripes = 127 + 90 * np.cos(2 * np.pi * (0.28 * x + 0.12 * y))
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    Image.fromarray((stripes[..., None] + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def test_a_band_answers_in_its_own_wedge() -> None:
    for k, boundary in ((2, "periodic"), (3, "periodic"), (3, "toolbox")):
        (found,) = texture.wedges(CDM((k,), boundary=boundary), 64)
        assert found.shape == (2**k, 64, 64)
        for band in range(2**k):
            theta = np.radians(textureplots.angle(band, k))
            scale = 18 / max(abs(np.cos(theta)), abs(np.sin(theta)))
            for sign in (1, -1):
                row, col = (32 + round(sign * scale * part) for part in (np.sin(theta), np.cos(theta)))
                assert found[:, row, col].argmax() == band


def test_stripes_have_their_energy_in_their_direction(tmp_path: Path) -> None:
    image = texture.read_image(photograph(tmp_path / "a.png", 64, 64), 8)
    coarse, fine = texture.direction_energy(texture.grey(image), CDM())
    assert coarse.shape == (8,) and fine.shape == (16,)
    assert coarse.sum() == pytest.approx(1) and fine.sum() == pytest.approx(1)
    # 0.12 rows to 0.28 columns: slope 3/7, (3/7 + 1) / 2 * 8 = 5.7
    assert fine.argmax() == 5


def test_equalisation_is_that_of_the_module() -> None:
    features = torch.randn(1, 4, 12, 10, generator=torch.Generator().manual_seed(0))
    dtiem = DTIEM(16)
    seen = texture.equalisation(features, dtiem)
    mean = features.mean((2, 3), keepdim=True)
    want = (features * mean).sum(1) / (features.norm(dim=1) * mean.norm(dim=1))
    np.testing.assert_allclose(seen.before, want[0].numpy(), rtol=1e-5, atol=1e-6)
    for share in (seen.counts, seen.denoised):
        assert share.shape == (16,) and share.sum() == pytest.approx(1)
    assert seen.denoised.max() < seen.counts.max() or seen.counts.max() <= 4 / 16
    np.testing.assert_allclose(seen.cumulative, np.cumsum(seen.denoised), rtol=1e-5)
    order = seen.before.ravel().argsort()
    assert (np.diff(seen.after.ravel()[order]) >= -1e-6).all(), "equalisation keeps the order"


@pytest.mark.slow
def test_the_command_draws(tmp_path: Path) -> None:
    image = photograph(tmp_path / "a.png")
    found = RUN.invoke(app, ["show", "texture", str(image), "--to", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    for name in ("subbands", "wedges", "levels"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert np.array(picture.convert("L")).std() > 5
        assert f"{name}.png" in found.output
    assert not (tmp_path / "out" / "pair.png").exists() and "no networks" in found.output


@pytest.mark.slow
def test_a_student_beside_its_teacher(tmp_path: Path) -> None:
    runs = tiny.plan(tmp_path, "train.steps=2", "pairs.0.teacher.steps=2", methods=["none", "kd"])
    for run in runs:
        if run.role == "student" and run.method.name == "none":
            continue
        runtime = Runtime.local(checkpoint_directory(tmp_path, run.run_id), device=torch.device("cpu"))
        execute(run, runtime, tmp_path)
    image = photograph(tmp_path / "a.png")
    kd = next(run for run in runs if run.method.name == "kd")
    arguments = ["show", "texture", str(image), "--to", str(tmp_path / "out"), "--results", str(tmp_path), "--run"]
    found = RUN.invoke(app, [*arguments, kd.run_id[:9]])
    assert found.exit_code == 0, found.output
    assert (tmp_path / "out" / "pair.png").stat().st_size > 5000
    teacher = next(run for run in runs if run.role == "teacher")
    for name, message in ((teacher.run_id, "choose a finished student that has a teacher"), ("zzz", "names 0 rows")):
        found = RUN.invoke(app, [*arguments, name])
        assert found.exit_code == 2 and message in found.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--levels", "3,x"], "--levels 3,x: write depths from 1 to 8"),
        (["--levels", "0,2"], "--levels 0,2: write depths from 1 to 8"),
        (["--levels", "3,9"], "--levels 3,9: write depths from 1 to 8"),
        (["--levels", "7,7"], "both sides must be at least 128"),
        (["--pyramid", "haar"], "unknown pyramid filters 'haar'"),
        (["--directional", "haar"], "unknown directional filters 'haar'"),
        (["--boundary", "zero"], "unknown boundary 'zero'"),
        (["--quantization-levels", "1"], "levels is 1"),
        (["--run", "abc"], "--results and --run belong together"),
    ],
)
def test_wrong_options(tmp_path: Path, options: list[str], message: str) -> None:
    image = photograph(tmp_path / "a.png")
    found = RUN.invoke(app, ["show", "texture", str(image), "--to", str(tmp_path / "out"), *options])
    assert found.exit_code == 2 and message in found.output
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_image(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    for name, message in (("missing.png", "there is no such image"), ("text.png", "cannot be read as an image")):
        found = RUN.invoke(app, ["show", "texture", str(tmp_path / name), "--to", str(tmp_path / "out")])
        assert found.exit_code == 2 and name in found.output and message in found.output


def refused(tmp_path: Path, *arguments: object) -> str:
    found = RUN.invoke(app, ["show", "texture", *map(str, arguments)])
    assert found.exit_code == 2 and "Traceback" not in found.output, found.output
    return found.output


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ["--to", tmp_path / "out"]
    assert f"{tmp_path}: is a folder; give an image file" in refused(tmp_path, tmp_path, *out)
    Image.new("RGB", (5000, 3)).save(tmp_path / "thin.png")
    message = refused(tmp_path, tmp_path / "thin.png", *out)
    assert "thin.png: 5000 x 3 pixels" in message and "must be at least 8" in message and "crop" in message
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "float.tiff")
    assert "8 or 16 bits are needed" in refused(tmp_path, tmp_path / "float.tiff", *out)
    photograph(tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    assert "a.png: cannot be read as an image" in refused(tmp_path, tmp_path / "a.png", *out)
    photograph(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # refuses above twice that
    assert "b.png: the image is too large" in refused(tmp_path, tmp_path / "b.png", *out)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # warns above that, and 40 x 56 is not too large
    assert texture.read_image(tmp_path / "b.png", 8).shape == (40, 56, 3)


@pytest.mark.slow
def test_what_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, file = photograph(tmp_path / "a.png"), tmp_path / "file"
    file.write_text("kept")
    for to in (file, file / "below"):
        assert f"--to {to}: {file} is a file; give a folder" in refused(tmp_path, image, "--to", to)
    assert file.read_text() == "kept"

    def denied(path: Path, content: bytes) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", denied)
    message = refused(tmp_path, image, "--to", tmp_path / "out")
    assert "Permission denied" in message and "give another folder" in message and "subbands.png" in message


def test_sixteen_bits_are_scaled_by_their_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(ramp).save(tmp_path / name)
    (tmp_path / "a.pgm").write_bytes(b"P5 32 32 65535\n" + ramp.astype(">u2").tobytes())
    for name in ("a.png", "a.tiff", "a.pgm"):
        found = texture.read_image(tmp_path / name, 8)
        np.testing.assert_allclose(found[..., 0], ramp / 257, atol=0.51)


def test_images_are_turned_upright(tmp_path: Path) -> None:
    Image.open(photograph(tmp_path / "a.png", 32, 48)).save(tmp_path / "plain.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.open(tmp_path / "plain.jpg").save(tmp_path / "turned.jpg", quality=95, exif=exif)
    plain, turned = (texture.read_image(tmp_path / f"{name}.jpg", 8).astype(int) for name in ("plain", "turned"))
    assert turned.shape == (48, 32, 3) and abs(turned - np.rot90(plain, -1)).mean() < 8


def bounded(figure: Figure) -> None:
    assert (figure.get_size_inches() <= (11, 25)).all()
    for axes in figure.axes:
        box = axes.get_position()
        assert -0.001 <= box.x0 <= box.x1 <= 1.001 and -0.001 <= box.y0 <= box.y1 <= 1.001


@pytest.mark.parametrize(("height", "width"), [(512, 16), (16, 512)])
def test_long_images_make_no_long_figures(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    found = texture.subbands(pixels, (4, 2), CDM((4, 2)))
    bands = [[band[0, 0].numpy() for band in level] for level in found.bands]
    bounded(textureplots.subband_picture(pixels, found.lowpass[0, 0].numpy(), bands, "transform"))


@pytest.mark.slow
def test_many_directions_make_no_long_figures() -> None:
    flat = np.ones((256, 8, 8))
    bounded(textureplots.wedge_picture([flat, flat[:2]], "transform"))
    bounded(textureplots.subband_picture(np.zeros((8, 8, 3), np.uint8), flat[0], [[*flat], [*flat[:2]]], "transform"))


@pytest.mark.slow
@pytest.mark.parametrize("pyramid", ["9-7", "pkva"])
def test_a_constant_image_has_empty_bands_and_its_own_grey(tmp_path: Path, pyramid: str) -> None:
    pixels = np.full((64, 64, 3), 118, np.uint8)
    cdm = CDM((3, 4), pyramid)  # type: ignore[arg-type]
    found = texture.subbands(pixels, (3, 4), cdm)
    bands = [[band[0, 0].numpy() for band in level] for level in found.bands]
    figure = textureplots.subband_picture(pixels, found.lowpass[0, 0].numpy(), bands, "transform")
    low, *panels = [axes.images[0] for axes in figure.axes[1:]]
    assert len(panels) == 24 and all(np.abs(np.asarray(panel.get_array())).max() < 0.01 for panel in panels)
    assert {panel.get_clim() for panel in panels} == {(0, 1)}
    assert low.norm(np.asarray(low.get_array()).mean()) == pytest.approx(118 / 255, abs=0.02)
    seen = texture.equalisation(texture.edges(pixels), DTIEM(16))
    assert np.ptp(seen.after) == 0
    textureplots.level_picture(pixels, seen).canvas.draw()


def test_the_histogram_after_equalisation_is_shown(tmp_path: Path) -> None:
    pixels = texture.read_image(photograph(tmp_path / "a.png", 64, 64), 8)
    seen = texture.equalisation(texture.edges(pixels), DTIEM(16))
    figure = textureplots.level_picture(pixels, seen)
    before, _, after = figure.axes[3:]
    assert "before" in before.get_title() and "after" in after.get_title()
    heights = [np.array([bar.get_height() for bar in axes.patches][:16]) for axes in (before, after)]
    assert all(each.sum() == pytest.approx(1) for each in heights)
    np.testing.assert_allclose(heights[1], np.histogram(seen.after.clip(0, 1), 16, (0, 1))[0] / 64**2)
    # The example tells something: equalisation moves the shares towards the uniform one.
    assert abs(heights[1] - 1 / 16).sum() < 0.7 * abs(heights[0] - 1 / 16).sum()


def test_help_names_every_filter() -> None:
    text = " ".join(RUN.invoke(app, ["show", "texture", "--help"], env={"COLUMNS": "200"}).output.split())
    for name in (*DIRECTIONAL, *get_args(PyramidName), *get_args(Boundary)):
        assert name in text, name


def test_a_run_is_read_by_its_own_options() -> None:
    own = {"stages": ("stage2",), "stride": 4, "levels": (2,), "boundary": "toolbox", "quantization_levels": 7}
    plain = tiny.plan(Path("results"), methods=["none", {"sstkd": own}])
    student = next(run for run in plain if run.method.name == "sstkd")
    read = texture.reading(student, CDM(), DTIEM())
    assert (read.stages, read.stride, read.cdm.levels, read.dtiem.levels) == (("stage2",), 4, (2,), 7)
    assert read.cdm.plan.boundary == "toolbox" and "run" in read.source
    other = texture.reading(next(run for run in plain if run.method.name == "none"), CDM((1,)), DTIEM(5))
    assert (other.stages, other.stride, other.cdm.levels, other.dtiem.levels) == (("stage1", "stage2"), 8, (1,), 5)


def test_large_images_are_reduced(tmp_path: Path) -> None:
    Image.new("RGB", (1300, 700)).save(tmp_path / "large.png")
    assert texture.read_image(tmp_path / "large.png", 8).shape == (272, 512, 3)
