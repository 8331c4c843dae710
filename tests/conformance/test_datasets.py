"""What every dataset of the table keeps to, whoever wrote it, read from its files and from its prepared cache."""

import inspect
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest

from harness.datasets import DATASETS, SOURCES
from harness.datasets import inspect as datatool
from harness.datasets.landcover import COVER, INSTALL, PICTURE
from harness.datasets.source import IGNORE
from harness.experiment.method import dataset_entry
from harness.experiment.spec import Dataset, Run
from harness.training.batches import training_batches
from harness.training.build import load_data
from harness.training.runtime import Runtime
from tests.support import tiny, trees
from tests.support.caches import prepared

SMALL = {"texmosaic": {"size": 32, "train": 6, "dev": 3, "val": 3}, "landcover": {}}
assert SMALL.keys() | SOURCES.keys() == DATASETS.keys(), (
    "a new dataset: give it a tree in tests/support/trees.py, or a size here"
)


def make(name, folder):
    """(name, root, Data)."""
    root = None
    if name in SOURCES:
        root = folder / name
        root.mkdir()
        trees.WRITE[name](root)
    return name, root, DATASETS[name](root, **SMALL.get(name, {}))


@pytest.fixture(scope="module", autouse=True)
def memory(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSTKD_BENCH_CACHE", str(tmp_path_factory.mktemp("remembered")))
        yield


@pytest.fixture(scope="module", params=sorted(DATASETS))
def made(request, tmp_path_factory, memory):
    if request.param == "landcover":  # `make test` installs its packages
        for package in (PICTURE.package, COVER.package):
            try:
                distribution(package)
            except PackageNotFoundError:
                pytest.skip(f"{package} is not installed: {INSTALL}")
    return make(request.param, tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module", params=sorted(SOURCES))
def in_files(request, tmp_path_factory, memory):
    return make(request.param, tmp_path_factory.mktemp("in_files"))


def parts(data):
    return {name: getattr(data, name) for name in ("train", "dev", "val")}


def test_pairs_have_the_promised_types_and_values(made):
    _, _, data = made
    for split in parts(data).values():
        assert len(split) >= 1
        for i in range(min(len(split), 20)):
            image, label = split[i]
            assert image.dtype == label.dtype == np.uint8
            assert image.shape == (*label.shape, 3)
            values = set(np.unique(label).tolist())
            assert values <= set(range(data.info.num_classes)) | {data.info.ignore_index}
        with pytest.raises(IndexError):
            split[len(split)]


def test_reading_twice_gives_the_same(made):
    name, root, data = made
    again = DATASETS[name](root, **SMALL.get(name, {}))
    assert again.info == data.info
    for split, other in zip(parts(data).values(), parts(again).values(), strict=True):
        for i in range(min(len(split), 5)):
            np.testing.assert_array_equal(split[i][0], other[i][0])
            np.testing.assert_array_equal(split[i][1], other[i][1])


def test_no_image_is_in_two_splits(made):
    _, _, data = made
    seen = [{split[i][0].tobytes() for i in range(len(split))} for split in parts(data).values()]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_dev_and_seed_change_the_cut_and_nothing_else(in_files):
    name, root, data = in_files
    more = DATASETS[name](root, dev_fraction=0.4)
    assert len(more.train) + len(more.dev) == len(data.train) + len(data.dev)
    assert len(more.dev) > len(data.dev) or len(data.dev) >= 0.3 * (len(data.dev) + len(data.train))
    assert more.val.names == data.val.names


def test_facts(made):
    name, _, data = made
    info = data.info
    assert info.name == name and info.ignore_index == IGNORE
    assert len(set(info.class_names)) == info.num_classes >= 2
    # ADE20K's own palette gives road and skyscraper one grey.
    assert len(set(info.palette)) == info.num_classes - (name == "ade20k")
    assert all(0 <= channel <= 255 for colour in info.palette for channel in colour)
    assert len(info.content_hash) == 64 and min(info.std) > 0 and info.note.endswith(".")
    assert inspect.getdoc(inspect.getmodule(DATASETS[name])).splitlines()[0].startswith(f"{name}: ")


def test_every_parameter_has_a_plain_default(made):
    name, _, _ = made
    fields = dataset_entry(name).parameters.model_fields
    assert all(not field.is_required() for field in fields.values())
    if name in SOURCES:
        assert set(datatool.COMMON) <= fields.keys()


def test_it_can_be_described_and_checked(made):
    name, root, data = made
    text = datatool.describe(name, classes=True)
    assert name in text and "parameters" in text
    found = datatool.check(
        name,
        root,
        {**{k: v.default for k, v in dataset_entry(name).parameters.model_fields.items()}, **SMALL.get(name, {})},
    )
    assert found.problems == []
    assert [line[0] for line in found.classes][:-1] == list(data.info.class_names)


@pytest.mark.parametrize("how", ["raw", "encoded"])
def test_the_prepared_cache_is_the_dataset(in_files, how, tmp_path):
    name, root, data = in_files
    source, variant, _ = datatool.source_of(
        name, root, {k: v.default for k, v in dataset_entry(name).parameters.model_fields.items()}
    )
    cached = DATASETS[name](prepared(source, root, tmp_path / "cache", how, variant=variant))
    assert cached.info == data.info
    for split, other in zip(parts(data).values(), parts(cached).values(), strict=True):
        assert split.names == other.names
        for i in range(len(split)):
            np.testing.assert_array_equal(split[i][0], other[i][0])
            np.testing.assert_array_equal(split[i][1], other[i][1])


def test_batches_do_not_depend_on_loader_workers_or_on_where_a_run_goes_on(made, tmp_path):
    _, _, data = made
    run: Run = tiny.plan(tmp_path)[1]
    augment = run.train.augment.model_copy(
        update={"crop_hw": (32, 32), "scale": (0.5, 2.0), "jitter": 0.2, "class_cap": 0.75}
    )
    run = run.model_copy(update={"train": run.train.model_copy(update={"augment": augment})})

    def batches(workers, first):
        return list(training_batches(data.train, data.info, run, Runtime.local(loader_workers=workers), first, 6))

    want = batches(0, 0)
    for workers, first in ((2, 0), (1, 4)):
        for (image, label), (other, truth) in zip(batches(workers, first), want[first:], strict=True):
            np.testing.assert_array_equal(image, other)
            np.testing.assert_array_equal(label, truth)


def test_a_run_gets_it_by_its_name(made):
    name, root, data = made
    spec = Dataset(name=name, root=None if root is None else str(root), parameters=SMALL.get(name, {}))
    assert load_data(spec).info == data.info


def test_without_its_folder_it_says_how_to_get_it(made):
    name, _, _ = made
    if name in SOURCES:
        with pytest.raises(ValueError, match=f"data info {name}"):
            DATASETS[name](None)
    else:
        with pytest.raises(ValueError, match="root"):
            DATASETS[name](Path("/tmp"))
