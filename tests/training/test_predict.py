"""Predictions as the test servers take them, from runs that were trained here."""

import os
import runpy
import shutil

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import harness
from harness.datasets import DATASETS, SOURCES, cityscapes
from harness.datasets.folder import read_classes
from harness.datasets.voc2012 import VOC2012
from harness.metrics import miou
from harness.results import paths, store
from harness.training.execute import execute
from harness.training.predict import write_predictions
from harness.training.runtime import Runtime
from tests.support import tiny, trees
from tests.support.caches import prepared
from tests.support.commands import ROOT, call, refused


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


# --- A folder of images ------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path):
    """A folder of images of several sizes and formats, one of them stored turned."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    (folder / "below").mkdir(parents=True)
    for name, size in (("a.png", (70, 45)), ("b.jpeg", (33, 128)), ("below/c.webp", (64, 64)), ("d.e.bmp", (40, 50))):
        Image.fromarray(cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), size[::-1])).save(folder / name)
    turned = Image.Exif()
    turned[0x112] = 6
    Image.open(folder / "b.jpeg").save(folder / "turned.jpg", exif=turned)
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


def test_a_folder_of_images_gets_masks_overlays_and_classes(trained, photos, tmp_path):
    experiment, run_id, _ = trained("cityscapes")
    to = tmp_path / "out"
    result = call("predict", "none/0", "--results", experiment.parent, "--images", photos, "--to", to)
    assert result.stdout == f"{to}: 5 predictions\n"
    names = {"a": (70, 45), "b": (33, 128), "below/c": (64, 64), "d.e": (40, 50), "turned": (128, 33)}
    assert sorted(str(p.relative_to(to / "masks")) for p in (to / "masks").rglob("*.png")) == sorted(
        f"{name}.png" for name in names
    )
    classes = read_classes(to / "classes.yaml").classes
    assert [c.name for c in classes][:2] == ["road", "sidewalk"] and len(classes) == 19
    student = harness.load_student(run_id[:9], experiment)
    for name, size in names.items():
        with Image.open(to / "masks" / f"{name}.png") as picture:
            colours = np.array(picture.getpalette()).reshape(-1, 3)
            assert picture.mode == "P" and colours[:19].tolist() == [list(c.colour) for c in classes]
            values = np.asarray(picture)
        mode, overlay = read(to / "overlays", f"{name}.png")
        assert mode == "RGB" and overlay.shape[:2] == values.shape == size
        if name in ("a", "d.e"):
            pixels = read(photos, f"{name}.{'png' if name == 'a' else 'bmp'}")[1]
            image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
            np.testing.assert_array_equal(student(image).argmax(1)[0].numpy(), values)
            expected = 0.5 * pixels + 0.5 * colours[values]
            assert np.abs(overlay - expected).max() <= 1
    # The same again, of one image: files of the same names are replaced, others stay.
    assert call("predict", experiment, run_id, "--images", photos / "a.png", "--to", to).stdout.endswith(
        "1 predictions\n"
    )
    assert (to / "masks" / "b.png").exists()


STRANGE = {
    "text.jpg": (lambda p: p.write_text("hello"), "text.jpg: not a readable image"),
    "empty.png": (lambda p: p.write_bytes(b""), "empty.png: the file is empty"),
    "notes.txt": (lambda p: p.write_text("hello"), "notes.txt: not a readable image"),
    "deep.png": (lambda p: Image.fromarray(np.zeros((4, 4), np.uint16)).save(p), "deep.png: an image has 8 bits"),
    "clear.png": (lambda p: Image.new("RGBA", (4, 4)).save(p), "clear.png: an image has one or three channels"),
    "gone.png": (lambda p: p.symlink_to("nowhere"), "gone.png"),
    "out.png": (lambda p: p.symlink_to("/etc/passwd"), "out.png: a symbolic link leads out of"),
    "pipe.png": (lambda p: os.mkfifo(p), "pipe.png: not a file"),
    "loop": (lambda p: p.symlink_to("."), "loop: a link to a folder"),
    "a.jpg": (lambda p: Image.new("RGB", (4, 4)).save(p), "would have the name of that of a.jpg"),
    "moving.gif": (lambda p: Image.new("RGB", (4, 4)).save(p), "Save it as one of these. Or move what is no image"),
    "alpha.png": (lambda p: Image.new("LA", (4, 4)).save(p), ".save(file). Or move what is no image elsewhere."),
    "bomb.png": (
        lambda p: p.write_bytes(
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\x7f\xff\xff\xff" * 2 + b"\x08\x02\0\0\0" + b"\0" * 4
        ),
        "bomb.png: declares",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_things_in_the_folder_are_named_before_anything_is_written(trained, photos, tmp_path, name):
    experiment, run_id, _ = trained("cityscapes")
    make, words = STRANGE[name]
    make(photos / name)
    text = refused("predict", experiment, run_id, "--images", photos, "--to", tmp_path / "out")
    assert words in text and text.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_cut_short_is_named_and_leaves_complete_files(trained, photos, tmp_path):
    experiment, run_id, _ = trained("cityscapes")
    path = photos / "b.jpeg"
    path.write_bytes(path.read_bytes()[:-300])
    text = refused("predict", experiment, run_id, "--images", photos, "--to", tmp_path / "out")
    assert f"{path}: not a readable image" in text
    for written in (tmp_path / "out").rglob("*.png"):
        Image.open(written).load()
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_an_image_that_the_network_does_not_take_is_named(trained, tmp_path):
    experiment, run_id, _ = trained("cityscapes")
    path = tmp_path / "dot.png"
    Image.new("RGB", (5, 4)).save(path)
    text = refused("predict", experiment, run_id, "--images", path, "--to", tmp_path / "out")
    assert f"{path}: the network fails on this image of 5 x 4 pixels" in text and text.count("\n") == 1


def test_labels_of_data_are_not_replaced(trained, photos, tmp_path):
    experiment, *_ = trained("cityscapes")
    fields = tmp_path / "fields"
    shutil.copytree(photos, fields / "images")
    (fields / "masks").mkdir()
    words = ("predict", "none/0", "--results", experiment.parent, "--images")
    assert "the images lie in it, as in a dataset" in refused(*words, fields / "images", "--to", fields)
    assert "masks or a classes.yaml that are not this network's" in refused(*words, photos, "--to", fields)
    for text in (b"classes: [{name: soil, value: 0}]", b"\xff\xfe\0"):
        (fields / "classes.yaml").write_bytes(text)
        assert "masks or a classes.yaml that are not this network's" in refused(*words, photos, "--to", fields)
    (fields / "classes.yaml").unlink()
    (fields / "classes.yaml").mkdir()
    assert "masks or a classes.yaml that are not this network's" in refused(*words, photos, "--to", fields)
    assert not [*(fields / "masks").iterdir()]


def test_calls_that_contradict_themselves(trained, photos, tmp_path):
    experiment, run_id, root = trained("cityscapes")
    empty = tmp_path / "empty"
    empty.mkdir()
    for words, said in (
        (("--images", photos, "--split", "val"), "--images and --split"),
        (("--images", photos, "--root", root), "--images and --root"),
        (("--images", photos, "--results", tmp_path), "is given already"),
        (("--images", empty), "holds no images"),
        (("--images", tmp_path / "no"), "there is no such folder or image; correct --images"),
    ):
        assert said in refused("predict", experiment, run_id, *words, "--to", tmp_path / "out")
    text = refused("predict", experiment, run_id, "--images", photos, "--to", photos / "out")
    assert "lies in the folder of images" in text


# --- load_student ------------------------------------------------------------------------------------------------------


def test_a_loaded_student_predicts_what_predict_writes(trained, tmp_path):
    experiment, run_id, root = trained("cityscapes")
    write_predictions(experiment, run_id, "val", tmp_path)
    student = harness.load_student(store.read_run(experiment, run_id), experiment.parent)
    assert isinstance(student, torch.nn.Module) and not student.training
    assert student.class_names[0] == "road" and len(student.palette) == 19 and student.run_id == run_id
    data = DATASETS["cityscapes"](root)
    back = np.full(256, 255)
    back[list(cityscapes_ids())] = np.arange(19)
    for i, name in enumerate(data.val.names):
        image = torch.from_numpy(data.val[i][0].copy()).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            logits = student(image)
        assert logits.shape == (1, 19, *image.shape[-2:])
        written = back[read(tmp_path, f"{name.split('/')[-1]}.png")[1]]
        np.testing.assert_array_equal(logits.argmax(1)[0].numpy(), written)


def test_its_normalisation_has_the_bits_of_training():
    from harness.datasets import DataInfo
    from harness.datasets.filedata import MEAN, STD
    from harness.experiment.recipe import Evaluation
    from harness.training.normalize import normalised_images
    from harness.training.student import Student

    class Seen(torch.nn.Module):
        def forward(self, image):
            self.image = image
            return type("Taps", (), {"full": image})

    for bgr in (False, True):
        info = DataInfo("x", 1, ("a",), ((0, 0, 0),), MEAN, STD, "", "", bgr=bgr)
        pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3).contiguous()
        student = Student(Seen(), info, Evaluation(), None, "x")
        student(pixels.permute(0, 3, 1, 2) / 255)
        wanted = normalised_images(pixels, info, torch.contiguous_format)
        assert torch.equal(student.network.image, wanted)


def test_a_downscaled_dataset_is_downscaled_inside(trained, tmp_path):
    experiment, run_id, _ = trained("cityscapes", short_side=32)
    student = harness.load_student(run_id, experiment)
    assert student.short_side == 32
    large, small = torch.rand(1, 3, 64, 96), torch.rand(1, 3, 32, 48)
    assert student(large).shape[-2:] == (64, 96) and student(small).shape[-2:] == (32, 48)
    image = torch.nn.functional.interpolate(small, scale_factor=2, mode="nearest")
    halves = student(image)[..., ::2, ::2].argmax(1)
    assert (halves == student(small).argmax(1)).float().mean() > 0.9


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.zeros(3, 8, 8), "has the shape"),
        (torch.zeros(1, 4, 8, 8), "has the shape"),
        (torch.zeros(0, 3, 8, 8), "has the shape"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "is of torch.uint8"),
        (torch.full((1, 3, 8, 8), 255.0), "values from 255 to 255"),
        (torch.full((1, 3, 8, 8), -2.0), "values from -2"),
        (torch.full((1, 3, 8, 8), float("nan")), "values from nan"),
        (np.zeros((1, 3, 8, 8)), "image is ndarray"),
    ],
    ids=["no batch", "four channels", "no image", "bytes", "0 to 255", "normalised", "nan", "numpy"],
)
def test_images_that_are_not_in_0_to_1_are_refused(trained, image, words):
    experiment, run_id, _ = trained("cityscapes")
    with pytest.raises(ValueError, match=words):
        harness.load_student(run_id, experiment)(image)


def test_gradients_reach_the_image_and_the_module_can_be_saved(trained, tmp_path):
    experiment, run_id, _ = trained("cityscapes")
    student = harness.load_student(run_id, experiment)
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    student(image).sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert not {"mean", "std"} & student.state_dict().keys()


def test_what_is_no_run_is_not_loaded(trained, tmp_path):
    experiment, run_id, _ = trained("cityscapes")
    for wrong in ("", "zzz", None, 7, {}, {"run_id": 3}, {"run_id": "zzz"}):
        with pytest.raises(ValueError, match=r"names 0 rows|the run is|no run_id"):
            harness.load_student(wrong, experiment)
    here = tmp_path / "tiny"
    shutil.copytree(experiment, here)
    paths.weights_path(here, run_id).unlink()
    with pytest.raises(ValueError, match="the weight file is missing"):
        harness.load_student(run_id, here)


def test_the_example_script_writes_what_predict_writes(trained, photos, tmp_path, monkeypatch, capsys):
    experiment, run_id, _ = trained("cityscapes")
    call("predict", run_id, "--results", experiment, "--images", photos, "--to", tmp_path / "out")
    for name in ("a.png", "turned.jpg"):
        mask = tmp_path / "mask.png"
        monkeypatch.setattr("sys.argv", ["predict.py", "none/0", str(experiment), str(photos / name), str(mask)])
        runpy.run_path(str(ROOT / "docs" / "examples" / "predict.py"))
        assert "%" in capsys.readouterr().out
        agree = read(tmp_path, "mask.png")[1] == read(tmp_path / "out" / "masks", f"{name.partition('.')[0]}.png")[1]
        # Two decoders of JPEG differ by a grey level here and there.
        assert agree.all() if name == "a.png" else agree.mean() > 0.98
