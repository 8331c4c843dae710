"""What one augmented training pair costs: the shipped cv2 path against two alternatives of the same meaning.

    pytest tests/benchmarks/bench_augment.py

All run in one process on one thread; the table prints their times and the ratio to the shipped one.
"""

import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from harness.datasets.augment import augment

CASES = [
    pytest.param((96, 96), (96, 96), (0.75, 1.25), 600, id="96x96 -> 96x96"),
    pytest.param((1024, 2048), (512, 1024), (0.5, 2.0), 40, id="1024x2048 -> 512x1024"),
]
FILL = (127.0, 127.0, 127.0)


def _resize_then_crop(image, label, rng, crop_hw, scale):
    """The usual order: the whole image is resized, then cropped, padded and flipped."""
    factor, flip = rng.uniform(*scale), rng.random() < 0.5
    h, w = (max(1, round(s * factor)) for s in label.shape)
    image = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, (w, h), interpolation=cv2.INTER_NEAREST_EXACT)
    ch, cw = crop_hw
    if h < ch or w < cw:
        pad = (0, max(0, ch - h), 0, max(0, cw - w), cv2.BORDER_CONSTANT)
        image = cv2.copyMakeBorder(image, *pad, value=FILL)
        label = cv2.copyMakeBorder(label, *pad, value=255)
    y = rng.integers(label.shape[0] - ch + 1)
    x = rng.integers(label.shape[1] - cw + 1)
    image, label = image[y : y + ch, x : x + cw], label[y : y + ch, x : x + cw]
    if flip:
        image, label = image[:, ::-1], label[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def _torchvision(crop_hw, scale):
    image_type, mask_type = tv_tensors.Image, tv_tensors.Mask
    chain = v2.Compose(
        [
            _Scale(scale),
            v2.RandomCrop(crop_hw, pad_if_needed=True, fill={image_type: FILL, mask_type: 255}),
            v2.RandomHorizontalFlip(0.5),
        ]
    )

    def run(image, label, rng):
        return chain(image_type(torch.from_numpy(image).permute(2, 0, 1)), mask_type(torch.from_numpy(label)))

    return run


class _Scale(v2.Transform):
    """One random factor for image and label (v2 has no transform with exactly this meaning)."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def make_params(self, flat_inputs):
        h, w = flat_inputs[0].shape[-2:]
        factor = float(torch.empty(1).uniform_(*self.scale))
        return {"size": [max(1, round(h * factor)), max(1, round(w * factor))]}

    def transform(self, inpt, params):
        return self._call_kernel(v2.functional.resize, inpt, params["size"], antialias=False)


def _ms(call: Callable[[], object], rounds: int) -> float:
    for _ in range(3):
        call()
    start = time.perf_counter()
    for _ in range(rounds):
        call()
    return (time.perf_counter() - start) / rounds * 1e3


@pytest.mark.parametrize(("source_hw", "crop_hw", "scale", "rounds"), CASES)
def test_cost_of_one_pair(source_hw, crop_hw, scale, rounds, request):
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        data = np.random.default_rng(0)
        image = data.integers(0, 256, (*source_hw, 3), dtype=np.uint8)
        label = data.integers(0, 8, source_hw, dtype=np.uint8)
        rng = np.random.default_rng(1)
        tv = _torchvision(crop_hw, scale)
        ways = {
            "shipped": lambda: augment(image, label, rng, crop_hw=crop_hw, scale=scale, fill=FILL),
            "cv2, resize then crop": lambda: _resize_then_crop(image, label, rng, crop_hw, scale),
            "torchvision v2": lambda: tv(image, label, rng),
        }
        # Three interleaved rounds and the fastest of each: neighbours on the machine slow all of them alike.
        times = {name: min(_ms(call, rounds) for _ in range(3)) for name, call in ways.items()}
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv_threads)
    print(f"\n{request.node.callspec.id}")
    for name, ms in times.items():
        print(f"  {name:24s} {ms:8.3f} ms  x {ms / times['shipped']:.2f}")
    assert all(ms > 0 for ms in times.values())
