"""A dataset in files that is small and simple: images/SPLIT/NAME.png with labels/SPLIT/NAME.png, three classes."""

from pathlib import Path

import numpy as np
from PIL import Image

from harness.datasets.source import Listing, Sample, Source, table


def listing(tree, **variant):
    samples, problems = {}, []
    for split in ("train", "val"):
        samples[split] = []
        for image in tree.names(f"images/{split}", (".png", ".jpg")):
            name = Path(image).stem
            label = f"labels/{split}/{name}.png"
            if tree.file(label).is_file():
                samples[split].append(Sample(name, image, label, group=name.split("_")[0]))
            else:
                problems.append(f"{tree.root / image}: its label map {label} is missing")
    return Listing(samples, problems)


TOY = Source(
    name="toy",
    title="toy",
    class_names=("a", "b", "c"),
    palette=((255, 0, 0), (0, 255, 0), (0, 0, 255)),
    tables={"ids": table({10: 0, 20: 1, 30: 2, 0: 255})},
    licence="none",
    obtain="write it",
    layout="images/ labels/",
    published={"train": 9, "val": 3},
    cut="presence",
    listing=listing,
    note="a toy",
)


def write(root: Path, train: int = 9, val: int = 3, size=(24, 36), suffix=".png", seed=0) -> Path:
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            h, w = size[0] + 2 * (i % 3), size[1]
            name = f"{'xyz'[i % 3]}_{i:03d}"
            Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)).save(
                root / "images" / split / f"{name}{suffix}"
            )
            values = rng.choice(np.array([0, 10, 20, 30], np.uint8), (h, w))
            Image.fromarray(values).save(root / "labels" / split / f"{name}.png")
    return root


def write_street(root: Path, size: tuple[int, int], suffix: str, count: int) -> Path:
    """Pictures whose files are about as large as photographs' (smooth shapes and a little noise), large regions."""
    import cv2

    rng = np.random.default_rng(0)
    h, w = size
    for split, pairs in (("train", count), ("val", 1)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(pairs):
            coarse = rng.integers(0, 256, (h // 32, w // 32, 3), dtype=np.uint8)
            smooth = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC).astype(np.int16)
            image = np.clip(smooth + rng.normal(0, 3, (h, w, 3)).round(), 0, 255).astype(np.uint8)
            values = rng.choice(np.array([0, 10, 20, 30], np.uint8), (h // 64 + 1, w // 64 + 1))
            label = cv2.resize(values, (w, h), interpolation=cv2.INTER_NEAREST)
            Image.fromarray(image).save(root / "images" / split / f"x_{i:03d}{suffix}")
            Image.fromarray(label).save(root / "labels" / split / f"x_{i:03d}.png")
    return root
