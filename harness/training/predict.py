"""Writes predictions of a finished run as label maps in the format of the test servers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from harness.datasets import SOURCES, Data, cache, decode, inspect
from harness.datasets.cityscapes import TRAIN_ID_TO_ID
from harness.datasets.filedata import Pairs
from harness.datasets.tree import Tree
from harness.experiment.spec import Run
from harness.files import write_atomic
from harness.results import store
from harness.results.find import find_finished
from harness.training.batches import to_batch
from harness.training.build import for_inputs, load_data
from harness.training.evaluate import predict
from harness.training.precision import set_backend
from harness.training.predict_images import png
from harness.training.student import require_current, trained_network

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Server:
    """Format of a test server: values of a label map, whether it has a palette, and a file's path below the folder."""

    values: NDArray[np.uint8]
    place: Callable[[str], str]
    palette: bool = False


def _table(values: list[int]) -> NDArray[np.uint8]:
    table = np.zeros(256, np.uint8)
    table[: len(values)] = values
    return table


def _flat(name: str) -> str:
    return f"{name.rpartition('/')[2]}.png"


SERVERS = {
    # Label ids, not train ids; the server finds files by the image's name in any folder.
    "cityscapes": Server(_table(list(TRAIN_ID_TO_ID)), _flat),
    # Palette images in the folders of the server's archive (the competition that allows data besides VOC's train).
    "voc2012": Server(
        _table(list(range(21))), lambda name: f"results/VOC2012/Segmentation/comp6_test_cls/{name}.png", palette=True
    ),
    # 1 to 150; 0 is "other" and is never predicted.
    "ade20k": Server(_table(list(range(1, 151))), _flat),
}
"""By dataset; others get class indices."""
PLAIN = Server(np.arange(256, dtype=np.uint8), lambda name: f"{name}.png")


def write_predictions(
    directory: Path,
    run_id: str,
    split: str,
    to: Path,
    root: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Run a trained network on a split and write one PNG per image; returns the number of images.

    Args:
        directory: results folder of an experiment, or of all.
        run_id: a finished run in it: its run_id, the beginning of it, or `method/seed`.
        split: "val", "dev", "train", or "test" (images without labels).
        to: folder for the PNGs.
        root: the dataset's folder, if it has moved since the run.
        on_progress: called with the number of images done and the total.

    Raises:
        ValueError: no such run, it did not finish, its weights are missing, its data, method, teacher or weights are
            not today's, or the split has no images.
    """
    directory, row = find_finished(directory, run_id)
    run = store.run_of(directory, row)
    place = str(root.absolute()) if root is not None else run.data.root
    data = load_data(run.data.model_copy(update={"root": place}))
    # Images without labels are other files than those the run saw.
    require_current(directory, row, None if split == "test" else data.info.content_hash)
    sees = for_inputs(data, run.train.normalize, run.network)
    if place is not None and to.resolve().is_relative_to(Path(place).resolve()):
        raise ValueError(f"--to {to}: lies in the data's folder {place}, whose labels it might replace; give another")
    network = trained_network(directory, row, run, data.info.num_classes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_backend(run.train)
    server = SERVERS.get(data.info.name, PLAIN)
    total, images = _images(data, run, split, None if place is None else Path(place))
    network.to(device)
    for done, (name, image, size_hw) in enumerate(images, start=1):
        classes = _classes(network, image, sees, run, device)
        if classes.shape != size_hw:
            classes = cv2.resize(classes, size_hw[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        _write(to / server.place(name), server, classes, data)
        on_progress(done, total)
    return total


def _images(
    data: Data, run: Run, split: str, root: Path | None
) -> tuple[int, Iterator[tuple[str, Pixels, tuple[int, int]]]]:
    """The number of images, and for each image its name, pixels for the network, and published size."""
    if split == "test":
        return _unlabelled(data, run, root)
    pairs = getattr(data, split)
    if not isinstance(pairs, Pairs):
        return len(pairs), ((f"{split}-{i:05d}", pairs[i][0], pairs[i][1].shape) for i in range(len(pairs)))
    items = ((pair.sample.name, pairs[i][0], pair.entry.size_hw) for i, pair in enumerate(pairs.pairs))
    return len(pairs), items


def _unlabelled(data: Data, run: Run, root: Path | None) -> tuple[int, Iterator[tuple[str, Pixels, tuple[int, int]]]]:
    if data.info.name not in SOURCES or root is None:
        raise ValueError(f"{data.info.name} has no test images; choose --split val")
    if cache.is_cache(root):
        raise ValueError(f"{root} is a prepared cache, without test images; give the dataset's own folder with --root")
    source, _, short_side = inspect.source_of(data.info.name, root, run.data.parameters)
    tree = Tree(root)
    samples = source.unlabelled(tree)
    if not samples:
        raise ValueError(
            f"{root}: contains no test images of {data.info.name}. Give another folder with --root. "
            f"Layout:\n{source.layout}"
        )

    def read() -> Iterator[tuple[str, Pixels, tuple[int, int]]]:
        for sample in samples:
            path = tree.file(sample.image)
            image = decode.image_pixels(path.read_bytes(), path)
            small, _ = decode.shrink(image, None, short_side)
            yield sample.name, small, (image.shape[0], image.shape[1])

    return len(samples), read()


@torch.no_grad()
def _classes(network: nn.Module, image: Pixels, sees: Data, run: Run, device: torch.device) -> Pixels:
    """(H, W) uint8 class indices of one image."""
    pixels = torch.from_numpy(image[None].copy())  # the image may be a read-only view
    batch = to_batch(pixels, pixels[..., 0], sees.info, device)
    classes: Pixels = predict(network, batch.image, run.train.evaluation)[0].byte().cpu().numpy()
    return classes


def _write(path: Path, server: Server, classes: Pixels, data: Data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, png(cv2.LUT(classes, server.values), data.info.palette if server.palette else None))
