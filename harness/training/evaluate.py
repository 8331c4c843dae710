"""Evaluates a network on a split by `train.evaluation`: class scores, classes, confusion matrix.

Shapes: N images, K classes, H x W pixels of an image; predictions are compared at the labels' resolution.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.datasets import Data
from harness.experiment.recipe import Evaluation
from harness.experiment.spec import Run
from harness.taps import Taps
from harness.training import guards
from harness.training.batches import evaluation_batches
from harness.training.confusion import Confusion, argmax, confusion_matrix
from harness.training.ranks import Ranks


@dataclass(frozen=True)
class Counted:
    """Counts over a split, summed over all ranks.

    Attributes:
        confusion: (K, K) int64, rows = label, columns = prediction.
        boundary: the same over the pixels near class boundaries; None if not requested.
        images: the non-zero entries of each image's matrix, (M, 3) int64 of (image, row-major cell, pixels) in any
            order; None if not requested, and on ranks above 0.
    """

    confusion: NDArray[np.int64]
    boundary: NDArray[np.int64] | None = None
    images: NDArray[np.int64] | None = None


def evaluate(network: nn.Module, data: Data, split: str, run: Run, ranks: Ranks, final: bool = False) -> Counted:
    """Count the network's predictions over a split, each sample once for any number of ranks.

    Args:
        network: returns `Taps`; its mode does not change. Its buffers become the first rank's, whose network is saved:
            statistics of layers that are not synchronised differ between ranks.
        data: the dataset.
        split: "dev" or "val".
        run: gives `train.evaluation` and `train.eval_batch_size`.
        ranks: all ranks must call this function.
        final: also count boundaries and single val images, if the run requests them.

    Raises:
        ValueError: a label is neither a class nor ignored.
        FloatingPointError: a class score is not finite.
    """
    info, how, device = data.info, run.train.evaluation, ranks.device
    ranks.send(network.buffers())
    classes, ignore = info.num_classes, info.ignore_index
    samples = getattr(data, split)
    own = range(ranks.rank, len(samples), ranks.workers)
    counts, near = Confusion(classes, ignore, device), Confusion(classes, ignore, device)
    finite = guards.FiniteScores(ranks, split)
    distance = how.boundary if final else None
    one_by_one = final and how.per_image and split == "val"
    indices, images = iter(own), [torch.zeros(0, 3, dtype=torch.int64, device=device)]
    for image, label in evaluation_batches(samples, info, ranks, run.train.eval_batch_size, own):
        prediction = predict(network, image, how, finite.watch)
        if one_by_one:
            for said, true in zip(prediction, label, strict=True):
                table = confusion_matrix(said, true, classes, ignore)
                counts.counts += table
                images.append(_entries(next(indices), table))
        else:
            counts.update(prediction, label)
        if distance is not None:
            near.update(prediction, label.masked_fill(~boundary_band(label, distance), ignore))
    finite.check()
    ranks.sum(counts.counts)
    boundary = None
    if distance is not None:
        ranks.sum(near.counts)
        boundary = near.numpy()
    entries = ranks.gather(torch.cat(images)).cpu().numpy() if one_by_one else None
    return Counted(counts.numpy(), boundary, entries if ranks.rank == 0 else None)


@torch.no_grad()
def predict(
    network: nn.Module, image: Tensor, how: Evaluation, watch: Callable[[Tensor], None] = lambda scores: None
) -> Tensor:
    """Classes of normalised images (N, 3, H, W), in eval mode and without gradients; `watch` sees the class scores.

    Returns:
        (N, H, W) on the images' device, uint8 for up to 256 classes and int64 for more; the first class wins a tie.
    """
    with _eval_mode(network):
        scores = class_scores(network, image, how)
        watch(scores)
        return argmax(scores)


def class_scores(network: nn.Module, image: Tensor, how: Evaluation) -> Tensor:
    """Class scores of normalised images (N, 3, H, W), at their size: (N, K, H, W).

    With one scale and no flip these are logits. Otherwise they are softmax probabilities, averaged over scales and
    flips. A view's logits are resized to the images' size before the softmax; both resizings are bilinear with
    align_corners=False.
    """
    size = image.shape[-2:]
    views = [(scale, mirrored) for scale in how.scales for mirrored in ((False, True) if how.flip else (False,))]
    total: Tensor | None = None
    for scale, mirrored in views:
        seen = _resized(image, tuple(max(1, round(side * scale)) for side in size))
        logits = _by_windows(network, seen.flip(-1) if mirrored else seen, how)
        logits = _resized(logits.flip(-1) if mirrored else logits, size)
        if len(views) == 1:
            return logits
        probability = logits.softmax(dim=1)
        total = probability if total is None else total.add_(probability)
    assert total is not None
    return total.div_(len(views))


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one side: every `stride`; the last window ends at the border."""
    last = max(0, size - window)
    return [*range(0, last, stride), last]


def boundary_band(label: Tensor, distance: int) -> Tensor:
    """The trimap: pixels within `distance` of a class boundary of the label.

    A pixel is in the band if the square of side 2 * distance + 1 around it (Chebyshev distance), cut off at the image's
    border, contains another label; at distance 1 that is one pixel on either side of every boundary. The ignored label
    is treated as a class here, so ignored pixels near a boundary are in the band and must be excluded when counting.

    As in Kohli, Ladicky and Torr, "Robust Higher Order Potentials for Enforcing Label Consistency", IJCV 82 (2009), and
    DeepLab (Chen et al., arXiv:1606.00915): scores over bands of growing width.

    Args:
        label: (N, H, W) of an integer dtype.
        distance: distance in pixels, at least 1.

    Returns:
        (N, H, W) bool.
    """
    # One byte per pixel, because the labels of all datasets are bytes.
    lowest = highest = label.to(torch.uint8)
    for side in (-1, -2):
        lowest = _extreme(lowest, side, distance, torch.minimum)
        highest = _extreme(highest, side, distance, torch.maximum)
    return lowest != highest


def _extreme(x: Tensor, side: int, reach: int, of_two: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Minimum or maximum of the 2 * reach + 1 values around each one along a side, in logarithmically many passes."""
    last = x.shape[side] - 1
    # Repeating the border values does not change an extreme.
    x = x.index_select(side, torch.arange(-reach, last + reach + 1, device=x.device).clamp_(0, last))
    wanted, span = 2 * reach + 1, 1
    while span < wanted:
        step = min(span, wanted - span)
        length = x.shape[side] - step
        x = of_two(x.narrow(side, 0, length), x.narrow(side, step, length))
        span += step
    return x


def _by_windows(network: nn.Module, image: Tensor, how: Evaluation) -> Tensor:
    """Logits (N, K, H, W), averaged where windows overlap; an image no larger than a window is passed unchanged."""
    height, width = image.shape[-2:]
    window = how.window_hw or (height, width)
    stride = how.stride_hw or tuple(-(-2 * side // 3) for side in window)
    tops, lefts = (window_starts(*along) for along in zip((height, width), window, stride, strict=True))
    if len(tops) == len(lefts) == 1:
        return _logits(network, image)
    total: Tensor | None = None
    times = image.new_zeros(height, width)  # number of windows that contain a pixel
    for top in tops:
        for left in lefts:
            place = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            logits = _logits(network, image[place])
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[place] += logits
            times[place] += 1
    assert total is not None
    return total.div_(times)


def _logits(network: nn.Module, image: Tensor) -> Tensor:
    taps: Taps = network(image)
    return taps.full


def _resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _entries(index: int, table: Tensor) -> Tensor:
    """The non-zero entries of one image's matrix: (M, 3) int64 of (index, row-major cell, pixels)."""
    flat = table.reshape(-1)
    cells = flat.nonzero().squeeze(1)
    return torch.stack([torch.full_like(cells, index), cells, flat[cells]], dim=1)


@contextlib.contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode; restores every module's previous mode afterwards, also after an error.

    cuDNN does not try its algorithms meanwhile: images have many sizes, and how a network is judged should not depend
    on which of them was the fastest.
    """
    training = [module for module in network.modules() if module.training]
    tries, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    network.eval()
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = tries
        for module in training:
            module.training = True
