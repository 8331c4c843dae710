"""`sstkd-bench show texture`: the numbers behind the pictures, and the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from harness import texture, textureplots
from harness.cli import app
from harness.execute import execute
from harness.record import checkpoint_directory
from harness.runtime import Runtime
from sstkd import CDM, DTIEM
from tests import tiny

RUN = CliRunner()


def photograph(path: Path, height: int = 40, width: int = 56) -> Path:
    """Stripes that fall to the right, and noise."""
    y, x = np.indices((height, width))
    stripes = 127 + 90 * np.cos(2 * np.pi * (0.28 * x + 0.12 * y))
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3))
    Image.fromarray((stripes[..., None] + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def test_a_band_answers_in_its_own_wedge() -> None:
    for k in (2, 3):
        found = texture.wedges(k, CDM((k,)), 64)
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


def test_the_command_draws(tmp_path: Path) -> None:
    image = photograph(tmp_path / "a.png")
    found = RUN.invoke(app, ["show", "texture", str(image), "--to", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    for name in ("subbands", "wedges", "levels"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert np.array(picture.convert("L")).std() > 5
        assert f"{name}.png" in found.output
    assert not (tmp_path / "out" / "pair.png").exists() and "no networks" in found.output


def test_a_student_beside_its_teacher(tmp_path: Path) -> None:
    runs = tiny.plan(tmp_path, "train.steps=2", "pairs.0.teacher.steps=2", methods=["none", "kd"])
    for run in runs:
        runtime = Runtime.local(checkpoint_directory(tmp_path, run.run_id), device=torch.device("cpu"))
        execute(run, runtime, tmp_path)
    image = photograph(tmp_path / "a.png")
    kd = next(run for run in runs if run.method.name == "kd")
    arguments = ["show", "texture", str(image), "--to", str(tmp_path / "out"), "--results", str(tmp_path), "--run"]
    found = RUN.invoke(app, [*arguments, kd.run_id[:9]])
    assert found.exit_code == 0, found.output
    assert (tmp_path / "out" / "pair.png").stat().st_size > 5000
    teacher = next(run for run in runs if run.role == "teacher")
    for name, message in ((teacher.run_id, "a finished student with a teacher is needed"), ("zzz", "names 0 runs")):
        found = RUN.invoke(app, [*arguments, name])
        assert found.exit_code == 2 and message in found.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--levels", "3,x"], "--levels 3,x: write depths from 1 to 8"),
        (["--levels", "0,2"], "--levels 0,2"),
        (["--levels", "3,9"], "from 0 to 8"),
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


def test_large_images_are_reduced(tmp_path: Path) -> None:
    Image.new("RGB", (1300, 700)).save(tmp_path / "large.png")
    assert texture.read_image(tmp_path / "large.png", 8).shape == (272, 512, 3)
