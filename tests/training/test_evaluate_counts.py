"""What an evaluation counts: every pixel, those near class boundaries, image by image, by one rank and by two."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from harness.experiment.recipe import Train
from harness.metrics import class_iou, miou
from harness.training.evaluate import boundary_band, evaluate
from harness.training.ranks import Ranks
from tests.support import segmenters
from tests.support.segmenters import CLASSES, Pixelwise, counted, data, split


def by_loop(network, pairs, within=None):
    """(N, K, K): one matrix per image from Python integers; `within` says which pixels count."""
    out = np.zeros((len(pairs), CLASSES, CLASSES), np.int64)
    for index, (picture, label) in enumerate(pairs):
        x = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        said = network(x).full.argmax(1)[0].tolist()
        counts = np.ones(label.shape, bool) if within is None else within(label)
        for i, row in enumerate(label.tolist()):
            for j, true in enumerate(row):
                if true != 255 and counts[i, j]:
                    out[index, true, said[i][j]] += 1
    return out


def near_a_boundary(distance):
    """Pixels of a (H, W) label with another label in the square around them, by a loop over all pairs."""

    def within(label):
        out = np.zeros(label.shape, bool)
        h, w = label.shape
        for i in range(h):
            for j in range(w):
                for y in range(max(0, i - distance), min(h, i + distance + 1)):
                    for x in range(max(0, j - distance), min(w, j + distance + 1)):
                        out[i, j] |= label[y, x] != label[i, j]
        return out

    return within


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_count_matches_a_loop(batch):
    pairs = split(5, ((12, 17), (12, 17), (9, 20)))
    got = counted(Pixelwise(), data([], pairs), batch=batch, boundary=2, per_image=True)
    want = by_loop(Pixelwise(), pairs)
    np.testing.assert_array_equal(got.confusion, want.sum(0))
    np.testing.assert_array_equal(got.boundary, by_loop(Pixelwise(), pairs, near_a_boundary(2)).sum(0))
    rebuilt = np.zeros((5, CLASSES**2), np.int64)
    for index, cell, pixels in got.images.tolist():
        assert pixels > 0 and rebuilt[index, cell] == 0
        rebuilt[index, cell] = pixels
    np.testing.assert_array_equal(rebuilt.reshape(want.shape), want)
    assert not want[2].any()  # the image with only ignored pixels
    assert got.confusion.dtype == got.boundary.dtype == got.images.dtype == np.int64


def test_scores_match_torchmetrics():
    pairs = split(4)
    got = counted(Pixelwise(), data([], pairs)).confusion
    theirs = {
        average: MulticlassJaccardIndex(CLASSES, average=average, ignore_index=255) for average in ("none", "macro")
    }
    for picture, label in pairs:
        said = Pixelwise()(torch.from_numpy(picture).permute(2, 0, 1)[None].float()).full.argmax(1)
        for metric in theirs.values():
            metric.update(said, torch.from_numpy(label)[None].long())
    np.testing.assert_allclose(class_iou(got), theirs["none"].compute(), rtol=1e-6)
    assert miou(got) == pytest.approx(float(theirs["macro"].compute()), rel=1e-6)


def test_only_the_final_evaluation_counts_boundaries_and_only_val_by_image():
    splits = data(split(3), split(3, seed=1))
    options = {"boundary": 1, "per_image": True}
    curve = counted(Pixelwise(), splits, "dev", final=False, **options)
    dev = counted(Pixelwise(), splits, "dev", **options)
    val = counted(Pixelwise(), splits, "val", **options)
    assert curve.boundary is None and curve.images is None
    assert dev.boundary is not None and dev.images is None
    assert val.boundary is not None and val.images is not None
    np.testing.assert_array_equal(curve.confusion, dev.confusion)
    assert counted(Pixelwise(), splits, "val", final=False, **options).images is None
    plain = counted(Pixelwise(), splits, "val")
    assert plain.boundary is None and plain.images is None
    np.testing.assert_array_equal(plain.confusion, val.confusion)


# The band at class boundaries


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 5, 8, 30])
@pytest.mark.parametrize("hw", [(12, 17), (1, 9), (9, 1), (1, 1), (20, 5)])
def test_the_band_matches_a_loop(distance, hw):
    labels = np.stack([label for _, label in split(4, (hw,), void=0.02)])
    labels[0], labels[1] = 3, labels[1] // 2
    got = boundary_band(torch.from_numpy(labels), distance)
    want = np.stack([near_a_boundary(distance)(label) for label in labels])
    np.testing.assert_array_equal(got.numpy(), want)
    assert not want[0].any()


def test_the_band_of_a_straight_edge():
    label = torch.zeros(1, 4, 10, dtype=torch.uint8)
    label[..., 5:] = 1
    assert boundary_band(label, 2)[0].tolist() == [[3 <= j <= 6 for j in range(10)]] * 4


def test_the_ignored_label_makes_boundaries_and_is_not_counted():
    picture = np.zeros((1, 9, 3), np.uint8)
    label = np.array([[0, 0, 0, 0, 255, 0, 0, 0, 0]], np.uint8)
    got = counted(Pixelwise(), data([], [(picture, label)]), boundary=2)
    assert got.boundary.sum() == got.boundary[0, 0] == 4 and got.confusion.sum() == 8


# Several ranks


@pytest.mark.slow
def test_two_ranks_count_every_sample_once(tmp_path):
    """Also with fewer samples than ranks, and whatever images share a batch; by the network of the first rank."""
    segmenters.by_ranks(tmp_path)
    for samples in segmenters.SHARED:
        pairs = split(samples, ((12, 17), (12, 17), (9, 20)))
        want = by_loop(Pixelwise(), pairs)
        with np.load(tmp_path / f"{samples}.npz") as got:
            np.testing.assert_array_equal(got["confusion"], want.sum(0))
            np.testing.assert_array_equal(got["boundary"], by_loop(Pixelwise(), pairs, near_a_boundary(1)).sum(0))
            image_, cell = np.nonzero(want.reshape(samples, -1))
            entries = got["images"][np.lexsort(got["images"].T[1::-1])]
            np.testing.assert_array_equal(entries[:, :2], np.stack([image_, cell], 1))
            np.testing.assert_array_equal(entries[:, 2], want.reshape(samples, -1)[image_, cell])


def test_a_label_out_of_range_is_named():
    bad = [(np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 7, np.uint8))]
    run = SimpleNamespace(train=Train(steps=1, batch_size=1))
    with pytest.raises(ValueError, match=r"label holds 7: allowed are 0\.\.4 or ignore_index=255"):
        evaluate(Pixelwise(), data([], bad), "val", run, Ranks(torch.device("cpu")))
