"""What times an ONNX model elsewhere: a script that needs numpy and onnxruntime alone, images, and their labels."""

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.deployment.graphs import Graph
from harness.deployment.source import Form, Source
from harness.files import write_atomic
from harness.training.normalize import normalised_images

SCRIPT, INPUTS = "bench.py", "inputs.npz"
IMAGES = 20


def write_bench(source: Source, form: Form, graph: Graph, example: Tensor, folder: Path) -> None:
    """Put the script beside the model, and images of val, evenly spaced, with the labels that it gives them here.

    Args:
        source: the run.
        form: of the graph.
        graph: the model by its runtime.
        example: an image as the graph takes it, (N, 3, H, W) or bytes (N, H, W, 3); all images get its size.
        folder: where the model is.
    """
    height, width = example.shape[1:3] if form.preprocessing else example.shape[2:]
    split = source.data.val
    count = min(IMAGES, len(split))
    pixels, labels = [], []
    for place in range(count):
        image = torch.from_numpy(split[place * len(split) // count][0].copy()).permute(2, 0, 1)[None].float()
        image = torch.nn.functional.interpolate(image, (height, width), mode="bilinear", antialias=True)
        pixels.append(image.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
        given = pixels[-1]
        if not form.preprocessing:
            given = normalised_images(given, source.info, torch.contiguous_format)
        found = graph(given.expand(form.batch or 1, *given.shape[1:]).contiguous())[:1]
        labels.append(found if form.preprocessing else found.argmax(1))
    kind = np.uint8 if source.info.num_classes <= 256 else np.int64
    content = io.BytesIO()
    np.savez_compressed(
        content,
        images=torch.cat(pixels).numpy(),
        labels=torch.cat(labels).numpy().astype(kind),
        batch=np.int64(form.batch or 1),
    )
    write_atomic(folder / INPUTS, content.getvalue())
    write_atomic(folder / SCRIPT, Path(__file__).with_name("on_device.py").read_bytes())
