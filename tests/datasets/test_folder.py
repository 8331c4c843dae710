"""The user's own folder: its layouts and its class table."""

import pytest

from harness.datasets import DATASETS, SOURCES
from harness.datasets.decode import NOT_ALLOWED
from harness.datasets.source import IGNORE
from harness.datasets.tree import Tree
from tests.support import trees
from tests.support.caches import prepared


@pytest.fixture(autouse=True)
def _own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))


@pytest.mark.parametrize("form", ["folders", "lists", "flat"])
def test_folder_forms(tmp_path, form):
    root = trees.write_folder(tmp_path, form)
    source = SOURCES["folder"](root)
    assert source.class_names == ("soil", "crop", "weed") and source.palette[1] == (0, 158, 115)
    assert {value: index for value, index in enumerate(source.tables["ids"]) if index != NOT_ALLOWED} == {
        0: 0,
        7: 1,
        9: 2,
        255: IGNORE,
    }
    listing = source.listing(Tree(root))
    train, val = (listing.samples[split] for split in ("train", "val"))
    assert listing.problems == []
    assert (len(train), len(val)) == ((9, 2) if form == "flat" else (8, 3))
    if form != "flat":
        assert {s.name.split("-")[0] for s in train} == {"train"} and {s.name.split("-")[0] for s in val} == {"val"}


def test_a_flat_folder_is_cut_by_its_own_seed(tmp_path):
    tree = Tree(trees.write_folder(tmp_path, "flat", train=20))
    listing = SOURCES["folder"](tmp_path).listing

    def val(**variant):
        return [sample.name for sample in listing(tree, **variant).samples["val"]]

    assert val() == val() != val(val_seed=1)
    assert len(val(val_fraction=0.5)) == 12
    data = DATASETS["folder"](tmp_path, val_fraction=0.5, dev_seed=3)
    assert data.val.names == val(val_fraction=0.5)


def test_lists_may_have_the_images_endings(tmp_path):
    trees.write_folder(tmp_path, "lists")
    (tmp_path / "val.txt").write_text("val-0.jpg\nval-1.png\n")
    assert trees.problems("folder", tmp_path) == []
    (tmp_path / "val.txt").write_text("val-0.png\nval-1.png\n")
    assert trees.problems("folder", tmp_path) == ["val.txt: val-0.png is listed, and images/val-0.png is missing"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"classes.yaml: the list of classes is missing. Write one:\n    classes:"),
        ("classes: [", "classes.yaml:1: not valid YAML"),
        ("classes: [{name: a, value: 0, value: 1}]", "classes.yaml:1: classes.0.value: duplicate key"),
        ("[]", r"classes.yaml: a list of classes is a mapping of keys \(classes:, ignore:\)"),
        ("ignore: [255]", "classes.yaml: classes: this key is missing"),
        ("classes: [{name: a, value: 0}]", "classes: .* at least 2 items"),
        ("classes: [{name: a, value: 0}, {name: b}]", "classes.1.value: this key is missing"),
        (
            "classes: [{name: a, value: 0}, {name: b, value: 1, color: [0, 0, 0]}]",
            r"classes.1.color: unknown key. Did you mean 'colour'\? Allowed: name, value, colour",
        ),
        (
            "classes: [{name: a, value: 0}, {name: b, value: 1}]\nignored: [2]",
            "ignored: unknown key.* Allowed: classes, ig",
        ),
        ("classes: [{name: a, value: 0}, {name: b, value: 256}]", "classes.1.value: .*less than .* given 256"),
        (
            "classes: [{name: a, value: 0}, {name: b, value: 1.0}]",
            "classes.1.value: .* valid integer; given 1.0",
        ),
        ("classes: [{name: a, value: 0}, {name: 3, value: 1}]", r"classes.yaml:1: classes.1.name: .*quote it.*given 3"),
        ("classes: [{name: a, value: 0}, {name: b, value: 1, colour: [0, 0]}]", "classes.1.colour: .* at least 3"),
        ("classes: [{name: a, value: 0}, {name: a, value: 1}]", "the name a occurs 2 times"),
        ("classes: [{name: a, value: 0}, {name: b, value: 0}]", "the value 0 occurs 2 times"),
        (
            "classes: [{name: a, value: 0}, {name: b, value: 1}]\nignore: [1]",
            r"the value 1 occurs 2 times \(classes and",
        ),
        (
            "classes: [{name: a, value: 0, colour: [1, 2, 3]}, {name: b, value: 1, colour: [1, 2, 3]}]",
            r"the colour \(1, 2, 3\) occurs 2 times",
        ),
    ],
)
def test_what_is_wrong_with_a_class_table(tmp_path, text, message):
    trees.write_folder(tmp_path, classes=text)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        SOURCES["folder"](tmp_path)


def test_everything_wrong_with_a_class_table_is_said_at_once(tmp_path):
    trees.write_folder(tmp_path, classes="classes: [{name: a, value: -1}, {nam: b, value: 1}]\nignor: [1]\n")
    with pytest.raises(ValueError) as error:
        SOURCES["folder"](tmp_path)
    assert len(str(error.value).splitlines()) == 4


def test_255_is_ignored_unless_it_is_a_class(tmp_path):
    trees.write_folder(tmp_path, classes="classes: [{name: a, value: 0}, {name: b, value: 255}]")
    assert SOURCES["folder"](tmp_path).tables["ids"][[0, 255]].tolist() == [0, 1]
    (tmp_path / "classes.yaml").write_text("classes: [{name: a, value: 0}, {name: b, value: 1}]\nignore: []")
    assert SOURCES["folder"](tmp_path).tables["ids"][255] == NOT_ALLOWED
    (tmp_path / "classes.yaml").write_text("classes: [{name: a, value: 0}, {name: b, value: 1}]")
    assert SOURCES["folder"](tmp_path).tables["ids"][255] == IGNORE


def test_made_colours_differ_from_each_other_and_from_given_ones(tmp_path):
    first = "{name: c0, value: 0, colour: [242, 36, 36]}"  # what the first made one would be
    rest = ", ".join(f"{{name: c{i}, value: {i}}}" for i in range(1, 255))
    trees.write_folder(tmp_path, classes=f"classes: [{first}, {rest}]")
    palette = SOURCES["folder"](tmp_path).palette
    assert len(set(palette)) == 255 and palette[0] == (242, 36, 36)
    near = [max(abs(a - b) for a, b in zip(palette[i], palette[j], strict=True)) for i in range(12) for j in range(i)]
    assert min(near) > 30


def test_a_cache_of_a_folder_brings_its_classes_along(tmp_path):
    root, to = trees.write_folder(tmp_path / "own"), tmp_path / "cache"
    source = SOURCES["folder"](root)
    prepared(source, root, to, variant={"val_fraction": 0.2, "val_seed": 0})
    assert SOURCES["folder"](to).palette == source.palette
    assert DATASETS["folder"](to).info == DATASETS["folder"](root).info
