"""Predictions as the test servers take them, from runs that were trained here."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from harness.datasets import DATASETS, SOURCES, cityscapes
from harness.datasets.voc2012 import VOC2012
from harness.metrics import miou
from harness.results import paths, store
from harness.training.execute import execute
from harness.training.predict import write_predictions
from harness.training.runtime import Runtime
from tests.support import tiny, trees
from tests.support.caches import prepared
from tests.support.commands import call, refused


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """By dataset: (experiment folder, run_id, root), trained on first use."""
    folder, patch, made = tmp_path_factory.mktemp("trained"), pytest.MonkeyPatch(), {}
    patch.setenv("SSTKD_BENCH_CACHE", str(folder / "remembered"))

    def get(name, **data):
        key = f"{name}{data}"
        if key not in made:
            root = folder / key / "root"
            root.mkdir(parents=True)
            trees.WRITE[name](root)
            train = {**tiny.TINY["train"], "augment": {"crop_hw": [32, 64]}, "eval_batch_size": 1}
            plan = tiny.plan(
                folder / key, train=train, data={"name": name, "root": str(root), "parameters": data}, methods=["none"]
            )
            experiment, run = folder / key / "tiny", plan[-1]
            runtime = Runtime.local(tmp_path_factory.mktemp("state"), device=torch.device("cpu"))
            assert execute(run, runtime, experiment) == "ok"
            made[key] = experiment, run.run_id, root
        return made[key]

    yield get
    patch.undo()


def confusion(predicted, label, classes):
    keep = label != 255
    return np.bincount(label[keep].astype(int) * classes + predicted[keep], minlength=classes**2)


def read(folder, name):
    with Image.open(folder / name) as picture:
        return picture.mode, np.asarray(picture)


def test_cityscapes_gets_label_ids_that_score_what_the_row_says(trained, tmp_path):
    experiment, run_id, root = trained("cityscapes")
    count = write_predictions(experiment, run_id[:8], "val", tmp_path)
    data = DATASETS["cityscapes"](root)
    assert count == len(data.val) == len(list(tmp_path.glob("*.png")))
    back = np.full(256, 255)
    back[list(cityscapes_ids())] = np.arange(19)
    total = 0
    for i, name in enumerate(data.val.names):
        mode, values = read(tmp_path, f"{name.split('/')[-1]}.png")
        assert mode == "L" and values.shape == data.val[i][1].shape and (back[values] < 19).all()
        total = total + confusion(back[values], data.val[i][1], 19)
    row = store.read_row(paths.run_path(experiment, run_id))
    np.testing.assert_array_equal(total, row["val_confusion"])
    assert miou(total.reshape(19, 19)) == row["val_miou"]


def cityscapes_ids():
    from harness.datasets.cityscapes import TRAIN_ID_TO_ID

    assert DATASETS["cityscapes"] is cityscapes
    return TRAIN_ID_TO_ID


@pytest.mark.slow
def test_voc_gets_palette_images_in_the_servers_folders(trained, tmp_path):
    experiment, run_id, root = trained("voc2012")
    write_predictions(experiment, run_id, "val", tmp_path)
    data = DATASETS["voc2012"](root)
    for name in data.val.names:
        path = tmp_path / "results/VOC2012/Segmentation/comp6_test_cls" / f"{name}.png"
        with Image.open(path) as picture:
            assert picture.mode == "P"
            colours = np.array(picture.getpalette()).reshape(-1, 3)
            assert np.asarray(picture).max() <= 20
        np.testing.assert_array_equal(colours[:21], VOC2012.palette)


@pytest.mark.slow
def test_ade20k_gets_one_to_150_at_the_size_of_the_photograph(trained, tmp_path):
    experiment, run_id, root = trained("ade20k", short_side=40)
    write_predictions(experiment, run_id, "val", tmp_path)
    data = DATASETS["ade20k"](root)
    for i, name in enumerate(data.val.names):
        mode, values = read(tmp_path, f"{name.split('/')[-1]}.png")
        assert mode == "L" and 1 <= values.min() <= values.max() <= 150
        assert values.shape == data.val[i][1].shape


def test_images_without_labels(trained, tmp_path):
    experiment, run_id, _ = trained("cityscapes")
    result = call("predict", experiment, run_id, "--to", tmp_path / "out", "--split", "test")
    assert f"{len(list((tmp_path / 'out').glob('*.png')))} predictions" in result.stdout
    assert len(list((tmp_path / "out").glob("*.png"))) >= 1


def test_a_cache_has_no_test_images(trained, tmp_path):
    experiment, run_id, root = trained("cityscapes")
    to = prepared(SOURCES["cityscapes"](root), root, tmp_path / "cache", variant={"annotations": "fine"})
    assert write_predictions(experiment, run_id, "val", tmp_path / "out", root=to) >= 1
    with pytest.raises(ValueError, match="is a prepared cache, without test images"):
        write_predictions(experiment, run_id, "test", tmp_path / "out", root=to)


def test_mistakes_are_named(trained, tmp_path):
    experiment, run_id, _ = trained("cityscapes")
    assert "allowed are val, dev, train, test" in refused(
        "predict", experiment, run_id, "--to", tmp_path, "--split", "x"
    )
    assert "names 0 rows" in refused("predict", experiment, "zzz", "--to", tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    trees.write_cityscapes(other, seed=5)
    text = refused("predict", experiment, run_id, "--to", tmp_path, "--root", other)
    assert "rows are not of today's content" in text and "; data " not in text and "(none, tiny, seed 0): data " in text
    assert "Where the data has moved: --root" in text and "--rerun-changed" in text


def test_weights_that_are_not_the_runs_are_refused_in_the_same_words(trained, tmp_path):
    experiment, run_id, _ = trained("cityscapes")
    here = tmp_path / "tiny"
    shutil.copytree(experiment, here)
    path = paths.weights_path(here, run_id)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    text = refused("predict", here, run_id, "--to", tmp_path / "out")
    assert "1 of 1 rows are not of today's content" in text and f"in {path}" in text and "--rerun-changed" in text
    assert not (tmp_path / "out").exists()
