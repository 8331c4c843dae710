"""A dataset of the user's own: its contract, what is said where it is broken, and its place in a run's identity."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.datasets import content, outside
from harness.datasets.inspect import check, describe
from harness.experiment.load import load
from harness.experiment.plan import plan
from harness.experiment.spec import Dataset
from harness.results import content as digests
from harness.results import paths, reuse, store
from harness.testing import check_dataset
from harness.training.batches import require_one_size
from tests.support import tiny

SOURCE = '''
import numpy as np


class Stripes:
    """Stripes of three kinds."""

    class_names = ["a", "b", "c"]

    def __init__(self, root, *, count: int = 4, size: int = 64):
        self.train, self.dev, self.val = Split(root, 0, count, size), Split(root, 1, 2, size), Split(root, 2, 1, size)


class Split:
    def __init__(self, root, seed, count, size):
        self.file, self.seed, self.count, self.size = root / "offset.txt", seed, count, size

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if i >= self.count:
            raise IndexError(i)
        rng = np.random.default_rng([self.seed, i, int(self.file.read_text())])
        label = (np.arange(self.size)[:, None] // 8 + np.arange(self.size) // 16 + i).astype(np.uint8) % 3
        image = (80 * label[..., None] + rng.integers(0, 30, (self.size, self.size, 3))).astype(np.uint8)
        label[0] = 255
        return image, label


def without_root(*, size: int = 8):
    found = object.__new__(Stripes)
    pairs = [(np.full((size, size, 3), i, np.uint8), np.full((size, size), i % 3, np.uint8)) for i in range(3)]
    found.train, found.dev, found.val = pairs[:1], pairs[1:2], pairs[2:]
    return found


class Fewer(Stripes):
    """Stripes with the parameters of their base."""


def two(root, other, *, size: int = 8):
    return None


def raises(root):
    raise KeyError("nothing there")


def broken(*, how: str):
    import torch
    found = without_root()
    image, label = found.dev[0]
    changed = {
        "no dev": None,
        "label out of range": [(image, label + 2)],
        "ignored": [(image, label * 0 + 255)],
        "int64": [(image, label.astype(np.int64))],
        "float image": [(image / 255, label)],
        "grey": [(image[..., 0], label)],
        "channels first": [(image.transpose(2, 0, 1), label)],
        "tensor": [(torch.from_numpy(image), label)],
        "sizes": [(image, label[:-1])],
        "no pair": [image],
        "empty": [],
        "twice": [found.train[0]],
        "error": Failing(),
        "random": Random(),
        "endless": Endless(),
        "no pickle": Lambda(),
    }
    found.dev = changed.get(how, found.dev)
    if how == "one class":
        found.class_names = ["a"]
    if how == "same names":
        found.class_names = ["a", "b", "a"]
    if how == "names":
        found.class_names = "abc"
    if how == "palette":
        found.palette = [(0, 0, 0), (1, 1, 300), (2, 2, 2)]
    if how == "std":
        found.std = (0, 0, 0)
    if how == "ignore":
        found.ignore_index = 2
    if how in ("mean of 0 to 1", "std of 0 to 1"):
        setattr(found, how[:4].strip(), (0.485, 0.456, 0.406))
    if how == "numpy":
        found.ignore_index, found.class_names = np.uint8(255), np.array(["a", "b", "c"])
    if how == "scaled":
        found.mean, found.std = (0, 0, 0), (1, 1, 1)
    if how == "length":
        found.dev = Negative()
    if how == "several sizes":
        found.train = [found.train[0], (image[:4] + 1, label[:4])]
    if how == "exit":
        raise SystemExit("bye")
    return found


class Negative:
    def __len__(self):
        return -1

    def __getitem__(self, i):
        return None


class Failing(list):
    def __len__(self):
        return 1

    def __getitem__(self, i):
        raise OSError("disk\\x1b[31m")


class Random(Failing):
    def __getitem__(self, i):
        if i:
            raise IndexError
        rng = np.random.default_rng()
        return rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), np.zeros((8, 8), np.uint8)


class Endless(Failing):
    def __getitem__(self, i):
        return np.full((8, 8, 3), 7, np.uint8), np.zeros((8, 8), np.uint8)


class Kept(Failing):
    image = np.full((8, 8, 3), 7, np.uint8)

    def __getitem__(self, i):
        if i:
            raise IndexError
        return self.image, np.zeros((8, 8), np.uint8)


class Lambda(Kept):
    def __init__(self):
        self.opened = lambda: 3

    def __getitem__(self, i):
        if i:
            raise IndexError
        return self.image.copy(), np.zeros((8, 8), np.uint8)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))
    folder, root = tmp_path / "code", tmp_path / "root"
    folder.mkdir()
    root.mkdir()
    (folder / "owndata.py").write_text(SOURCE)
    (root / "offset.txt").write_text("0")
    monkeypatch.syspath_prepend(folder)
    yield tmp_path
    sys.modules.pop("owndata", None)


def test_one_screen_says_what_there_is(own: Path) -> None:
    said = check_dataset("owndata:Stripes", own / "root", count=5)
    assert said.splitlines()[0] == "owndata:Stripes: 3 classes, 255 is ignored"
    assert "train       5 pairs  height x width 64x64" in said and "content hash" in said


BROKEN = {
    "no dev": (ValueError, "dev is NoneType; it needs train, dev and val"),
    "label out of range": (
        ValueError,
        r"dev\[0\]: 64 pixels of the label have the value 3; allowed are 0 to 2, and 255",
    ),
    "ignored": (AssertionError, "dev has no labelled pixel"),
    "int64": (ValueError, r"dev\[0\]: its label is numpy.ndarray \(8, 8\) of int64. A pair is an image"),
    "float image": (ValueError, r"its image is numpy.ndarray \(8, 8, 3\) of float64"),
    "grey": (ValueError, r"its image is numpy.ndarray \(8, 8\) of uint8"),
    "channels first": (ValueError, r"its image is numpy.ndarray \(3, 8, 8\)"),
    "tensor": (ValueError, r"its image is torch.Tensor \(8, 8, 3\)"),
    "sizes": (ValueError, r"dev\[0\]: the image has 8x8 pixels, its label 8x7"),
    "no pair": (ValueError, r"dev\[0\] is numpy.ndarray"),
    "empty": (AssertionError, "dev has no image"),
    "twice": (AssertionError, r"dev\[0\] is the image train\[0\] again"),
    "error": (ValueError, r"dev\[0\] cannot be read: OSError: disk"),
    "random": (AssertionError, r"dev\[0\] read again is another pair"),
    "endless": (AssertionError, r"dev\[1\] is past its end and gives a pair; it raises IndexError"),
    "no pickle": (AssertionError, "cannot be pickled"),
    "one class": (ValueError, "give a list of 2 to 255 names"),
    "names": (ValueError, "give a list of 2 to 255 names"),
    "same names": (ValueError, "class_names has a name twice"),
    "palette": (ValueError, "palette is no list of 3 colours"),
    "std": (ValueError, "std is .* give three numbers"),
    "ignore": (ValueError, "ignore_index is 2; allowed: 3 to 255"),
    "mean of 0 to 1": (
        ValueError,
        r"mean is \(0.485, .*of values in 0 to 1; images are bytes, 0 to 255: multiply it by",
    ),
    "std of 0 to 1": (ValueError, r"std is \(0.485, .*of values in 0 to 1; images are bytes"),
    "length": (ValueError, r"owndata:broken: len\(dev\) fails: ValueError"),
    "exit": (ValueError, "owndata:broken cannot be made: SystemExit: bye"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_breaks_the_contract_is_named(own: Path, how: str) -> None:
    kind, words = BROKEN[how]
    with pytest.raises(kind, match=words) as caught:
        check_dataset("owndata:broken", how=how)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("owndata:Absent", "defines no class or function named 'Absent'"),
        ("absent:Data", "no package or module 'absent'"),
        ("owndata:two", "takes 2 positional arguments; it gets one"),
        ("owndata:raises", "cannot be made: KeyError"),
        ("os:listdir", "Python's own library"),
        ("../owndata:Stripes", "package.module:Class"),
    ],
)
def test_what_is_no_dataset_is_named(own: Path, name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_dataset(name, own / "root")


def test_numbers_and_names_of_numpy_are_taken(own: Path) -> None:
    found = outside.load("owndata:broken", None, {"how": "numpy"})
    assert found.info.ignore_index == 255 and found.info.class_names == ("a", "b", "c")
    scaled = outside.load("owndata:broken", None, {"how": "scaled"}).info
    assert (scaled.mean, scaled.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), "nothing taken off, nothing divided"


def test_images_of_several_sizes_need_a_crop_before_and_after_the_content_is_remembered(own: Path) -> None:
    data = Dataset(name="owndata:broken", parameters={"how": "several sizes"})
    recipe = plan(load(tiny.write(own)))[0].train
    for _ in range(2):
        found = content.load(data)
        with pytest.raises(ValueError, match=r"train.augment.crop_hw: images of owndata:broken differ in size"):
            require_one_size(found.train, found.info, recipe)
    found = content.load(Dataset(name="owndata:broken", parameters={"how": "fine"}))
    require_one_size(found.train, found.info, recipe)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("twice", "dev[0] is the image train[0] again; keep it in one split"),
        ("random", "dev[0] read again is another pair"),
        ("endless", "dev[1] is past its end and gives a pair"),
        ("no pickle", "it cannot be pickled"),
    ],
)
def test_data_check_says_what_a_dataset_owes(own: Path, how: str, words: str) -> None:
    found = check("owndata:broken", None, {"how": how})
    assert any(f"owndata:broken: {words}" in problem for problem in found.problems), found.problems
    assert found.splits, "the rest is counted"


def test_data_check_tells_several_sizes(own: Path) -> None:
    found = check("owndata:broken", None, {"how": "several sizes"})
    assert found.problems == [] and found.splits[0][3:] == ["4..8", "8"]
    assert any("several sizes; batches of them need train.augment.crop_hw" in note for note in found.notes)


def test_parameters_of_a_base_in_the_same_file_are_known(own: Path) -> None:
    assert "train       3 pairs" in check_dataset("owndata:Fewer", own / "root", count=3)


def test_an_unknown_parameter_says_how_one_is_declared(own: Path) -> None:
    data = {"name": "owndata:Stripes", "root": str(own / "root"), "parameters": {"sizes": 3}}
    with pytest.raises(
        ValueError, match=r"sizes: unknown key. Did you mean 'size'.*keyword-only arguments with an ann"
    ):
        load(tiny.write(own, data=data))


def test_a_folder_that_is_not_there_is_named(own: Path) -> None:
    with pytest.raises(ValueError, match=r"owndata:Stripes: there is no folder .*nowhere; correct data.root"):
        check_dataset("owndata:Stripes", own / "nowhere")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cuont": 3}, "cuont: unknown key. Did you mean 'count'?"),
        ({"count": "3"}, 'count: Input should be a valid integer; given "3"'),
        ({"count": Path("x")}, "parameters are plain data"),
    ],
)
def test_wrong_parameters_are_named_in_the_words_of_a_file(own: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        check_dataset("owndata:Stripes", own / "root", **given)


def test_a_file_names_it_with_its_parameters(own: Path) -> None:
    data = {"name": "owndata:Stripes", "root": str(own / "root"), "parameters": {"coutn": 3}}
    with pytest.raises(ValueError, match=r"data.parameters.coutn: unknown key. Did you mean 'count'"):
        load(tiny.write(own, data=data))
    data["parameters"] = {"count": 3}
    assert load(tiny.write(own, data=data)).data.parameters == {"count": 3, "size": 64}
    del data["root"]
    with pytest.raises(ValueError, match=r"data.root is missing"):
        content.load(Dataset.model_validate(data))


def test_data_commands_know_it(own: Path) -> None:
    found = check("owndata:Stripes", own / "root", {"count": 4, "size": 64})
    assert found.problems == [] and [line[:2] for line in found.splits] == [["train", "4"], ["dev", "2"], ["val", "1"]]
    assert describe("owndata:Stripes", True).startswith("Stripes of three kinds.")


def test_its_content_is_remembered_until_something_changes(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, hashed = Dataset(name="owndata:Stripes", root=str(own / "root")), []
    whole = outside.hash_of
    monkeypatch.setattr(outside, "hash_of", lambda *given: hashed.append(1) or whole(*given))
    first = content.content_hash(data)
    assert content.content_hash(data) == first == content.load(data).info.content_hash and len(hashed) == 1
    assert content.content_hash(data, full=True) == first and len(hashed) == 2
    (own / "root" / "offset.txt").write_text("1")
    assert content.content_hash(data) != first


def test_the_content_is_the_pixels(own: Path) -> None:
    def of(change: Any, scaled: tuple[float, ...] = (0.0, 1.0)) -> str:
        image, label = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
        change(image, label)
        pairs = outside.Checked([(image, label)], "x", 3, 255)
        return outside.hash_of(("a", "b", "c"), 255, {"train": pairs}, scaled)

    same = of(lambda image, label: None)
    assert same == of(lambda image, label: None)
    one = of(lambda image, label: image.__setitem__((0, 0, 0), 1))
    assert len({same, one, of(lambda image, label: label.__setitem__((0, 0), 1))}) == 3
    assert of(lambda image, label: None, (0.5, 1.0)) != same, "what images are normalised by is content too"


def test_it_is_trained_and_its_source_is_part_of_the_row(own: Path) -> None:
    data = {"name": "owndata:Stripes", "root": str(own / "root")}
    sets = ("train.steps=2", "train.eval_every=2", "train.schedule.warmup_steps=0", "pairs.0.teacher.steps=1")
    runs = plan(load(tiny.write(own, data=data, methods=["none"]), sets))
    for run in runs:
        assert tiny.in_process(run, own / "r") == "ok", store.read_row(paths.run_path(own / "r", run.run_id))["message"]
    row = store.read_row(paths.run_path(own / "r", runs[1].run_id))
    assert row["class_names"] == ["a", "b", "c"] and row["data_hash"] == content.content_hash(runs[0].data)
    assert row["source_sha256"] == digests.outside_sha256("none", "owndata:Stripes")
    assert all(sample["image"] is None for sample in row["samples"]), "photographs stay where they are"
    (own / "code" / "owndata.py").write_text(SOURCE + "# changed\n")
    found = reuse.standings(own / "r", None, lambda: None)
    assert {standing.state for standing in found.values()} == {"stale"}
