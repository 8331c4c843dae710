"""Training pairs per second from files and from the prepared cache, beside two usual loaders of the same meaning.

    pytest tests/benchmarks/bench_data.py

Every way ends with a normalised float32 image (3, h, w) and an int64 label (h, w) of a random scale (0.5 to 2), crop and
flip. One process, one thread, all ways in turn, the fastest of three rounds each; files are in the page cache.
"""

import random
import time

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from harness import seeds
from harness.datasets import filedata
from harness.datasets.augment import augment
from harness.training.batches import to_batch
from tests.support.caches import prepared
from tests.support.toydata import TOY, write_street

MEAN, STD = np.array(filedata.MEAN), np.array(filedata.STD)
IDS = {0: 255, 10: 0, 20: 1, 30: 2}
CASES = [
    pytest.param((360, 480), (360, 480), ".png", 40, id="CamVid 360x480 -> 360x480"),
    pytest.param((1024, 2048), (512, 1024), ".png", 12, id="Cityscapes 1024x2048 -> 512x1024"),
    pytest.param((1024, 2048), (512, 1024), ".jpg", 12, id="JPEG 1024x2048 -> 512x1024"),
]


def plain(files, crop_hw):
    """PIL and numpy in the usual order: decode, map ids one by one, resize all of it, subtract, pad, crop, flip."""

    def one(i):
        image = Image.open(files[i][0]).convert("RGB")
        label = Image.open(files[i][1])
        factor = 0.5 + random.randint(0, 15) / 10
        size = (int(image.width * factor), int(image.height * factor))
        image, label = image.resize(size, Image.BILINEAR), label.resize(size, Image.NEAREST)
        image = (np.asarray(image, np.float32) - MEAN) / STD
        raw = np.asarray(label)
        label = raw.copy()
        for value, index in IDS.items():
            label[raw == value] = index
        h, w = crop_hw
        down, right = max(0, h - label.shape[0]), max(0, w - label.shape[1])
        if down or right:
            image = np.pad(image, ((0, down), (0, right), (0, 0)))
            label = np.pad(label, ((0, down), (0, right)), constant_values=255)
        y, x = random.randint(0, label.shape[0] - h), random.randint(0, label.shape[1] - w)
        image, label = image[y : y + h, x : x + w], label[y : y + h, x : x + w]
        if random.random() < 0.5:
            image, label = image[:, ::-1], label[:, ::-1]
        return (
            torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)),
            torch.from_numpy(label.astype(np.int64)),
        )

    return one


def albumentations(files, crop_hw, reads):
    """albumentations with OpenCV's decoder (or on pairs of our cache): the same chain from its own transforms."""
    A = pytest.importorskip("albumentations")
    h, w = crop_hw
    chain = A.Compose(
        [
            A.RandomScale((-0.5, 1.0), p=1),
            A.PadIfNeeded(h, w, border_mode=cv2.BORDER_CONSTANT, fill=MEAN.round().tolist(), fill_mask=255),
            A.RandomCrop(h, w),
            A.HorizontalFlip(p=0.5),
            A.Normalize(mean=tuple(MEAN / 255), std=tuple(STD / 255)),
        ]
    )
    table = np.full(256, 255, np.uint8)
    table[list(IDS)] = list(IDS.values())

    def one(i):
        if reads is not None:
            image, label = reads[i]
        else:
            image = cv2.cvtColor(cv2.imread(files[i][0]), cv2.COLOR_BGR2RGB)
            label = cv2.LUT(cv2.imread(files[i][1], cv2.IMREAD_GRAYSCALE), table)
        done = chain(image=image, mask=label)
        image = torch.from_numpy(np.ascontiguousarray(done["image"].transpose(2, 0, 1)))
        return image, torch.from_numpy(done["mask"].astype(np.int64))

    return one


def shipped(data, crop_hw):
    """What a training run does, cut down to one pair."""
    count = iter(range(10**9))

    def one(i):
        rng = seeds.numpy_stream(0, "augment", next(count), 0)
        image, label = augment(*data.train[i], rng, crop_hw=crop_hw, scale=(0.5, 2.0), fill=data.info.mean)
        batch = to_batch(torch.from_numpy(image)[None], torch.from_numpy(label)[None], data.info, torch.device("cpu"))
        return batch.image[0], batch.label[0]

    return one


@pytest.mark.parametrize(("size_hw", "crop_hw", "suffix", "rounds"), CASES)
def test_pairs_per_second(size_hw, crop_hw, suffix, rounds, tmp_path, monkeypatch, request):
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))
    root = write_street(tmp_path / "toy", size_hw, suffix, count=6)
    direct, raw, encoded = (
        filedata.load(TOY, where, {}, 0.2, 0, None)
        for where in (root, *(prepared(TOY, root, tmp_path / how, how) for how in ("raw", "encoded")))
    )
    names = direct.train.names
    files = [(f"{root}/images/train/{n}{suffix}", f"{root}/labels/train/{n}.png") for n in names]
    threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        ways = {
            "shipped, raw cache": shipped(raw, crop_hw),
            "shipped, encoded cache": shipped(encoded, crop_hw),
            "shipped, files": shipped(direct, crop_hw),
            "plain PIL + numpy, files": plain(files, crop_hw),
            "albumentations, files": albumentations(files, crop_hw, None),
            "albumentations, raw cache": albumentations(files, crop_hw, raw.train),
            "only decoding, files": lambda i: direct.train[i],
            "only decoding, encoded cache": lambda i: encoded.train[i],
        }
        times = dict.fromkeys(ways, float("inf"))
        for _ in range(3):
            for name, one in ways.items():
                one(0)
                random.seed(0)
                began = time.perf_counter()
                for k in range(rounds):
                    one(k % len(names))
                times[name] = min(times[name], (time.perf_counter() - began) / rounds * 1e3)
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv_threads)
    print(f"\n{request.node.callspec.id}")
    for name, ms in times.items():
        print(f"  {name:30s} {ms:8.2f} ms  {1e3 / ms:7.1f} pairs/s  x {ms / times['shipped, raw cache']:.2f}")
    assert all(ms > 0 for ms in times.values())
