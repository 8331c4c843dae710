"""The user's own folder in other layouts, with masks in colours, with images for prediction and without labels."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.datasets import DATASETS, SOURCES, cache
from harness.datasets.inspect import check, source_of
from harness.datasets.tree import Tree
from harness.execution.prepare_data import prepare
from harness.experiment.load import load
from harness.experiment.method import dataset_entry
from harness.experiment.plan import plan
from tests.support import tiny, trees

COLOURS = """
masks: colours
classes:
  - {name: soil, colour: [10, 0, 0]}
  - {name: crop, colour: [0, 158, 115]}
ignore_colours: [[0, 0, 0], [255, 255, 255]]
"""


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))


def parameters(**given: Any) -> dict[str, Any]:
    return dataset_entry("folder").parameters.model_validate_json(json.dumps(given)).model_dump(mode="json")


def moved(root: Path, rename: Any) -> Path:
    """A folder of folders with each image and mask in another place: `rename(kind, split, name)`."""
    made = trees.write_folder(root / "before")
    for path in sorted(made.rglob("*.*")):
        if path.name == "classes.yaml":
            to = root / "data" / path.name
        else:
            kind, split, name = path.relative_to(made).parts
            to = root / "data" / rename(kind, split, name)
        to.parent.mkdir(parents=True, exist_ok=True)
        path.rename(to)
    return root / "data"


def like_cityscapes(kind: str, split: str, name: str) -> str:
    stem, _, ending = name.rpartition(".")
    city = f"city{int(stem.split('-')[1]) % 3}"
    if kind == "images":
        return f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.{ending}"
    return f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png"


def like_voc(root: Path) -> Path:
    data = moved(root, lambda kind, split, name: f"{'JPEGImages' if kind == 'images' else 'SegmentationClass'}/{name}")
    for split, count in (("train", 8), ("val", 3)):
        file = data / f"ImageSets/Segmentation/{split}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{split}-{i}\n" for i in range(count)))
    return data


def pixels(data: Any) -> list[bytes]:
    return sorted(
        split[i][j].tobytes() for split in (data.train, data.dev, data.val) for i in range(len(split)) for j in (0, 1)
    )


def test_other_layouts_have_the_same_pairs(tmp_path: Path) -> None:
    plain = pixels(DATASETS["folder"](trees.write_folder(tmp_path / "plain")))
    cities = DATASETS["folder"](moved(tmp_path / "c", like_cityscapes), layout="cityscapes")
    assert pixels(cities) == plain and cities.val.names == ["city0/val-0", "city1/val-1", "city2/val-2"]
    train, dev = ({name.split("/")[0] for name in split.names} for split in (cities.train, cities.dev))
    assert not train & dev, "dev is cut by whole cities"
    voc = DATASETS["folder"](like_voc(tmp_path / "v"), layout="voc")
    assert pixels(voc) == plain and voc.val.names == ["val-0", "val-1", "val-2"]


def test_of_two_kinds_of_masks_the_class_table_says_which(tmp_path: Path) -> None:
    root = moved(tmp_path / "c", like_cityscapes)
    for path in root.glob("gtFine/*/*/*_labelIds.png"):
        with Image.open(path) as mask:
            Image.new("RGB", mask.size, (10, 0, 0)).save(str(path).replace("labelIds", "color"))
    assert DATASETS["folder"](root, layout="cityscapes").info.num_classes == 3
    (root / "classes.yaml").write_text(COLOURS)
    coloured = DATASETS["folder"](root, layout="cityscapes")
    assert coloured.info.num_classes == 2 and not coloured.val[0][1].any()


def test_their_problems_are_named(tmp_path: Path) -> None:
    root = like_voc(tmp_path / "v")
    lists = root / "ImageSets/Segmentation"
    (lists / "val.txt").write_text("val-0\ntrain-1\n../x\nabsent\n")
    (root / "SegmentationClass" / "val-0.png").unlink()
    found = "\n".join(SOURCES["folder"](root, layout="voc").listing(Tree(root), layout="voc").problems)
    for words in (
        "train.txt: train-1 is in val.txt too",
        "'../x' is not the name of an image",
        "absent is listed, and JPEGImages/absent.jpg is missing",
        "its label map SegmentationClass/val-0.png is missing",
    ):
        assert words in found
    root = moved(tmp_path / "c", like_cityscapes)
    (root / "gtFine/val/city0/val-0_gtFine_labelIds.png").unlink()
    (found,) = SOURCES["folder"](root, layout="cityscapes").listing(Tree(root), layout="cityscapes").problems
    assert "its label map gtFine/val/city0/val-0_gtFine_labelIds.png is missing" in found
    with pytest.raises(ValueError, match=r"layout"):
        DATASETS["folder"](root, layout="coco")


def write_colours(root: Path, text: str = COLOURS, **changed: tuple[int, int, int]) -> Path:
    rng = np.random.default_rng(0)
    table = np.array([[10, 0, 0], [0, 158, 115], [0, 0, 0], [255, 255, 255]], np.uint8)
    for split, count in (("train", 5), ("val", 2)):
        for i in range(count):
            values = rng.integers(0, 4, (12, 16))
            for kind, picture in (
                ("images", rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)),
                ("masks", table[values]),
            ):
                path = root / kind / split / f"{split}{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
    (root / "classes.yaml").write_text(text)
    return root


@pytest.mark.slow
def test_masks_in_colours(tmp_path: Path) -> None:
    root = write_colours(tmp_path)
    data = DATASETS["folder"](root)
    assert data.info.palette == ((10, 0, 0), (0, 158, 115)) and data.info.class_names == ("soil", "crop")
    mask = np.asarray(Image.open(root / "masks/val/val0.png"))
    expected = np.full(mask.shape[:2], 255)
    expected[(mask == (10, 0, 0)).all(-1)], expected[(mask == (0, 158, 115)).all(-1)] = 0, 1
    assert (data.val[0][1] == expected).all()
    source, variant, _ = source_of("folder", root, parameters())
    prepare(source, root, tmp_path / "cache", variant)
    again = DATASETS["folder"](tmp_path / "cache")
    assert again.info.content_hash == data.info.content_hash and (again.val[0][1] == expected).all()


def test_the_colour_table_is_part_of_the_content(tmp_path: Path) -> None:
    first = DATASETS["folder"](write_colours(tmp_path)).info.content_hash
    other = COLOURS.replace("[10, 0, 0]", "[255, 255, 255]").replace(", [255, 255, 255]]", ", [10, 0, 0]]")
    (tmp_path / "classes.yaml").write_text(other)
    assert DATASETS["folder"](tmp_path).info.content_hash != first


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (", [255, 255, 255]]", "]", r"pixels have 1 colours that no class has, the first \[255, 255, 255\]\. Add it"),
        (", colour: [10, 0, 0]", "", "classes.yaml:4: classes.0.colour: this key is missing; with masks: colours"),
        ("soil, ", "soil, value: 1, ", "classes.0.value: not with masks: colours; delete it"),
        ("[0, 0, 0],", "[10, 0, 0],", r"the colour \(10, 0, 0\) occurs 2 times"),
        ("ignore_colours: [[0, 0, 0], [255, 255, 255]]", "ignore: [0]", "ignore: not with masks: colours"),
        ("[10, 0, 0]", "[10, 0, 256]", "classes.0.colour.2"),
        ("masks: colours", "masks: rgb", "masks: "),
        ("masks: colours", "", "classes.0.value: this key is missing"),
    ],
)
def test_a_wrong_colour_table_is_refused(tmp_path: Path, before: str, after: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DATASETS["folder"](write_colours(tmp_path, COLOURS.replace(before, after)))


def test_masks_in_colours_are_lossless(tmp_path: Path) -> None:
    root = write_colours(tmp_path)
    path = root / "masks/val/val0.png"
    Image.open(path).save(path, format="JPEG")
    with pytest.raises(ValueError, match=r"val0.png: a label map in colours is lossless"):
        DATASETS["folder"](root)


def test_images_for_prediction_need_no_masks(tmp_path: Path) -> None:
    root = trees.write_folder(tmp_path)
    before = DATASETS["folder"](root).info.content_hash
    trees.save(root / "images/test/new.png", np.zeros((8, 9, 3), np.uint8))
    source = SOURCES["folder"](root)
    assert source.listing(Tree(root)).problems == []
    assert source.listing(Tree(root)).notes == ["images/test: 1 images for prediction; no run sees them"]
    assert [(s.name, s.image, s.label) for s in source.unlabelled(Tree(root))] == [("new", "images/test/new.png", None)]
    assert DATASETS["folder"](root).info.content_hash == before


@pytest.mark.parametrize("name", ["", "a.jpg", "a/b.jpg", "a/b/c.png", ".hidden", "notes.txt", "a\x1b.png"])
@pytest.mark.parametrize("flat", [False, True])
def test_nothing_among_the_images_for_prediction_refuses_the_others(tmp_path: Path, name: str, flat: bool) -> None:
    root = trees.write_folder(tmp_path)
    if flat:
        for kind in ("images", "masks"):
            for path in list(root.glob(f"{kind}/*/*")):
                path.rename(root / kind / path.name)
            for split in ("train", "val"):
                (root / kind / split).rmdir()
    before = DATASETS["folder"](root).info.content_hash
    (root / "images/test").mkdir()
    (root / "images/test/a.png").write_bytes(b"no image")
    if name:
        (root / "images/test" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images/test" / name).write_bytes(b"")
    else:
        (root / "images/test/a.png").unlink()
    found = check("folder", root, parameters())
    assert found.problems == [] and any("images for prediction; no run sees them" in note for note in found.notes)
    assert DATASETS["folder"](root).info.content_hash == before


def test_images_for_prediction_may_lie_in_folders(tmp_path: Path) -> None:
    root = trees.write_folder(tmp_path)
    for name in ("a b.png", "camera 1/a b.png", "camera 2/A.JPG"):
        trees.save(root / "images/test" / name, np.zeros((8, 9, 3), np.uint8))
    found = SOURCES["folder"](root).unlabelled(Tree(root))
    assert [sample.name for sample in found] == ["a b", "camera 1/a b", "camera 2/A"]


def test_images_that_are_evaluated_are_not_unlabelled(tmp_path: Path) -> None:
    root = trees.write_folder(tmp_path)
    with pytest.raises(ValueError, match=r"images/val: 3 of its images are of train or val, e.g. images/val/val-0"):
        DATASETS["folder"](root, unlabelled="images/val")
    for name in ("", ".", "./"):
        with pytest.raises(ValueError, match="name a folder below the root, or leave it out"):
            DATASETS["folder"](root, unlabelled=name)


def test_masks_may_end_in_capitals_as_images_may(tmp_path: Path) -> None:
    root = trees.write_folder(tmp_path)
    before = pixels(DATASETS["folder"](root))
    for path in list((root / "masks").rglob("*.png")):
        path.rename(path.with_suffix(".PNG"))
    assert pixels(DATASETS["folder"](root)) == before


def test_what_masks_end_in_instead_is_said(tmp_path: Path) -> None:
    root = trees.write_folder(tmp_path)
    for path in list((root / "masks").rglob("*.png")):
        path.rename(path.with_suffix(".jpg"))
    with pytest.raises(ValueError, match=r"masks/val: no file here ends in .png, .PNG; 3 in .jpg"):
        DATASETS["folder"](root)


def test_an_image_of_val_that_is_in_train_too_is_noted(tmp_path: Path) -> None:
    root = trees.write_folder(tmp_path)
    assert not any("in train too" in note for note in check("folder", root, parameters()).notes)
    (root / "images/val/val-1.png").write_bytes((root / "images/train/train-3.png").read_bytes())
    (note,) = (note for note in check("folder", root, parameters()).notes if "in train too" in note)
    assert note.startswith("1 images of val") and "(e.g. images/val/val-1.png = images/train/train-3.png)" in note


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("RGBA", "a label map in colours has three channels, this one has 4. Save three channels"),
        ("LA", "a label map in colours has three channels, this one has 2"),
        ("L", "a label map in colours has three channels, this one is grey; masks of values are for masks: values"),
        ("blended", "its edges are blended, by smooth drawing or resizing: resize masks to the nearest pixel"),
    ],
)
def test_masks_in_other_colours_say_what_to_do(tmp_path: Path, mode: str, words: str) -> None:
    root = write_colours(tmp_path)
    path = root / "masks/val/val0.png"
    with Image.open(path) as mask:
        blended = mask.resize((37, 29), Image.Resampling.BILINEAR).resize(mask.size, Image.Resampling.BILINEAR)
        (blended if mode == "blended" else mask.convert(mode)).save(path)
    with pytest.raises(ValueError, match=f"(?i)val0.png: .*{re.escape(words)}"):
        DATASETS["folder"](root)


def test_masks_in_a_palette_have_its_colours(tmp_path: Path) -> None:
    root = write_colours(tmp_path)
    before = pixels(DATASETS["folder"](root))
    for path in root.glob("masks/*/*.png"):
        with Image.open(path) as mask:
            mask.convert("P", palette=Image.Palette.ADAPTIVE, colors=4).save(path)
    assert pixels(DATASETS["folder"](root)) == before


def test_each_problem_of_a_layout_is_said_once(tmp_path: Path) -> None:
    root = trees.write_folder(tmp_path)
    found = SOURCES["folder"](root, layout="voc").listing(Tree(root), layout="voc").problems
    assert len(found) == len(set(found)) == 4


def test_images_of_a_voc_layout_in_neither_list_are_noted(tmp_path: Path) -> None:
    root = like_voc(tmp_path / "v")
    trees.save(root / "JPEGImages/other.png", np.zeros((8, 9, 3), np.uint8))
    notes = SOURCES["folder"](root, layout="voc").listing(Tree(root), layout="voc").notes
    assert notes == ["JPEGImages: 1 files are in neither list, e.g. JPEGImages/other.png"]


def test_unlabelled_images_are_counted_and_part_of_the_content(tmp_path: Path) -> None:
    root = trees.write_folder(tmp_path)
    before = DATASETS["folder"](root).info.content_hash
    for i in range(3):
        trees.save(root / f"extra/{'deeper/' if i else ''}{i}.png", np.full((8, 9, 3), i, np.uint8))
    assert DATASETS["folder"](root).info.content_hash == before, "without the parameter they are not looked at"
    found = check("folder", root, parameters(unlabelled="extra"))
    assert found.problems == [] and found.splits[-1][:2] == ["unlabelled", "3"]
    assert any("3 unlabelled images are counted and hashed; no method uses them yet" in note for note in found.notes)
    first = DATASETS["folder"](root, unlabelled="extra")
    assert len({before, first.info.content_hash}) == 2 and len(first.train) + len(first.dev) == 8
    trees.save(root / "extra/0.png", np.full((8, 9, 3), 99, np.uint8))
    assert DATASETS["folder"](root, unlabelled="extra").info.content_hash != first.info.content_hash
    source, variant, _ = source_of("folder", root, parameters(unlabelled="extra"))
    with pytest.raises(ValueError, match="a prepared cache has no unlabelled images"):
        prepare(source, root, tmp_path / "cache", variant)
    assert not cache.is_cache(tmp_path / "cache")
    (root / "extra/1.png").write_text("no image")
    with pytest.raises(ValueError, match=r"1.png"):
        DATASETS["folder"](root, unlabelled="extra")


@pytest.mark.parametrize("folder", ["../other", "/etc", "absent", "a\0b"])
def test_unlabelled_images_lie_below_the_root(tmp_path: Path, folder: str) -> None:
    (tmp_path / "other").mkdir()
    trees.save(tmp_path / "other/1.png", np.zeros((8, 9, 3), np.uint8))
    with pytest.raises(ValueError, match=r"leaves the dataset's folder|is missing"):
        DATASETS["folder"](trees.write_folder(tmp_path / "root"), unlabelled=folder)


def test_runs_made_before_stay_valid(tmp_path: Path) -> None:
    """The new parameters are not in a run's identity unless they are given."""
    root = trees.write_folder(tmp_path / "root")

    def run(**given: Any) -> Any:
        return plan(load(tiny.write(tmp_path, data={"name": "folder", "root": str(root), "parameters": given})))[0]

    assert set(run().identity()["data"]["parameters"]) == {
        "val_fraction",
        "val_seed",
        "dev_fraction",
        "dev_seed",
        "short_side",
    }
    assert len({run().run_id, run(layout="voc").run_id, run(unlabelled="extra").run_id}) == 3
