"""Everything wrong with a dataset's folder is named, by its listing, by its loader and by the doctor."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.cli import doctor
from harness.datasets import DATASETS, SOURCES, decode
from harness.experiment.spec import Dataset
from tests.support import trees


@pytest.fixture(autouse=True)
def _own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))


# --- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_label_map_is_named(name, tmp_path):
    trees.made(name, tmp_path)
    image, label = trees.ONE[name]
    (tmp_path / label).unlink()
    assert trees.problems(name, tmp_path) == [f"{image}: its label map {label} is missing"]


@pytest.mark.parametrize("name", SOURCES)
def test_a_label_map_without_an_image_is_named(name, tmp_path):
    trees.made(name, tmp_path)
    image, label = trees.ONE[name]
    (tmp_path / image).unlink()
    found = trees.problems(name, tmp_path)
    assert f"{label}: a label map without an image" in found
    lists = [
        line for line in found if "2007_000000 is listed, and VOCdevkit/VOC2012/JPEGImages/2007_000000.jpg" in line
    ]
    assert len(found) == 1 + len(lists) and (name == "voc2012") == bool(lists)


@pytest.mark.parametrize("name", SOURCES)
def test_an_empty_root_is_explained(name, tmp_path):
    if name == "folder":
        trees.write_folder(tmp_path, train=0, val=0)
    found = trees.problems(name, tmp_path)
    assert found and all("missing" in line or "is there" in line or "is in none of" in line for line in found)


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_folder_is_one_line(name, tmp_path):
    trees.made(name, tmp_path)
    folder = Path(trees.ONE[name][1]).parent if name != "cityscapes" else Path("gtFine/train")
    shutil.rmtree(tmp_path / folder)
    assert f"{folder}: this folder of the dataset is missing" in trees.problems(name, tmp_path)
    assert len(trees.problems(name, tmp_path)) == 1


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("which", [0, 1])
def test_a_link_that_leaves_the_root_is_refused(name, which, tmp_path):
    trees.made(name, tmp_path / "tree")
    path = tmp_path / "tree" / trees.ONE[name][which]
    path.rename(tmp_path / f"outside{path.suffix}")
    path.symlink_to(tmp_path / f"outside{path.suffix}")
    (found,) = trees.problems(name, tmp_path / "tree")
    assert found.startswith(f"{trees.ONE[name][which]}: a symbolic link leads out of")


@pytest.mark.parametrize("name", SOURCES)
def test_a_linked_folder_that_leaves_the_root_is_refused(name, tmp_path):
    trees.made(name, tmp_path / "tree")
    folder = Path(trees.ONE[name][1]).parent
    (tmp_path / "tree" / folder).rename(tmp_path / "outside")
    (tmp_path / "tree" / folder).symlink_to(tmp_path / "outside", target_is_directory=True)
    found = trees.problems(name, tmp_path / "tree")
    assert any("a symbolic link leads out of" in line for line in found)


def test_several_problems_are_all_said(tmp_path):
    root = trees.write_cityscapes(tmp_path)
    files = sorted(root.glob("gtFine/train/*/*_labelIds.png"))
    for file in files[:3]:
        file.unlink()
    files = sorted(root.glob("leftImg8bit/val/*/*.png"))
    files[0].unlink()
    assert len(trees.problems("cityscapes", root)) == 4


@pytest.mark.parametrize("line", ["../2007_000001", "JPEGImages/../../x.jpg", "/etc/passwd", "a/b", ".hidden"])
@pytest.mark.parametrize(
    ("name", "list_file"),
    [
        ("voc2012", "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"),
        ("voc2012", "benchmark_RELEASE/dataset/val.txt"),
        ("folder", "train.txt"),
    ],
)
def test_names_in_lists_that_are_no_names(name, list_file, line, tmp_path):
    trees.write_folder(tmp_path, "lists") if name == "folder" else trees.made(name, tmp_path)
    with (tmp_path / list_file).open("a") as file:
        file.write(f"{line}\n")
    assert trees.problems(name, tmp_path) == [f"{list_file}: {line!r} is not the name of an image"]


@pytest.mark.parametrize(
    ("name", "list_file"),
    [("voc2012", "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"), ("folder", "val.txt")],
)
def test_names_in_lists_without_an_image_or_twice_or_lists_that_are_missing(name, list_file, tmp_path):
    trees.write_folder(tmp_path, "lists") if name == "folder" else trees.made(name, tmp_path)
    lines = (tmp_path / list_file).read_text().splitlines()
    (tmp_path / list_file).write_text("\n".join([*lines, lines[0], "nobody"]))
    found = trees.problems(name, tmp_path)
    assert found[0] == f"{list_file}: {lines[0]} is listed twice"
    assert len(found) == 2 and found[1].startswith(f"{list_file}: nobody is listed, and ")
    (tmp_path / list_file).write_bytes(b"\xff\xfe")
    assert any("not a text file" in line for line in trees.problems(name, tmp_path))
    (tmp_path / list_file).unlink()
    assert any(f"{list_file}: this list of the dataset is missing" in line for line in trees.problems(name, tmp_path))


def test_a_name_in_both_lists_is_refused(tmp_path):
    trees.write_folder(tmp_path, "lists")
    with (tmp_path / "val.txt").open("a") as file:
        file.write("train-3\n")
    assert trees.problems("folder", tmp_path)[0].endswith("train-3 is in train.txt and in val.txt; keep it in one")


def test_two_images_of_one_name_are_refused(tmp_path):
    trees.write_folder(tmp_path)
    shutil.copy(tmp_path / "images/train/train-0.jpg", tmp_path / "images/train/train-0.png")
    assert trees.problems("folder", tmp_path) == [
        "images/train/train-0.png: images/train/train-0.jpg has the same name; keep one of the two"
    ]


WRONG_VALUE = {"ade20k": 151, "camvid": 12, "cityscapes": 34, "folder": 3, "voc2012": 21}


@pytest.mark.parametrize("name", SOURCES)
def test_a_value_that_is_not_allowed_is_named_with_its_file(name, tmp_path):
    trees.made(name, tmp_path)
    path = tmp_path / trees.ONE[name][1]
    values = np.asarray(Image.open(path)).copy()
    values[3, 4:6] = WRONG_VALUE[name]
    trees.save(path, values, palette=name == "voc2012")
    with pytest.raises(
        ValueError, match=rf"{path.name}: label values {WRONG_VALUE[name]} \(2 pixels\) are not allowed"
    ):
        DATASETS[name](tmp_path)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("mode", ["RGB", "I;16", "garbage", "short"])
def test_a_label_map_that_is_none_is_named(name, mode, tmp_path):
    trees.made(name, tmp_path)
    path = tmp_path / trees.ONE[name][1]
    if mode == "short":
        path.write_bytes(path.read_bytes()[:-40])
    elif mode == "garbage":
        path.write_bytes(b"no picture at all")
    else:
        shape = (*trees.SIZE, 3) if mode == "RGB" else trees.SIZE
        Image.fromarray(np.zeros(shape, np.uint8 if mode == "RGB" else np.uint16)).save(path)
    expected = {"RGB": "this one has 3 channels", "I;16": "with 16 bits"}.get(mode, "not a readable label map")
    with pytest.raises(ValueError, match=rf"{path.name}: .*{expected}"):
        DATASETS[name](tmp_path)


@pytest.mark.parametrize("name", SOURCES)
def test_a_damaged_image_is_named(name, tmp_path):
    trees.made(name, tmp_path)
    path = tmp_path / trees.ONE[name][0]
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path.name}: not a readable image"):
            DATASETS[name](tmp_path)


def test_a_damaged_mat_is_named(tmp_path):
    trees.made("voc2012", tmp_path)
    path = tmp_path / "benchmark_RELEASE/dataset/cls/2008_000000.mat"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"2008_000000.mat: GTcls.Segmentation cannot be read"):
        DATASETS["voc2012"](tmp_path)


def test_mat_labels_reach_the_splits(tmp_path):
    trees.made("voc2012", tmp_path)
    data = DATASETS["voc2012"](tmp_path)
    names = [(part, i, name) for part in (data.train, data.dev) for i, name in enumerate(part.names)]
    part, i, name = next(item for item in names if item[2].startswith("2008"))
    path = tmp_path / f"benchmark_RELEASE/dataset/cls/{name}.mat"
    np.testing.assert_array_equal(part[i][1], decode.label_values(path.read_bytes(), path))


# --- doctor ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOURCES)
def test_the_doctor_looks_at_the_folder(name, tmp_path):
    assert doctor._data(Dataset(name=name))[0][:2] == ("data.root", False)
    trees.made(name, tmp_path)
    train, val = trees.COUNTS[name]
    ((_, fine, text),) = doctor._data(Dataset(name=name, root=str(tmp_path)))
    assert fine and f"{train} train" in text and f"{val} val" in text
    (tmp_path / trees.ONE[name][1]).unlink()
    ((_, fine, text),) = doctor._data(Dataset(name=name, root=str(tmp_path)))
    assert not fine and text.startswith("1 problem; the first: ") and "is missing" in text
    ((_, fine, text),) = doctor._data(Dataset(name=name, root=str(tmp_path / "nowhere")))
    assert not fine and "no such folder" in text


def test_the_doctor_has_nothing_to_say_of_embedded_data():
    assert doctor._data(Dataset(name="texmosaic")) == []
