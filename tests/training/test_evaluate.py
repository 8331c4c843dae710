"""How a network is run over a split: the whole image, windows, scales, mirror images; and in which mode."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.experiment.recipe import Evaluation
from harness.experiment.spec import Network
from harness.models import build
from harness.training.batches import evaluation_batches
from harness.training.evaluate import class_scores, predict, window_starts
from harness.training.ranks import Ranks
from tests.support.segmenters import CLASSES, Constant, Pixelwise, Placed, counted, data, split

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
    class_scores(network, image(1, 5, 9), Evaluation(scales=(0.5, 1.0, 0.7, 0.02), flip=True))
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
    ranks, want = Ranks(torch.device("cpu")), np.zeros((CLASSES, CLASSES), np.int64)
    with torch.no_grad():
        for x, label in evaluation_batches(splits.val, splits.info, ranks, 4):
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
