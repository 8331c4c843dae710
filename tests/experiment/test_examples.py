"""The experiment files of docs/examples: short, valid, and each trains end to end."""

from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch

from harness.experiment.load import load
from harness.experiment.plan import outline
from harness.results import paths, store
from harness.training.execute import execute
from harness.training.runtime import Runtime
from tests.support import trees

FOLDER = Path(__file__).parents[2] / "docs" / "examples"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
SMALL = ["train.steps=3", "train.batch_size=2", "train.augment.crop_hw=[64, 64]", "train.eval_every=3", "seeds=[0]"]
MOST_LINES = 25


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of CamVid, weights as others saved them, and the example's module."""
    (tmp_path / "camvid").mkdir()
    trees.WRITE["camvid"](tmp_path / "camvid")
    torch.save(smp.Unet("resnet18", encoder_weights=None, classes=11).state_dict(), tmp_path / "teacher.pth")
    for name, value in {"CAMVID": tmp_path / "camvid", "WEIGHTS": tmp_path, "SSTKD_BENCH_CACHE": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.syspath_prepend(str(FOLDER))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_every_run_of_it_is_made(file: str, places: Path) -> None:
    experiment = load(FOLDER / file, SMALL)
    assert [method.label for method in experiment.methods] == ["none", "kd", "cwd", "sstkd"]
    runs = outline(experiment)
    for run in runs:
        runtime = Runtime.local(places / "work" / run.run_id, device=torch.device("cpu"), threads=1)
        assert execute(run, runtime, places) == "ok", store.read_row(paths.run_path(places, run.run_id))["message"]
        row = store.read_row(paths.run_path(places, run.run_id))
        assert sum(row["val_confusion"]) > 0 and all(point["terms"]["task"] > 0 for point in row["losses"])
    assert [run.role for run in runs] == ["teacher", *["student"] * 4]


@pytest.mark.parametrize("file", FILES)
def test_it_is_short(file: str) -> None:
    assert len((FOLDER / file).read_text().splitlines()) <= MOST_LINES
