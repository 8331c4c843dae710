"""How a network is run over a split: windows, scales, mirror images; what is counted, and by how many ranks."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.classification import MulticlassJaccardIndex

from harness.evaluate import boundary_band, class_scores, evaluate, predict, window_starts
from harness.models import build
from harness.recipe import Evaluation, Train
from harness.runtime import Runtime
from harness.scores import class_iou, miou
from harness.spec import Network
from tests import segmenters
from tests.segmenters import CLASSES, Constant, Pixelwise, Placed, counted, data, split

MODES = {
    "whole": {},
    "window": {"window_hw": (7, 6)},
    "window and stride": {"window_hw": (7, 6), "stride_hw": (1, 5)},
    "scales": {"scales": (0.5, 1.0, 1.75)},
    "flip": {"flip": True},
    "everything": {"window_hw": (7, 6), "scales": (0.75, 1.5), "flip": True},
}


def image(n=2, h=12, w=17, seed=0):
    return torch.randint(0, 256, (n, 3, h, w), generator=torch.Generator().manual_seed(seed)).float()


# Windows


def test_windows_start_where_a_search_by_hand_puts_them():
    """Every `stride` until one reaches the border; that one is moved back to end on it."""
    for size in range(1, 34):
        for window in range(1, 12):
            for stride in range(1, window + 1):
                by_hand, at = [], 0
                while at + window < size:
                    by_hand.append(at)
                    at += stride
                by_hand.append(max(0, size - window))
                assert window_starts(size, window, stride) == by_hand, (size, window, stride)


@pytest.mark.parametrize(
    ("size", "window", "stride", "starts"),
    [
        (10, 4, 3, [0, 3, 6]),  # the last one fits
        (11, 4, 3, [0, 3, 6, 7]),  # one pixel is left
        (12, 4, 3, [0, 3, 6, 8]),
        (8, 4, 4, [0, 4]),
        (9, 4, 4, [0, 4, 5]),
        (4, 4, 1, [0]),
        (5, 4, 1, [0, 1]),
        (3, 4, 2, [0]),
    ],
)
def test_windows_of_known_places(size, window, stride, starts):
    assert window_starts(size, window, stride) == starts


def naive_windows(network, x, window, stride):
    """Every pixel's logits of every window it is in, averaged pixel by pixel."""
    n, _, h, w = x.shape
    wh, ww = min(window[0], h), min(window[1], w)
    grid = [
        max(side - size + step - 1, 0) // step + 1 for side, size, step in zip((h, w), (wh, ww), stride, strict=True)
    ]
    seen = {}
    for row in range(grid[0]):
        for column in range(grid[1]):
            bottom, right = min(row * stride[0] + wh, h), min(column * stride[1] + ww, w)
            top, left = bottom - wh, right - ww
            logits = network(x[:, :, top:bottom, left:right]).full
            for i in range(wh):
                for j in range(ww):
                    seen.setdefault((top + i, left + j), []).append(logits[:, :, i, j].double())
    out = torch.zeros(n, CLASSES, h, w, dtype=torch.float64)
    for (i, j), values in seen.items():
        out[:, :, i, j] = torch.stack(values).mean(0)
    assert len(seen) == h * w
    return out


@pytest.mark.parametrize(
    ("window", "stride"),
    [
        ((5, 6), None),
        ((5, 6), (5, 6)),
        ((4, 4), (1, 1)),
        ((4, 7), (3, 2)),
        ((11, 16), (11, 16)),
        ((3, 40), (2, 9)),
        ((1, 1), None),
    ],
)
def test_overlapping_windows_are_averaged(window, stride):
    how = Evaluation(window_hw=window, stride_hw=stride)
    x = image()
    got = class_scores(Placed(), x, how)
    default = tuple(math.ceil(2 * side / 3) for side in window)
    want = naive_windows(Placed(), x, window, stride or default)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5)
    assert torch.equal(predict(Placed(), x, how).long(), got.argmax(1))


@pytest.mark.parametrize(("window", "strides"), [((6, 9), (4, 6)), ((7, 5), (5, 4)), ((1, 2), (1, 2))])
def test_the_default_stride_is_two_thirds_of_the_window_rounded_up(window, strides):
    x = image(1, 20, 21)
    given = class_scores(Placed(), x, Evaluation(window_hw=window, stride_hw=strides))
    assert torch.equal(class_scores(Placed(), x, Evaluation(window_hw=window)), given)


@pytest.mark.parametrize("window", [(12, 17), (40, 40), (12, 18)])
def test_an_image_within_the_window_is_run_as_it_is(window):
    network = Placed()
    x = image()
    how = Evaluation(window_hw=window, stride_hw=(3, 3))
    assert torch.equal(class_scores(network, x, how), network(x).full)


def test_every_window_has_the_size_of_the_window():
    network = Pixelwise()
    class_scores(network, image(1, 13, 5), Evaluation(window_hw=(6, 9), stride_hw=(5, 5)))
    assert network.sizes == [(6, 5)] * 3


# Scales and mirror images


def naive_views(network, x, scales, flip, window=None):
    total, count = 0, 0
    for scale in scales:
        sides = [round(side * scale) for side in x.shape[-2:]]
        for mirrored in (False, True)[: 1 + flip]:
            seen = F.interpolate(x, sides, mode="bilinear", align_corners=False)
            seen = seen[..., range(sides[1] - 1, -1, -1)] if mirrored else seen
            if window is None:
                logits = network(seen).full
            else:
                logits = naive_windows(network, seen, window, tuple(math.ceil(2 * side / 3) for side in window)).float()
            logits = logits[..., range(sides[1] - 1, -1, -1)] if mirrored else logits
            logits = F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False)
            e = torch.exp(logits.double())
            total, count = total + e / e.sum(1, keepdim=True), count + 1
    return total / count


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(0.5, 1.0), (0.75, 1.25, 2.0), (1.0, 1.0)])
@pytest.mark.parametrize("window", [None, (7, 6)])
def test_probabilities_are_averaged_over_scales_and_mirror_images(scales, flip, window):
    x = image()
    got = class_scores(Placed(), x, Evaluation(scales=scales, flip=flip, window_hw=window))
    torch.testing.assert_close(got.double(), naive_views(Placed(), x, scales, flip, window), rtol=0, atol=1e-5)
    torch.testing.assert_close(got.sum(1), torch.ones(2, 12, 17))


def test_probabilities_are_averaged_and_not_logits():
    """Two views of mean logits (3, 2): one is sure of class 1 by little, the other of class 0 by much."""

    class Unsure(nn.Module):
        def forward(self, x):
            mirrored = x[:, :1, :, :1] > 0
            scores = torch.where(
                mirrored,
                torch.tensor([20.0, 0.0, -90.0]).view(1, 3, 1, 1),
                torch.tensor([0.0, 6.0, 5.5]).view(1, 3, 1, 1),
            )
            return SimpleNamespace(full=scores.expand(-1, -1, *x.shape[-2:]))

    x = torch.zeros(1, 3, 4, 4)
    x[..., -1] = 1
    got = class_scores(Unsure(), x, Evaluation(flip=True))[0, :, 0, 0]
    e = math.exp(5.5 - 6)
    assert got.tolist() == pytest.approx([0.5, 0.5 / (1 + e), 0.5 * e / (1 + e)], abs=2e-3)


def test_the_sizes_that_are_shown():
    network = Pixelwise()
    class_scores(network, image(1, 5, 9), Evaluation(scales=(0.5, 1.0, 0.7, 0.01), flip=True))
    # Python's round: halves go to the even number. Nothing gets smaller than a pixel.
    assert network.sizes == [(2, 4)] * 2 + [(5, 9)] * 2 + [(4, 6)] * 2 + [(1, 1)] * 2


def test_one_scale_alone_is_resized_and_comes_back():
    x = image(1, 8, 8)
    network = Pixelwise()
    got = class_scores(network, x, Evaluation(scales=(0.5,)))
    small = network(F.interpolate(x, (4, 4), mode="bilinear", align_corners=False)).full
    assert torch.equal(got, F.interpolate(small, (8, 8), mode="bilinear", align_corners=False))


def test_mirror_images_change_nothing_where_left_and_right_are_alike():
    x = image()
    plain, both = (predict(Pixelwise(), x, Evaluation(flip=flip)) for flip in (False, True))
    assert torch.equal(plain, both)
    assert not torch.equal(predict(Placed(), x, Evaluation()), predict(Placed(), x, Evaluation(flip=True)))


@pytest.mark.parametrize("mode", MODES)
def test_a_constant_network_says_the_same_in_every_mode(mode):
    got = predict(Constant(), image(), Evaluation(**MODES[mode]))
    assert got.shape == (2, 12, 17) and (got == 2).all()


@pytest.mark.parametrize("mode", ["window", "window and stride", "flip"])
def test_a_pixelwise_network_says_the_same_in_every_window(mode):
    x = image()
    assert torch.equal(predict(Pixelwise(), x, Evaluation(**MODES[mode])), predict(Pixelwise(), x, Evaluation()))


# The network that is evaluated


@pytest.fixture(scope="module")
def segnet():
    network = Network(architecture="fpn", encoder="tu-mobilenetv3_small_050")
    return build(network, CLASSES, seed=3)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("hw", [(64, 96), (50, 70)])
def test_the_default_is_bit_identical_to_the_whole_image_at_once(segnet, hw, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    segnet.to(memory_format=layout)
    splits = data([], split(5, (hw,)))
    got = counted(segnet, splits)
    segnet.eval()
    runtime, want = Runtime(Path(), torch.device("cpu")), np.zeros((CLASSES, CLASSES), np.int64)
    with torch.no_grad():
        for x, label in runtime.evaluation(splits.val, splits.info, 4):
            prediction = segnet(x).full.argmax(dim=1)
            assert torch.equal(predict(segnet, x, Evaluation()).long(), prediction)
            assert torch.equal(class_scores(segnet, x, Evaluation()), segnet(x).full)
            keep = label != 255
            np.add.at(want, (label[keep].numpy(), prediction[keep].numpy()), 1)
    segnet.train()
    np.testing.assert_array_equal(got.confusion, want)


@pytest.mark.parametrize("mode", MODES)
def test_a_real_network_in_every_mode(segnet, mode):
    options = MODES[mode] | ({"window_hw": (40, 50)} if "window_hw" in MODES[mode] else {})
    options |= {"stride_hw": (30, 20)} if "stride_hw" in options else {}
    got = counted(segnet, data([], split(2, ((64, 96),))), **options)
    assert got.confusion.sum() == sum((label != 255).sum() for _, label in split(2, ((64, 96),)))


def test_mode_and_gradients_are_as_before_even_after_an_error(segnet):
    segnet.train()
    segnet.decoder.eval()  # somebody froze a part
    before = {name: module.training for name, module in segnet.named_modules()}

    class Noted(nn.Module):
        def __init__(self, fails):
            super().__init__()
            self.inner, self.fails = segnet, fails

        def forward(self, x):
            assert not any(module.training for module in self.modules())
            assert not torch.is_grad_enabled()
            if self.fails:
                raise RuntimeError("out of memory")
            return self.inner(x)

    splits = data([], split(2, ((64, 64),)))
    counted(Noted(False), splits, flip=True)
    assert {name: module.training for name, module in segnet.named_modules()} == before
    with pytest.raises(RuntimeError, match="out of memory"):
        counted(Noted(True), splits)
    assert {name: module.training for name, module in segnet.named_modules()} == before
    assert torch.is_grad_enabled()
    segnet.train()


# What is counted


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


def test_two_ranks_count_every_sample_once(tmp_path):
    """Also with fewer samples than ranks, and whatever images share a batch."""
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
        evaluate(Pixelwise(), data([], bad), "val", run, Runtime(Path(), torch.device("cpu")))
